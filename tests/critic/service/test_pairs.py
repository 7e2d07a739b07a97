"""People vote on pairs of edits: in a real browser, and through the routes that it uses."""

import base64
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image, PngImagePlugin
from playwright.sync_api import Browser, Page, expect
from serving import running
from starlette.types import ASGIApp

from critic import params
from critic.ratings.importers import read_store
from critic.ratings.pair_pooling import pool_votes
from critic.ratings.picture_store import PictureStore
from critic.ratings.store import AlreadyVoted, Feedback, FeedbackError, Vote
from critic.service import app as service
from critic.service.middleware import RequestMiddleware
from critic.service.page import mount_page
from critic.service.pair_routes import pair_routes
from critic.service.settings import Settings

pytestmark = pytest.mark.browser
EDITORS = {"alder": 3.0, "birch": 1.0, "cedar": -1.0, "dogwood": -3.0}
"""Each editor's strength."""
SOURCES = 10


@dataclass
class Study:
    """A study of ten sources and four editors, and its service.

    Attributes:
        app: the service without an engine.
        editors: the editor of each edited picture, by the SHA-256 of its file.
    """

    folder: Path
    app: ASGIApp
    store: Feedback
    editors: dict[str, str]

    @property
    def votes(self) -> list[Vote]:
        return [*self.store.votes()]

    def editor(self, data_url: str) -> str:
        return [*EDITORS][shown(data_url).getpixel((0, 0))[1] // 50]


def shown(data_url: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(data_url.removeprefix("data:image/png;base64,"))))


def png(*colour: int, editor: str = "") -> bytes:
    """A picture whose metadata name its editor, as many tools write it."""
    file, text, exif = BytesIO(), PngImagePlugin.PngInfo(), Image.Exif()
    text.add_itxt("parameters", editor)
    exif[305] = editor
    Image.new("RGB", (24, 16), colour).save(file, "PNG", pnginfo=text, exif=exif)
    return file.getvalue()


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    def make(**given: Any) -> Study:
        editors = {}
        with (tmp_path / "edits.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["source", "edited", "instruction", "editor", "score"])
            for number in range(SOURCES):
                (tmp_path / f"{number}.png").write_bytes(png(number, 0, 0))
                for place, (editor, strength) in enumerate(EDITORS.items()):
                    edited = png(number, 50 * place, 200, editor=editor)
                    (tmp_path / f"{number}-{place}.png").write_bytes(edited)
                    editors[sha256(edited).hexdigest()] = editor
                    row = [f"{number}.png", f"{number}-{place}.png", "make it blue", editor, 3 + strength / 3]
                    rows.writerow(row)
        settings = Settings(
            study=tmp_path / "edits.csv", feedback_url=f"sqlite:///{tmp_path}/feedback.db", **given
        )
        app = FastAPI()
        mount_page(app)
        app.include_router(pair_routes(tmp_path / "edits.csv", settings))
        app.add_exception_handler(Exception, service._failed)
        app.add_exception_handler(service.HTTPException, service._failed)
        app.add_exception_handler(service.RequestValidationError, service._failed)
        app.state.feedback = Feedback(settings.feedback_url.get_secret_value())
        app.state.pictures = PictureStore(tmp_path / "kept")
        return Study(tmp_path, RequestMiddleware(app, settings), app.state.feedback, editors)

    return make


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Iterator[Study]:
    made = make_study()
    yield made
    made.store.close()


@pytest.fixture
def client(study: Study) -> Iterator[TestClient]:
    with TestClient(study.app, "http://localhost", client=("127.0.0.1", 5000)) as client:
        yield client


def ask(client: httpx.Client, rater: str) -> dict[str, Any]:
    """The next pair of a rater, with its counts."""
    return client.get("/v1/pairs/next", params={"rater": rater}).raise_for_status().json()


def send(client: httpx.Client, receipt: str, choice: str) -> httpx.Response:
    return client.post("/v1/pairs/vote", json={"receipt": receipt, "choice": choice})


def begin(browser: Browser, url: str, rater: str = "ann", **options: Any) -> Page:
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(10_000)
    page.goto(f"{url}/pairs")
    page.get_by_label("Your name").fill(rater)
    page.get_by_role("button", name="Begin").click()
    return page


# --- the routes


def test_a_pair_is_blind_and_its_order_is_drawn_and_stored(study: Study, client: TestClient) -> None:
    orders = set()
    while len(orders) < 2:
        response = client.get("/v1/pairs/next", params={"rater": "ann"})
        assert not any(editor in response.text for editor in EDITORS)
        pair = response.json()["pair"]
        assert not any(editor.encode() in _decoded(pair["receipt"]) for editor in EDITORS)
        for side in ("source", "left", "right"):
            assert shown(pair[side]).size == (24, 16) and not shown(pair[side]).info
        orders.add(study.editor(pair["left"]))
    assert send(client, pair["receipt"], "left").status_code == 201
    (vote,) = study.votes
    assert (vote.rater, vote.choice, vote.instruction) == ("ann", "left", "make it blue")
    assert [vote.left_editor, vote.right_editor] == [study.editor(pair[side]) for side in ("left", "right")]
    assert study.editors[vote.left_sha256] == vote.left_editor
    assert vote.left_score == pytest.approx(3 + EDITORS[vote.left_editor] / 3) and vote.seconds > 0
    assert len([*(study.folder / "kept").rglob("*.png")]) == 3


def _decoded(receipt: str) -> bytes:
    import zlib

    payload = receipt.removeprefix(".").partition(".")[0]
    data = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    return zlib.decompress(data) if receipt.startswith(".") else data


def test_a_vote_sent_again_is_stored_once_and_another_one_is_refused(study: Study, client: TestClient) -> None:
    receipt = ask(client, "ann")["pair"]["receipt"]
    first, again = send(client, receipt, "tie"), send(client, receipt, "tie")
    assert (first.status_code, first.json()) == (again.status_code, again.json()) == (201, {"id": 1})
    other = send(client, receipt, "left")
    assert other.status_code == 409 and "your vote 'tie' already" in other.text
    assert [vote.choice for vote in study.votes] == ["tie"]


def test_pairs_with_few_votes_come_first_then_those_that_the_critic_is_unsure_of(
    study: Study, client: TestClient
) -> None:
    for rater in ("ann", "bob"):
        shown = [ask(client, rater)]
        while shown[-1]["voted"] < 30:
            send(client, shown[-1]["pair"]["receipt"], "tie")
            shown.append(ask(client, rater))
    votes = pd.DataFrame([(v.pair_id, v.rater, abs(v.left_score - v.right_score)) for v in study.votes])
    assert not votes[0].duplicated().any()
    assert votes[2].iloc[:30].mean() < votes[2].iloc[30:].mean()
    assert shown[-1]["pairs"] == 6 * SOURCES


def test_people_who_ask_at_once_get_different_pairs(client: TestClient) -> None:
    shown = [ask(client, f"rater-{number}")["pair"]["source"] for number in range(20)]
    assert len({*shown}) > 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"receipt": "forged", "choice": "left"}, 422, "forged_receipt"),
        ({"receipt": "forged", "choice": "both"}, 422, "invalid"),
        ({"receipt": "forged", "choice": "left", "rater": "bob"}, 422, "invalid"),
    ],
)
def test_a_vote_that_cant_be_is_refused(client: TestClient, body: dict[str, str], status: int, code: str) -> None:
    response = client.post("/v1/pairs/vote", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_name_is_checked_and_a_picture_that_is_gone_is_said(study: Study, client: TestClient) -> None:
    for name in ("", "\0", "x" * 201):
        assert client.get("/v1/pairs/next", params={"rater": name}).status_code == 422
    for path in study.folder.glob("*-*.png"):
        path.write_bytes(png(1, 2, 3))
    response = client.get("/v1/pairs/next", params={"rater": "ann"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "broken_study")


def test_a_database_that_fails_is_said(study: Study, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise FeedbackError("disk full")

    receipt = ask(client, "ann")["pair"]["receipt"]
    monkeypatch.setattr(study.store, "add_vote", fail)
    response = send(client, receipt, "left")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_feedback")


def test_the_service_has_them_only_with_a_study(study: Study) -> None:
    for table, there in ((study.folder / "edits.csv", True), (None, False)):
        paths = service.create_app(Settings(study=table), lambda: ("", "")).openapi()["paths"]
        assert ("/v1/pairs/next" in paths) == ("/v1/pairs/vote" in paths) == there
        assert not there or "409" in paths["/v1/pairs/vote"]["post"]["responses"]


# --- the page


def test_people_vote_by_keys_and_by_buttons(study: Study, browser: Browser) -> None:
    with running(study.app) as url:
        page = begin(browser, url)
        for number, key in enumerate(("1", "ArrowLeft", "2", "ArrowRight", "0", "ArrowDown")):
            expect(page.locator("#progress")).to_have_text(f"{number} of 60 pairs voted on by ann")
            expect(page.locator(".contest img")).to_have_count(3)
            page.keyboard.press("Control+1")
            page.keyboard.press(key)
        page.get_by_role("button", name="Right is better").click()
        expect(page.locator("#progress")).to_contain_text("7 of 60")
        assert not any(editor in page.content() for editor in EDITORS)
    assert [vote.choice for vote in study.votes] == ["left", "left", "right", "right", "tie", "tie", "right"]


def test_a_vote_that_isnt_stored_is_said_and_sent_again(
    study: Study, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(study.app) as url:
        page = begin(browser, url)
        expect(page.locator(".contest")).to_be_visible()
        page.context.set_offline(True)
        page.keyboard.press("2")
        expect(page.get_by_role("alert")).to_contain_text("The service can't be reached")
        page.context.set_offline(False)
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#progress")).to_contain_text("1 of 60")
        expect(page.get_by_role("alert")).to_be_hidden()
    assert [vote.choice for vote in study.votes] == ["right"]


def test_a_vote_that_cant_be_stored_is_said_and_the_next_pair_shown(
    study: Study, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AlreadyVoted("the pair has another vote already")

    with running(study.app) as url:
        page = begin(browser, url)
        with monkeypatch.context() as patch:
            patch.setattr(study.store, "add_vote", refuse)
            page.get_by_role("button", name="Tie").click()
            expect(page.get_by_role("alert")).to_contain_text("Your vote isn't stored: the pair has another vote")
        expect(page.get_by_role("button", name="Try again")).to_be_hidden()
        page.keyboard.press("1")
        expect(page.locator("#progress")).to_contain_text("1 of 60")
        expect(page.get_by_role("alert")).to_be_hidden()


def test_a_phone_shows_all_three_pictures_and_scrolls_down_alone(study: Study, browser: Browser) -> None:
    with running(study.app) as url:
        page = begin(browser, url, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
        for picture in page.locator(".contest img").all():
            expect(picture).to_be_in_viewport()
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
        for control in page.locator(".choices button").all():
            box = control.bounding_box()
            assert box and box["height"] >= 44
        page.get_by_role("button", name="Tie").tap()
        expect(page.locator("#progress")).to_contain_text("1 of 60")


def test_a_key_is_asked_for(make_study: Callable[..., Study], browser: Browser) -> None:
    study = make_study(keys="people:people-have-this-key")
    with running(study.app) as url:
        page = begin(browser, url)
        expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.type("people-have-this-key")
        page.keyboard.press("Enter")
        expect(page.locator("#progress")).to_contain_text("0 of 60")
        page.route("**/v1/pairs/vote", lambda route: route.fulfill(status=401, json={}), times=1)
        page.keyboard.press("1")
        expect(page.get_by_role("alert")).to_contain_text("Your vote isn't stored")
        page.get_by_role("button", name="Begin").click()
        expect(page.locator(".contest")).to_be_visible()
        page.keyboard.press("1")
        expect(page.locator("#progress")).to_contain_text("1 of 60")


# --- all together


def test_two_hundred_votes_recover_the_order_of_the_editors_without_two_bad_raters(
    study: Study, client: TestClient, browser: Browser
) -> None:
    rng = np.random.default_rng(3)
    raters = [*(f"honest-{number}" for number in range(6)), "careless", "malicious"]

    def choose(rater: str, left: str, right: str) -> str:
        """A choice that doesn't depend on the order, so that the test's outcome doesn't."""
        first, second = sorted((left, right), key=study.editor)
        odds = 0 if rater == "careless" else EDITORS[study.editor(first)] - EDITORS[study.editor(second)]
        prefers_first = (rng.random() < 1 / (1 + np.exp(-odds))) != (rater == "malicious")
        return "left" if (first if prefers_first else second) == left else "right"

    with running(study.app) as url:
        for rater in raters[4:]:
            page = begin(browser, url, rater)
            sides = [page.locator(f".contest img[alt='The {side} edit']") for side in ("left", "right")]
            choice = choose(rater, *(side.get_attribute("src") or "" for side in sides))
            page.keyboard.press({"left": "1", "right": "2"}[choice])
            expect(page.locator("#progress")).to_contain_text("1 of 60")
    for turn in range(4, 200):
        rater = raters[(turn - 4) % 8 if turn < 8 else turn % 8]
        pair = ask(client, rater)["pair"]
        assert send(client, pair["receipt"], choose(rater, pair["left"], pair["right"])).status_code == 201

    batch = read_store(f"sqlite:///{study.folder}/feedback.db", study.folder, study.folder / "kept")
    assert len(batch.votes) == 200 and not batch.lost
    rules = params.load(params.Ratings).model_copy(update={"min_seconds": 0.0})
    found = pool_votes(batch.votes, batch.edits.set_index("id"), pd.Series(dtype=float), rules)
    status = found.raters["status"]
    assert status["malicious"] == "inverted" and status["careless"] == "low_agreement", found.raters
    assert (status.filter(like="honest") == "counted").all(), found.raters
    assert [*found.editors.index] == [*EDITORS]
    assert (found.editors["low"] < found.editors["strength"]).all()
    assert (found.editors["strength"] < found.editors["high"]).all()

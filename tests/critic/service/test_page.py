"""The page in a real browser, with a service that answers what the test sets."""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, File, Form, Header, Response, UploadFile
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from page_examples import WANTED, make_examples
from PIL import Image, ImageChops
from playwright.sync_api import Browser, Page, expect
from serving import running

from critic.client.schemas import Kept, Problem, Rating, Refusal, Scored
from critic.service.page import HEADERS, WEB, mount_page

pytestmark = pytest.mark.browser
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
TIMES = "\N{MULTIPLICATION SIGN}"
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=1</script>'


def scored(**changes: Any) -> dict[str, Any]:
    """A result as POST /score returns it."""
    fields = {
        "id": "0",
        "score": 3.42,
        "status": "ok",
        "mode": "greedy",
        "argmax": 3.42,
        "sub_scores": {"alignment": 2.9, "fidelity": 4.6, "quality": 3.8},
        "reasoning": "Half done, alignment 2.9. The rest is kept, fidelity 4.6. Slightly damaged, quality 3.8.",
        "raw": "<think>Half done, alignment 2.9.</think>\n<answer>3.42</answer>",
        "prompt_tokens": 76,
        "tokens": 41,
        "latency": 0.84,
        "model": "sha256:5d1f0c",
        "contract": "9a41c7",
        "version": "critic:v1.2.0",
        "request_id": "r-1",
        "receipt": "signed",
    }
    return Scored(**(fields | changes)).model_dump()


def refused(code: str, message: str) -> dict[str, Any]:
    return Refusal(error=Problem(code=code, message=message, request_id="r-9")).model_dump()


@dataclass
class Service:
    """The real page, with a stand-in for the critic.

    Attributes:
        answer, feedback: status, body and headers of the responses to POST /score and POST /feedback.
        hold: POST /score waits for it.
        asked, rated: the requests so far.
    """

    url: str = ""
    answer: tuple[int, Any, dict[str, str]] = (200, None, {})
    feedback: tuple[int, Any, dict[str, str]] = (201, Kept(id=17).model_dump(), {})
    hold: threading.Event | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    rated: list[Rating] = field(default_factory=list)


def application(service: Service) -> FastAPI:
    app = FastAPI()
    mount_page(app)

    @app.post("/score")
    def score(
        source: Annotated[UploadFile, File()],
        edited: Annotated[UploadFile, File()],
        instruction: Annotated[str, Form()],
        mode: Annotated[str, Form()],
        samples: Annotated[int | None, Form()] = None,
        seed: Annotated[int | None, Form()] = None,
        authorization: Annotated[str | None, Header()] = None,
    ) -> Response:
        sizes = [Image.open(file.file).size for file in (source, edited)]
        fields = {"instruction": instruction, "mode": mode, "samples": samples, "seed": seed, "key": authorization}
        service.asked.append(fields | {"sizes": sizes})
        if service.hold:
            service.hold.wait(10)
        return answer(*service.answer)

    @app.post("/feedback")
    def feedback(rating: Rating) -> Response:
        service.rated.append(rating)
        return answer(*service.feedback)

    return app


def answer(status: int, body: Any, headers: dict[str, str]) -> Response:
    if isinstance(body, str):
        return Response(body, status, headers, media_type="text/html")
    return JSONResponse(body, status, headers)


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    service = Service()
    with running(application(service)) as service.url:
        yield service


@pytest.fixture
def service(server: Service) -> Service:
    fresh = Service(url=server.url, answer=(200, scored(), {}))
    server.__dict__.update(fresh.__dict__)
    return server


@pytest.fixture
def open_page(browser: Browser, service: Service) -> Iterator[Callable[..., Page]]:
    """Opens the page in a new browser profile; fails the test if the console has an error or a warning."""
    said: list[str] = []
    contexts = []

    def open(**options: Any) -> Page:
        context = browser.new_context(**({"viewport": DESKTOP} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: message.type in ("error", "warning") and said.append(message.text))
        page.goto(service.url)
        expect(page.locator(".examples li")).to_have_count(len(WANTED))
        return page

    yield open
    for context in contexts:
        context.close()
    # Chromium itself logs this for each response of 400 or above.
    assert [text for text in said if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page()


def png(colour: str = "red", size: tuple[int, int] = (40, 30)) -> dict[str, Any]:
    """A file in Playwright's form."""
    file = BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return {"name": f"{colour}.png", "mimeType": "image/png", "buffer": file.getvalue()}


def fill(page: Page, source: dict[str, Any] | None = None, edited: dict[str, Any] | None = None) -> None:
    """Choose two pictures and enter an instruction."""
    page.locator("#source").set_input_files(source or png())
    page.locator("#edited").set_input_files(edited or png("blue"))
    page.get_by_label("Instruction").fill("make it blue")
    expect(page.locator(".slot img")).to_have_count(2)


def submit(page: Page) -> None:
    page.get_by_role("button", name="Score", exact=True).click()


def hand_over(page: Page, target: str, event: str, files: list[dict[str, Any]]) -> None:
    """Drop files on an element or paste them, by script: a browser lets only people drop real files."""
    page.locator(target).evaluate(
        """async (element, [name, files]) => {
            const transfer = new DataTransfer();
            for (const { name, mimeType, bytes } of files)
                transfer.items.add(new File([new Uint8Array(bytes)], name, { type: mimeType }));
            element.dispatchEvent(name === "drop"
                ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }));
        }""",
        [event, [{**file, "buffer": None, "bytes": list(file["buffer"])} for file in files]],
    )


# --- the files


def test_files_come_with_a_policy_that_lets_nothing_else_in(server: Service) -> None:
    client = TestClient(application(server))
    for path in ("/", "/examples", "/examples/colour/source.png", "/page/page.js", "/page/vendor/LICENSE"):
        response = client.get(path)
        assert response.status_code == 200, path
        assert {name: response.headers.get(name) for name in HEADERS} == HEADERS, path
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert client.get("/page/%2e%2e/page.py").status_code == 404


def test_the_examples_are_what_the_command_makes(tmp_path: Path) -> None:
    make_examples(tmp_path / "examples")
    made, kept = tmp_path / "examples", WEB / "examples"
    files = sorted(path.relative_to(made) for path in made.rglob("*.*"))
    assert files == sorted(path.relative_to(kept) for path in kept.rglob("*.*"))
    assert (made / "examples.json").read_bytes() == (kept / "examples.json").read_bytes()
    for file in files:
        if file.suffix == ".png":
            one, other = Image.open(made / file), Image.open(kept / file)
            assert one.size == other.size and ImageChops.difference(one, other).getbbox() is None, file


def test_the_examples_are_listed_with_pictures_that_are_there(server: Service) -> None:
    client = TestClient(application(server))
    examples = client.get("/examples").json()
    assert [example["id"] for example in examples] == [*WANTED]
    for example in examples:
        assert set(example) == {"id", "instruction", "source", "edited"} and example["instruction"]
        for name in ("source", "edited"):
            picture = Image.open(BytesIO(client.get(example[name]).content))
            assert (picture.format, picture.size) == ("PNG", (112, 112))


# --- an edit is scored


def test_an_example_is_scored_by_keyboard_alone(page: Page, service: Service) -> None:
    example = page.locator(".examples button").first
    instruction = example.inner_text().strip()
    for _ in range(20):
        page.keyboard.press("Tab")
        if example.evaluate("element => element === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("button.main")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#result .score")).to_contain_text("3.42 of 5")
    expect(page.locator(".outcome")).to_be_focused()
    expect(page.locator("#result h2")).to_have_text(instruction)
    (asked,) = service.asked
    assert asked == {
        "instruction": instruction,
        "mode": "greedy",
        "samples": None,
        "seed": None,
        "key": None,
        "sizes": [(112, 112), (112, 112)],
    }


def test_a_verdict_is_shown_whole(page: Page, service: Service) -> None:
    samples = [3.1, 3.4, None, 3.9]
    service.answer = (200, scored(mode="average", score=3.467, spread=0.33, samples=samples), {})
    fill(page)
    page.get_by_role("radio", name="average").check()
    page.get_by_label("Samples").fill("4")
    page.get_by_label("Seed").fill("5")
    submit(page)
    result = page.locator("#result")
    expect(result.locator(".score")).to_contain_text("3.47 of 5± 0.33")
    expect(result.locator(".scale")).to_have_accessible_name(
        "3.47 on a scale from 1, very bad, to 5, excellent, plus or minus 0.33"
    )
    expect(result.locator(".sample")).to_have_count(3)
    expect(result).to_contain_text("1 more couldn't be read")
    scale, band = (result.locator(f".scale {part}").bounding_box() for part in (".track", ".band"))
    assert scale and band
    assert (band["x"] - scale["x"]) / scale["width"] == pytest.approx((3.467 - 0.33 - 1) / 4, abs=0.01)
    assert band["width"] / scale["width"] == pytest.approx(0.66 / 4, abs=0.01)
    for axis, score in scored()["sub_scores"].items():
        expect(result.locator(".axes div", has_text=axis)).to_contain_text(f"{score:.2f}")
    expect(result.locator(".reasoning")).to_have_text(scored()["reasoning"])
    facts = result.locator("details")
    expect(facts.locator("dl")).to_be_hidden()
    facts.locator("summary").click()
    for fact in ("critic:v1.2.0", "sha256:5d1f0c", "9a41c7", "76", "41", "0.84 s", "r-1", "<answer>3.42</answer>"):
        expect(facts).to_contain_text(fact)
    assert (service.asked[0]["samples"], service.asked[0]["seed"]) == (4, 5)


@pytest.mark.parametrize("mode", ["greedy", "expected", "direct"])
def test_samples_and_seed_are_of_mode_average_alone(page: Page, service: Service, mode: str) -> None:
    fill(page)
    page.get_by_role("radio", name="average").check()
    expect(page.get_by_label("Samples")).to_be_visible()
    page.get_by_role("radio", name=mode).check()
    expect(page.get_by_label("Samples")).to_be_hidden()
    expect(page.get_by_label("Seed")).to_be_hidden()
    submit(page)
    expect(page.locator("#result")).to_be_visible()
    assert [service.asked[0][name] for name in ("mode", "samples", "seed")] == [mode, None, None]


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(page: Page, service: Service, event: str) -> None:
    targets = ("#source", "#edited") if event == "drop" else ("body", "body")
    for target, size in zip(targets, ((40, 30), (20, 10)), strict=True):
        hand_over(page, target, event, [png(size=size)])
        expect(page.locator(".slot-title", has_text=f"{size[0]} {TIMES} {size[1]}")).to_be_visible()
    page.get_by_label("Instruction").fill("crop it")
    submit(page)
    expect(page.locator("#result")).to_be_visible()
    assert service.asked[0]["sizes"] == [(40, 30), (20, 10)]


def test_two_files_at_once_are_the_source_and_the_edit(page: Page) -> None:
    hand_over(page, "#edited", "drop", [png(size=(40, 30)), png(size=(20, 10))])
    expect(page.locator(".slot-title")).to_have_text([f"Source 40 {TIMES} 30", f"Edited 20 {TIMES} 10"])


def test_what_is_missing_or_wrong_is_named_and_nothing_is_asked(page: Page, service: Service) -> None:
    page.get_by_role("radio", name="average").check()
    page.get_by_label("Samples").fill("33")
    submit(page)
    expect(page.locator(".ask .problem:not(:empty)")).to_have_text(
        [
            "Choose the source picture.",
            "Choose the edited picture.",
            "Enter the instruction.",
            "Enter a whole number from 2 to 32.",
        ]
    )
    expect(page.locator("#source")).to_be_focused()
    expect(page.locator("#source")).to_have_accessible_description("Choose the source picture.")
    assert service.asked == []


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ({"name": "a.gif", "mimeType": "image/gif", "buffer": b"GIF89a"}, "a.gif isn't a PNG, JPEG or WebP file."),
        (
            {"name": "a.svg", "mimeType": "image/svg+xml", "buffer": b"<svg/>"},
            "a.svg isn't a PNG, JPEG or WebP file.",
        ),
        ({"name": "a.png", "mimeType": "image/png", "buffer": b"no PNG"}, "a.png can't be read as a picture."),
    ],
    ids=["gif", "svg", "broken"],
)
def test_a_file_that_is_no_picture_is_refused_at_once(page: Page, file: dict[str, Any], problem: str) -> None:
    page.locator("#source").set_input_files(file)
    expect(page.locator("#source-problem")).to_have_text(problem)
    expect(page.locator(".slot img")).to_have_count(0)


def test_waiting_can_be_stopped(page: Page, service: Service) -> None:
    service.hold = threading.Event()
    fill(page)
    submit(page)
    expect(page.locator("button.main")).to_be_disabled()
    page.get_by_role("button", name="Stop").click()
    service.hold.set()
    expect(page.locator("button.main")).to_have_text("Score")
    expect(page.locator("#result, #failure")).to_have_count(0)


def test_pictures_chosen_while_an_edit_is_scored_dont_change_its_result(page: Page, service: Service) -> None:
    service.hold = threading.Event()
    fill(page)
    submit(page)
    page.locator("#source").set_input_files(png("green", (10, 10)))
    page.locator("#edited").set_input_files(png("green", (10, 10)))
    expect(page.locator(".slot-title", has_text=f"10 {TIMES} 10")).to_have_count(2)
    service.hold.set()
    page.get_by_role("radio", name="side by side").check()
    expect(page.locator("figcaption")).to_have_text([f"Source, 40 {TIMES} 30", f"Edited, 40 {TIMES} 30"])
    for shown in page.locator(".beside img").all():
        assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 40


# --- failures


@pytest.mark.parametrize(
    ("status", "said"),
    [("truncated", "cut off before its score"), ("out_of_range", "isn't from 1 to 5"), ("odd", "odd")],
)
def test_a_verdict_without_a_score_shows_none(page: Page, service: Service, status: str, said: str) -> None:
    verdict = scored(
        score=None, argmax=None, status=status, detail="at 80 tokens", reasoning="I think", sub_scores={}
    )
    service.answer = (200, verdict, {})
    fill(page)
    submit(page)
    expect(page.locator("#no-score")).to_contain_text(said)
    expect(page.locator("#no-score")).to_contain_text("at 80 tokens")
    expect(page.locator(".reasoning")).to_have_text("I think")
    expect(page.locator(".score, .scale, .axes:visible")).to_have_count(0)
    expect(page.locator(".recent li")).to_contain_text("no score")


@pytest.mark.parametrize(
    ("answer", "title", "said"),
    [
        ((403, refused("forbidden", "Not with this key."), {}), "The request isn't allowed", "Not with this key."),
        ((413, refused("too_many_pixels", "At most 40 MP."), {}), "The request is too large", "At most 40 MP."),
        ((415, refused("format", "A GIF."), {}), "The file isn't a supported picture", "A GIF."),
        ((422, refused("invalid", "instruction: empty"), {}), "The request is invalid", "instruction: empty"),
        ((503, refused("not_ready", "The engine starts."), {}), "The critic isn't ready", "The engine starts."),
        ((504, refused("too_slow", "Over 120 s."), {}), "The critic took too long", "Over 120 s."),
        ((500, refused("internal", "A bug."), {}), "The service failed", "request r-9"),
        ((502, "<h1>Bad gateway</h1>", {}), "The service failed", "It gave no reason."),
        ((200, "<h1>Welcome</h1>", {}), "The service's reply is invalid", "isn't a result"),
        ((200, {"score": 4.2}, {}), "The service's reply is invalid", "isn't a result"),
        ((200, scored() | {"score": 7}, {}), "The service's reply is invalid", "isn't a result"),
        ((200, scored() | {"score": None}, {}), "The service's reply is invalid", "isn't a result"),
        ((200, scored() | {"status": "truncated"}, {}), "The service's reply is invalid", "isn't a result"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_a_failure_is_said_and_is_no_score(
    page: Page, service: Service, answer: tuple[int, Any, dict[str, str]], title: str, said: str
) -> None:
    service.answer = answer
    fill(page)
    submit(page)
    expect(page.locator("#failure h2")).to_contain_text(title)
    expect(page.locator("#failure")).to_contain_text(said)
    expect(page.locator("#result, .score, .recent li")).to_have_count(0)
    service.answer = (200, scored(), {})
    submit(page)
    expect(page.locator(".score")).to_be_visible()
    expect(page.locator("#failure")).to_have_count(0)


def test_a_lost_network_is_said(page: Page) -> None:
    fill(page)
    page.context.set_offline(True)
    submit(page)
    expect(page.locator("#failure h2")).to_have_text("The service can't be reached")
    expect(page.locator("#result")).to_have_count(0)


@pytest.mark.parametrize("status", [429, 503])
def test_a_service_that_asks_to_wait_is_waited_for(page: Page, service: Service, status: int) -> None:
    service.answer = (status, refused("queue_full", "256 answers wait already."), {"Retry-After": "2"})
    fill(page)
    submit(page)
    expect(page.locator("#failure")).to_contain_text("256 answers wait already. Wait 2 s.")
    button = page.locator("button.main")
    expect(button).to_be_disabled()
    expect(button).to_have_text("Score again in 1 s")
    expect(button).to_be_enabled()
    expect(button).to_have_text("Score")


def test_a_service_may_name_the_time_to_wait_for(page: Page, service: Service) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    service.answer = (503, refused("not_ready", "The engine starts."), {"Retry-After": until})
    fill(page)
    submit(page)
    expect(page.locator("#failure")).to_contain_text(re.compile("Wait (59|60) s."))


def test_a_key_is_asked_for_when_the_service_wants_one(page: Page, service: Service) -> None:
    key = page.get_by_label("API key")
    expect(key).to_be_hidden()
    service.answer = (401, refused("no_key", "Send a key."), {})
    fill(page)
    submit(page)
    expect(key).to_be_focused()
    page.keyboard.type("opensesame")
    service.answer = (200, scored(), {})
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_be_visible()
    assert [asked["key"] for asked in service.asked] == [None, "Bearer opensesame"]
    page.reload()
    expect(key).to_have_value("opensesame")
    assert "opensesame" not in page.evaluate("JSON.stringify(localStorage)")


# --- the pictures


def test_pictures_are_compared_by_a_slider_that_has_keys(page: Page) -> None:
    fill(page)
    submit(page)
    slider = page.get_by_role("slider", name="Visible part of the source")
    slider.focus()
    page.keyboard.press("End")
    expect(page.locator(".frame .over")).to_have_css("clip-path", "inset(0px 0px 0px 100%)")
    page.keyboard.press("Home")
    expect(page.locator(".frame .over")).to_have_css("clip-path", "inset(0px 0px 0px 0%)")


@pytest.mark.parametrize(
    ("source", "edited", "said"),
    [
        (png("red"), png("red"), "0.0 % of the pixels differ"),
        (png("red"), png("#fa0000"), "0.0 % of the pixels differ"),
        (png("red"), png("blue"), "100.0 % of the pixels differ"),
        (png("red"), png("red", (80, 60)), "scaled to the source's size"),
        (png("red"), png("red", (30, 40)), "different shapes can't be compared pixel by pixel"),
        (png("red", (2048, 8)), png("blue", (2048, 8)), f"Drawn at 1024 {TIMES} 4"),
    ],
    ids=["same", "unseen", "other", "larger", "turned", "huge"],
)
def test_a_difference_is_told_honestly(
    page: Page, source: dict[str, Any], edited: dict[str, Any], said: str
) -> None:
    fill(page, source, edited)
    submit(page)
    page.get_by_role("radio", name="difference").check()
    expect(page.locator("#result")).to_contain_text(said)


def test_a_difference_is_amplified(page: Page) -> None:
    fill(page, png("#404040"), png("#484848"))
    submit(page)
    page.get_by_role("radio", name="difference").check()
    expect(page.locator("#result")).to_contain_text("0.0 % of the pixels differ")
    page.get_by_label("Amplified").fill("16")
    canvas = page.locator("canvas")
    expect(canvas).to_have_css("filter", "brightness(16)")
    assert canvas.evaluate("c => [...c.getContext('2d').getImageData(0, 0, 1, 1).data]") == [8, 8, 8, 255]


# --- a person's own score


def test_an_own_score_is_kept_and_the_rater_remembered(page: Page, service: Service) -> None:
    fill(page)
    submit(page)
    rating = page.locator(".rating")
    expect(rating).to_contain_text("The operators of this service get it")
    send = rating.get_by_role("button", name="Send my score")
    send.click()
    expect(rating.locator(".problem")).to_have_text("Move the slider to your score.")
    own = rating.get_by_label("Score", exact=True)
    expect(own).to_be_focused()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(rating.locator("output")).to_have_text("3.3")
    send.click()
    expect(rating.locator(".problem")).to_have_text("Enter your name, the same one each time.")
    rating.get_by_label("Your name").fill("Ada")
    rating.get_by_label("Comment").fill("The ring is still there.")
    send.click()
    expect(rating.get_by_role("status")).to_have_text("Stored as rating 17: your score is 3.3. Thank you.")
    expect(send).to_be_hidden()
    assert service.rated == [Rating(receipt="signed", rater="Ada", score=3.3, comment="The ring is still there.")]
    page.reload()
    page.locator(".recent button", has_text="make it blue").click()
    expect(page.locator(".rating")).to_contain_text("your score is 3.3")
    fill(page)
    submit(page)
    expect(page.get_by_label("Your name")).to_have_value("Ada")


def test_an_own_score_that_isnt_kept_is_said_to_be_so(page: Page, service: Service) -> None:
    service.feedback = (422, refused("receipt", "The receipt has run out."), {})
    fill(page)
    submit(page)
    page.locator("#own").fill("4.5")
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Send my score").click()
    expect(page.locator(".rating .problem")).to_contain_text("Not stored.")
    expect(page.locator(".rating .problem")).to_contain_text("The receipt has run out.")
    expect(page.locator(".thanks")).to_be_hidden()


def test_a_critique_without_a_receipt_cant_be_rated(page: Page, service: Service) -> None:
    service.answer = (200, scored(receipt=""), {})
    fill(page)
    submit(page)
    expect(page.locator(".rating")).to_contain_text("no receipt")
    expect(page.locator("#own")).to_be_hidden()


# --- recent requests


def test_recent_requests_are_kept_small_and_few_and_can_be_cleared(page: Page, service: Service) -> None:
    fill(page, png("red", (1200, 900)), png("blue", (1200, 900)))
    for number in range(14):
        service.answer = (200, scored(score=1 + number / 10, request_id=f"r-{number}"), {})
        submit(page)
        expect(page.locator(".recent b").first).to_have_text(f"{1 + number / 10:.2f}")
    expect(page.locator(".recent li")).to_have_count(12)
    assert page.evaluate("localStorage.getItem('critic.recent').length") < 100_000
    page.reload()
    page.locator(".recent li button").nth(1).click()
    expect(page.locator(".score")).to_contain_text("2.20")
    expect(page.locator("#result")).to_contain_text("small copies")
    assert page.locator(".beside img").first.evaluate("i => [i.naturalWidth, i.naturalHeight]") == [160, 120]
    page.get_by_role("radio", name="difference").check()
    expect(page.locator("#result")).to_contain_text("Small copies can't be compared pixel by pixel")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".recent")).to_be_hidden()
    page.reload()
    expect(page.locator(".recent")).to_be_hidden()


def test_a_browser_with_little_room_keeps_fewer_and_one_without_says_so(page: Page, service: Service) -> None:
    page.evaluate(
        """() => {
            window.room = 15000;
            const setItem = Storage.prototype.setItem;
            Storage.prototype.setItem = function (name, text) {
                if (text.length > window.room) throw new DOMException("full", "QuotaExceededError");
                setItem.call(this, name, text);
            };
        }"""
    )
    fill(page)
    for number in range(9):
        service.answer = (200, scored(request_id=f"r-{number}", raw="x" * 2000), {})
        submit(page)
        expect(page.locator("#result")).to_be_visible()
    assert 1 <= page.locator(".recent li").count() < 9
    page.evaluate("window.room = 0")
    submit(page)
    expect(page.locator(".recent")).to_contain_text("This browser has no room for recent requests")
    expect(page.locator(".score")).to_be_visible()


# --- safety and accessibility


def test_what_people_and_the_service_write_stays_text(page: Page, service: Service) -> None:
    texts = {"reasoning": HOSTILE, "raw": HOSTILE, "version": HOSTILE, "model": HOSTILE, "request_id": HOSTILE}
    service.answer = (200, scored(**texts), {})
    fill(page)
    page.get_by_label("Instruction").fill(HOSTILE)
    submit(page)
    expect(page.locator("#result h2")).to_have_text(HOSTILE)
    expect(page.locator(".reasoning")).to_have_text(HOSTILE)
    expect(page.locator(".recent .what > span")).to_have_text(HOSTILE)
    service.answer = (422, refused("invalid", HOSTILE), {})
    submit(page)
    expect(page.locator("#failure")).to_contain_text(HOSTILE)
    assert page.title() == "Edit critic"
    assert page.locator("body script, img[onerror]").count() == 0


def test_a_narrow_phone_scrolls_down_alone(open_page: Callable[..., Page], service: Service) -> None:
    page = open_page(viewport=PHONE, is_mobile=True, has_touch=True)
    service.answer = (200, scored(reasoning="x" * 400, model="sha256:" + "0" * 64, raw="y" * 400), {})

    def overflow() -> int:
        return page.evaluate("document.documentElement.scrollWidth - innerWidth")

    assert overflow() == 0
    fill(page)
    page.get_by_label("Instruction").fill("w" * 300)
    page.get_by_role("radio", name="average").check()
    page.get_by_role("button", name="Score", exact=True).tap()
    expect(page.locator("#result h2")).to_be_in_viewport()
    page.locator("summary").tap()
    for view in ("slider", "side by side", "difference"):
        page.get_by_role("radio", name=view).check()
        assert overflow() == 0, view
    for control in page.locator("button:visible, .segments label:visible").all():
        box = control.bounding_box()
        assert box and box["height"] >= 32, control


def test_every_control_has_a_name(page: Page, service: Service) -> None:
    """In Chromium's accessibility tree, which screen readers use."""
    service.answer = (401, refused("no_key", "Send a key."), {})
    fill(page)
    page.get_by_role("radio", name="average").check()
    submit(page)
    expect(page.get_by_label("API key")).to_be_visible()
    service.answer = (200, scored(), {})
    submit(page)
    page.locator("summary").click()
    page.get_by_role("radio", name="difference").check()
    expect(page.locator(".recent li")).to_have_count(1)
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    controls = {
        "button",
        "textbox",
        "slider",
        "radio",
        "spinbutton",
        "radiogroup",
        "DisclosureTriangle",
        "image",
        "img",
    }
    found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in controls]
    assert {node["role"]["value"] for node in found} >= controls - {"img", "DisclosureTriangle"}
    assert [node for node in found if not node["name"]["value"].strip()] == []
    assert page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"


def test_focus_is_seen(page: Page) -> None:
    for _ in range(9):
        page.keyboard.press("Tab")
        outlined = page.evaluate(
            """() => [document.activeElement, document.activeElement.nextElementSibling,
                      document.activeElement.nextElementSibling?.querySelector(".well")]
                .some((e) => e && getComputedStyle(e).outlineStyle === "solid")"""
        )
        assert outlined, page.evaluate("document.activeElement.outerHTML")


def test_nothing_moves_for_those_who_asked_for_it(open_page: Callable[..., Page], service: Service) -> None:
    service.hold = threading.Event()
    page = open_page(reduced_motion="reduce")
    fill(page)
    submit(page)
    expect(page.locator(".pulse")).to_have_css("animation-name", "none")
    service.hold.set()
    expect(page.locator("#result")).to_be_visible()

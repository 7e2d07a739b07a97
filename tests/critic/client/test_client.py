"""Each edit ends in the service's answer or in a named failure, in the order of the edits."""

import asyncio
import base64
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from critic.client import (
    AsyncCritic,
    BadInput,
    BadReply,
    Critic,
    CriticError,
    Picture,
    Refused,
    Unavailable,
)
from critic.client.http import retry_after
from critic.pictures import decode

FILES = Path(__file__).parents[1] / "pictures"
Spoil = Callable[[Any], None]
MAKE_IT = "make it red"


def red(value: int) -> Image.Image:
    """A picture whose score from the test service is 1 + value / 60."""
    return Image.new("RGB", (8, 6), (value, 9, 9))


def edit(value: int) -> tuple[Picture, Picture, str]:
    return red(0), red(value), MAKE_IT


@pytest.fixture
def critic(service: Any) -> Iterator[Critic]:
    with Critic(service.url, max_retries=2, batch_size=2, timeout=5, deadline=10) as critic:
        yield critic


# --- faults of the service


def status(code: int, **headers: str) -> Spoil:
    return lambda handler: handler.refuse(code, "spoilt", **headers)


def says(body: str, code: int = 200) -> Spoil:
    return lambda handler: handler.send(body, code)


def drop(handler: Any) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def half(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"request_id": "r-1"')
    drop(handler)


def hang(handler: Any) -> None:
    handler.server.over.wait(20)
    drop(handler)


def changed(change: Callable[[Any], Any]) -> Spoil:
    """Change the service's answer."""
    return lambda handler: handler.answer(change)


def with_score(score: Any, status: str = "ok") -> Spoil:
    return changed(
        lambda reply: reply | {"verdicts": [v | {"score": score, "status": status} for v in reply["verdicts"]]}
    )


# --- requests and answers


def test_a_verdict_is_the_services_own(critic: Critic) -> None:
    verdict = critic.score(*edit(120))
    assert (verdict.score, verdict.status, verdict.id) == (3.0, "ok", "0")
    assert (verdict.version, verdict.model, verdict.contract) == ("tiny:1", "sha256:5eed", "c0de")


def test_a_verdict_without_a_score_is_no_error_and_no_number(critic: Critic) -> None:
    verdict = critic.score(red(0), Image.new("RGB", (8, 8)), MAKE_IT)
    assert (verdict.score, verdict.status, verdict.detail) == (None, "no_answer", "it is black")


def test_options_are_sent_and_only_those_that_were_given(service: Any, critic: Critic) -> None:
    critic.score(*edit(60), id="cat", mode="average", samples=4)
    (body,) = service.bodies
    assert {name: value for name, value in body.items() if name != "pairs"} == {"mode": "average", "samples": 4}
    assert (body["pairs"][0]["id"], body["pairs"][0]["instruction"]) == ("cat", MAKE_IT)


@pytest.mark.parametrize("wrong", [{"mood": "greedy"}, {"mode": "best"}, {"samples": 1}])
def test_an_invalid_option_is_an_error_before_anything_is_sent(
    service: Any, critic: Critic, wrong: dict[str, Any]
) -> None:
    for call in (lambda: critic.score(*edit(60), **wrong), lambda: critic.rewards([edit(60)], **wrong)):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            call()
    assert not service.seen


def test_a_batch_is_sent_in_several_requests_and_answered_in_order(service: Any, critic: Critic) -> None:
    values = [12 * value for value in range(1, 20)]
    verdicts = critic.score_batch([edit(value) for value in values])
    assert [verdict.score for verdict in verdicts] == [round(1 + value / 60, 4) for value in values]
    assert [verdict.id for verdict in verdicts] == [str(place) for place in range(19)]
    assert sorted(len(body["pairs"]) for body in service.bodies) == [1] + [2] * 9


def test_so_many_requests_are_made_at_a_time(service: Any) -> None:
    def slow(handler: Any) -> None:
        handler.server.over.wait(0.03)
        handler.answer()

    service.spoilt = [slow] * 12
    with Critic(service.url, batch_size=1, concurrency=3) as critic:
        critic.score_batch([edit(60)] * 12)
    assert service.most == 3


def test_no_edits_need_no_request(service: Any, critic: Critic) -> None:
    assert (critic.score_batch([]), critic.rewards([]), service.seen) == ([], [], [])


def test_ids_are_one_an_edit(critic: Critic) -> None:
    assert [v.id for v in critic.score_batch([edit(60), edit(120)], ids=["a", "b"])] == ["a", "b"]
    with pytest.raises(ValueError, match="1 ids for 2 edits: give one id per edit"):
        critic.score_batch([edit(60), edit(120)], ids=["a"])


def test_edits_are_ranked(critic: Critic) -> None:
    black = Image.new("RGB", (8, 8))
    ranking = critic.compare(red(0), [red(60), black, red(240)], MAKE_IT)
    assert [(one.id, one.rank, one.score) for one in ranking] == [("2", 1, 5.0), ("0", 2, 2.0), ("1", None, None)]


def test_rewards_are_on_the_scale_that_was_asked_for(critic: Critic) -> None:
    edits = [edit(60), (red(0), Image.new("RGB", (8, 8)), MAKE_IT), edit(240)]
    assert [reward.value for reward in critic.rewards(edits)] == [2.0, None, 5.0]
    rewards = critic.rewards(edits, scale="unit")
    assert [reward.value for reward in rewards] == [0.25, None, 1.0]
    assert [(reward.status, reward.version) for reward in rewards] == [
        ("ok", "tiny:1"),
        ("no_answer", "tiny:1"),
        ("ok", "tiny:1"),
    ]


def test_a_person_rates_what_a_verdict_is_about(service: Any, critic: Critic) -> None:
    verdict = critic.score(*edit(60), id="cat")
    assert critic.feedback(verdict, "ann", 4.5, "too red").id == 1
    rating = {"receipt": "receipt of cat", "rater": "ann", "score": 4.5, "comment": "too red"}
    assert service.seen[-1][0] == "/feedback"
    assert service.bodies[-1] == rating
    with pytest.raises(ValueError, match="less than or equal to 5"):
        critic.feedback(verdict, "ann", 6)


def test_a_key_is_sent_if_there_is_one(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for given_key, variable in [(None, None), (None, "from-env"), ("given", "from-env")]:
        if variable:
            monkeypatch.setenv("CRITIC_API_KEY", variable)
        with Critic(service.url, api_key=given_key) as critic:
            critic.score(*edit(60))
    sent = [headers.get("authorization") for _, headers, _ in service.seen]
    assert sent == [None, "Bearer from-env", "Bearer given"]


def test_the_service_may_be_below_a_path(service: Any) -> None:
    service.spoilt = [status(404)]
    with Critic(f"{service.url}/critic/") as critic, pytest.raises(Refused):
        critic.score(*edit(60))
    assert service.seen[0][0] == "/critic/score_batch"


def test_a_loopback_address_is_reached_without_a_proxy(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY")
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for address in (service.url, service.url.replace("127.0.0.1", "localhost")):
        with Critic(address, max_retries=0) as critic:
            assert critic.ready()
            assert critic.score(*edit(60)).score == 2.0
    with Critic("http://critic.invalid", max_retries=0) as proxied, pytest.raises(Unavailable, match="Connect"):
        proxied.score(*edit(60))


def test_readiness(service: Any, critic: Critic) -> None:
    assert critic.ready()
    service.is_ready = False
    assert not critic.ready()
    with Critic("http://127.0.0.1:9") as nobody:
        assert not nobody.ready()


# --- pictures


def sent(service: Any) -> Image.Image:
    picture = service.bodies[-1]["pairs"][0]["edited"]
    return Image.open(BytesIO(base64.b64decode(picture)))


def noise(*shape: int) -> "np.ndarray[Any, Any]":
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_pixel_of_a_picture_an_array_or_a_tensor_changes(
    service: Any, critic: Critic, dtype: torch.dtype
) -> None:
    pixels = noise(5, 7, 3)
    tensor = (torch.from_numpy(pixels).permute(2, 0, 1).to(dtype) / 255).requires_grad_()
    for picture in (Image.fromarray(pixels), pixels, tensor):
        critic.score(red(0), picture, MAKE_IT)
        assert sent(service).format == "PNG"
        assert np.array_equal(np.asarray(sent(service)), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_pictures_of_all_kinds_keep_what_is_seen(service: Any, critic: Critic, mode: str) -> None:
    picture = Image.fromarray(noise(5, 7, 3)).convert(mode)
    critic.score(red(0), picture, MAKE_IT)
    assert sent(service).convert("RGBA").tobytes() == picture.convert("RGBA").tobytes()


def test_a_picture_is_turned_as_its_exif_says(service: Any, critic: Critic, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    red(60).save(tmp_path / "turned.jpg", exif=exif)
    critic.score(red(0), Image.open(tmp_path / "turned.jpg"), MAKE_IT)
    assert sent(service).size == (6, 8)


def test_files_are_sent_as_they_are(service: Any, critic: Critic, tmp_path: Path) -> None:
    file = tmp_path / "cat.jpg"
    red(120).save(file)
    for picture in (file, str(file), file.read_bytes()):
        critic.score(red(0), picture, MAKE_IT)
        assert base64.b64decode(service.bodies[-1]["pairs"][0]["edited"]) == file.read_bytes()


@pytest.mark.parametrize(
    "name", ["gray16.png", "gray16_trns.png", "exif6.png", "pal_trns.png", "mpo.jpg", "p3.png"]
)
def test_an_opened_file_is_sent_as_the_picture_that_decode_reads(service: Any, critic: Critic, name: str) -> None:
    critic.score(red(0), Image.open(FILES / name), MAKE_IT)
    assert np.array_equal(np.asarray(sent(service)), np.asarray(decode((FILES / name).read_bytes())))


def test_urls_are_left_to_the_service(service: Any, critic: Critic) -> None:
    assert critic.score(red(0), "https://pictures.example/cat.png", MAKE_IT).score == 5.0
    assert service.bodies[-1]["pairs"][0]["edited"] == "https://pictures.example/cat.png"


BAD: dict[str, tuple[Any, str]] = {
    "a file that isn't there": ("nowhere.png", "can't be read.*nowhere.png"),
    "a name that can't be": ("a\0b", "can't be read"),
    "an empty file": (b"", "empty"),
    "a tensor of numbers to 255": (torch.full((3, 4, 4), 200.0), "from 200 to 200: bring them to 0 to 1"),
    "a tensor of numbers from -1": (torch.linspace(-1, 1, 48).reshape(3, 4, 4), "from -1 to 1"),
    "a tensor of NaN": (torch.full((3, 4, 4), float("nan")), "from nan to nan"),
    "a tensor of integers": (torch.zeros(3, 4, 4, dtype=torch.uint8), "torch.uint8"),
    "a batch of tensors": (torch.zeros(1, 3, 4, 4), "give floats"),
    "an array of floats": (np.zeros((4, 4, 3)), "float64"),
    "an array with channels first": (np.zeros((3, 4, 4), np.uint8), "give uint8"),
    "an array without pixels": (np.zeros((0, 4, 3), np.uint8), "give uint8"),
    "no picture at all": (None, "NoneType isn't a picture"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_picture_is_that_edits_failure(service: Any, critic: Critic, what: str) -> None:
    picture, message = BAD[what]
    with pytest.raises(BadInput, match=message):
        critic.score(red(0), picture, MAKE_IT)
    verdicts = critic.score_batch([edit(60), (picture, red(0), MAKE_IT), edit(120)])
    assert [(verdict.score, verdict.status) for verdict in verdicts] == [
        (2.0, "ok"),
        (None, "bad_input"),
        (3.0, "ok"),
    ]
    with pytest.raises(BadInput):
        critic.compare(red(0), [red(60), picture], MAKE_IT)


def test_edits_of_one_source_that_isnt_loaded_yet_all_have_it(
    service: Any, critic: Critic, tmp_path: Path
) -> None:
    pixels = noise(200, 300, 3)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "source.png", exif=exif)
    source = Image.open(tmp_path / "source.png")
    critic.score_batch([(source, red(60), MAKE_IT)] * 16)
    pictures = [base64.b64decode(pair["source"]) for body in service.bodies for pair in body["pairs"]]
    assert len(pictures) == 16
    assert np.array_equal(np.asarray(Image.open(BytesIO(pictures[0]))), pixels[::-1, ::-1])
    assert len({*pictures}) == 1


def test_a_broken_file_behind_a_picture_is_that_edits_failure(critic: Critic, tmp_path: Path) -> None:
    Image.fromarray(noise(99, 99, 3)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    with pytest.raises(BadInput, match="can't be decoded"):
        critic.score(red(0), Image.open(tmp_path / "cut.png"), MAKE_IT)


def test_an_empty_instruction_is_that_edits_failure(critic: Critic) -> None:
    verdicts = critic.score_batch([(red(0), red(60), ""), edit(60)])
    assert [verdict.status for verdict in verdicts] == ["bad_input", "ok"]
    assert verdicts[0].detail.startswith("instruction: ")


# --- retries


@pytest.mark.parametrize("passing", [status(429), status(502), status(503), status(504), drop, half])
def test_what_may_pass_is_tried_again(service: Any, critic: Critic, passing: Spoil) -> None:
    service.spoilt = [passing, passing]
    assert critic.score(*edit(60)).score == 2.0
    assert len(service.seen) == 3
    assert service.bodies[0] == service.bodies[2]


def test_an_attempt_that_takes_too_long_is_given_up_and_made_again(service: Any) -> None:
    service.spoilt = [hang]
    with Critic(service.url, timeout=0.2) as critic:
        assert critic.score(*edit(60)).score == 2.0


@pytest.mark.parametrize(
    ("spoil", "failure", "reason"),
    [
        (status(429, Retry_After="0"), "server_error", r"429 spoilt: as you like it \(Retry-After: 0\)"),
        (status(503), "server_error", "503 spoilt"),
        (says("<html>no upstream</html>", 502), "server_error", "502 bad_gateway: <html>no upstream"),
        (drop, "unreachable", "RemoteProtocolError|ReadError"),
        (hang, "timed_out", "no answer in 0.2 s"),
    ],
)
def test_what_doesnt_pass_is_given_up_with_its_reason(
    service: Any, spoil: Spoil, failure: str, reason: str
) -> None:
    service.spoilt = [spoil] * 3
    with (
        Critic(service.url, max_retries=2, timeout=0.2 if spoil is hang else 10) as critic,
        pytest.raises(Unavailable, match=rf"gave up at attempt 3, after .* s: ({reason})") as raised,
    ):
        critic.score(*edit(60))
    assert raised.value.failure == failure
    assert len(service.seen) == 3


def test_a_service_that_isnt_there_is_unreachable() -> None:
    with Critic("http://127.0.0.1:9", max_retries=0) as critic:
        with pytest.raises(Unavailable, match=r"http://127.0.0.1:9/score_batch: gave up.*ConnectError"):
            critic.score(*edit(60))
        assert [verdict.status for verdict in critic.score_batch([edit(60)] * 3)] == ["unreachable"] * 3


def test_retry_after_is_waited_for(service: Any, critic: Critic, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    service.spoilt = [status(429, Retry_After="3"), status(503)]
    critic.score(*edit(60))
    assert 3 < pauses[0] < 3.1
    assert 0 < pauses[1] < 0.1


def test_a_full_or_starting_service_is_waited_for_until_the_deadline(
    service: Any,
) -> None:
    def turn_away(code: int, name: str) -> Spoil:
        return lambda handler: handler.refuse(code, name, Retry_After="0.01")

    service.spoilt = [turn_away(429, "busy"), turn_away(503, "engine_lost"), turn_away(503, "engine_starting")] * 4
    with Critic(service.url, max_retries=0) as critic:
        assert critic.score(*edit(60)).score == 2.0
        service.spoilt = [turn_away(503, "unreachable")]
        with pytest.raises(Unavailable, match="gave up at attempt 1"):
            critic.score(*edit(60))
    service.spoilt = [turn_away(429, "busy")] * 1000
    with Critic(service.url, deadline=0.3) as critic, pytest.raises(Unavailable, match="gave up at"):
        critic.score(*edit(60))


def test_a_pause_past_the_deadline_isnt_begun(service: Any, critic: Critic) -> None:
    service.spoilt = [status(429, Retry_After="3600")]
    with pytest.raises(Unavailable, match=r"gave up at attempt 1, .*Retry-After: 3600"):
        critic.score(*edit(60))


def test_all_attempts_together_end_at_the_deadline(service: Any) -> None:
    service.spoilt = [hang] * 20
    with Critic(service.url, timeout=0.2, deadline=0.5, max_retries=20) as critic, pytest.raises(Unavailable):
        critic.score(*edit(60))
    assert len(service.seen) <= 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 415, 422])
def test_a_refusal_is_raised_at_once(service: Any, critic: Critic, code: int) -> None:
    service.spoilt = [status(code)]
    with pytest.raises(Refused, match=f"{code} spoilt: as you like it") as raised:
        critic.score(*edit(60))
    assert (raised.value.status, raised.value.code, raised.value.request_id) == (code, "spoilt", "r-7")
    assert len(service.seen) == 1


def test_an_error_of_the_service_isnt_repeated(service: Any, critic: Critic) -> None:
    service.spoilt = [status(500)]
    with pytest.raises(Unavailable, match=r"gave up at attempt 1, .*500 spoilt"):
        critic.score(*edit(60))


@pytest.mark.parametrize("spoil", [status(504), status(502), drop, hang])
def test_a_rating_that_may_have_arrived_isnt_sent_again(service: Any, spoil: Spoil) -> None:
    with Critic(service.url, timeout=1 if spoil is hang else 10) as critic:
        verdict = critic.score(*edit(60))
        service.spoilt = [spoil]
        with pytest.raises(Unavailable, match="gave up at attempt 1"):
            critic.feedback(verdict, "ann", 2)
        service.spoilt = [status(503)]
        assert critic.feedback(verdict, "ann", 2).id == 1


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("", 0.0), ("soon", 0.0), ("nan", 0.0)]
)
def test_seconds_of_retry_after(header: str, seconds: float) -> None:
    assert retry_after(header) == seconds


def test_dates_of_retry_after() -> None:
    then = datetime.now(UTC) + timedelta(seconds=60)
    assert 55 < retry_after(format_datetime(then, usegmt=True)) <= 60
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{1,5} \d\d:\d\d:\d\d [A-Z+\-0-9]{3,5}"))
def test_no_retry_after_can_do_harm(header: str) -> None:
    assert retry_after(header) >= 0


# --- invalid replies

GARBAGE: dict[str, Spoil] = {
    "no JSON": says("<html>"),
    "other JSON": says('{"score": 5}'),
    "another order": changed(lambda reply: reply | {"verdicts": reply["verdicts"][::-1]}),
    "a verdict too few": changed(lambda reply: reply | {"verdicts": reply["verdicts"][1:]}),
    "a verdict too many": changed(lambda reply: reply | {"verdicts": reply["verdicts"] * 2}),
    "a score off the scale": with_score(7.5),
    "no number": with_score(float("nan")),
    "a score that failed": with_score(3.0, "no_answer"),
    "a success without a score": with_score(None),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_a_garbled_reply_is_never_a_score(service: Any, critic: Critic, what: str) -> None:
    service.spoilt = [GARBAGE[what]]
    verdicts = critic.score_batch([edit(60), edit(120)])
    assert [(verdict.score, verdict.status) for verdict in verdicts] == [(None, "garbled")] * 2
    assert verdicts[0].detail.startswith(f"{service.url}/score_batch: ")


def test_a_ranking_of_other_edits_is_garbled(service: Any, critic: Critic) -> None:
    service.spoilt = [changed(lambda reply: reply | {"ranking": reply["ranking"][:1]})]
    with pytest.raises(BadReply, match="the ranking has other edits than the request"):
        critic.compare(red(0), [red(60), red(120)], MAKE_IT)


# --- partial failures


def test_others_keep_their_answers_when_a_request_fails(service: Any) -> None:
    spoilt = [status(500), drop, hang, says("[]"), status(403)]
    with Critic(service.url, max_retries=0, timeout=1.5, batch_size=1, concurrency=1) as critic:
        service.spoilt = [*spoilt]
        verdicts = critic.score_batch([edit(60)] * 7, mode="direct")
        service.spoilt = [*spoilt]
        rewards = critic.rewards([edit(60)] * 7)
    failures = ["server_error", "unreachable", "timed_out", "garbled", "refused", "ok", "ok"]
    assert [verdict.status for verdict in verdicts] == failures
    assert [verdict.score for verdict in verdicts] == [None] * 5 + [2.0] * 2
    assert {verdict.mode for verdict in verdicts} == {"direct"}
    assert all(verdict.detail for verdict in verdicts[:5])
    assert verdicts[4].request_id == "r-7"
    assert [reward.status for reward in rewards] == failures
    assert [reward.value for reward in rewards] == [None] * 5 + [2.0] * 2


def lose(places: slice, status: str = "server_error") -> Spoil:
    """Answers as the service does whose vLLM ends before these edits of the request have their answers."""

    def change(reply: Any) -> Any:
        for verdict in reply["verdicts"][places]:
            verdict |= {"score": None, "status": status}
        return reply

    return lambda handler: handler.answer(change)


@pytest.mark.parametrize("status", ["unreachable", "server_error"])
def test_edits_whose_answers_vllm_lost_are_sent_again(service: Any, status: str) -> None:
    service.spoilt = [lose(slice(1, 4), status), lose(slice(1, 2), status)]
    values = [60, 120, 180, 200, 240]
    with Critic(service.url) as critic:
        verdicts = critic.score_batch([edit(value) for value in values])
    assert [verdict.score for verdict in verdicts] == [round(1 + value / 60, 4) for value in values]
    sent = [[pair["id"] for pair in body["pairs"]] for body in service.bodies]
    assert sent == [["0", "1", "2", "3", "4"], ["1", "2", "3"], ["2"]]


def test_an_edit_that_timed_out_isnt_sent_again(service: Any) -> None:
    service.spoilt = [lose(slice(1, 2), "timed_out")]
    with Critic(service.url) as critic:
        verdicts = critic.score_batch([edit(60), edit(120)])
    assert [verdict.status for verdict in verdicts] == ["ok", "timed_out"] and len(service.bodies) == 1


@pytest.mark.parametrize("failing", [status(503), status(403), status(422), says("[]")])
def test_an_edit_that_is_lost_alone_keeps_its_first_result(service: Any, failing: Spoil) -> None:
    service.spoilt = [lose(slice(1, 2), "unreachable"), failing]
    with Critic(service.url, max_retries=0) as critic:
        verdicts = critic.score_batch([edit(60), edit(120)])
    assert [(verdict.score, verdict.status) for verdict in verdicts] == [(2.0, "ok"), (None, "unreachable")]
    assert len(service.bodies) == 2


def test_an_edit_is_sent_again_within_the_deadline_of_its_request(service: Any) -> None:
    """Of the second there are 0.3 s gone and at least 0.75 s to wait for another attempt."""

    def slow(handler: Any) -> None:
        handler.server.over.wait(0.3)
        lose(slice(1, 2), "unreachable")(handler)

    service.spoilt = [slow, status(429, Retry_After="0.75")]
    with Critic(service.url, deadline=1) as critic:
        verdicts = critic.score_batch([edit(60), edit(120)])
    assert [verdict.status for verdict in verdicts] == ["ok", "unreachable"] and len(service.bodies) == 2


def test_a_thousand_edits_keep_their_order_beside_refusals_and_losses(service: Any) -> None:
    values = [place % 241 for place in range(1, 1001) if place % 241]
    busy = status(429, Retry_After="0.01")
    service.spoilt = [busy, lose(slice(1, 6)), drop, busy, status(503), lose(slice(3, None))] * 20
    with Critic(service.url, max_retries=len(service.spoilt)) as critic:  # one request may meet them all
        verdicts = critic.score_batch([edit(value) for value in values])
    assert [verdict.id for verdict in verdicts] == [str(place) for place in range(len(values))]
    assert [verdict.score for verdict in verdicts] == [round(1 + min(value, 240) / 60, 4) for value in values]


@pytest.mark.parametrize("bad", [0, 3, 6])
def test_an_edit_that_is_refused_costs_the_others_of_its_request_nothing(service: Any, bad: int) -> None:
    edits = [edit(60)] * 7
    edits[bad] = (red(0), b"no picture", MAKE_IT)
    with Critic(service.url, batch_size=8) as critic:
        verdicts = critic.score_batch(edits)
        rewards = critic.rewards(edits)
    expected = ["refused" if place == bad else "ok" for place in range(7)]
    assert [verdict.status for verdict in verdicts] == [reward.status for reward in rewards] == expected
    assert verdicts[bad].detail == "415 not_a_picture: as you like it"


# --- threads and loops


def test_several_threads_may_call_one_client(critic: Critic) -> None:
    def scored(value: int) -> float | None:
        return critic.score(*edit(value)).score

    values = list(range(6, 240, 6))
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(scored, values)] == [round(1 + value / 60, 4) for value in values]


def test_it_works_within_a_running_loop_and_awaited(service: Any, critic: Critic) -> None:
    async def main() -> list[float | None]:
        async with AsyncCritic(service.url) as awaited:
            verdict = await awaited.score(*edit(60))
            (reward,) = await awaited.rewards([edit(240)])
            return [verdict.score, reward.value, critic.score(*edit(120)).score]

    assert asyncio.run(main()) == [2.0, 5.0, 3.0]


def test_a_closed_client_says_so(service: Any) -> None:
    with Critic(service.url) as critic:
        pass
    critic.close()
    with pytest.raises(RuntimeError, match="closed: create another one"):
        critic.score(*edit(60))


def test_closing_ends_what_is_under_way(service: Any) -> None:
    service.spoilt = [hang]
    with ThreadPoolExecutor(1) as pool, Critic(service.url) as critic:
        call = pool.submit(critic.score, *edit(60))
        while not service.seen:
            service.over.wait(0.01)
        critic.close()
        with pytest.raises(CancelledError):
            call.result(timeout=5)


def test_a_client_that_nobody_closed_keeps_no_process_alive(service: Any) -> None:
    code = "import sys, critic.client as c; c.Critic(sys.argv[1]).score(b'no picture', b'', 'make it red')"
    ended = subprocess.run([sys.executable, "-c", code, service.url], capture_output=True, text=True, timeout=60)
    assert "BadInput: the picture's file is empty" in ended.stderr


def test_all_errors_are_one_kind() -> None:
    assert all(issubclass(error, CriticError) for error in (BadInput, Refused, Unavailable, BadReply))


def test_importing_the_client_loads_no_model_library() -> None:
    code = "import sys, critic.client.reward_functions; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "transformers", "vllm", "datasets", "trl", "bentoml", "fastapi", "pandas"} & {*loaded}

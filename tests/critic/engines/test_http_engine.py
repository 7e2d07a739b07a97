"""Each request ends in a completion or in a named failure, whatever the server does."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pytest
from PIL import ExifTags, Image, ImageCms

from critic.edits import Edit
from critic.engines.base import Completion, Sampling, request
from critic.engines.http import HttpEngine, ServerError, data_url, keep_jpeg
from critic.pictures import decode
from critic.prompts import load_contract
from critic.scoring.scorer import Scorer

CONTRACT = load_contract("tiny")
ANSWER = "Fine.</think>\n<answer>3.50</answer>"
Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def send(handler: BaseHTTPRequestHandler, body: str, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body.encode())))
    handler.end_headers()
    handler.wfile.write(body.encode())


def completion(finish: str = "stop", parser: bool = False, **message: str | None) -> Reply:
    """A completion of a server, with or without a reasoning parser."""
    details = {"completion_tokens_details": {"reasoning_tokens": 0}} if parser else {}
    body = {
        "choices": [{"message": {"role": "assistant", **message}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 9, **details},
    }
    return lambda handler, _: send(handler, json.dumps(body))


def status(code: int) -> Reply:
    return lambda handler, _: send(handler, '{"error": {"message": "as you like it"}}', code)


def hang(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    handler.server.stop.wait(20)  # type: ignore[attr-defined]


def drop(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    handler.connection.close()


class Server(ThreadingHTTPServer):
    """Answers each completion with the next of `replies`, the last one again and again.

    `listing` answers GET in place of the list of `models`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.replies: list[Reply] = [completion(content=ANSWER)]
        self.owner, self.models = "someone", ["critic"]
        self.listing: Reply | None = None
        self.bodies: list[dict[str, Any]] = []
        self.at_a_time, self.most = 0, 0
        self.stop, self.lock = threading.Event(), threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A disconnected client isn't an error of the server."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model", "owned_by": self.server.owner} for name in self.server.models]
        if self.server.listing:
            self.server.listing(self, {})
        else:
            send(self, json.dumps({"object": "list", "data": models}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            replies = self.server.replies
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
            self.server.at_a_time += 1
            self.server.most = max(self.server.most, self.server.at_a_time)
        try:
            with suppress(OSError):
                reply(self, body)
        finally:
            with self.server.lock:
                self.server.at_a_time -= 1

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


def engine(server: Server, **settings: Any) -> HttpEngine:
    return HttpEngine(server.address, **{"max_tokens": 80, "timeout": 0.5, "max_retries": 0, **settings})


def edit(number: int = 0) -> Edit:
    pictures = [Image.new("RGB", (56, side), (9 * number, 50, 200)) for side in (56, 84)]
    return Edit(str(number), *pictures, "make it blue")


# --- what is asked


def test_the_conversation_and_its_pictures_are_sent_as_the_contract_makes_them(server: Server) -> None:
    asked = request(CONTRACT, edit())
    (outcome,) = engine(server).complete([asked])
    assert outcome == Completion(ANSWER, 9, True, 30)
    (body,) = server.bodies
    (message,) = body["messages"]
    *pictures, text = message["content"]
    assert text == asked.messages[0]["content"][-1]
    for part, picture in zip(pictures, asked.pictures, strict=True):
        data = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))
        assert Image.open(BytesIO(data)).tobytes() == picture.tobytes()
    settings = {key: value for key, value in body.items() if key != "messages"}
    assert settings == {"model": "critic", "max_tokens": 80, "temperature": 0.0, "top_p": 1.0}


def test_a_jpeg_file_is_sent_for_its_picture_unless_others_decode_it_differently() -> None:
    noise = Image.effect_noise((56, 56), 50).convert("RGB")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 3
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = {
        "JPEG": {}, "WEBP": {}, "PNG": {}, "turned": {"exif": turned}, "profile": {"icc_profile": profile},
    }  # fmt: skip
    for name, options in files.items():
        file = BytesIO()
        noise.save(file, name if name.isupper() else "JPEG", **options)
        picture = decode(file.getvalue())
        keep_jpeg(picture, file.getvalue())
        url = data_url(picture.copy(), compressed=False)
        sent = base64.b64decode(url.partition(",")[2])
        assert (sent == file.getvalue()) is (name == "JPEG"), name
        assert Image.open(BytesIO(sent)).tobytes() == picture.tobytes(), name
        assert url.startswith("data:image/jpeg;" if name == "JPEG" else "data:image/bmp;")


@pytest.mark.parametrize("owner", ["vllm", "sglang"])
def test_the_checkpoints_own_defaults_are_overruled_where_a_server_takes_them(server: Server, owner: str) -> None:
    server.owner = owner
    engine(server).complete([request(CONTRACT, edit())])
    assert (server.bodies[0]["repetition_penalty"], server.bodies[0]["top_k"]) == (1.0, -1)


def test_samples_are_drawn_by_their_seeds(server: Server) -> None:
    Scorer(engine(server), CONTRACT, mode="average", samples=3, temperature=0.7)([edit()])
    assert len({body["seed"] for body in server.bodies}) == 3
    assert {body["temperature"] for body in server.bodies} == {0.7}


def test_order_is_kept_and_so_many_requests_are_made_at_a_time(server: Server) -> None:
    def echo(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        while server.most < 2 and not server.stop.wait(0.01):  # the first one waits for a second
            pass
        completion(content=body["messages"][0]["content"][-1]["text"])(handler, body)

    server.replies = [echo]
    edits = [Edit(str(n), edit().source, edit().edited, f"make {n}") for n in range(20)]
    outcomes = engine(server, concurrency=4).complete([request(CONTRACT, one) for one in edits])
    assert [o.text.split(".")[0] for o in outcomes if isinstance(o, Completion)] == [
        f"Edit: make {n}" for n in range(20)
    ]
    assert 1 < server.most <= 4


def test_first_tokens_probabilities_are_read(server: Server) -> None:
    likely = [{"token": "3", "logprob": -0.1}, {"token": "4", "logprob": -2.4}]
    body = {
        "choices": [
            {
                "message": {"content": "3"},
                "finish_reason": "length",
                "logprobs": {"content": [{"token": "3", "logprob": -0.1, "top_logprobs": likely}]},
            }
        ]
    }
    server.replies = [lambda handler, _: send(handler, json.dumps(body))]
    (outcome,) = engine(server).complete([request(CONTRACT, edit())], Sampling(max_tokens=1, top_logprobs=20))
    assert isinstance(outcome, Completion) and outcome.logprobs == {"3": -0.1, "4": -2.4}
    assert (server.bodies[0]["logprobs"], server.bodies[0]["top_logprobs"]) == (True, 20)


def test_expected_scores_are_asked_only_of_servers_that_go_on_with_a_turn(server: Server) -> None:
    scorer = Scorer(engine(server), CONTRACT, "expected")
    with pytest.raises(ServerError, match="choose another mode"):
        scorer([edit()])
    server.owner = "vllm"
    Scorer(engine(server), CONTRACT, "expected")([edit()])
    *_, last = server.bodies
    assert last["messages"][-1]["role"] == "assistant" and last["continue_final_message"] is True


# --- what the replies become

BROKEN: dict[str, tuple[Reply, str]] = {
    "drops the connection": (drop, "unreachable"),
    "hangs": (hang, "timed_out"),
    "500": (status(500), "server_error"),
    "503": (status(503), "server_error"),
    "429": (status(429), "server_error"),
    "400": (status(400), "refused"),
    "403": (status(403), "refused"),
    "no JSON": (lambda handler, _: send(handler, "<html>"), "garbled"),
    "other JSON": (lambda handler, _: send(handler, '{"score": 5}'), "garbled"),
    "no choices": (lambda handler, _: send(handler, '{"choices": []}'), "garbled"),
    "a number for a text": (
        lambda handler, _: send(handler, '{"choices": [{"message": {"content": 5}}]}'),
        "garbled",
    ),
    "nothing": (completion(content=""), "empty"),
    "no content": (completion(content=None), "empty"),
    "cut off": (completion("length", content="Half do"), "truncated"),
    "filtered": (completion("content_filter", content="Half do"), "refused"),
    "broken off by vLLM's end": (completion("abort", content="</think><answer>4</answer>"), "server_error"),
    "words": (completion(content="</think><answer>good</answer>"), "not_a_number"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_reply_is_a_named_failure_and_never_a_score(server: Server, what: str) -> None:
    reply, expected = BROKEN[what]
    server.replies = [reply]
    (result,) = Scorer(engine(server), CONTRACT)([edit()])
    assert (result.score, result.status) == (None, expected)
    assert result.detail


def test_a_content_filter_is_not_mistaken_for_the_token_limit(server: Server) -> None:
    server.replies = [completion("content_filter", content="Half do")]
    (result,) = Scorer(engine(server), CONTRACT)([edit()])
    assert "content filter" in result.detail
    assert "--max-tokens" not in result.detail


def test_others_are_scored_beside_broken_ones(server: Server) -> None:
    server.replies = [reply for reply, _ in BROKEN.values()] + [completion(content=ANSWER)]
    edits = [edit(number) for number in range(len(BROKEN) + 3)]
    results = Scorer(engine(server, concurrency=1), CONTRACT)(edits)
    assert [result.status for result in results] == [expected for _, expected in BROKEN.values()] + ["ok"] * 3


@pytest.mark.parametrize("reply", [status(500), status(429), drop, hang])
def test_what_may_pass_is_tried_again(server: Server, reply: Reply) -> None:
    server.replies = [reply, completion(content=ANSWER)]
    (result,) = Scorer(engine(server, max_retries=1), CONTRACT)([edit()])
    assert result.score == 3.5
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "message",
    [
        {"content": ANSWER},
        {"content": "<think>" + ANSWER},
        {"content": "\n<answer>3.50</answer>", "reasoning_content": "Fine."},
        {"content": "\n<answer>3.50</answer>", "reasoning": "Fine."},
        {"content": None, "reasoning_content": ANSWER},
        {"content": "", "reasoning": "<think>" + ANSWER},
    ],
)
def test_the_answer_is_found_wherever_a_server_puts_it(server: Server, message: dict[str, str | None]) -> None:
    server.replies = [completion(**message)]
    (result,) = Scorer(engine(server), CONTRACT)([edit()])
    assert (result.score, result.reasoning) == (3.5, "Fine.")


def test_a_reasoning_parser_that_found_no_reasoning_has_not_lost_its_end(server: Server) -> None:
    """vLLM's reasoning parser takes `</think>` out of the content, and counts the tokens before it."""
    server.owner = "vllm"
    answer, whole = "\n<answer>3.50</answer>", "Fine.</think>\n<answer>3.50</answer>"
    server.replies = [
        completion(parser=True, content=answer),
        completion(content=answer),  # its reasoning never ended
        completion(parser=True, content="Perhaps <answer>2.0</answer> or not"),
        completion(parser=True, content=whole),
    ]
    results = Scorer(engine(server, concurrency=1), CONTRACT)([edit(number) for number in range(4)])
    assert [result.score for result in results] == [3.5, None, None, 3.5]
    assert results[3].reasoning == "Fine."


def test_reasoning_tokens_of_other_servers_say_nothing(server: Server) -> None:
    server.replies = [completion(parser=True, content="\n<answer>3.50</answer>")]
    (result,) = Scorer(engine(server), CONTRACT)([edit()])
    assert result.status == "no_answer"


# --- servers that can't be used at all


def test_a_server_that_isnt_there_is_an_error_at_once_that_names_the_cause() -> None:
    with pytest.raises(ServerError, match=r"can't be reached: .*Connection refused\. Start the server, or"):
        HttpEngine("http://127.0.0.1:9/v1", max_tokens=80, max_retries=0)


def test_an_address_without_its_scheme_is_corrected() -> None:
    with pytest.raises(
        ServerError, match=r"^127\.0\.0\.1:9/v1 is not .* or https://, as http://127\.0\.0\.1:9/v1$"
    ):
        HttpEngine("127.0.0.1:9/v1", max_tokens=80)


def test_a_model_that_isnt_served_is_named_with_those_that_are(server: Server) -> None:
    server.models = ["critic", "other"]
    with pytest.raises(ServerError, match=r"serves critic, other: choose one with http://\S+/v1#critic$"):
        engine(server)
    with pytest.raises(ServerError, match=r"serves critic, other, not theirs: choose one with \S+/v1#critic$"):
        engine(server, model="theirs")
    assert engine(server, model="other").name == "other"
    server.models = []
    with pytest.raises(ServerError, match=r"serves no model: "):
        engine(server)


def test_a_key_that_isnt_there_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRITIC_KEY", raising=False)
    with pytest.raises(ServerError, match="environment variable CRITIC_KEY is not set"):
        engine(server, api_key_variable="CRITIC_KEY")


@pytest.mark.parametrize("code", [401, 403])
def test_a_refusal_of_the_key_names_the_option_or_the_variable(
    server: Server, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.listing = status(code)
    with pytest.raises(ServerError, match=rf"/models answered {code}: .*API key with --key-variable$"):
        engine(server)
    monkeypatch.setenv("CRITIC_KEY", "secret")
    with pytest.raises(ServerError, match=r"Check the API key in the environment variable CRITIC_KEY$") as error:
        engine(server, api_key_variable="CRITIC_KEY")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("page", ["<html>Sign in</html>", "[1]", '{"models": []}'])
def test_a_page_that_is_not_a_list_of_models_is_named(server: Server, page: str) -> None:
    server.listing = lambda handler, _: send(handler, page)
    with pytest.raises(ServerError, match=r"/models is not the list of models .* Give the server's address"):
        engine(server)


def test_another_path_is_named(server: Server) -> None:
    server.listing = status(404)
    with pytest.raises(ServerError, match=r"/models answered 404: .*Give the server's address up to /v1$"):
        engine(server)


def test_a_server_that_fails_is_named(server: Server) -> None:
    server.listing = status(503)
    with pytest.raises(ServerError, match=r"/models answered 503: .*Try again later, or check the server's log$"):
        engine(server)


def test_a_server_that_hangs_is_named(server: Server) -> None:
    server.listing = hang
    with pytest.raises(ServerError, match=r"didn't answer within 0\.2 s: check the server, or raise --timeout"):
        engine(server, timeout=0.2)


def test_a_proxy_is_not_asked_for_a_server_of_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert engine(server).complete([request(CONTRACT, edit())]) == [Completion(ANSWER, 9, True, 30)]

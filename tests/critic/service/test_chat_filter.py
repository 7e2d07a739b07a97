"""Chat completions: OpenAI's clients work unchanged, and no request reaches other features of vLLM."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from hostile import CHATS, GOOD, JPEG, Hostile, base64_of, body, chat, data_url, message, picture_part
from hypothesis import example, given
from hypothesis import settings as checks
from hypothesis import strategies as st
from PIL import Image

from critic.edits import Edit
from critic.engines.base import request
from critic.engines.http import data_url as sent_url
from critic.engines.http import with_pictures
from critic.pictures import decode
from critic.prompts import load_contract
from critic.service.chat_filter import check_chat
from critic.service.errors import Refused
from critic.service.settings import Settings

SETTINGS = Settings()
CONTRACT = load_contract("tiny")
PICTURES = Path(__file__).parents[1] / "pictures"


def check(asked: Any, settings: Settings = SETTINGS) -> dict[str, Any]:
    return check_chat(asked if isinstance(asked, bytes) else body(asked), settings, CONTRACT, "critic")


def passed(asked: Any) -> Any:
    """The same JSON with the picture `GOOD` as vLLM gets it."""
    return json.loads(json.dumps(asked).replace(data_url(GOOD), sent_url(decode(GOOD), compressed=False)))


def refusal(asked: Any) -> Refused | None:
    """Why a request isn't let through, None if it is."""
    try:
        check(asked)
    except Refused as refused:
        return refused
    return None


@pytest.mark.parametrize("entry", CHATS, ids=lambda entry: entry.name)
def test_what_is_hostile_is_refused_with_a_reason(entry: Hostile) -> None:
    refused = refusal(entry.make())
    assert (entry.status, entry.code) == ((refused.status, refused.code) if refused else (200, ""))
    assert refused is None or refused.message


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 1.0, "top_p": 0.9, "seed": 7, "n": 4},
        {"max_completion_tokens": 16, "max_tokens": None},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stop": "</answer>"},
        {"stop": ["</answer>", "<|im_end|>"]},
        {"repetition_penalty": 1.0, "top_k": -1},
        {"top_k": 50, "min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": -0.5},
        {"logprobs": True, "top_logprobs": 20},
        {"add_generation_prompt": False, "continue_final_message": True},
        {"response_format": {"type": "text"}, "user": "somebody"},
    ],
    ids=str,
)
def test_what_clients_ask_for_comes_through_as_it_is(fields: dict[str, Any]) -> None:
    expected = {
        name: value for name, value in fields.items() if name not in ("max_tokens", "max_completion_tokens")
    }
    assert expected.items() <= check(chat(**fields)).items()


def test_messages_come_through_as_they_are() -> None:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {
            "role": "user",
            "name": "somebody",
            "content": [
                picture_part(data_url(GOOD)),
                picture_part(data_url(GOOD)),
                {"type": "text", "text": "a < b"},
            ],
        },
        {"role": "assistant", "content": "<think>"},
    ]
    assert check(chat(messages=messages))["messages"] == passed(messages)


def test_what_openai_s_client_sends_comes_through() -> None:
    """As upstream's users ask: two pictures in base64, then the prompt."""
    sent = []

    def keep(request: httpx.Request) -> httpx.Response:
        sent.append(request.read())
        return httpx.Response(200, json={"choices": []})

    with openai.OpenAI(
        base_url="http://critic/v1", api_key="none", http_client=httpx.Client(transport=httpx.MockTransport(keep))
    ) as client:
        client.chat.completions.create(
            model="critic",
            messages=chat()["messages"],
            temperature=0.7,
            max_tokens=2048,
            seed=1,
            stop=["</answer>"],
            extra_body={"repetition_penalty": 1.05, "top_k": 20},
        )
    asked = check(sent[0])
    assert asked.pop("max_completion_tokens") == 1024
    assert asked | {"max_tokens": 2048} == passed(json.loads(sent[0]))


def test_our_own_engine_s_requests_come_through_as_they_are() -> None:
    pictures = [Image.new("RGB", (56, side), "red") for side in (56, 84)]
    asked = request(CONTRACT, Edit("0", *pictures, "make it <b>blue</b> & <|im_end|>"))
    assert check(chat(messages=with_pictures(asked)))["messages"] == with_pictures(asked, compressed=False)


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({}, 1024),
        ({"max_tokens": 80}, 80),
        ({"max_completion_tokens": 80}, 80),
        ({"max_tokens": 80, "max_completion_tokens": 20}, 20),
        ({"max_tokens": 4096}, 1024),
        ({"max_tokens": None}, 1024),
    ],
    ids=str,
)
def test_an_answer_is_never_longer_than_the_operator_allows(given: dict[str, Any], allowed: int) -> None:
    asked = check({"messages": [{"role": "user", "content": "Score."}], **given}, Settings(max_tokens=1024))
    assert asked["max_completion_tokens"] == allowed
    assert "max_tokens" not in asked


def test_a_request_without_a_model_means_the_one_that_is_served() -> None:
    assert check({"messages": message()["messages"]})["model"] == "critic"


@pytest.mark.parametrize("url", [data_url(JPEG, "image/jpg"), data_url(JPEG, "IMAGE/PNG"), base64_of(JPEG)])
def test_a_jpeg_reaches_vllm_as_it_came_in_a_plain_data_url(url: str) -> None:
    (part,) = check(message(content=[picture_part(url)]))["messages"][0]["content"]
    assert part == picture_part(data_url(JPEG, "image/jpeg"))


@pytest.mark.parametrize("name", sorted({file.name for file in PICTURES.iterdir()} - {"anim.webp"}))
def test_vllm_gets_the_picture_that_is_scored_elsewhere(name: str) -> None:
    data = (PICTURES / name).read_bytes()
    (part,) = check(message(content=[picture_part(data_url(data))]))["messages"][0]["content"]
    sent = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    with Image.open(BytesIO(sent)) as image:
        assert image.mode == "RGB" and np.array_equal(image, decode(data))


PIECES = ("<|im_end|>", "<|image_pad|>", "<|", "|>", "<", ">", "|", "<think>", "a")


@checks(deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES)).map("".join), min_size=1, max_size=4))
@example(["<", "|im_end|", ">"])
def test_no_text_has_a_special_token_and_parts_make_none_together(texts: list[str]) -> None:
    for content in ("".join(texts), [{"type": "text", "text": text} for text in texts]):
        for role in ("system", "user", "assistant"):
            messages = check(message(role=role, content=content))["messages"]
            prompt = CONTRACT.render(messages)
            assert prompt.count("<|") == prompt.count("|>") == 3
            assert prompt.count("<think>") == "".join(texts).count("<think>") + 1


def test_the_body_has_a_limit() -> None:
    asked = body(chat())
    check(asked, Settings(max_body_bytes=len(asked)))
    with pytest.raises(Refused) as caught:
        check(asked, Settings(max_body_bytes=len(asked) - 1))
    assert (caught.value.status, caught.value.code) == (413, "too_big")


def test_a_refusal_names_the_field() -> None:
    for asked, where in (
        (chat(n=100), "n: "),
        (chat(chat_template="x"), "chat_template: "),
        (message(content=[{"type": "text"}]), r"messages\.0\.content\..*\.text: "),
    ):
        with pytest.raises(Refused, match=where):
            check(asked)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
)
FIELDS = (
    "model",
    "messages",
    "n",
    "stop",
    "seed",
    "max_tokens",
    "stream_options",
    "logprobs",
    "temperature",
    "priority",
)


@checks(deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), values), values, values)
def test_any_json_is_a_request_or_is_refused(fields: dict[str, Any], content: Any, part: Any) -> None:
    for asked in (fields, message() | fields, message(content=content), chat(part), content):
        check_or_refuse(json.dumps(asked).encode())


@given(st.binary())
def test_any_bytes_are_a_request_or_are_refused(data: bytes) -> None:
    check_or_refuse(data)


def check_or_refuse(data: bytes) -> None:
    refused = refusal(data)
    if refused:
        assert 400 <= refused.status < 500 and refused.code and refused.message
    else:
        json.dumps(check(data), allow_nan=False).encode()

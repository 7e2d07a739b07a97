"""The check of chat completions from untrusted clients: which fields of OpenAI's interface reach vLLM.

A request may set sampling options and ask for log probabilities. It can't change the chat template, the processing
of pictures, the grammar of an answer or the order of requests. Nothing in it is fetched.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from critic.engines.http import data_url, keep_jpeg
from critic.prompts import Contract, ContractError, neutralise
from critic.service.errors import Refused
from critic.service.input_checks import check_characters, check_json, picture_bytes, read_picture
from critic.service.settings import Settings

_MAX_PICTURES = 2
_MAX_TEXT = 8
"""The most text of a request, in multiples of the longest instruction."""


class _TextOnly(BaseModel, extra="forbid", strict=True):
    type: Literal["text"]


class _Text(_TextOnly):
    text: str


class _ImageUrl(BaseModel, extra="forbid", strict=True):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class _Image(BaseModel, extra="forbid", strict=True):
    type: Literal["image_url"]
    image_url: _ImageUrl


class _Message(BaseModel, extra="forbid", strict=True):
    """The template doesn't escape the role, so only these values are safe."""

    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[Annotated[_Text | _Image, Field(discriminator="type")]], Field(max_length=100)]
    name: str | None = None


class _StreamOptions(BaseModel, extra="forbid", strict=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False


_Tokens = Annotated[int, Field(ge=1)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]


class _Chat(BaseModel, extra="forbid", strict=True):
    """The fields that reach vLLM, by the names of vLLM 0.31."""

    model: str | None = None
    messages: Annotated[list[_Message], Field(min_length=1, max_length=100)]
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    n: Annotated[int, Field(ge=1, le=32)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    stop: (
        Annotated[str, Field(max_length=100)]
        | Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=4)]
        | None
    ) = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    response_format: _TextOnly | None = None
    user: str | None = None


def check_chat(body: bytes, settings: Settings, contract: Contract, served: str) -> dict[str, Any]:
    """Check the body of `POST /v1/chat/completions` and make it safe for vLLM.

    It may have two pictures, each a data URL that `read_picture` accepts, in a shape that `contract` accepts. vLLM
    gets the decoded pictures, or a JPEG file that it decodes to the same, so it sees what `/score` sees. The angle
    brackets of special tokens in texts are replaced by similar characters; tags stay, since the contract's own
    text has them. `settings.max_tokens` limits each answer; a longer one has the finish reason "length". `served`
    is the model's name.

    Raises:
        Refused: 403, a picture that isn't a data URL; 404, another model; 413, too big; 422, invalid JSON, an
            unknown field, a value out of range, or too much text; and as `read_picture` and `picture_bytes`.
    """
    if len(body) > settings.max_body_bytes:
        raise Refused(413, "too_big", f"a request may have {settings.max_body_bytes} bytes: send smaller pictures")
    check_json(body)
    try:
        chat = _Chat.model_validate_json(body)
    except ValidationError as error:
        fault = max(error.errors(include_url=False), key=lambda fault: len(fault["loc"]))
        where = ".".join(map(str, fault["loc"])) or "body"
        raise Refused(422, "invalid", f"{where}: {fault['msg']}") from None
    if chat.model not in (None, served):
        raise Refused(404, "no_such_model", f"the model {chat.model[:80]!r} isn't served, only {served!r} is")
    _check_size(chat, settings)
    limits = [settings.max_tokens, chat.max_completion_tokens or chat.max_tokens or settings.max_tokens]
    messages = [
        message.model_dump(exclude_unset=True) | {"content": _content(message.content, settings, contract)}
        for message in chat.messages
    ]
    return chat.model_dump(exclude_unset=True, exclude={"messages", "max_tokens"}) | {
        "model": served,
        "messages": messages,
        "max_completion_tokens": min(limits),
    }


def _check_size(chat: _Chat, settings: Settings) -> None:
    parts = [part for message in chat.messages for part in message.content if not isinstance(part, str)]
    texts = [message.content for message in chat.messages if isinstance(message.content, str)]
    texts += [part.text for part in parts if isinstance(part, _Text)]
    pictures, length = len(parts) - sum(isinstance(part, _Text) for part in parts), sum(map(len, texts))
    if pictures > _MAX_PICTURES:
        raise Refused(422, "too_many_pictures", f"{pictures} pictures, the limit is {_MAX_PICTURES}: send fewer")
    if length > (limit := _MAX_TEXT * settings.max_instruction):
        message = f"the messages have {length} characters, the limit is {limit}: shorten them"
        raise Refused(422, "text_too_long", message)


def _content(
    content: str | list[_Text | _Image], settings: Settings, contract: Contract
) -> str | list[dict[str, Any]]:
    """A message's content for vLLM. Adjacent texts are joined, as the template does: no special token is split."""
    if isinstance(content, str):
        return _escaped(content)
    passed: list[dict[str, Any]] = []
    for part in content:
        if isinstance(part, _Image):
            passed.append(_picture(part.image_url.url, settings, contract))
        elif passed and passed[-1]["type"] == "text":
            passed[-1]["text"] += part.text
        else:
            passed.append({"type": "text", "text": part.text})
    return [part | {"text": _escaped(part["text"])} if part["type"] == "text" else part for part in passed]


def _picture(url: str, settings: Settings, contract: Contract) -> dict[str, Any]:
    data = picture_bytes(url, settings)
    if isinstance(data, str):
        raise Refused(403, "url_refused", "chats can't fetch pictures: send a data URL")
    picture = read_picture(data, settings)
    try:
        contract.resize(picture)
    except ContractError as error:
        raise Refused(422, "bad_shape", str(error)) from None
    keep_jpeg(picture, data)
    return {"type": "image_url", "image_url": {"url": data_url(picture, compressed=False)}}


def _escaped(text: str) -> str:
    return neutralise(check_characters(text), tags=False)

"""Chat completions from strangers: what of OpenAI's interface is let through to vLLM.

asked = check_chat(await request.body(), settings, contract, "critic")  # as JSON for vLLM

A request may say how tokens are chosen and what is told of them. It can't change the chat template, how pictures
are read, what grammar an answer has or in which order requests are served, and nothing in it is fetched.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from critic.prompts import Contract, ContractError, neutralise
from critic.service.errors import Refused
from critic.service.input_checks import check_characters, check_json, picture_bytes, read_picture
from critic.service.settings import Settings

_PICTURES = 2
_TEXT = 8
"""How many of the longest instructions the text of a request may come to."""


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Text(_Closed):
    type: Literal["text"]
    text: str


class _ImageUrl(_Closed):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class _Image(_Closed):
    type: Literal["image_url"]
    image_url: _ImageUrl


class _Message(_Closed):
    """The template writes the role as it comes, so that only these are safe."""

    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[Annotated[_Text | _Image, Field(discriminator="type")]], Field(max_length=100)]
    name: str | None = None


class _TextOnly(_Closed):
    type: Literal["text"]


class _StreamOptions(_Closed):
    include_usage: bool = False
    continuous_usage_stats: bool = False


_Tokens = Annotated[int, Field(ge=1)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]


class _Chat(_Closed):
    """The fields that are let through, as vLLM 0.31 names them."""

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
    """The body of a request for `POST /v1/chat/completions`, in a form that vLLM can be given.

    Pictures stay as they are sent, at most two, each a data URL that `read_picture` takes. The angle brackets of
    special tokens in texts become look-alikes; tags stay, since the contract's own text has them. An answer has at
    most `settings.max_tokens` tokens, whatever the request allows it: one that is cut off there says `length`.

    Args:
        contract: of the critic that is served; says which shapes of pictures can be.
        served: the model's name. A request without one means this.

    Raises:
        Refused: 403, a URL of another kind; 404, another model; 413, too big; 422, no JSON, a field that is
            unknown or out of its range, or text that is too long; and as `read_picture` and `picture_bytes`.
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
        raise Refused(404, "no_such_model", f"{chat.model[:80]!r} isn't served here: ask for {served!r}")
    _check_size(chat, settings)
    most = [settings.max_tokens, chat.max_completion_tokens or chat.max_tokens or settings.max_tokens]
    messages = [
        {
            **message.model_dump(exclude_unset=True),
            "content": _harmless(message.content)
            if isinstance(message.content, str)
            else _parts(message.content, settings, contract),
        }
        for message in chat.messages
    ]
    return chat.model_dump(exclude_unset=True, exclude={"messages", "max_tokens"}) | {
        "model": served,
        "messages": messages,
        "max_completion_tokens": min(most),
    }


def _check_size(chat: _Chat, settings: Settings) -> None:
    parts = [part for message in chat.messages for part in message.content if not isinstance(part, str)]
    texts = [message.content for message in chat.messages if isinstance(message.content, str)]
    texts += [part.text for part in parts if isinstance(part, _Text)]
    pictures, length = len(parts) - sum(isinstance(part, _Text) for part in parts), sum(map(len, texts))
    if pictures > _PICTURES:
        raise Refused(422, "too_many_pictures", f"{pictures} pictures, of {_PICTURES} at most: send fewer")
    if length > _TEXT * settings.max_instruction:
        raise Refused(
            422,
            "text_too_long",
            f"the messages have {length} characters, of {_TEXT * settings.max_instruction} at most: shorten them",
        )


def _parts(parts: list[_Text | _Image], settings: Settings, contract: Contract) -> list[dict[str, Any]]:
    """The parts for vLLM; texts in a row are one, as the template writes them, so that none has half a token."""
    through: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, _Image):
            through.append(_picture(part.image_url.url, settings, contract))
        elif through and through[-1]["type"] == "text":
            through[-1]["text"] += part.text
        else:
            through.append({"type": "text", "text": part.text})
    return [part | {"text": _harmless(part["text"])} if part["type"] == "text" else part for part in through]


def _picture(url: str, settings: Settings, contract: Contract) -> dict[str, Any]:
    data = picture_bytes(url, settings)
    if isinstance(data, str):
        raise Refused(403, "url_refused", "nothing is fetched for a chat: send the picture as a data URL")
    try:
        contract.resize(read_picture(data, settings))
    except ContractError as error:
        raise Refused(422, "bad_shape", str(error)) from None
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{url.rpartition(',')[2]}"}}


def _harmless(text: str) -> str:
    return neutralise(check_characters(text), tags=False)

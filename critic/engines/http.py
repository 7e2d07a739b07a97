"""Completions by a server with OpenAI's chat completions API: vLLM, SGLang, a gateway, a hosted model.

engine = HttpEngine("http://127.0.0.1:8000/v1", max_tokens=80)      # the only model that it serves

The server renders the conversation with the chat template of its checkpoint; a critic of this project has the
contract's. Pictures are sent in the contract's size, see `data_url`.
"""

import asyncio
import os
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import openai
from PIL import ExifTags, Image
from pydantic import AliasPath, BaseModel, Field, ValidationError

from critic import loopback
from critic.engines.base import GREEDY, Completion, Failed, Request, Sampling
from critic.pictures import png
from critic.results import Failure

_VLLM_LIKE = ("vllm", "sglang")
"""Servers that can continue an assistant message, and that take sampling defaults from the checkpoint, where
Qwen2.5-VL has a repetition penalty."""
_BROKEN_OFF = ("abort", "error")
"""Finish reasons of answers, sent with status 200, that vLLM breaks off because it ends or an engine fails."""
_JPEG = "jpeg"
"""Key of Pillow's `Image.info` for the file to send."""


class ServerError(RuntimeError):
    """A server that can't be used at all; the message says why and what to do."""


class HttpEngine:
    """Sends one HTTP request for each completion; retries 429, 5xx and timeouts with growing pauses."""

    def __init__(
        self,
        base_url: str,
        *,
        max_tokens: int,
        model: str | None = None,
        api_key_variable: str | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        max_retries: int = 4,
        socket: Path | None = None,
    ):
        """Ask the server which models it serves.

        Args:
            base_url: the address up to and including `/v1`.
            model: the server's name of the model; None if it serves only one.
            api_key_variable: the environment variable that holds the API key; None if the server needs none.
            concurrency: requests at a time.
            timeout: seconds for one attempt.
            max_retries: attempts after the first.
            socket: the Unix socket that the server listens on, if any.

        Raises:
            ServerError: the server can't be used, the key is missing or refused, or the model isn't served.
        """
        if not base_url.lower().startswith(("http://", "https://")):
            raise ServerError(
                f"{base_url} is not the address of a server: begin it with http:// or https://, as http://{base_url}"
            )
        key = "none" if api_key_variable is None else os.environ.get(api_key_variable)
        if not key:
            raise ServerError(
                f"the environment variable {api_key_variable} is not set or empty: set it to the server's API key"
            )
        self.max_tokens, self.concurrency = max_tokens, concurrency
        self._client: dict[str, Any] = {
            "base_url": base_url,
            "api_key": key,
            "timeout": timeout,
            "max_retries": max_retries,
        }
        self._socket = None if socket is None else str(socket)
        served = self._served(api_key_variable)
        if model is None and len(served) == 1:
            (model,) = served
        if model not in served:
            names = ", ".join(served) or "no model"
            raise ServerError(
                f"{base_url} serves {names}{'' if model is None else f', not {model}'}: "
                f"choose one with {base_url}#{next(iter(served), 'NAME')}"
            )
        self.name = self.served = model
        self._has_vllm = served[model] == "vllm"
        self.continues = served[model] in _VLLM_LIKE
        self._extra: dict[str, Any] = {"repetition_penalty": 1.0, "top_k": -1} if self.continues else {}

    def complete(self, requests: Sequence[Request], sampling: Sampling = GREEDY) -> list[Completion | Failed]:
        """One outcome for each request, in order.

        Raises:
            ServerError: the requests continue an assistant message, as those of expected scores do, and the server
                isn't one of those that are known to do that.
        """

        async def ask() -> list[Completion | Failed]:
            async with self.open() as client:
                return await self.answer(client, requests, sampling)

        return asyncio.run(ask())

    def open(self) -> openai.AsyncOpenAI:
        """A client for `answer`; the caller closes it."""
        limits = openai.DEFAULT_CONNECTION_LIMITS
        transport = httpx2.AsyncHTTPTransport(uds=self._socket, limits=limits) if self._socket else None
        http = openai.DefaultAsyncHttpxClient(transport=transport, mounts=loopback.MOUNTS)
        return openai.AsyncOpenAI(**self._client, http_client=http)

    async def answer(
        self, client: openai.AsyncOpenAI, requests: Sequence[Request], sampling: Sampling = GREEDY
    ) -> list[Completion | Failed]:
        """As `complete`, for a running event loop."""
        if not self.continues and any(request.messages[-1]["role"] == "assistant" for request in requests):
            raise ServerError(
                f"mode expected needs a server that continues an assistant message, as {' and '.join(_VLLM_LIKE)} "
                "do: choose another mode, or serve the critic with one of these"
            )
        semaphore = asyncio.Semaphore(self.concurrency)

        async def one(request: Request) -> Completion | Failed:
            async with semaphore:
                return await self._ask(client, request, sampling)

        return await asyncio.gather(*map(one, requests))

    async def _ask(self, client: openai.AsyncOpenAI, request: Request, sampling: Sampling) -> Completion | Failed:
        body = {
            "model": self.served,
            "messages": with_pictures(request, compressed=self._socket is None),
            "max_tokens": sampling.max_tokens or self.max_tokens,
            "temperature": sampling.temperature,
            "top_p": 1.0,
            **({"seed": request.seed} if sampling.temperature > 0 else {}),
            **self._extra,
        }
        if sampling.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        if request.messages[-1]["role"] == "assistant":
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        try:
            # Not chat.completions.create, which walks through the whole body: slower than everything else here.
            raw = await client.post("/chat/completions", cast_to=httpx2.Response, body=body)
            return _read(_Reply.model_validate_json(raw.content), self._has_vllm)
        except ValidationError as error:
            return Failed(Failure.GARBLED, f"not a chat completion: {_explain(error)}")
        except openai.APITimeoutError as error:
            return Failed(Failure.TIMED_OUT, str(error))
        except openai.APIConnectionError as error:
            return Failed(Failure.UNREACHABLE, f"{error} {error.__cause__ or ''}".strip())
        except openai.APIStatusError as error:
            busy = error.status_code >= 500 or error.status_code == 429
            return Failed(
                Failure.SERVER_ERROR if busy else Failure.REFUSED, f"{error.status_code}: {error.message}"
            )
        except openai.APIError as error:
            return Failed(Failure.GARBLED, str(error))

    def _served(self, api_key_variable: str | None) -> dict[str, str | None]:
        """The models that the server lists, each with its owner."""
        address = self._client["base_url"]
        transport = httpx2.HTTPTransport(uds=self._socket) if self._socket else None
        http = openai.DefaultHttpxClient(transport=transport, mounts=loopback.MOUNTS)
        try:
            with openai.OpenAI(**self._client, http_client=http) as client:
                reply = _Models.model_validate_json(client.get("/models", cast_to=httpx2.Response).content)
                return {model.id: model.owned_by for model in reply.data}
        except ValidationError as error:
            problem = (
                f"{address}/models is not the list of models of an OpenAI-compatible server (a login page?): "
                f"{_explain(error)}. Give the server's address up to /v1"
            )
        except openai.APITimeoutError:
            seconds = self._client["timeout"]
            problem = f"{address} didn't answer within {seconds:g} s: check the server, or raise --timeout"
        except openai.APIConnectionError as error:
            problem = (
                f"{address} can't be reached: {error.__cause__ or error}. Start the server, or correct the address"
            )
        except openai.APIStatusError as error:
            problem = f"{address}/models answered {error.status_code}: {error.message:.200}. "
            if error.status_code in (401, 403) and api_key_variable is None:
                problem += "Name the environment variable that holds the API key with --key-variable"
            elif error.status_code in (401, 403):
                problem += f"Check the API key in the environment variable {api_key_variable}"
            elif error.status_code >= 500 or error.status_code == 429:
                problem += "Try again later, or check the server's log"
            else:
                problem += "Give the server's address up to /v1"
        raise ServerError(problem)


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))


class _Model(BaseModel):
    id: str
    owned_by: str | None = None


class _Models(BaseModel):
    """The part of a list of models that is read."""

    data: list[_Model]


class _Message(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Likely(BaseModel):
    token: str
    logprob: float


class _Reply(BaseModel):
    """The part of a chat completion that is read."""

    message: _Message = Field(validation_alias=AliasPath("choices", 0, "message"))
    finish_reason: str | None = Field(None, validation_alias=AliasPath("choices", 0, "finish_reason"))
    first_token: list[_Likely] = Field(
        [], validation_alias=AliasPath("choices", 0, "logprobs", "content", 0, "top_logprobs")
    )
    prompt_tokens: int | None = Field(None, validation_alias=AliasPath("usage", "prompt_tokens"))
    reasoning_tokens: int | None = Field(
        None, validation_alias=AliasPath("usage", "completion_tokens_details", "reasoning_tokens")
    )
    tokens: int | None = Field(None, validation_alias=AliasPath("usage", "completion_tokens"))


def _read(reply: _Reply, has_vllm: bool) -> Completion | Failed:
    """The completion; the field for reasoning, if a server has one, may hold the answer too.

    vLLM 0.31 counts reasoning tokens if it has a reasoning parser. That takes the end of the reasoning out of the
    content, even if there is no reasoning; without that end, it leaves no content.
    """
    if reply.finish_reason == "content_filter":
        return Failed(
            Failure.REFUSED, "the server's content filter withheld the answer (finish_reason content_filter)"
        )
    if reply.finish_reason in _BROKEN_OFF:
        return Failed(
            Failure.SERVER_ERROR, f"the server ended during the answer (finish_reason {reply.finish_reason})"
        )
    content = reply.message.content or ""
    reasoning = reply.message.reasoning_content or reply.message.reasoning or ""
    is_parsed = has_vllm and reply.reasoning_tokens is not None and content.lstrip().startswith("<answer>")
    both = (reasoning or is_parsed) and content.strip()
    return Completion(
        text=f"<think>{reasoning}</think>\n{content}" if both else reasoning or content,
        tokens=reply.tokens or 0,
        finished=reply.finish_reason != "length",
        prompt_tokens=reply.prompt_tokens or 0,
        logprobs={likely.token: likely.logprob for likely in reply.first_token},
    )


def with_pictures(request: Request, *, compressed: bool = True) -> Any:
    """A request's conversation with its pictures as data URLs, see `data_url`."""
    pictures = iter(request.pictures)

    def part(given: dict[str, Any]) -> dict[str, Any]:
        if given["type"] != "image":
            return given
        return {"type": "image_url", "image_url": {"url": data_url(next(pictures), compressed=compressed)}}

    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [part(given) for given in message["content"]]}
        for message in request.messages
    ]


def data_url(image: Image.Image, *, compressed: bool = True) -> str:
    """A picture as the data URL of a PNG file, uncompressed of a BMP file, or of its JPEG file, see `keep_jpeg`.

    To write and read a megapixel takes 30 ms as BMP, 90 ms as PNG without compression, 150 ms with it. A JPEG file
    is read in 8 ms and has a tenth of the bytes.
    """
    if jpeg := image.info.get(_JPEG):
        return _url("jpeg", jpeg)
    if compressed:
        return _url("png", png(image))
    file = BytesIO()
    image.save(file, "BMP")
    return _url("bmp", file.getvalue())


def keep_jpeg(image: Image.Image, file: bytes) -> None:
    """Let `data_url` send this file for the picture that `critic.pictures.decode` made of it.

    Does nothing if it isn't a JPEG file of which any decoder makes the same picture: if it is turned, has a colour
    profile, holds several pictures or isn't RGB. Copies of the picture keep the file, resized ones too: call it
    after the last resize, if that didn't change the size.
    """
    with suppress(Exception), Image.open(BytesIO(file)) as plain:  # Pillow raises many kinds for broken EXIF
        upright = plain.getexif().get(ExifTags.Base.Orientation, 1) == 1
        if upright and (plain.format, plain.mode) == ("JPEG", "RGB") and "icc_profile" not in plain.info:
            image.info[_JPEG] = file


def _url(kind: str, file: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(file).decode()}"

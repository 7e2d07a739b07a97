"""Completions by any server that speaks OpenAI's chat completions: vLLM, SGLang, a gateway, a hosted model.

engine = HttpEngine("http://127.0.0.1:8000/v1", max_tokens=80)      # the model that it serves

The server renders the conversation with the chat template of its own checkpoint, which for a critic of this
project is the contract's. Pictures are sent as they are after the contract's resizing, as PNG.
"""

import asyncio
import base64
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import httpx2
import openai
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from critic.engines.base import GREEDY, Completion, Failed, Request, Sampling
from critic.results import Failure

_VLLM_LIKE = ("vllm", "sglang")
"""Servers that go on with a turn that is begun, and that take sampling defaults from the checkpoint, where
Qwen2.5-VL has a penalty on repetition."""


class ServerError(RuntimeError):
    """The server can't be used at all; the message says why and what to do."""


class HttpEngine:
    """One request a completion; one that meets a 429, a 5xx or a timeout is made again, with growing pauses."""

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
        """Ask the server what it serves.

        Args:
            base_url: up to and including `/v1`.
            model: as the server calls it; None if it serves only one.
            api_key_variable: the environment variable that holds the key; None if the server wants none.
            concurrency: requests at a time.
            timeout: seconds that one attempt may take.
            max_retries: attempts after the first.
            socket: the Unix socket that the server listens on, if it does on one.

        Raises:
            ServerError: there is no server or no key, or it doesn't serve the model.
        """
        key = "none" if api_key_variable is None else os.environ.get(api_key_variable)
        if not key:
            raise ServerError(f"no API key: put it into the environment variable {api_key_variable}")
        self.max_tokens, self.concurrency = max_tokens, concurrency
        self._client: dict[str, Any] = {
            "base_url": base_url,
            "api_key": key,
            "timeout": timeout,
            "max_retries": max_retries,
        }
        self._socket = None if socket is None else str(socket)
        transport = httpx2.HTTPTransport(uds=self._socket) if socket else None
        try:
            with openai.OpenAI(
                **self._client, http_client=openai.DefaultHttpxClient(transport=transport)
            ) as client:
                served = {str(entry.id): str(entry.owned_by) for entry in client.models.list()}
        except (openai.APIError, ValueError, AttributeError) as error:
            raise ServerError(
                f"{base_url} doesn't tell what it serves: {error}. Is it the address up to /v1?"
            ) from None
        if model is None and len(served) == 1:
            (model,) = served
        if model not in served:
            raise ServerError(
                f"{base_url} serves {', '.join(served) or 'nothing'}, not {model}: name one of these"
            )
        self.name = self.served = model
        self.continues = served[model] in _VLLM_LIKE
        self._extra: dict[str, Any] = {"repetition_penalty": 1.0, "top_k": -1} if self.continues else {}

    def complete(self, requests: Sequence[Request], sampling: Sampling = GREEDY) -> list[Completion | Failed]:
        """One outcome a request, in order.

        Raises:
            ServerError: the requests go on with a turn that is begun, as those of expected scores do, and the
                server isn't known to be able to.
        """

        async def ask() -> list[Completion | Failed]:
            async with self.open() as client:
                return await self.answer(client, requests, sampling)

        return asyncio.run(ask())

    def open(self) -> openai.AsyncOpenAI:
        """A client for `answer`, to be closed where it is used."""
        limits = openai.DEFAULT_CONNECTION_LIMITS
        transport = httpx2.AsyncHTTPTransport(uds=self._socket, limits=limits) if self._socket else None
        http = openai.DefaultAsyncHttpxClient(transport=transport) if transport else None
        return openai.AsyncOpenAI(**self._client, http_client=http)

    async def answer(
        self, client: openai.AsyncOpenAI, requests: Sequence[Request], sampling: Sampling = GREEDY
    ) -> list[Completion | Failed]:
        """As `complete`, in a loop that runs already."""
        if not self.continues and any(request.messages[-1]["role"] == "assistant" for request in requests):
            raise ServerError(
                f"expected scores need a server that goes on with what is written, as {' and '.join(_VLLM_LIKE)} "
                "do: take another mode, or run the critic behind one of these"
            )
        gate = asyncio.Semaphore(self.concurrency)

        async def one(request: Request) -> Completion | Failed:
            async with gate:
                return await self._ask(client, request, sampling)

        return await asyncio.gather(*map(one, requests))

    async def _ask(self, client: openai.AsyncOpenAI, request: Request, sampling: Sampling) -> Completion | Failed:
        body = {
            "model": self.served,
            "messages": with_pictures(request, compress_level=0 if self._socket else 1),
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
            # Not chat.completions.create: it walks through the whole body, which takes longer than all else here.
            raw = await client.post("/chat/completions", cast_to=httpx2.Response, body=body)
            return _read(_Reply.model_validate_json(raw.content))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            return Failed(Failure.GARBLED, f"not a chat completion: {where}: {problem['msg']}")
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


class _Message(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Likely(BaseModel):
    token: str
    logprob: float


class _Place(BaseModel):
    top_logprobs: list[_Likely] = []


class _Logprobs(BaseModel):
    content: list[_Place] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Reply(BaseModel):
    """What is read of a chat completion."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


def _read(reply: _Reply) -> Completion:
    """The completion; a server that takes reasoning apart has it in a field of its own, maybe the answer too."""
    choice, usage = reply.choices[0], reply.usage or _Usage()
    content = choice.message.content or ""
    reasoning = choice.message.reasoning_content or choice.message.reasoning or ""
    apart = reasoning and content.strip()
    text = f"<think>{reasoning}</think>\n{content}" if apart else reasoning or content
    finished = choice.finish_reason in ("stop", None)
    places = (choice.logprobs and choice.logprobs.content) or [_Place()]
    return Completion(
        text=text,
        tokens=usage.completion_tokens or 0,
        finished=finished,
        prompt_tokens=usage.prompt_tokens or 0,
        logprobs={token.token: token.logprob for token in places[0].top_logprobs},
    )


def with_pictures(request: Request, *, compress_level: int = 1) -> Any:
    """A request's conversation, its pictures in their places as data URLs of PNG files."""
    pictures = iter(request.pictures)

    def part(given: dict[str, Any]) -> dict[str, Any]:
        if given["type"] != "image":
            return given
        return {"type": "image_url", "image_url": {"url": data_url(next(pictures), compress_level)}}

    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [part(given) for given in message["content"]]}
        for message in request.messages
    ]


def data_url(image: Image.Image, compress_level: int = 1) -> str:
    """A picture as a data URL of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(png(image, compress_level)).decode()}"


def png(image: Image.Image, compress_level: int = 1) -> bytes:
    """A picture as a PNG file: quickly, and not as small as could be; level 0 takes half the time of 1."""
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()

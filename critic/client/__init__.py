"""A client of the service: edits to scores over HTTP.

    with Critic("http://127.0.0.1:3000") as critic:
        critic.score("cat.png", "red.png", "make the cat red").score
        critic.score_batch([(source, edited, instruction), ...], mode="expected")   # a verdict an edit, in order
        critic.compare(source, [edited, other], "make the cat red")[0].id           # the best one's place
        critic.rewards([(source, edited, instruction), ...], scale="unit")          # for trainers

`AsyncCritic` is the same, awaited. Importing this module loads no model library, so a web tool may too.
"""

import asyncio
import base64
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeAlias, TypeVar

import httpx
import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, ValidationError

from critic.client.schemas import (
    Batch,
    Candidate,
    Comparison,
    Kept,
    Options,
    Pair,
    Problem,
    Ranked,
    Ranking,
    Rating,
    Refusal,
    Rewarded,
    Rewards,
    Scored,
    ScoredBatch,
)
from critic.results import Failure, Mode


class Tensor(Protocol):
    """What tells a `torch.Tensor`, without having torch."""

    def detach(self) -> Any:
        """The same without its gradient."""


Picture: TypeAlias = Image.Image | str | os.PathLike[str] | bytes | np.ndarray[Any, Any] | Tensor
"""A picture: one of Pillow's; a file's path or its bytes, which are sent as they are; an array (H, W, 3) of uint8;
a tensor (3, H, W) of floats from 0 to 1; or, as text, a data URL or an `https://` URL that the service may fetch.
What is no file yet is sent as PNG, which changes no pixel; Pillow's are turned as their EXIF says before."""

Edited: TypeAlias = tuple[Picture, Picture, str]
"""An edit: its source, the edited picture, and the instruction."""

Scale = Literal["mos", "unit"]
"""Of rewards: scores from 1 to 5, or (score - 1) / 4, from 0 to 1."""

_Row = TypeVar("_Row")
_Result = TypeVar("_Result")
_Reply = TypeVar("_Reply", bound=BaseModel)

_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the first repetition, and at most before any other; each pause is twice the one before."""
_BUSY = (429, 503)
"""What a request is answered that wasn't begun."""
_LOST = (502, 504)
_ABOUT_THE_EDITS = (400, 413, 415, 422)

_LOADING = Lock()
"""Pillow doesn't bear one picture, such as the source of several edits, to be loaded by two threads at a time."""


class CriticError(RuntimeError):
    """The service gave no answer; the message says why.

    Attributes:
        failure: what verdicts call it.
    """

    failure: Failure


class BadInput(CriticError, ValueError):
    """A picture that can't be read, an instruction that is empty: nothing was sent."""

    failure = Failure.BAD_INPUT


class Refused(CriticError):
    """The service says that the request is wrong or not allowed.

    Attributes:
        status: 4xx.
        code, request_id: as the service says.
    """

    failure = Failure.REFUSED

    def __init__(self, status: int, problem: Problem):
        super().__init__(f"{status} {problem.code}: {problem.message}")
        self.status, self.code, self.request_id = status, problem.code, problem.request_id


class Unavailable(CriticError):
    """The service couldn't be reached, was too busy or failed, as often as it was tried."""

    def __init__(self, failure: Failure, message: str):
        super().__init__(message)
        self.failure = failure


class BadReply(CriticError):
    """What answers isn't the service, or not this version of it."""

    failure = Failure.GARBLED


class Reward(NamedTuple):
    """What an edit earns.

    Attributes:
        value: on the scale that was asked for; None where there is no score.
        status: "ok", or why there is no value: a `critic.answers.Status` or a `Failure`.
        detail: what exactly failed.
        version: which release of the critic; "" if it wasn't asked.
    """

    value: float | None
    status: str
    detail: str
    version: str


class AsyncCritic:
    """The service behind an address; any number of calls at a time, from one event loop.

    A request that meets a broken connection, a timeout, 429, 502, 503 or 504 is made again, after a growing pause
    and not before the service's Retry-After. `options` are those of `critic.client.schemas.Options` (mode,
    samples, temperature, seed); what isn't given is the service's own default.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:3000",
        *,
        api_key: str | None = None,
        timeout: float = 150.0,
        deadline: float = 600.0,
        max_retries: int = 5,
        batch_size: int = 8,
        concurrency: int = 8,
    ):
        """Nothing is sent yet.

        Args:
            base_url: up to where `/score` begins.
            api_key: else that of the environment variable CRITIC_API_KEY, if there is one.
            timeout: seconds that one attempt may take.
            deadline: seconds that a request may take, all attempts and pauses together.
            max_retries: attempts after the first.
            batch_size: edits in a request, at most.
            concurrency: requests of batches at a time.
        """
        key = api_key or os.environ.get("CRITIC_API_KEY")
        self.base_url, self.timeout, self.deadline, self.max_retries = base_url, timeout, deadline, max_retries
        self.batch_size = batch_size
        self._http = httpx.AsyncClient(
            base_url=base_url, timeout=None, headers={"Authorization": f"Bearer {key}"} if key else None
        )
        self._gate = asyncio.Semaphore(concurrency)
        self._encoders = ThreadPoolExecutor()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        self._encoders.shutdown(wait=False)
        await self._http.aclose()

    async def ready(self) -> bool:
        """Whether the service would give a score now; asks once, and waits 10 seconds at most."""
        try:
            async with asyncio.timeout(min(self.timeout, 10)):
                return (await self._http.get("/readyz")).status_code == 200
        except (TimeoutError, httpx.TransportError):
            return False

    async def score(
        self, source: Picture, edited: Picture, instruction: str, *, id: str = "0", **options: Any
    ) -> Scored:
        """The verdict on one edit; one that couldn't be read has a status and no score.

        Args:
            id: in mode average, its samples depend on it.

        Raises:
            CriticError: there is none.
            ValueError: an option can't be.
        """
        (verdict,) = await self._verdicts([(source, edited, instruction)], [id], options)
        if isinstance(verdict, CriticError):
            raise verdict
        return verdict

    async def score_batch(
        self, edits: Sequence[Edited], *, ids: Sequence[str] | None = None, **options: Any
    ) -> list[Scored]:
        """A verdict an edit, in their order, whatever becomes of it.

        An edit about which there was no answer has no score, a `critic.results.Failure` as its status, and the
        reason in `detail`. A request that is refused for what is in it is halved until the edits to blame are
        alone, so that the others have their answers.

        Args:
            ids: of the edits; else their places, from 0, among all: `batch_size` changes no score.

        Raises:
            ValueError: an option can't be, or there isn't one id an edit.
        """
        mode = Options(**options).mode
        started = time.monotonic()
        ids = _ids(edits, ids)
        verdicts = await self._verdicts(edits, ids, options)
        return [
            _unanswered(id, verdict, mode, time.monotonic() - started)
            if isinstance(verdict, CriticError)
            else verdict
            for id, verdict in zip(ids, verdicts, strict=True)
        ]

    async def rewards(
        self,
        edits: Sequence[Edited],
        *,
        scale: Scale = "mos",
        ids: Sequence[str] | None = None,
        **options: Any,
    ) -> list[Reward]:
        """As `score_batch`, what a trainer needs of it.

        Raises:
            ValueError: an option can't be, or there isn't one id an edit.
        """
        Options(**options)

        async def ask(pairs: list[Pair]) -> list[Reward]:
            reply = await self._post("/rewards", Rewards(pairs=pairs, scale=scale, **options), Rewarded)
            if not len(pairs) == len(reply.rewards) == len(reply.statuses) == len(reply.details):
                raise BadReply(f"{self.base_url}/rewards: there isn't one reward an edit")
            rows = zip(reply.rewards, reply.statuses, reply.details, strict=True)
            rewards = [Reward(*row, reply.version) for row in rows]
            if any((reward.value is None) == (reward.status == "ok") for reward in rewards):
                raise BadReply(f"{self.base_url}/rewards: rewards and statuses don't agree")
            return rewards

        rewards = await self._in_batches(edits, _ids(edits, ids), ask)
        return [
            Reward(None, str(reward.failure), str(reward), "") if isinstance(reward, CriticError) else reward
            for reward in rewards
        ]

    async def compare(
        self,
        source: Picture,
        edits: Sequence[Picture],
        instruction: str,
        *,
        ids: Sequence[str] | None = None,
        **options: Any,
    ) -> list[Ranked]:
        """Edits of one source from the best to the worst, those without a score last.

        Args:
            ids: of the edits; else their places, from 0.

        Raises:
            CriticError: the service gave no ranking.
            ValueError: an option can't be, there are fewer than two edits, or there isn't one id an edit.
        """
        ids = _ids(edits, ids)
        body = Comparison(
            source=await self._encoded(source),
            instruction=instruction,
            edits=[
                Candidate(edited=await self._encoded(edited), id=id) for id, edited in zip(ids, edits, strict=True)
            ],
            **options,
        )
        ranking = (await self._post("/compare", body, Ranking)).ranking
        if sorted(ranked.id for ranked in ranking) != sorted(ids):
            raise BadReply(f"{self.base_url}/compare: not the edits that were sent")
        return ranking

    async def feedback(self, verdict: Scored, rater: str, score: float, comment: str = "") -> Kept:
        """Keep a person's own score, from 1 to 5, of the edit that a verdict is about.

        It isn't sent again if it may have arrived.

        Raises:
            CriticError: it may not have been kept.
            ValueError: the score isn't from 1 to 5, there is no rater, or the verdict has no receipt.
        """
        rating = Rating(receipt=verdict.receipt, rater=rater, score=score, comment=comment)
        return await self._post("/feedback", rating, Kept, again=False)

    async def _verdicts(
        self, edits: Sequence[Edited], ids: Sequence[str], options: dict[str, Any]
    ) -> list[Scored | CriticError]:
        Options(**options)

        async def ask(pairs: list[Pair]) -> list[Scored]:
            verdicts = (await self._post("/score_batch", Batch(pairs=pairs, **options), ScoredBatch)).verdicts
            if [verdict.id for verdict in verdicts] != [pair.id for pair in pairs]:
                raise BadReply(f"{self.base_url}/score_batch: the verdicts aren't one an edit, in their order")
            if any((verdict.score is None) == (verdict.status == "ok") for verdict in verdicts):
                raise BadReply(f"{self.base_url}/score_batch: scores and statuses don't agree")
            return verdicts

        return await self._in_batches(edits, ids, ask)

    async def _in_batches(
        self,
        edits: Sequence[Edited],
        ids: Sequence[str],
        ask: Callable[[list[Pair]], Awaitable[Sequence[_Row]]],
    ) -> list[_Row | CriticError]:
        """A row an edit, in their order: what `ask` said of it, or why there is nothing to say."""
        rows: dict[int, _Row | CriticError] = {}

        async def do(places: range) -> None:
            pairs = {}
            async with self._gate:
                for place in places:
                    try:
                        pairs[place] = await self._pair(ids[place], *edits[place])
                    except BadInput as error:
                        rows[place] = error
                if pairs:
                    await send(pairs)

        async def send(pairs: dict[int, Pair]) -> None:
            try:
                rows.update(zip(pairs, await ask([*pairs.values()]), strict=True))
            except CriticError as error:
                if len(pairs) > 1 and isinstance(error, Refused) and error.status in _ABOUT_THE_EDITS:
                    places = [*pairs]
                    for half in (places[: len(places) // 2], places[len(places) // 2 :]):
                        await send({place: pairs[place] for place in half})
                else:
                    rows.update(dict.fromkeys(pairs, error))

        async with asyncio.TaskGroup() as group:
            for start in range(0, len(edits), self.batch_size):
                group.create_task(do(range(len(edits))[start : start + self.batch_size]))
        return [rows[place] for place in range(len(edits))]

    async def _pair(self, id: str, source: Picture, edited: Picture, instruction: str) -> Pair:
        pictures = {"source": await self._encoded(source), "edited": await self._encoded(edited)}
        try:
            return Pair(**pictures, instruction=instruction, id=id)
        except ValidationError as error:
            raise BadInput(_explain(error)) from None

    async def _encoded(self, picture: Picture) -> str:
        return await asyncio.wrap_future(self._encoders.submit(_encode, picture))

    async def _post(self, path: str, body: BaseModel, reply: type[_Reply], *, again: bool = True) -> _Reply:
        """The service's answer. `again`: whether the request may reach it twice."""
        content = body.model_dump_json(exclude_unset=True).encode()
        began, tried = time.monotonic(), 1
        while isinstance(outcome := await self._attempt(path, content, again, began), _FailedAttempt):
            seconds = time.monotonic() - began
            pause = outcome.pause
            if pause is not None:
                pause += min(_LONGEST_PAUSE, _PAUSE * 2 ** (tried - 1)) * random.uniform(0.5, 1)
            if pause is None or tried > self.max_retries or seconds + pause >= self.deadline:
                raise Unavailable(
                    outcome.failure,
                    f"{self.base_url}{path}: gave up at attempt {tried}, after {seconds:.1f} s: {outcome.reason}",
                )
            await asyncio.sleep(pause)
            tried += 1
        try:
            return reply.model_validate_json(outcome.content)
        except ValidationError as error:
            raise BadReply(f"{self.base_url}{path}: not a {reply.__name__}: {_explain(error)}") from None

    async def _attempt(
        self, path: str, content: bytes, again: bool, began: float
    ) -> "httpx.Response | _FailedAttempt":
        seconds = max(0.0, min(self.timeout, self.deadline - (time.monotonic() - began)))
        try:
            async with asyncio.timeout(seconds):
                response = await self._http.post(
                    path, content=content, headers={"Content-Type": "application/json"}
                )
        except TimeoutError:
            return _FailedAttempt(Failure.TIMED_OUT, f"no answer in {seconds:g} s", 0.0 if again else None)
        except httpx.RequestError as error:
            broken = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
            passes = isinstance(error, httpx.ConnectError) or (again and broken)
            return _FailedAttempt(
                Failure.UNREACHABLE, f"{type(error).__name__} {error}".strip(), 0.0 if passes else None
            )
        if response.is_success:
            return response
        status, problem = response.status_code, _problem(response)
        if status < 500 and status not in _BUSY:
            raise Refused(status, problem)
        passes, wait = status in _BUSY or (again and status in _LOST), response.headers.get("Retry-After", "")
        reason = f"{status} {problem.code}: {problem.message}" + (f" (Retry-After: {wait})" if wait else "")
        return _FailedAttempt(Failure.SERVER_ERROR, reason, retry_after(wait) if passes else None)


class Critic:
    """`AsyncCritic` for code that doesn't await; several threads may call it at a time.

    A thread of its own makes the requests until `close`: make it in the process that uses it, after any fork.
    """

    def __init__(self, base_url: str = "http://127.0.0.1:3000", **settings: Any):
        """See `AsyncCritic`."""
        self._critic = AsyncCritic(base_url, **settings)
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = Thread(target=asyncio.run, args=[self._serve(started)], daemon=True)
        self._thread.start()
        self._loop = started.result()

    async def _serve(self, started: "Future[asyncio.AbstractEventLoop]") -> None:
        self._closing = asyncio.Event()
        async with self._critic:
            started.set_result(asyncio.get_running_loop())
            await self._closing.wait()

    def _run(self, call: Coroutine[Any, Any, _Result]) -> _Result:
        if not self._thread.is_alive():
            call.close()
            raise RuntimeError("the client is closed: make another")
        running = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return running.result()
        finally:
            running.cancel()  # where the caller was interrupted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and what is under way, and close the connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()

    def ready(self) -> bool:
        """See `AsyncCritic.ready`."""
        return self._run(self._critic.ready())

    def score(
        self, source: Picture, edited: Picture, instruction: str, *, id: str = "0", **options: Any
    ) -> Scored:
        """See `AsyncCritic.score`."""
        return self._run(self._critic.score(source, edited, instruction, id=id, **options))

    def score_batch(
        self, edits: Sequence[Edited], *, ids: Sequence[str] | None = None, **options: Any
    ) -> list[Scored]:
        """See `AsyncCritic.score_batch`."""
        return self._run(self._critic.score_batch(edits, ids=ids, **options))

    def rewards(
        self,
        edits: Sequence[Edited],
        *,
        scale: Scale = "mos",
        ids: Sequence[str] | None = None,
        **options: Any,
    ) -> list[Reward]:
        """See `AsyncCritic.rewards`."""
        return self._run(self._critic.rewards(edits, scale=scale, ids=ids, **options))

    def compare(
        self,
        source: Picture,
        edits: Sequence[Picture],
        instruction: str,
        *,
        ids: Sequence[str] | None = None,
        **options: Any,
    ) -> list[Ranked]:
        """See `AsyncCritic.compare`."""
        return self._run(self._critic.compare(source, edits, instruction, ids=ids, **options))

    def feedback(self, verdict: Scored, rater: str, score: float, comment: str = "") -> Kept:
        """See `AsyncCritic.feedback`."""
        return self._run(self._critic.feedback(verdict, rater, score, comment))


class _FailedAttempt(NamedTuple):
    """An attempt without an answer. `pause`: seconds to wait before the next one at least; None if it's no use."""

    failure: Failure
    reason: str
    pause: float | None


def retry_after(header: str) -> float:
    """Seconds of a Retry-After header, which has a number of them or a date (RFC 9110); 0 if it has neither."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _ids(edits: Sequence[object], ids: Sequence[str] | None) -> Sequence[str]:
    if ids is None:
        return [str(place) for place in range(len(edits))]
    if len(ids) != len(edits):
        raise ValueError(f"{len(ids)} ids for {len(edits)} edits: give each one")
    return ids


def _unanswered(id: str, error: CriticError, mode: Mode, latency: float) -> Scored:
    return Scored.model_validate(
        {
            "id": id,
            "score": None,
            "status": error.failure,
            "detail": str(error),
            "mode": mode,
            "latency": latency,
            "model": "",
            "contract": "",
            "version": "",
            "request_id": error.request_id if isinstance(error, Refused) else "",
        }
    )


def _problem(response: httpx.Response) -> Problem:
    """What the service says, or what something before it does."""
    try:
        return Refusal.model_validate_json(response.content).error
    except ValidationError:
        return Problem(
            code=response.reason_phrase.lower().replace(" ", "_"),
            message=response.text.strip()[:200],
            request_id=response.headers.get("X-Request-ID", ""),
        )


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _encode(picture: Picture) -> str:
    """A picture as the service takes it.

    Raises:
        BadInput: it can't be read, or is none.
    """
    if isinstance(picture, str) and picture.startswith(("data:", "https://")):
        return picture
    if isinstance(picture, str | os.PathLike):
        try:
            data = Path(picture).read_bytes()
        except (OSError, ValueError) as error:
            raise BadInput(f"the picture can't be read: {error}") from error
    else:
        data = picture if isinstance(picture, bytes) else _png(picture)
    if not data:
        raise BadInput("the picture's file is empty")
    return base64.b64encode(data).decode()


def _png(picture: Any) -> bytes:
    if hasattr(picture, "detach"):
        picture = _pixels(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise BadInput(
                f"an array of {picture.dtype} {picture.shape} is no picture: give uint8 (height, width, 3)"
            )
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise BadInput(f"{type(picture).__name__} is no picture: give what critic.client.Picture names")
    file = BytesIO()
    try:
        with _LOADING:
            upright = ImageOps.exif_transpose(picture)
        upright.convert("RGBA" if upright.has_transparency_data else "RGB").save(file, "PNG", compress_level=1)
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
        raise BadInput(f"the picture can't be decoded: {error}") from error
    return file.getvalue()


def _pixels(tensor: Tensor) -> np.ndarray[Any, Any]:
    floats = tensor.detach()
    if not floats.is_floating_point() or floats.ndim != 3 or floats.shape[0] != 3:
        raise BadInput(
            f"a tensor of {floats.dtype} {tuple(floats.shape)} is no picture: give floats (3, height, width)"
        )
    values = floats.float().cpu().numpy()
    if not ((values >= 0) & (values <= 1)).all():
        raise BadInput(f"the tensor has values from {values.min():g} to {values.max():g}: bring them to 0 to 1")
    return (values.transpose(1, 2, 0) * 255).round().astype(np.uint8)

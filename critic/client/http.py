"""The requests of the client: encoding, batches, retries, and the check of each reply."""

import asyncio
import base64
import os
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import wraps
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeAlias, TypeVar

import httpx
from PIL import Image
from pydantic import BaseModel, ValidationError

from critic import loopback, pictures
from critic.client import schemas
from critic.client.errors import BadInput, BadReply, CriticError, Refused, Unavailable
from critic.client.schemas import Scale
from critic.results import Failure, Mode

Picture: TypeAlias = pictures.Given
"""A picture, or, as text, a data URL or an `https://` URL that the service may fetch. Files are sent unchanged.
Arrays and tensors are sent as PNG, pixel by pixel; Pillow images are too, after `critic.pictures.normalise`."""

Edited: TypeAlias = tuple[Picture, Picture, str]
"""An edit: the source, the edited picture, and the instruction."""

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Reply = TypeVar("_Reply", bound=BaseModel)

_PAUSE, _MAX_PAUSE = 0.5, 30.0
"""Seconds before the first retry, which double with each retry, and the most before any retry."""
_NOT_STARTED = (429, 503)
"""Statuses of a request that the service hasn't started."""
_GATEWAY = (502, 504)
_BAD_EDIT = (400, 413, 415, 422)
"""Statuses of a request that one of its edits may be the cause of."""

_LOADING = Lock()
"""Two threads may not load one Pillow image, such as the source of several edits, at the same time."""


class Reward(NamedTuple):
    """The reward of one edit.

    Attributes:
        value: on the requested scale, None if there is no score.
        status: "ok", or why there is no value: a `critic.answers.Status` or a `Failure`.
        detail: what exactly failed.
        version: the release of the critic, "" if the service gave no answer.
    """

    value: float | None
    status: str
    detail: str
    version: str

    @classmethod
    def of(cls, result: schemas.Scored, scale: Scale) -> Self:
        """The reward of a result."""
        low, width = {"mos": (0.0, 1.0), "unit": (1.0, 4.0)}[scale]
        value = None if result.score is None else (result.score - low) / width
        return cls(value, result.status, result.detail, result.version)


class AsyncCritic:
    """A client for one event loop; it handles concurrent calls.

    A request that meets a broken connection, a timeout, 429, 502, 503 or 504 is retried, after a growing pause
    that is at least the service's Retry-After. While the service is full (429) or restarts vLLM, only `deadline`
    limits the retries. `options` are the fields of `critic.client.schemas.Options` (mode,
    samples, temperature, seed); the service has a default for each.
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
        """Sends nothing.

        Args:
            base_url: the part of the URLs before `/score`. Loopback addresses are reached without a proxy.
            api_key: None takes the environment variable CRITIC_API_KEY, if it is set.
            timeout: seconds for one attempt.
            deadline: seconds for a request, all attempts and pauses included.
            max_retries: attempts after the first, not counting those that a full or starting service turned away.
            batch_size: the most edits in one request.
            concurrency: the most batches in flight.
        """
        key = api_key or os.environ.get("CRITIC_API_KEY")
        self.base_url, self.timeout, self.deadline, self.max_retries = base_url, timeout, deadline, max_retries
        self.batch_size = batch_size
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=None,
            headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            mounts=loopback.MOUNTS,
        )
        self._batches = asyncio.Semaphore(concurrency)
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
        """Whether the service can score now. Waits at most 10 seconds."""
        try:
            async with asyncio.timeout(min(self.timeout, 10)):
                return (await self._http.get("/readyz")).status_code == 200
        except (TimeoutError, httpx.TransportError):
            return False

    async def score(
        self, /, source: Picture, edited: Picture, instruction: str, *, id: str = "0", **options: Any
    ) -> schemas.Scored:
        """Score one edit. If the critic's answer can't be read, the result has a status and no score.

        Args:
            id: part of the seed in mode "average".

        Raises:
            CriticError: the service gave no answer.
            ValueError: an option is invalid.
        """
        (result,) = await self._results([(source, edited, instruction)], [id], options)
        if isinstance(result, CriticError):
            raise result
        return result

    async def score_batch(
        self, /, edits: Sequence[Edited], *, ids: Sequence[str] | None = None, **options: Any
    ) -> list[schemas.Scored]:
        """Score edits: one result per edit, in order.

        An edit without an answer has no score, a `critic.results.Failure` as its status, and the reason in
        `detail`. A request that is refused because of its content is split in half until the bad edits are alone,
        so that all others get their answers. Edits whose answers were lost as vLLM ended are sent again, within
        the same deadline.

        Args:
            ids: one per edit; None is each edit's index, from 0, so that `batch_size` changes no score.

        Raises:
            ValueError: an option is invalid, or the number of ids isn't that of the edits.
        """
        mode = schemas.Options(**options).mode
        started = time.monotonic()
        ids = _ids(edits, ids)
        results = await self._results(edits, ids, options)
        seconds = time.monotonic() - started
        return [
            _unanswered(id, result, mode, seconds) if isinstance(result, CriticError) else result
            for id, result in zip(ids, results, strict=True)
        ]

    async def rewards(
        self, /, edits: Sequence[Edited], *, scale: Scale = "mos", ids: Sequence[str] | None = None, **options: Any
    ) -> list[Reward]:
        """Score edits as `score_batch` does, for a trainer: one reward per edit, in order."""
        return [Reward.of(result, scale) for result in await self.score_batch(edits, ids=ids, **options)]

    async def compare(
        self,
        /,
        source: Picture,
        edits: Sequence[Picture],
        instruction: str,
        *,
        ids: Sequence[str] | None = None,
        **options: Any,
    ) -> list[schemas.Ranked]:
        """Rank edits of one source from best to worst; edits without a score come last.

        Raises:
            CriticError: the service gave no ranking.
            ValueError: as in `score_batch`, or there are fewer than two edits.
        """
        ids = _ids(edits, ids)
        encoded = [await self._encoded(picture) for picture in (source, *edits)]
        candidates = [schemas.Candidate(edited=edited, id=id) for id, edited in zip(ids, encoded[1:], strict=True)]
        body = schemas.Comparison(source=encoded[0], instruction=instruction, edits=candidates, **options)
        ranking = (await self._post("/compare", body, schemas.Ranking)).ranking
        if sorted(ranked.id for ranked in ranking) != sorted(ids):
            raise BadReply(f"{self.base_url}/compare: the ranking has other edits than the request")
        return ranking

    async def feedback(self, result: schemas.Scored, rater: str, score: float, comment: str = "") -> schemas.Kept:
        """Store a person's own score of a result's edit. A rating that may have arrived isn't sent again.

        Args:
            score: 1 (very bad) to 5 (excellent).

        Raises:
            CriticError: the rating may not be stored.
            ValueError: the score isn't from 1 to 5, the rater is empty, or the result has no receipt.
        """
        rating = schemas.Rating(receipt=result.receipt, rater=rater, score=score, comment=comment)
        return await self._post("/feedback", rating, schemas.Kept, idempotent=False)

    async def _results(
        self, edits: Sequence[Edited], ids: Sequence[str], options: dict[str, Any]
    ) -> list[schemas.Scored | CriticError]:
        """One result per edit, in order, or its error."""
        schemas.Options(**options)
        rows: dict[int, schemas.Scored | CriticError] = {}

        async def encode_and_send(places: range) -> None:
            pairs = {}
            async with self._batches:
                for place in places:
                    try:
                        pairs[place] = await self._pair(ids[place], *edits[place])
                    except BadInput as error:
                        rows[place] = error
                if pairs:
                    await send(pairs)

        async def send(pairs: dict[int, schemas.Pair], started: float | None = None) -> None:
            started = started or time.monotonic()
            try:
                results = await self._ask([*pairs.values()], options, started)
                rows.update(zip(pairs, results, strict=True))
                lost = [place for place, one in zip(pairs, results, strict=True) if one.status in schemas.LOST]
                if 0 < len(lost) < len(pairs):
                    await send({place: pairs[place] for place in lost}, started)
            except CriticError as error:
                if len(pairs) > 1 and isinstance(error, Refused) and error.status in _BAD_EDIT:
                    places = [*pairs]
                    for half in (places[: len(places) // 2], places[len(places) // 2 :]):
                        await send({place: pairs[place] for place in half})
                else:
                    for place in pairs:
                        rows.setdefault(place, error)  # an edit that was sent again keeps its first result

        async with asyncio.TaskGroup() as group:
            for start in range(0, len(edits), self.batch_size):
                group.create_task(encode_and_send(range(len(edits))[start : start + self.batch_size]))
        return [rows[place] for place in range(len(edits))]

    async def _ask(
        self, pairs: list[schemas.Pair], options: dict[str, Any], started: float
    ) -> list[schemas.Scored]:
        body = schemas.Batch(pairs=pairs, **options)
        results = (await self._post("/score_batch", body, schemas.ScoredBatch, started=started)).verdicts
        if [result.id for result in results] != [pair.id for pair in pairs]:
            raise BadReply(f"{self.base_url}/score_batch: the results aren't one per edit, in order")
        if any((result.score is None) == (result.status == "ok") for result in results):
            raise BadReply(f"{self.base_url}/score_batch: scores and statuses don't agree")
        return results

    async def _pair(self, id: str, source: Picture, edited: Picture, instruction: str) -> schemas.Pair:
        encoded = {"source": await self._encoded(source), "edited": await self._encoded(edited)}
        try:
            return schemas.Pair(**encoded, instruction=instruction, id=id)
        except ValidationError as error:
            raise BadInput(_explain(error)) from None

    async def _encoded(self, picture: Picture) -> str:
        return await asyncio.wrap_future(self._encoders.submit(_encode, picture))

    async def _post(
        self,
        path: str,
        body: BaseModel,
        reply: type[_Reply],
        *,
        idempotent: bool = True,
        started: float | None = None,
    ) -> _Reply:
        """The service's answer. A request that isn't idempotent reaches the service at most once.

        `started` is the monotonic time from which the deadline counts; None is now.
        """
        content = body.model_dump_json(exclude_unset=True).encode()
        started, tried, failed = started or time.monotonic(), 0, 0
        while isinstance(outcome := await self._attempt(path, content, idempotent, started), _FailedAttempt):
            seconds = time.monotonic() - started
            tried, failed = tried + 1, failed + (not outcome.turned_away)
            pause = outcome.pause
            if pause is not None:
                pause += min(_MAX_PAUSE, _PAUSE * 2 ** max(0, failed - 1)) * random.uniform(0.5, 1)
            if pause is None or failed > self.max_retries or seconds + pause >= self.deadline:
                tries = f"gave up at attempt {tried}, after {seconds:.1f} s"
                raise Unavailable(outcome.failure, f"{self.base_url}{path}: {tries}: {outcome.reason}")
            await asyncio.sleep(pause)
        try:
            return reply.model_validate_json(outcome.content)
        except ValidationError as error:
            raise BadReply(f"{self.base_url}{path}: not a {reply.__name__}: {_explain(error)}") from None

    async def _attempt(
        self, path: str, content: bytes, idempotent: bool, started: float
    ) -> "httpx.Response | _FailedAttempt":
        seconds = max(0.0, min(self.timeout, self.deadline - (time.monotonic() - started)))
        try:
            async with asyncio.timeout(seconds):
                response = await self._http.post(path, content=content)
        except TimeoutError:
            return _FailedAttempt(Failure.TIMED_OUT, f"no answer in {seconds:g} s", 0.0 if idempotent else None)
        except httpx.RequestError as error:
            broken = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
            retry = isinstance(error, httpx.ConnectError) or (idempotent and broken)
            reason = f"{type(error).__name__} {error}".strip()
            return _FailedAttempt(Failure.UNREACHABLE, reason, 0.0 if retry else None)
        if response.is_success:
            return response
        status, problem = response.status_code, _problem(response)
        if status < 500 and status not in _NOT_STARTED:
            raise Refused(status, problem)
        retry = status in _NOT_STARTED or (idempotent and status in _GATEWAY)
        wait = response.headers.get("Retry-After", "")
        pause = retry_after(wait)
        reason = f"{status} {problem.code}: {problem.message}" + (f" (Retry-After: {wait})" if wait else "")
        turned_away = pause > 0 and (status == 429 or problem.code.startswith("engine_"))
        return _FailedAttempt(Failure.SERVER_ERROR, reason, pause if retry else None, turned_away)


def _blocking(
    method: Callable[Concatenate[AsyncCritic, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate["Critic", _P], _T]:
    """A method of `Critic` that waits for one of `AsyncCritic`."""

    @wraps(method)
    def wait(self: "Critic", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._run(method(self._critic, *args, **kwargs))

    return wait


class Critic:
    """`AsyncCritic` for synchronous code; threads may share it.

    Its own thread makes the requests until `close`. Create it in the process that uses it, after any fork.
    """

    def __init__(self, base_url: str = "http://127.0.0.1:3000", **settings: Any):
        """See `AsyncCritic`."""
        self._critic = AsyncCritic(base_url, **settings)
        started: Future[asyncio.AbstractEventLoop] = Future()
        # anyio's blocking portal would wait for its thread when the interpreter exits, and never end.
        self._thread = Thread(target=asyncio.run, args=[self._serve(started)], daemon=True)
        self._thread.start()
        self._loop = started.result()

    async def _serve(self, started: "Future[asyncio.AbstractEventLoop]") -> None:
        self._closing = asyncio.Event()
        async with self._critic:
            started.set_result(asyncio.get_running_loop())
            await self._closing.wait()

    def _run(self, call: Coroutine[Any, Any, _T]) -> _T:
        if not self._thread.is_alive():
            call.close()
            raise RuntimeError("the client is closed: create another one")
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
        """Cancel running requests, close the connections and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()

    ready = _blocking(AsyncCritic.ready)
    score = _blocking(AsyncCritic.score)
    score_batch = _blocking(AsyncCritic.score_batch)
    rewards = _blocking(AsyncCritic.rewards)
    compare = _blocking(AsyncCritic.compare)
    feedback = _blocking(AsyncCritic.feedback)


class _FailedAttempt(NamedTuple):
    """An attempt without an answer.

    Attributes:
        pause: the least seconds before a retry; None if a retry can't help.
        turned_away: the service said when to come back, because it is full or its vLLM isn't ready.
    """

    failure: Failure
    reason: str
    pause: float | None
    turned_away: bool = False


def retry_after(header: str) -> float:
    """Seconds of a Retry-After header (RFC 9110: a number of seconds or a date); 0 if it is neither."""
    with suppress(ValueError):
        return max(0.0, float(header))
    with suppress(TypeError, ValueError):
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    return 0.0


def _ids(edits: Sequence[object], ids: Sequence[str] | None) -> Sequence[str]:
    if ids is None:
        return [str(place) for place in range(len(edits))]
    if len(ids) != len(edits):
        raise ValueError(f"{len(ids)} ids for {len(edits)} edits: give one id per edit")
    return ids


def _unanswered(id: str, error: CriticError, mode: Mode, latency: float) -> schemas.Scored:
    return schemas.Scored(
        id=id,
        score=None,
        status=error.failure,
        detail=str(error),
        mode=mode,
        latency=latency,
        model="",
        contract="",
        version="",
        request_id=error.request_id if isinstance(error, Refused) else "",
    )


def _problem(response: httpx.Response) -> schemas.Problem:
    """The problem that the service reports, or the one that a proxy in front of it reports."""
    try:
        return schemas.Refusal.model_validate_json(response.content).error
    except ValidationError:
        return schemas.Problem(
            code=response.reason_phrase.lower().replace(" ", "_"),
            message=response.text.strip()[:200],
            request_id=response.headers.get("X-Request-ID", ""),
        )


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _encode(picture: Picture) -> str:
    """A picture in the form of the service's JSON."""
    if isinstance(picture, str) and picture.startswith(("data:", "https://")):
        return picture
    try:
        if isinstance(picture, str | os.PathLike):
            picture = Path(picture).read_bytes()
        elif isinstance(picture, Image.Image):
            with _LOADING:
                picture = pictures.normalise(picture)
        elif not isinstance(picture, bytes):
            picture = pictures.from_array(picture)
        data = picture if isinstance(picture, bytes) else pictures.png(picture)
    except pictures.PictureError as error:
        raise BadInput(str(error)) from error
    except (OSError, ValueError) as error:
        raise BadInput(f"the picture can't be read: {error}") from error
    if not data:
        raise BadInput("the picture's file is empty")
    return base64.b64encode(data).decode()

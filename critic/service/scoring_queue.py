"""Scoring of submitted edits by a vLLM server that the service runs.

async with ScoringQueue(settings, "models/grpo", version) as scoring:     # starts vLLM: scoring.supervisor.state
    results = await scoring(submissions, Options(mode="expected"))
"""

import asyncio
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic

import anyio
import anyio.to_thread
import httpx
import openai
from PIL import Image

from critic.client.schemas import LOST, Options
from critic.edits import Edit
from critic.engines.base import GREEDY, Completion, Failed, Request, Sampling
from critic.engines.http import HttpEngine, keep_jpeg
from critic.engines.load import contract_of, default_dtype, identify
from critic.engines.server import vllm_command, vllm_environment
from critic.pictures import decode
from critic.prompts import ContractError
from critic.results import Failure, Result
from critic.scoring.scorer import Scorer
from critic.service.concurrency import ConcurrencyLimiter
from critic.service.errors import Refused
from critic.service.input_checks import check_instruction, read_picture
from critic.service.monitoring import LOSSES, READY
from critic.service.page import WEB
from critic.service.settings import Settings
from critic.service.supervisor import State, Supervisor

ADDRESS = "http://vllm"
"""The URL of vLLM behind its Unix socket; the host name has no effect."""
_MAX_FETCHES = 8
_TURNS = 4
"""Parts of large batches that are scored at a time."""
_PATIENCE = 4
"""A large batch may take so many times the timeout of an answer, less than BentoML's limit in bento.py."""
_POLL, _NOTICED = 0.25, 30.0
"""Seconds between two looks for room, and until the supervisor has noticed that vLLM ended, if it has."""
log = logging.getLogger("critic.service")


@dataclass(frozen=True)
class Submission:
    """An edit as it was sent: for each picture its file, or the reason for having none."""

    id: str
    source: bytes | Refused
    edited: bytes | Refused
    instruction: str


class _LoopEngine:
    """An `Engine` for worker threads, whose requests run in the event loop that made it."""

    def __init__(self, engine: HttpEngine, name: str):
        self._engine, self.name = engine, name
        self._loop, self.client = asyncio.get_running_loop(), engine.open()

    def complete(self, requests: Sequence[Request], sampling: Sampling = GREEDY) -> list[Completion | Failed]:
        answers = self._engine.answer(self.client, requests, sampling)
        return asyncio.run_coroutine_threadsafe(answers, self._loop).result()


class ScoringQueue:
    """Scores edits by its own vLLM server; `vllm` is a client of its HTTP interface.

    `decoding` and `fetching` limit pictures that are decoded, which may take a gigabyte each, or fetched at a
    time.
    """

    def __init__(self, settings: Settings, critic: str, version: str):
        """Start nothing. `critic` is a folder or a name on the hub, and `version` is its release.

        Raises a `CheckpointError` or a `ContractError` if it isn't a critic.
        """
        self.settings, self.version = settings, version
        self.contract = contract_of(critic)
        self.model = identify(critic)
        self._at_a_time = settings.concurrency * settings.data_parallel_size
        self.limiter = ConcurrencyLimiter(self._at_a_time, settings.queue)
        self._max_pending = self._at_a_time + settings.queue
        self._turns = asyncio.Semaphore(min(_TURNS, self._at_a_time))
        self._engine: _LoopEngine | None = None
        self._resources = AsyncExitStack()
        folder = self._resources.enter_context(tempfile.TemporaryDirectory(prefix="critic-"))
        self._socket = Path(folder, "vllm.sock")
        command = vllm_command(
            critic,
            ["--uds", str(self._socket), "--served-model-name", "critic"],
            dtype=settings.dtype or default_dtype("vllm", critic),
            batch_size=settings.concurrency,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            tensor_parallel_size=settings.tensor_parallel_size,
            data_parallel_size=settings.data_parallel_size,
            pixels=self.contract.pixels,
        )
        self.supervisor = Supervisor(
            [*command, "--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"],
            _environment(settings.tensor_parallel_size * settings.data_parallel_size),
            self._socket,
            self._probe,
            start_timeout=settings.start_timeout,
            changed=_note,
        )

    async def __aenter__(self) -> "ScoringQueue":
        self._scoring = anyio.CapacityLimiter(self._max_pending)
        self.decoding = anyio.CapacityLimiter(os.cpu_count() or 1)
        self.fetching = anyio.CapacityLimiter(_MAX_FETCHES)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self._max_pending)
        self.vllm = await self._resources.enter_async_context(
            httpx.AsyncClient(
                base_url=ADDRESS,
                transport=httpx.AsyncHTTPTransport(uds=str(self._socket), limits=limits),
                timeout=self.settings.timeout,
            )
        )
        await self._resources.enter_async_context(self.supervisor)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._resources.aclose()
        if self._engine is not None:
            await self._engine.client.close()

    async def _probe(self) -> None:
        open_engine = partial(
            HttpEngine,
            f"{ADDRESS}/v1",
            max_tokens=self.settings.max_tokens,
            concurrency=self._max_pending,
            timeout=self.settings.timeout,
            max_retries=0,
            socket=self._socket,
        )
        engine = _LoopEngine(await anyio.to_thread.run_sync(open_engine), self.model)
        (result,) = await self._score(engine, [example()], Options(mode="greedy"))
        if result.status in [*Failure]:
            await engine.client.close()
            raise RuntimeError(f"no answer to the example: {result.status}: {result.detail}")
        if not result.ok:
            log.warning("The answer to the example has no score: %s: %s", result.status, result.raw)
        before, self._engine = self._engine, engine
        if before is not None:
            with suppress(openai.OpenAIError):
                await before.client.close()

    def check_ready(self) -> None:
        """Raises `Refused`, 503, unless vLLM can score."""
        if (state := self.supervisor.state) != "ready":
            message = f"the critic's engine is {state}: try again later"
            raise Refused(503, f"engine_{state}", message, retry_after=5)

    async def __call__(self, submissions: Sequence[Submission], options: Options) -> list[Result]:
        """Score submissions: one result each, in order.

        Raises:
            Refused: 503, vLLM isn't ready; 429, too many pending answers; if none has an answer, the reason of the
                first.
        """
        return self._results(submissions, await self._attempt(submissions, options), options)

    async def score_all(self, submissions: Sequence[Submission], options: Options) -> list[Result]:
        """As a call, for any number of submissions, which are scored in parts.

        Batches take turns by part. Parts of all batches together are about as many answers as vLLM generates at a
        time, so that other requests find room in the queue. A part waits for room, and while vLLM is restarted.
        Edits whose answers vLLM lost are scored once more.

        Raises:
            Refused: as by a call; 429 and 503 after four times the timeout of an answer.
        """
        found: dict[int, Result | Refused] = {}
        size = max(1, self._at_a_time // (_TURNS * options.answers))
        parts = iter([range(len(submissions))[start : start + size] for start in range(0, len(submissions), size)])

        async def attempt(places: Sequence[int]) -> list[int]:
            """Score a part in its turn. Returns the places of those whose answers vLLM lost."""
            async with self._turns:
                while True:
                    try:
                        given = [submissions[place] for place in places]
                        # What vLLM has is pending to its end, also if the batch is refused meanwhile.
                        part = await asyncio.shield(self._attempt(given, options))
                        break
                    except Refused as refused:
                        if refused.retry_after is None:
                            raise
                        await asyncio.sleep(_POLL)
            found.update(zip(places, part, strict=True))
            return [place for place, one in zip(places, part, strict=True) if one.status in LOST]

        async def score_parts() -> None:
            for places in parts:
                if lost := await attempt(places):
                    group.create_task(score_again(lost))

        async def score_again(lost: Sequence[int]) -> None:
            noticed = monotonic() + _NOTICED
            while self.supervisor.state == "ready" and monotonic() < noticed:
                await asyncio.sleep(_POLL)
            await attempt(lost)

        seconds = _PATIENCE * self.settings.timeout
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for _ in range(_TURNS):
                    group.create_task(score_parts())
        except TimeoutError:
            self.check_ready()
            message = f"{len(found)} of {len(submissions)} edits were scored in {seconds:g} s: send fewer"
            raise Refused(429, "busy", message, retry_after=self.limiter.wait()) from None
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return self._results(submissions, [found[place] for place in range(len(submissions))], options)

    async def _attempt(self, submissions: Sequence[Submission], options: Options) -> list[Result | Refused]:
        """Score submissions, or say why one can't be scored. Raises `Refused` if it scores none now."""
        self.check_ready()
        with self.limiter.admit(len(submissions) * options.answers):
            checked = await asyncio.gather(*map(self._check, submissions))
            edits = [edit for edit in checked if isinstance(edit, Edit)]
            if not edits:
                return [refused for refused in checked if isinstance(refused, Refused)]
            self.check_ready()
            assert self._engine is not None
            scored = iter(await self._score(self._engine, edits, options))
        return [next(scored) if isinstance(edit, Edit) else edit for edit in checked]

    def _results(
        self, submissions: Sequence[Submission], found: Sequence[Result | Refused], options: Options
    ) -> list[Result]:
        if isinstance(found[0], Refused) and all(isinstance(one, Refused) for one in found):
            raise found[0]
        results = [
            self._refused(submission, one, options) if isinstance(one, Refused) else one
            for submission, one in zip(submissions, found, strict=True)
        ]
        raise_if_all_failed(results)
        return results

    async def _check(self, submission: Submission) -> Edit | Refused:
        try:
            instruction = check_instruction(submission.instruction, self.settings)
            source, edited = [
                await anyio.to_thread.run_sync(self._picture, part, file, limiter=self.decoding)
                for part, file in (("source", submission.source), ("edited", submission.edited))
            ]
        except Refused as refused:
            return refused
        return Edit(submission.id, source, edited, instruction)

    def _picture(self, part: str, file: bytes | Refused) -> Image.Image:
        try:
            if isinstance(file, Refused):
                raise file
            picture = read_picture(file, self.settings)
            resized = self.contract.resize(picture)
            if resized.size == picture.size:
                keep_jpeg(resized, file)
            return resized
        except ContractError as error:
            raise Refused(422, "bad_shape", f"{part}: {error}") from None
        except Refused as refused:
            raise Refused(refused.status, refused.code, f"{part}: {refused.message}") from None

    async def _score(self, engine: _LoopEngine, edits: Sequence[Edit], options: Options) -> list[Result]:
        scorer = Scorer(engine, self.contract, options.mode, options.samples, options.temperature, options.seed)
        return await anyio.to_thread.run_sync(scorer, edits, limiter=self._scoring)

    def _refused(self, submission: Submission, refused: Refused, options: Options) -> Result:
        return Result(
            submission.id,
            None,
            Failure.BAD_INPUT,
            refused.message,
            mode=options.mode,
            model=self.model,
            contract=self.contract.hash,
            latency=0.0,
        )


_STATUSES = {
    Failure.UNREACHABLE: 503,
    Failure.SERVER_ERROR: 503,
    Failure.TIMED_OUT: 504,
    Failure.GARBLED: 502,
}
"""The HTTP status of a failure; 422 for others, which the request causes."""


def raise_if_all_failed(results: Sequence[Result]) -> None:
    """Raises `Refused` if no edit has an answer: each result is a `Failure`."""
    failures = [result for result in results if result.status in set(Failure)]
    if len(failures) < len(results):
        return
    first = next((result for result in failures if result.status != Failure.BAD_INPUT), failures[0])
    status = _STATUSES.get(Failure(first.status), 422)
    raise Refused(status, first.status, first.detail, retry_after=5 if status == 503 else None)


def example() -> Edit:
    """The first example of the web page."""
    first = json.loads((WEB / "examples/examples.json").read_text())[0]
    source, edited = (decode((WEB / first[part].lstrip("/")).read_bytes()) for part in ("source", "edited"))
    return Edit(first["id"], source, edited, first["instruction"])


def _environment(processes: int) -> dict[str, str]:
    """The environment for vLLM: errors alone, no metrics in BentoML's folder, idle connections kept for an hour.

    With vLLM's default of 5 s it would close some connections at the moment that a request is sent.
    """
    warnings = "ignore::DeprecationWarning,ignore::FutureWarning"  # of vLLM's own code
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONWARNINGS": warnings}
    environment = {**quiet, "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600", **vllm_environment(processes)}
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
    return environment


def _note(state: State) -> None:
    READY.set(state == "ready")
    if state == "lost":
        LOSSES.inc()

"""The critic at work: edits as they were sent go in, verdicts come out.

async with Judge(settings, folder, version) as judge:     # vLLM starts; `judge.supervisor.state` tells when
    verdicts = await judge(submissions, Options(mode="expected"))
"""

import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import openai
from PIL import Image

from critic.client.schemas import Options
from critic.edits import Edit, decode_image
from critic.engines.base import GREEDY, Completion, Failed, Request, Sampling
from critic.engines.http import HttpEngine
from critic.engines.load import contract_of, default_dtype, identify
from critic.engines.server import vllm_command, vllm_environment
from critic.prompts import ContractError
from critic.results import Failure, Result
from critic.scoring.scorer import Scorer
from critic.service.concurrency import Admission
from critic.service.errors import Refused
from critic.service.input_checks import check_instruction, read_picture
from critic.service.monitoring import LOSSES, READY
from critic.service.page import WEB
from critic.service.settings import Settings
from critic.service.supervisor import State, Supervisor

ADDRESS = "http://vllm"
"""A name for the other end of the socket."""
_FETCHES = 8


@dataclass(frozen=True)
class Submission:
    """An edit as it was sent: the files' bytes, or what is wrong with them."""

    id: str
    source: bytes | Refused
    edited: bytes | Refused
    instruction: str


class _OnTheLoop:
    """`HttpEngine` for threads of the loop that its client lives in."""

    def __init__(self, engine: HttpEngine, name: str):
        self._engine, self.name = engine, name
        self._loop, self.client = asyncio.get_running_loop(), engine.open()

    def complete(self, requests: Sequence[Request], sampling: Sampling = GREEDY) -> list[Completion | Failed]:
        asked = self._engine.answer(self.client, requests, sampling)
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()


class Judge:
    """Scores edits by a vLLM of its own.

    Attributes:
        version: which release of the critic.
        contract: its prompt contract.
        supervisor: of vLLM.
        admission: how much is being done.
        vllm: a client of vLLM's HTTP interface.
        decoding: holds how many pictures are decoded at a time, each taking up to a gigabyte.
        fetching: holds how many are fetched at a time.
    """

    def __init__(self, settings: Settings, folder: Path, version: str):
        """Raises `CheckpointError` or `ContractError` if the folder holds no critic."""
        self.settings, self.version = settings, version
        self.contract = contract_of(str(folder))
        self.model = identify(str(folder))
        self.admission = Admission(settings.concurrency, settings.queue)
        self._most = settings.concurrency + settings.queue
        self._engine: _OnTheLoop | None = None
        self._rooms = AsyncExitStack()
        self._socket = Path(self._rooms.enter_context(tempfile.TemporaryDirectory(prefix="critic-"))) / "vllm.sock"
        command = vllm_command(
            str(folder),
            ["--uds", str(self._socket), "--served-model-name", "critic"],
            dtype=settings.dtype or default_dtype(),
            batch_size=settings.concurrency,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            tensor_parallel_size=settings.tensor_parallel_size,
        )
        self.supervisor = Supervisor(
            [*command, "--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"],
            _environment(),
            self._socket,
            self._probe,
            start_timeout=settings.start_timeout,
            changed=_note,
        )

    async def __aenter__(self) -> "Judge":
        self._scoring = anyio.CapacityLimiter(self._most)
        self.decoding = anyio.CapacityLimiter(os.cpu_count() or 1)
        self.fetching = anyio.CapacityLimiter(_FETCHES)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self._most)
        self.vllm = await self._rooms.enter_async_context(
            httpx.AsyncClient(
                base_url=ADDRESS,
                transport=httpx.AsyncHTTPTransport(uds=str(self._socket), limits=limits),
                timeout=self.settings.timeout,
            )
        )
        await self._rooms.enter_async_context(self.supervisor)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._rooms.aclose()
        if self._engine is not None:
            await self._engine.client.close()

    async def _probe(self) -> None:
        open_engine = partial(
            HttpEngine,
            f"{ADDRESS}/v1",
            max_tokens=self.settings.max_tokens,
            concurrency=self._most,
            timeout=self.settings.timeout,
            max_retries=0,
            socket=self._socket,
        )
        engine = _OnTheLoop(await anyio.to_thread.run_sync(open_engine), self.model)
        (verdict,) = await self._score(engine, [example()], Options(mode="greedy"))
        if not verdict.ok:
            await engine.client.close()
            raise RuntimeError(f"gave no score of the example: {verdict.status}: {verdict.detail}")
        before, self._engine = self._engine, engine
        if before is not None:
            with suppress(openai.OpenAIError):
                await before.client.close()

    def check_ready(self) -> None:
        """Raises `Refused`, 503, unless vLLM can give a score."""
        if self.supervisor.state != "ready":
            raise Refused(
                503,
                f"engine_{self.supervisor.state}",
                f"the critic's engine is {self.supervisor.state}: come again later",
                retry_after=5,
            )

    async def __call__(self, submissions: Sequence[Submission], options: Options) -> list[Result]:
        """One verdict a submission, in order.

        Raises:
            Refused: 503, there is no engine; 429, there is too much to do; another, if nothing of it can be
                judged: why the first can't.
        """
        self.check_ready()
        answers = len(submissions) * (options.samples if options.mode == "average" else 1)
        with self.admission.admit(answers):
            taken = await asyncio.gather(*map(self._take, submissions))
            edits = [edit for edit in taken if isinstance(edit, Edit)]
            if not edits:
                raise next(refusal for refusal in taken if isinstance(refusal, Refused))
            self.check_ready()
            assert self._engine is not None
            scored = iter(await self._score(self._engine, edits, options))
        verdicts = [
            next(scored) if isinstance(edit, Edit) else self._refused(submission, edit, options)
            for submission, edit in zip(submissions, taken, strict=True)
        ]
        raise_if_all_failed(verdicts)
        return verdicts

    async def _take(self, submission: Submission) -> Edit | Refused:
        try:
            instruction = check_instruction(submission.instruction, self.settings)
            pictures = [
                await anyio.to_thread.run_sync(self._picture, part, file, limiter=self.decoding)
                for part, file in (("source", submission.source), ("edited", submission.edited))
            ]
        except Refused as refused:
            return refused
        return Edit(submission.id, pictures[0], pictures[1], instruction)

    def _picture(self, part: str, file: bytes | Refused) -> Image.Image:
        try:
            if isinstance(file, Refused):
                raise file
            return self.contract.resize(read_picture(file, self.settings))
        except ContractError as error:
            raise Refused(422, "bad_shape", f"{part}: {error}") from None
        except Refused as refused:
            raise Refused(refused.status, refused.code, f"{part}: {refused.message}") from None

    async def _score(self, engine: _OnTheLoop, edits: Sequence[Edit], options: Options) -> list[Result]:
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
    Failure.BAD_INPUT: 422,
    Failure.TOO_LONG: 422,
    Failure.REFUSED: 422,
    Failure.UNREACHABLE: 503,
    Failure.SERVER_ERROR: 503,
    Failure.TIMED_OUT: 504,
    Failure.GARBLED: 502,
}


def raise_if_all_failed(verdicts: Sequence[Result]) -> None:
    """Raises `Refused` if no verdict is of an answer: each is of an edit that couldn't be asked about."""
    failures = [verdict for verdict in verdicts if verdict.status in set(Failure)]
    if len(failures) < len(verdicts):
        return
    first = next((verdict for verdict in failures if verdict.status != Failure.BAD_INPUT), failures[0])
    status = _STATUSES[Failure(first.status)]
    raise Refused(status, first.status, first.detail, retry_after=5 if status == 503 else None)


def example() -> Edit:
    """The first edit of the web page."""
    first = json.loads((WEB / "examples/examples.json").read_text())[0]
    files = [(WEB / first[part].lstrip("/")).read_bytes() for part in ("source", "edited")]
    source, edited = (decode_image({"bytes": file}) for file in files)
    return Edit(first["id"], source, edited, first["instruction"])


def _environment() -> dict[str, str]:
    """vLLM's: it says less, doesn't write its metrics among BentoML's, and keeps idle connections for an hour.

    After its own 5 s it would close some of them in the moment that a request is sent.
    """
    environment = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600", **vllm_environment()}
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
    return environment


def _note(state: State) -> None:
    READY.set(state == "ready")
    if state == "lost":
        LOSSES.inc()

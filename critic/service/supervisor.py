"""vLLM as a process of the service's own, started again whenever it ends.

    supervisor = Supervisor(command, environment, socket, probe)
    async with supervisor:          # starts it, and doesn't wait
        supervisor.state            # "starting", "ready" once `probe` had a score, "lost" until the next try

It listens on a Unix socket that nobody else can open. It dies with the service, and what it leaves behind when it
is killed (its engine is a child of its own) is killed before it is started again.
"""

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import httpx

State = Literal["starting", "ready", "lost", "stopped"]
log = logging.getLogger("critic.service")

_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a try, the last one from the fifth try on that didn't get as far as ready."""
_BEAT, _MISSED = 5.0, 6
"""Seconds between two looks at a running vLLM, which has as long to answer; how many in a row it may miss."""
_GRACE = 20.0
"""Seconds to end by itself."""
_KEPT = 4000
"""Bytes of what it said last that are told when it is lost."""


class Supervisor:
    """Keeps one server running.

    Attributes:
        state: see above.
        reason: why it was lost the last time, with the end of what vLLM said.
        changed: called with each new state.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        socket: Path,
        probe: Callable[[], Awaitable[None]],
        *,
        start_timeout: float,
        changed: Callable[[State], None] = lambda state: None,
    ):
        """`probe` asks the server for a score, and raises if it gives none; `start_timeout` is in seconds.

        Raises:
            RuntimeError: this machine has no setpriv.
        """
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise RuntimeError("there is no setpriv on this machine: install util-linux")
        # Each dies with its parent. BentoML sends SIGTERM to the service and its children, so there is one between
        # that doesn't mind: vLLM is to outlive the last request.
        between = [setpriv, "--pdeathsig", "KILL", "--", "sh", "-c", 'trap "" TERM; "$@"; exit $?', "vllm"]
        self._command = [*between, setpriv, "--pdeathsig", "INT", "--", *command]
        self._environment = environment
        self._socket, self._probe = socket, probe
        self._start_timeout, self._changed = start_timeout, changed
        self.state: State = "starting"
        self.reason = ""
        self._said = b""
        self._failures = 0

    async def __aenter__(self) -> "Supervisor":
        self._task = asyncio.create_task(self._keep_running())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._enter("stopped")
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def _enter(self, state: State) -> None:
        if self.state != "stopped" and state != self.state:
            self.state = state
            self._changed(state)

    def _lose(self, why: str) -> None:
        self.reason = f"vLLM {why}\n{self._said.decode(errors='replace')}".rstrip()
        self._enter("lost")

    async def _keep_running(self) -> None:
        while True:
            why = await self._run()
            self._failures += 1
            self._lose(why)
            pause = _PAUSES[min(self._failures, len(_PAUSES)) - 1]
            log.error("%s\nIt is started again in %g s.", self.reason, pause)
            await asyncio.sleep(pause)
            self._enter("starting")

    async def _run(self) -> str:
        """Start it, and wait until it doesn't run any more: why."""
        try:
            process = await self._start()
        except OSError as error:
            return f"can't be started: {error}"
        reader = asyncio.create_task(self._pass_on(process))
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._come_up(process)
            self._enter("ready")
            log.info("vLLM is ready (process %d)", process.pid)
            self._failures = 0
            why = await self._watch(process)
            self._lose(why)
            return why
        except TimeoutError:
            return f"wasn't ready within {self._start_timeout:g} s"
        except Exception as error:
            return f"can't be used: {type(error).__name__}: {error}"
        finally:
            await asyncio.shield(_end(process, reader))

    async def _start(self) -> asyncio.subprocess.Process:
        self._said = b""
        self._socket.unlink(missing_ok=True)
        return await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )

    async def _pass_on(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while chunk := await process.stdout.read(2**16):
            self._said = (self._said + chunk)[-_KEPT:]
            with suppress(OSError):  # vLLM would wait for a reader that had given up
                sys.stderr.buffer.write(chunk)
                sys.stderr.flush()

    async def _come_up(self, process: asyncio.subprocess.Process) -> None:
        async with self._client() as client:
            while not await _answers(client):
                if process.returncode is not None:
                    raise ChildProcessError(f"it ended with code {process.returncode} before it was ready")
                await asyncio.sleep(0.25)
        await self._probe()

    async def _watch(self, process: asyncio.subprocess.Process) -> str:
        """Why it doesn't run any more."""
        missed = 0
        async with self._client() as client:
            while missed < _MISSED:
                try:
                    return f"ended with code {await asyncio.wait_for(_code(process), _BEAT)}"
                except TimeoutError:
                    missed = 0 if await _answers(client) else missed + 1
        return f"didn't answer {_MISSED} times in a row"

    def _client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
        return httpx.AsyncClient(base_url="http://vllm", transport=transport, timeout=_BEAT)


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).is_success
    except httpx.HTTPError:
        return False


async def _code(process: asyncio.subprocess.Process) -> int:
    """Its exit code, once it has ended; `process.wait()` waits for its children too, who have its output."""
    while process.returncode is None:
        await asyncio.sleep(0.1)
    return process.returncode


async def _end(process: asyncio.subprocess.Process, reader: asyncio.Task[None]) -> None:
    """Ask it to end, so that it gives back its shared memory; then kill what is left of its group.

    Its output ends when none of them is left.
    """
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with suppress(TimeoutError):
        await asyncio.wait_for(_code(process), _GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(reader, _code(process)), _GRACE)

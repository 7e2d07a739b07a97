"""vLLM as a subprocess of the service, restarted whenever it ends.

    supervisor = Supervisor(command, environment, socket, probe)
    async with supervisor:          # starts vLLM, doesn't wait for it
        supervisor.state            # "starting"; "ready" after `probe`; "lost" until the next start; "stopped"

It listens on a Unix socket that only this user can open. It ends with the service, and all its subprocesses end
before it is started again (`critic.process_tree`).
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import httpx

from critic import process_tree

State = Literal["starting", "ready", "lost", "stopped"]
log = logging.getLogger("critic.service")

_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a restart, by the number of failures since vLLM was last ready."""
_CHECK_INTERVAL, _MAX_MISSED = 5.0, 6
"""Seconds between two health checks, also the timeout of each; failures in a row after which vLLM is killed."""
_GRACE = 20.0
"""Seconds to release its shared memory and end by itself."""
_LOG_BYTES = 4000
"""Bytes of the end of vLLM's log in `Supervisor.reason`."""


class Supervisor:
    """Keeps one server running. `reason` says why it was lost the last time, with the end of its log."""

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
        """Start nothing.

        Args:
            probe: asks the server for a score; raises if there is none.
            changed: called with each new state.
        """
        # Not SIGTERM, which BentoML sends to the service's children too: vLLM must outlive the last request.
        self._command = process_tree.command(command, grace=_GRACE, stop_signal=signal.SIGINT)
        self._environment = environment
        self._socket, self._probe = socket, probe
        self._start_timeout, self._changed = start_timeout, changed
        self.state: State = "starting"
        self.reason = ""
        self._log_end = b""
        self._failures = 0

    async def __aenter__(self) -> "Supervisor":
        self._task = asyncio.create_task(self._keep_running())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._set_state("stopped")
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def _set_state(self, state: State) -> None:
        if self.state != "stopped" and state != self.state:
            self.state = state
            self._changed(state)

    def _set_lost(self, reason: str) -> None:
        self.reason = f"vLLM {reason}\n{self._log_end.decode(errors='replace')}".rstrip()
        self._set_state("lost")

    async def _keep_running(self) -> None:
        while True:
            reason = await self._run()
            self._failures += 1
            self._set_lost(reason)
            pause = _PAUSES[min(self._failures, len(_PAUSES)) - 1]
            log.error("%s\nThe service restarts it in %g s.", self.reason, pause)
            await asyncio.sleep(pause)
            self._set_state("starting")

    async def _run(self) -> str:
        """Start the server and wait for its end. Returns the reason of the end."""
        self._log_end = b""
        try:
            self._socket.unlink(missing_ok=True)
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return f"can't be started: {error}"
        reader = asyncio.create_task(self._forward_output(process))
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._wait_until_ready(process)
            self._set_state("ready")
            log.info("vLLM is ready (process %d)", process.pid)
            self._failures = 0
            reason = await self._watch(process)
            self._set_lost(reason)
            return reason
        except TimeoutError:
            return f"wasn't ready after {self._start_timeout:g} s"
        except Exception as error:
            return f"failed to start: {type(error).__name__}: {error}"
        finally:
            await asyncio.shield(_end(process, reader))

    async def _forward_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while chunk := await process.stdout.read(2**16):
            self._log_end = (self._log_end + chunk)[-_LOG_BYTES:]
            with suppress(OSError):  # keep reading: vLLM blocks on a full pipe
                sys.stderr.buffer.write(chunk)
                sys.stderr.flush()

    async def _wait_until_ready(self, process: asyncio.subprocess.Process) -> None:
        async with self._client() as client:
            while not await _is_healthy(client):
                if process.returncode is not None:
                    raise ChildProcessError(f"it ended with code {process.returncode} before it was ready")
                await asyncio.sleep(0.25)
        await self._probe()

    async def _watch(self, process: asyncio.subprocess.Process) -> str:
        """Wait until the server ends or hangs. Returns the reason."""
        missed = 0
        async with self._client() as client:
            while missed < _MAX_MISSED:
                try:
                    return f"ended with code {await asyncio.wait_for(_exit_code(process), _CHECK_INTERVAL)}"
                except TimeoutError:
                    missed = 0 if await _is_healthy(client) else missed + 1
        return f"didn't answer {_MAX_MISSED} times in a row"

    def _client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
        return httpx.AsyncClient(base_url="http://vllm", transport=transport, timeout=_CHECK_INTERVAL)


async def _is_healthy(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).is_success
    except httpx.HTTPError:
        return False


async def _exit_code(process: asyncio.subprocess.Process) -> int:
    """Wait for the exit code. `process.wait()` would also wait until all children have closed the output."""
    while process.returncode is None:
        await asyncio.sleep(0.1)
    return process.returncode


async def _end(process: asyncio.subprocess.Process, reader: asyncio.Task[None]) -> None:
    """End the process tree. Its output ends with its last process."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(reader, _exit_code(process)), 2 * _GRACE)
    with suppress(ProcessLookupError):
        process.kill()

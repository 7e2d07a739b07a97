"""A server is restarted after any end, and none of its processes outlives the service."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from critic import process_tree
from critic.service import supervisor as module
from critic.service.supervisor import State, Supervisor

FAKE = Path(__file__).parent / "fake_vllm.py"
Scenario = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_PAUSES", (0.3, 0.6)), ("_CHECK_INTERVAL", 0.3), ("_MAX_MISSED", 2), ("_GRACE", 1.0)):
        monkeypatch.setattr(module, name, seconds)


def _open_files() -> set[tuple[str, str]]:
    """This process's open files, each by its descriptor and what that stands for."""
    opened = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            opened.add((descriptor, os.readlink(f"/proc/self/fd/{descriptor}")))
    return opened


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Scenario], None]]:
    """Runs a test in an event loop of uvicorn's kinds; checks that no process, task or open file is left."""
    with asyncio.Runner(loop_factory=request.param) as runner:

        async def alone(scenario: Scenario) -> None:
            null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
            first = await asyncio.create_subprocess_exec("true", stdin=null, stdout=pipe)
            await first.communicate()  # the loop opens files for its first process and keeps them
            before = _open_files()
            children = psutil.Process().children(recursive=True)  # an earlier test's, such as Prefect's server
            async with asyncio.timeout(30):
                await scenario()
            await asyncio.sleep(0.1)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert not _open_files() - before  # an earlier test's may be closed meanwhile
            assert psutil.Process().children(recursive=True) == children

        yield lambda scenario: runner.run(alone(scenario))


class Watched(Supervisor):
    """A supervisor that records its states."""

    def __init__(
        self, folder: Path, *options: str, probe: Callable[[], Awaitable[None]] | None = None, **given: Any
    ):
        self.states: list[State] = []
        self.probed = 0

        async def count() -> None:
            self.probed += 1

        super().__init__(
            [sys.executable, str(FAKE), "--uds", str(folder / "vllm.sock"), *options],
            dict(os.environ),
            folder / "vllm.sock",
            probe or count,
            start_timeout=given.get("start_timeout", 10),
            changed=self.states.append,
        )

    async def until(self, state: State, seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while self.state != state:
                await asyncio.sleep(0.01)


def servers() -> list[psutil.Process]:
    """The stand-in for vLLM and its children, oldest first."""
    children = psutil.Process().children(recursive=True)
    found = [
        child for child in children if str(FAKE) in (line := child.cmdline()) and process_tree.__file__ not in line
    ]
    return sorted(found, key=lambda process: (process.create_time(), process.pid))


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_it_is_ready_once_it_gave_a_score_and_not_before(run: Callable[[Scenario], None], tmp_path: Path) -> None:
    asked, may = asyncio.Event(), asyncio.Event()

    async def probe() -> None:
        asked.set()
        await may.wait()

    async def scenario() -> None:
        async with Watched(tmp_path, probe=probe) as supervisor:
            assert supervisor.state == "starting"
            await asked.wait()
            assert supervisor.state == "starting"
            may.set()
            await supervisor.until("ready")
            await asyncio.sleep(1)
            assert supervisor.states == ["ready"]
        assert supervisor.states == ["ready", "stopped"]

    run(scenario)


def test_a_killed_one_is_lost_at_once_and_comes_back(
    run: Callable[[Scenario], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHECK_INTERVAL", 30)

    async def scenario() -> None:
        async with Watched(tmp_path) as supervisor:
            for number in (1, 2):
                await supervisor.until("ready")
                (server,) = servers()
                server.kill()
                await supervisor.until("lost", 5)
                assert supervisor.reason.startswith("vLLM ended with code 137\nthe stand-in starts")
                await supervisor.until("ready")
                assert supervisor.probed == number + 1
            assert supervisor.states == ["ready", *["lost", "starting", "ready"] * 2]

    run(scenario)


def test_what_a_killed_one_leaves_is_gone_before_the_next_try(
    run: Callable[[Scenario], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHECK_INTERVAL", 30)

    async def scenario() -> None:
        async with Watched(tmp_path, "--engine") as supervisor:
            await supervisor.until("ready")
            server, engine = servers()
            server.kill()
            await supervisor.until("lost", 5)
            await supervisor.until("starting", 5)
            assert gone(engine)
            await supervisor.until("ready")
            assert len(servers()) == 2

    run(scenario)


def test_one_that_hangs_is_killed_with_its_engine(run: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Watched(tmp_path, "--engine") as supervisor:
            await supervisor.until("ready")
            hanging = servers()
            hanging[0].suspend()
            await supervisor.until("lost")
            assert supervisor.reason.startswith("vLLM didn't answer 2 times in a row")
            await supervisor.until("ready")
            assert all(map(gone, hanging))

    run(scenario)


def test_one_that_misses_a_beat_is_let_go_on(run: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Watched(tmp_path) as supervisor:
            await supervisor.until("ready")
            (server,) = servers()
            for _ in range(4):
                server.suspend()
                await asyncio.sleep(0.5)
                server.resume()
                await asyncio.sleep(0.7)
            assert supervisor.states == ["ready"]

    run(scenario)


def test_one_that_fails_at_start_is_tried_again_and_again(
    run: Callable[[Scenario], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with Watched(tmp_path, "--fail", "3") as supervisor:
            async with asyncio.timeout(10):
                while supervisor.states.count("starting") < 3:
                    await asyncio.sleep(0.01)
            assert supervisor.states[:4] == ["lost", "starting", "lost", "starting"]
            assert supervisor.probed == 0

    with caplog.at_level(logging.ERROR):
        run(scenario)
    pauses = [record.getMessage().partition("The service restarts it in ")[2] for record in caplog.records]
    assert pauses[:3] == ["0.3 s.", "0.6 s.", "0.6 s."]
    assert "it ended with code 3 before it was ready\nthe stand-in starts\n" in caplog.text


def test_one_that_gives_no_answer_isnt_ready(run: Callable[[Scenario], None], tmp_path: Path) -> None:
    tries = 0

    async def probe() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise RuntimeError("no answer to the example: refused")

    async def scenario() -> None:
        async with Watched(tmp_path, probe=probe) as supervisor:
            await supervisor.until("ready")
            assert supervisor.states == ["lost", "starting", "lost", "starting", "ready"]
            assert "failed to start: RuntimeError: no answer to the example: refused" in supervisor.reason

    run(scenario)


@pytest.mark.parametrize("hangs", ["server", "probe"])
def test_one_that_takes_too_long_to_start_is_ended(
    run: Callable[[Scenario], None], tmp_path: Path, hangs: str
) -> None:
    async def probe() -> None:
        await asyncio.sleep(60 if hangs == "probe" else 0)

    async def scenario() -> None:
        slow = "60" if hangs == "server" else "0"
        async with Watched(tmp_path, "--slow", slow, probe=probe, start_timeout=1) as supervisor:
            await supervisor.until("lost", 3)
            assert supervisor.reason.startswith("vLLM wasn't ready after 1 s")
            assert servers() == []

    run(scenario)


def test_what_cant_be_started_at_all_is_tried_again(run: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "vllm.sock").mkdir()
        async with Watched(tmp_path) as supervisor:
            await supervisor.until("lost")
            assert supervisor.reason.startswith("vLLM can't be started: ")
            (tmp_path / "vllm.sock").rmdir()
            await supervisor.until("ready")

    run(scenario)


def test_what_it_says_goes_on_to_our_own_log(
    run: Callable[[Scenario], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        async with Watched(tmp_path) as supervisor:
            await supervisor.until("ready")

    run(scenario)
    assert "the stand-in starts\n" in capfd.readouterr().err


@pytest.mark.parametrize("when", ["starting", "ready", "lost", "hanging"])
def test_stopping_leaves_nothing(run: Callable[[Scenario], None], tmp_path: Path, when: str) -> None:
    async def scenario() -> None:
        options = {"starting": ["--slow", "60"], "lost": ["--fail", "1"]}.get(when, [])
        async with Watched(tmp_path, "--engine", *options) as supervisor:
            if when == "starting":
                await asyncio.sleep(0.5)
            else:
                await supervisor.until("ready" if when == "hanging" else when)  # type: ignore[arg-type]
            if when == "hanging":
                servers()[0].suspend()
            began = time.monotonic()
        assert time.monotonic() - began < module._GRACE + 1
        assert supervisor.states[-1] == supervisor.state == "stopped"
        assert servers() == []

    run(scenario)


SERVICE = """
    import asyncio, os, sys
    from pathlib import Path
    from critic.service.supervisor import Supervisor

    async def main():
        async def probe(): pass
        command = [sys.executable, sys.argv[1], "--uds", sys.argv[2], "--engine"]
        async with Supervisor(command, dict(os.environ), Path(sys.argv[2]), probe, start_timeout=20) as supervisor:
            while supervisor.state != "ready":
                await asyncio.sleep(0.01)
            print("ready", flush=True)
            await asyncio.sleep(60)

    asyncio.run(main())
"""


def test_a_killed_service_takes_its_server_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SERVICE), str(FAKE), str(tmp_path / "vllm.sock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        assert service.stdout is not None and service.stdout.readline() == "ready\n"
        children = psutil.Process(service.pid).children(recursive=True)
        assert len(children) == 3  # with the parent of critic/process_tree.py
        service.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive

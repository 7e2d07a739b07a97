"""Run a command so that no process it starts outlives it, not even one in a session of its own.

    code = process_tree.run(["dvc", "repro"], cwd="clone")

    process = subprocess.Popen(process_tree.command(["dvc", "repro"]), stdout=subprocess.PIPE)
    process_tree.end(process)

A small parent process runs the command. It ends the whole tree when the command ends, when it gets its stop
signal, and when the process that started it dies, even by SIGKILL. A process group is not enough: torchrun's
workers, for one, leave it. Linux only (prctl).

`python -m critic.process_tree [--grace SECONDS] COMMAND...` does the same from a shell or a configuration file.
"""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil

GRACE = 10.0
"""Seconds that the tree has to end by itself before it is killed."""

_GIVE_UP = 60.0
"""Seconds after which `end` kills the parent process itself: more than any grace."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def command(args: Sequence[str], *, grace: float = GRACE, stop_signal: int = signal.SIGTERM) -> list[str]:
    """The command to start instead of `args`, from the process that the tree must not outlive.

    Args:
        grace: seconds that the tree has to end by itself.
        stop_signal: ends the tree. If it isn't SIGTERM, SIGTERM is ignored.
    """
    options = [f"--parent={os.getpid()}", f"--grace={grace}", f"--stop-signal={stop_signal:d}"]
    return [sys.executable, __file__, *options, *args]


def run(args: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> int:
    """Run a command to its end, with this process' streams; return its exit code."""
    process = subprocess.Popen(command(args), cwd=cwd, env=env)
    try:
        return process.wait()
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a command and every process that it started. The command may have ended already."""
    process.terminate()
    try:
        process.wait(_GIVE_UP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> NoReturn:
    """Exit with the command's code, with 128 plus the signal that ended it, or with 128 plus the stop signal."""
    parser = argparse.ArgumentParser(prog="python -m critic.process_tree", description=__doc__.splitlines()[0])
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--grace", type=float, default=GRACE, help="Seconds to end by itself before a kill.")
    parser.add_argument("--stop-signal", type=int, default=signal.SIGTERM, help="Signal number that ends it.")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    stop_signal: int = options.stop_signal
    signal.signal(signal.SIGTERM, lambda *_: None)  # not SIG_IGN, which the command would inherit
    signal.signal(stop_signal, lambda *_: sys.exit(128 + stop_signal))
    _prctl(_PR_SET_PDEATHSIG, stop_signal)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # a process that loses its parent becomes a child of this one
    if options.parent not in (None, os.getppid()):  # the parent died before prctl was called
        sys.exit(128 + stop_signal)
    process = None
    try:
        process = subprocess.Popen(
            options.command, close_fds=False, preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        )
        code = process.wait()
    finally:
        signal.signal(stop_signal, signal.SIG_IGN)
        _end_descendants(process.pid if process else None, options.grace)
    sys.exit(code if code >= 0 else 128 - code)


def _end_descendants(first: int | None, grace: float) -> None:
    """Terminate the process `first`, then all other descendants; kill those that run after `grace` seconds."""
    deadline = time.monotonic() + grace
    terminated: set[psutil.Process] = set()
    while running := [p for p in psutil.Process().children(recursive=True) if _is_running(p)]:
        is_late = time.monotonic() > deadline
        for process in running if is_late else [p for p in running if p.pid == first] or running:
            with suppress(psutil.NoSuchProcess):
                if is_late:
                    process.kill()
                elif process not in terminated:
                    process.terminate()
            terminated.add(process)
        psutil.wait_procs(running, timeout=0.1)


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value):
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


if __name__ == "__main__":
    main()

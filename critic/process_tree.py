"""Run a command, and let nothing of it outlive it: no child, no child's child, not even one in its own session.

    process = subprocess.Popen(keeper.command(["dvc", "repro"]), stdout=subprocess.PIPE)
    keeper.end(process)

When the command ends, when it is told to (SIGTERM), and when who started it dies, be it by SIGKILL, all that the
command has started is told to end, and killed if it hasn't within `GRACE`. A process group wouldn't do: torchrun's
workers, for one, leave it. Linux alone knows how (prctl).
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import psutil

GRACE = 10.0
"""Seconds to end by itself: fewer than the 30 s that Prefect gives a run that it cancels."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def command(kept: Sequence[str]) -> list[str]:
    """What to start in place of a command, for it to be kept by the process that this is called in."""
    return [sys.executable, __file__, str(os.getpid()), *kept]


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a kept command and all that it has started; it may have ended already."""
    process.terminate()
    try:
        process.wait(GRACE + 5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(parent: int, kept: list[str]) -> NoReturn:
    """Doesn't return: exits with the command's code, or 143 when told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # who loses its parent becomes a child of this
    if os.getppid() != parent:  # it died before it could be watched
        sys.exit(128 + signal.SIGTERM)
    try:
        code = subprocess.Popen(kept, close_fds=False).wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_descendants()
    sys.exit(code if code >= 0 else 128 - code)


def _end_descendants() -> None:
    """End all that this process has started, directly or not."""
    by_force = time.monotonic() + GRACE
    told: set[psutil.Process] = set()
    while left := [p for p in psutil.Process().children(recursive=True) if _lives(p)]:
        for process in left:
            try:
                if time.monotonic() > by_force:
                    process.kill()
                elif process not in told:
                    process.terminate()
            except psutil.NoSuchProcess:
                pass
            told.add(process)
        psutil.wait_procs(left, timeout=0.1)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value):
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

"""Run a command in a flow: its output is logged line by line, and it never outlives the flow.

The command and its children end with the flow, also when that is cancelled, times out or is killed together with
its worker (`critic.process_tree`).
"""

import re
import shlex
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import IO

from critic import process_tree

BAR_EVERY = 10.0
"""Seconds between two lines of a progress bar. All its states would be hundreds of lines."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PERCENT = re.compile(r"\b(\d{1,3})%\|")
_LAST = 20
"""The number of output lines that the error about a failed command repeats."""


class CommandError(RuntimeError):
    """A command failed. The message has its exit code and the end of its output."""


def run(
    command: Sequence[str],
    *,
    log: Callable[[str], None],
    progress: Callable[[float], None] = lambda percent: None,
    folder: Path | None = None,
    keep_open: Sequence[int] = (),
) -> list[str]:
    """Run a command to its end; return the last lines of its output.

    Args:
        log: called with each line, for a tqdm progress bar with a line every `BAR_EVERY` seconds and its last.
        progress: called as often with the bar's percentage, 0..100.
        keep_open: file descriptors that the command inherits.
    """
    process = subprocess.Popen(
        process_tree.command(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        pass_fds=keep_open,
        start_new_session=True,  # Ctrl-C ends the flow, and the flow ends the command
    )
    assert process.stdout is not None
    last: deque[str] = deque(maxlen=_LAST)
    try:
        for line in _lines(process.stdout):
            last.append(line)
            log(line)
            if bar := _PERCENT.search(line):
                progress(float(bar[1]))
        code = process.wait()
    finally:
        process_tree.end(process)
    if code:
        what = f"`{shlex.join(command)}` failed with exit code {code}"
        raise CommandError("\n".join([f"{what}. The end of its output:", *last]))
    return list(last)


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """The lines that have a text. One that ends in a carriage return is a state of a progress bar."""
    shown = float("-inf")
    for line in TextIOWrapper(stream, "utf-8", errors="replace", newline=""):
        text = _ESCAPES.sub("", line).rstrip()
        if text and line.endswith("\r"):
            if time.monotonic() - shown < BAR_EVERY:
                continue
            shown = time.monotonic()
        if text:
            yield text

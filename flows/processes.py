"""Commands whose output is told line by line while they run, and of which nothing is left when the flow ends.

    run(["dvc", "repro", "--single-item", "sft"], say=logger.info)

Whether the flow is cancelled, runs out of time, or is killed together with its worker: the command goes with it,
and all that it has started (`critic.process_tree`).
"""

import codecs
import os
import re
import shlex
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from critic import process_tree

BAR_EVERY = 10.0
"""Seconds between two looks at a progress bar, which would be hundreds of lines otherwise."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PERCENT = re.compile(r"\b(\d{1,3})%\|")
_TOLD = 20
"""Lines of a failed command's output that are told with its failure."""


class CommandError(RuntimeError):
    """A command failed; the message has its code and the end of its output."""


def run(
    command: Sequence[str],
    *,
    say: Callable[[str], None],
    progress: Callable[[float], None] = lambda percent: None,
    folder: Path | None = None,
    keep_open: Sequence[int] = (),
) -> list[str]:
    """Run a command to its end.

    Args:
        say: gets each line, and of a progress bar (tqdm's) what it shows every `BAR_EVERY` seconds and at last.
        progress: gets a bar's percentage, 0..100, as often.
        keep_open: file descriptors that stay open until nothing of the command is left.

    Returns:
        Its last lines.

    Raises:
        CommandError: it didn't end with code 0.
    """
    kept = subprocess.Popen(
        process_tree.command(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        pass_fds=keep_open,
        start_new_session=True,  # so that Ctrl-C ends the flow, and the flow ends this
    )
    assert kept.stdout is not None
    last: deque[str] = deque(maxlen=_TOLD)
    try:
        for line in _without_most_of_bars(_lines(kept.stdout)):
            last.append(line)
            say(line)
            if bar := _PERCENT.search(line):
                progress(float(bar[1]))
        code = kept.wait()
    finally:
        process_tree.end(kept)
    if code:
        raise CommandError(f"`{shlex.join(command)}` ended with code {code}:\n" + "\n".join(last))
    return list(last)


def _lines(stream: IO[bytes]) -> Iterator[tuple[str, bool]]:
    """Each line, and whether a carriage return ended it: it is then a state of a bar that goes on."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    while chunk := os.read(stream.fileno(), 2**16):
        *parts, rest = re.split(r"(\r\n|\r|\n)", rest + decoder.decode(chunk))
        if parts and parts[-1] == "\r" and not rest:  # perhaps half of \r\n
            rest = parts[-2] + parts[-1]
            parts = parts[:-2]
        for text, end in zip(parts[::2], parts[1::2], strict=True):
            if text := _ESCAPES.sub("", text).rstrip():
                yield text, end == "\r"
    if rest := _ESCAPES.sub("", rest).rstrip():
        yield rest, False


def _without_most_of_bars(lines: Iterator[tuple[str, bool]]) -> Iterator[str]:
    shown = float("-inf")
    for text, is_bar in lines:
        if not is_bar:
            yield text
        elif time.monotonic() - shown >= BAR_EVERY:
            shown = time.monotonic()
            yield text

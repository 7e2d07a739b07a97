"""A command's output is told while it runs, a progress bar's now and then, and a failure with its last words."""

import os
import sys
import time
from pathlib import Path

import pytest

from flows import processes
from flows.processes import CommandError, run


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def test_lines_are_told_as_they_come() -> None:
    told: list[tuple[float, str]] = []
    began = time.monotonic()
    run(
        python("import time\nprint('first'); time.sleep(1); print('second')"),
        say=lambda line: told.append((time.monotonic() - began, line)),
    )
    (first, one), (second, two) = told
    assert (one, two) == ("first", "second")
    assert second - first > 0.5


def test_both_streams_are_told_without_their_colours() -> None:
    told: list[str] = []
    run(
        python(r"import sys; print('\x1b[31mred\x1b[0m', flush=True); print('wrong', file=sys.stderr)"),
        say=told.append,
    )
    assert told == ["red", "wrong"]


def test_a_bar_is_told_now_and_then_and_its_percentage_goes_to_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BAR_EVERY", 0.5)
    told: list[str] = []
    percents: list[float] = []
    code = (
        "import sys, time\n"
        "for n in range(101):\n"
        "    sys.stderr.write(f'\\rstep: {n:3}%|####| {n}/100'); sys.stderr.flush(); time.sleep(0.02)\n"
        "sys.stderr.write('\\n')"
    )
    run(python(code), say=told.append, progress=percents.append)
    assert 2 <= len(told) < 20
    assert percents == sorted(percents) and percents[-1] == 100


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_lines_end_as_they_like(end: str) -> None:
    told: list[str] = []
    run(python(f"import sys; sys.stdout.write('one\\ntwo' + {end!r})"), say=told.append)
    assert told == ["one", "two"]


def test_half_a_character_at_the_end_of_a_chunk_waits_for_the_other() -> None:
    told: list[str] = []
    code = "import os, time\nos.write(1, b'\\xc3'); time.sleep(0.5); os.write(1, b'\\xa9t\\xc3\\xa9\\n')"
    run(python(code), say=told.append)
    assert told == ["été"]


def test_a_failure_has_the_code_and_the_last_words() -> None:
    with pytest.raises(CommandError, match=r"ended with code 3:\n(.*\n)*no such file"):
        run(python("print('no such file'); raise SystemExit(3)"), say=lambda line: None)


def test_descriptors_stay_open_until_the_command_has_ended(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        (inode,) = run(
            python(f"import os; print(os.fstat({file.fileno()}).st_ino)"),
            say=lambda line: None,
            keep_open=[file.fileno()],
        )
        assert int(inode) == os.fstat(file.fileno()).st_ino


def test_who_is_interrupted_leaves_nothing_running(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid())); print('begun'); time.sleep(600)"

    class Interrupted(Exception):
        pass

    def interrupt(line: str) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        run(python(code), say=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)

"""A command's output is logged while it runs, progress bars sparsely, and a failure has the end of the output."""

import os
import sys
import time
from pathlib import Path

import pytest

from flows import processes
from flows.processes import CommandError, run


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def test_lines_are_logged_as_they_come() -> None:
    logged: list[tuple[float, str]] = []
    began = time.monotonic()
    run(
        python("import time\nprint('first'); time.sleep(1); print('second')"),
        log=lambda line: logged.append((time.monotonic() - began, line)),
    )
    (first, one), (second, two) = logged
    assert (one, two) == ("first", "second")
    assert second - first > 0.5


def test_both_streams_are_logged_without_colours() -> None:
    logged: list[str] = []
    run(
        python(r"import sys; print('\x1b[31mred\x1b[0m', flush=True); print('wrong', file=sys.stderr)"),
        log=logged.append,
    )
    assert logged == ["red", "wrong"]


def test_a_bar_is_logged_sparsely_and_its_percentage_goes_to_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BAR_EVERY", 0.5)
    logged: list[str] = []
    percents: list[float] = []
    code = (
        "import sys, time\n"
        "for n in range(101):\n"
        "    sys.stderr.write(f'\\rstep: {n:3}%|####| {n}/100'); sys.stderr.flush(); time.sleep(0.02)\n"
        "sys.stderr.write('\\n')"
    )
    run(python(code), log=logged.append, progress=percents.append)
    assert 2 <= len(logged) < 20
    assert percents == sorted(percents) and percents[-1] == 100


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_any_line_ending_works(end: str) -> None:
    logged: list[str] = []
    run(python(f"import sys; sys.stdout.write('one\\ntwo' + {end!r})"), log=logged.append)
    assert logged == ["one", "two"]


def test_a_character_split_between_chunks_is_whole() -> None:
    logged: list[str] = []
    code = "import os, time\nos.write(1, b'\\xc3'); time.sleep(0.5); os.write(1, b'\\xa9t\\xc3\\xa9\\n')"
    run(python(code), log=logged.append)
    assert logged == ["été"]


def test_a_failure_has_the_exit_code_and_the_last_lines() -> None:
    with pytest.raises(
        CommandError, match=r"failed with exit code 3. The end of its output:\n(.*\n)*no such file"
    ):
        run(python("print('no such file'); raise SystemExit(3)"), log=lambda line: None)


def test_descriptors_stay_open_until_the_command_has_ended(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        (inode,) = run(
            python(f"import os; print(os.fstat({file.fileno()}).st_ino)"),
            log=lambda line: None,
            keep_open=[file.fileno()],
        )
        assert int(inode) == os.fstat(file.fileno()).st_ino


def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid())); print('begun'); time.sleep(600)"

    class Interrupted(Exception):
        pass

    def interrupt(line: str) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        run(python(code), log=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)

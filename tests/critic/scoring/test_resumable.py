"""Scoring into a file: after any interruption, the next run ends with the files of an uninterrupted one."""

import json
import multiprocessing
import os
import random
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import critic.files
import critic.scoring.resumable
from critic.edits import Edit
from critic.results import Failure, Result
from critic.scoring.inputs import Pairs
from critic.scoring.resumable import OutputError, Tally, results_to_table, score_to_file

SETTINGS = {"model": "sha256:00", "mode": "greedy", "seed": 7}
FAILING, BAD = {3, 8, 9, 20}, {0, 5, 9}
COUNT = 24
IDS = [f"{row:05d}" for row in range(COUNT)]


def _png(colour: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


ROWS = [
    {"source": _png("red"), "edited": _png("blue"), "instruction": "" if row in BAD else "make it blue"}
    for row in range(COUNT)
]
PAIRS = Pairs("pairs.csv", IDS, ROWS, Path())
"""24 pairs in memory; those of `BAD` have no instruction."""


def judge(edits: Sequence[Edit]) -> list[Result]:
    """A score that depends on the pair alone; those of `FAILING` have none."""
    return [
        Result(id=edit.id, score=None, status=Failure.TIMED_OUT, detail="slow")
        if int(edit.id) in FAILING
        else Result(id=edit.id, score=1 + int(edit.id) / 10, status="ok", reasoning="naïve\u2028\n\ud800")
        for edit in edits
    ]


def recover(edits: Sequence[Edit]) -> list[Result]:
    """The same without failures."""
    return [Result(id=edit.id, score=1 + int(edit.id) / 10, status="ok") for edit in edits]


class Counting:
    """A judge that counts how often it was asked about each pair."""

    def __init__(self, judge: Callable[[Sequence[Edit]], list[Result]] = judge):
        self.judge, self.asked, self.sizes = judge, Counter[str](), list[int]()

    def __call__(self, edits: Sequence[Edit]) -> list[Result]:
        self.asked.update(edit.id for edit in edits)
        self.sizes.append(len(edits))
        return self.judge(edits)


def score(out: Path, by: Any = judge, batch_size: int = 4, pairs: Pairs = PAIRS, **options: Any) -> Tally:
    return score_to_file(pairs, lambda: by, out, SETTINGS, batch_size=batch_size, **options)


def contents(out: Path) -> dict[str, bytes]:
    """All files of a run by the ends of their names."""
    return {file.name.partition(".")[2]: file.read_bytes() for file in sorted(out.parent.glob(f"{out.stem}.*"))}


def ids(file: Path) -> list[int]:
    return [int(json.loads(line)["id"]) for line in file.read_bytes().splitlines()]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "scores.jsonl"


# --- one run


def test_scores_go_into_one_file_and_failures_into_another(out: Path) -> None:
    tally = score(out)
    without = sorted(FAILING | BAD)
    assert ids(out) == [row for row in range(COUNT) if row not in without]
    failures = out.with_name("scores.failures.jsonl")
    assert ids(failures) == without
    first = Result.from_json(failures.read_text(encoding="utf-8").splitlines()[0])
    assert first == Result("00000", None, Failure.BAD_INPUT, "the instruction is empty")
    assert (tally.scored, tally.failed) == (COUNT - 6, {Failure.BAD_INPUT: 3, Failure.TIMED_OUT: 3})
    assert (tally.skipped, tally.skipped_failures) == (0, 0)
    assert json.loads(out.with_name("scores.run.json").read_text()) == SETTINGS | {
        "pairs": str(Path("pairs.csv").absolute()),
        "picture_rules": 2,
    }


def test_a_tally_is_told_in_a_line_and_one_more_for_each_failure() -> None:
    tally = Tally(18, Counter(bad_input=1, timed_out=3), 5, 2, seconds=11.0)
    assert tally.describe().splitlines() == [
        "18 scored, 4 failed in 11.0 s, 2.00 edits/s; 5 were scored before, 2 had failed before",
        "  3 x timed_out",
        "  1 x bad_input",
    ]


def test_a_finished_run_asks_nothing_and_changes_nothing(out: Path) -> None:
    score(out)
    before, counting = contents(out), Counting()
    tally = score(out, counting)
    assert contents(out) == before
    assert not counting.asked
    assert (tally.scored, tally.failed, tally.skipped, tally.skipped_failures) == (0, {}, COUNT - 6, 6)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 24, 100])
def test_the_size_of_batches_changes_no_byte(out: Path, size: int) -> None:
    score(out)
    counting = Counting()
    score(out.with_name("other.jsonl"), counting, batch_size=size)
    assert contents(out.with_name("other.jsonl")) == contents(out)
    assert max(counting.sizes) <= size
    assert {*counting.asked.values()} == {1}


def test_a_limit_scores_the_first_and_can_be_lifted(out: Path) -> None:
    counting = Counting()
    assert score(out, counting, limit=6).scored == 3
    assert sorted(counting.asked) == ["00001", "00002", "00003", "00004"]
    score(out, counting)
    assert {*counting.asked.values()} == {1}
    score(out.with_name("other.jsonl"))
    assert contents(out) == contents(out.with_name("other.jsonl"))


def test_one_batch_is_made_while_the_one_before_is_scored_and_no_more(out: Path) -> None:
    made: list[tuple[int, str]] = []

    class Rows:
        def __getitem__(self, row: int) -> Any:
            made.append((row, threading.current_thread().name))
            return ROWS[row]

    ahead: list[int] = []

    def slow(edits: Sequence[Edit]) -> list[Result]:
        time.sleep(0.05)
        ahead.append(len(made))
        return judge(edits)

    score(out, slow, pairs=Pairs("pairs.csv", IDS, Rows(), Path()))
    assert [row for row, _ in made] == [*range(COUNT)]
    assert ahead == [8, 12, 16, 20, 24, 24]
    assert all(thread.startswith("decode") for _, thread in made)


def test_the_judge_is_opened_once_and_only_for_what_is_left(out: Path) -> None:
    opened: list[str] = []

    def open_judge() -> Any:
        assert json.loads(out.with_name("scores.run.json").read_text())["mode"] == "greedy"
        opened.append("judge")
        return judge

    for _ in range(2):
        score_to_file(PAIRS, open_judge, out, SETTINGS, batch_size=4)
    assert opened == ["judge"]


def test_opening_the_judge_is_not_in_the_rate(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def open_judge() -> Any:
        time.sleep(1.1)
        return judge

    assert score_to_file(PAIRS, open_judge, out, SETTINGS, batch_size=COUNT).seconds < 1
    assert "24/24 [00:00<" in capsys.readouterr().err


def test_a_judge_that_answers_something_else_is_stopped(out: Path) -> None:
    with pytest.raises(RuntimeError, match="the judge gave 2 results for 3 edits, or in another order"):
        score(out, lambda edits: judge(edits)[1:])
    with pytest.raises(RuntimeError, match="or in another order"):
        score(out, lambda edits: judge(edits)[::-1])
    assert ids(out) == []


# --- runs that end early


def test_what_the_judge_raises_ends_the_run_and_the_batches_before_stay(out: Path) -> None:
    def breaks(edits: Sequence[Edit]) -> list[Result]:
        if edits[0].id == "00010":
            raise KeyboardInterrupt
        return judge(edits)

    batches = Counting(breaks)
    with pytest.raises(KeyboardInterrupt):
        score(out, batches, batch_size=5)
    assert ids(out) == [1, 2, 4, 6, 7]
    assert ids(out.with_name("scores.failures.jsonl")) == [0, 3, 5, 8, 9]


class Killed(BaseException):
    """What a SIGKILL is here: no more bytes reach the disk."""


def kill_after(count: int, patch: pytest.MonkeyPatch) -> None:
    """Raise once this many more bytes are written."""
    left = count

    def append(file: Any, lines: Any) -> None:
        nonlocal left
        content = b"".join(lines)
        file.write(content[: max(left, 0)])
        file.flush()
        left -= len(content)
        if left < 0:
            raise Killed

    def replace(path: Path, content: bytes) -> None:
        nonlocal left
        left -= len(content)
        if left < 0:
            raise Killed
        path.write_bytes(content)

    patch.setattr(critic.scoring.resumable, "_append", append)
    patch.setattr(critic.scoring.resumable, "write_bytes", replace)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(0, 5000), min_size=1, max_size=3), sizes=st.lists(st.integers(1, 9), min_size=4))
def test_a_kill_after_any_byte_changes_no_byte_of_the_end(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    out, whole = folder / "scores.jsonl", folder / "whole.jsonl"
    score(whole)
    for kill, size in zip(kills, sizes, strict=False):
        with pytest.MonkeyPatch.context() as patch:
            kill_after(kill, patch)
            with suppress(Killed):
                score(out, batch_size=size)
    score(out, batch_size=sizes[-1])
    assert contents(out) == contents(whole)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kill=st.integers(0, 1500), size=st.integers(1, 9))
def test_a_kill_during_a_retry_loses_no_result(
    tmp_path_factory: pytest.TempPathFactory, kill: int, size: int
) -> None:
    out = tmp_path_factory.mktemp("retried") / "scores.jsonl"
    score(out)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(kill, patch)
        with suppress(Killed):
            score(out, recover, size, retry_failed=True)
    assert {*results_to_table(out)["id"]} == {*IDS}
    score(out, recover, size, retry_failed=True)
    assert ids(out.with_name("scores.failures.jsonl")) == sorted(BAD)
    assert sorted(ids(out)) == [row for row in range(COUNT) if row not in BAD]


def _slowly(out: Path) -> None:
    """The run that is killed: a judge that takes its time."""

    def slow(edits: Sequence[Edit]) -> list[Result]:
        time.sleep(0.1)
        return judge(edits)

    score(out, slow, batch_size=1)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_is_killed_five_times_ends_as_one_that_was_not(out: Path) -> None:
    score(out.with_name("whole.jsonl"))
    moments = random.Random(7)
    for _ in range(5):
        process = multiprocessing.get_context("fork").Process(target=_slowly, args=(out,))
        process.start()
        process.join(moments.uniform(0.1, 0.4))
        process.kill()
        process.join()
        assert process.exitcode == -9
    done = len(results_to_table(out))
    assert 0 < done < COUNT
    counting = Counting()
    score(out, counting, batch_size=1)
    assert len(counting.asked) <= COUNT - done
    assert contents(out) == contents(out.with_name("whole.jsonl"))


@pytest.mark.parametrize("end", [b'{"id": "00023", "sco', b"\0" * 300, b"\xff\n", b"[]\n"])
def test_a_last_line_that_is_no_result_is_cut_off(out: Path, end: bytes) -> None:
    score(out)
    before = contents(out)
    for file in (out, out.with_name("scores.failures.jsonl")):
        file.write_bytes(file.read_bytes() + end)
    score(out)
    assert contents(out) == before


@pytest.mark.parametrize("torn", [1, 2, 40])
def test_a_last_line_without_its_end_is_scored_again(out: Path, torn: int) -> None:
    score(out)
    before = contents(out)
    for file in (out, out.with_name("scores.failures.jsonl")):
        file.write_bytes(file.read_bytes()[:-torn])
    assert score(out).skipped == COUNT - 7
    assert contents(out) == before


def test_another_line_that_is_no_result_is_named_and_stays(out: Path) -> None:
    score(out)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join([lines[0], b"{}\n", *lines[1:]]))
    before = contents(out)
    for read in (lambda: score(out), lambda: results_to_table(out)):
        with pytest.raises(
            OutputError, match=r"scores\.jsonl, line 2 is not a result: .*: remove it, and run again"
        ):
            read()
    assert contents(out) == before


# --- failures once more


def test_a_retry_asks_about_failures_alone_and_keeps_those_that_fail_again(out: Path) -> None:
    score(out)
    before = contents(out)

    def partly(edits: Sequence[Edit]) -> list[Result]:
        return [
            result if result.id != "00008" else Result(result.id, None, "truncated") for result in recover(edits)
        ]

    counting = Counting(partly)
    tally = score(out, counting, retry_failed=True)
    assert sorted(counting.asked) == ["00003", "00008", "00020"]
    assert (tally.scored, tally.skipped, tally.skipped_failures) == (2, COUNT - 6, 0)
    assert tally.failed == {"truncated": 1, Failure.BAD_INPUT: 3}
    assert out.read_bytes().startswith(before["jsonl"]) and ids(out)[-2:] == [3, 20]
    table = results_to_table(out).set_index("id")
    assert ids(out.with_name("scores.failures.jsonl")) == [0, 5, 8, 9]
    assert table["status"]["00008"] == "truncated"


def test_a_retry_that_leaves_no_failures_leaves_no_file_of_them(out: Path) -> None:
    pairs = Pairs("pairs.csv", IDS, [row | {"instruction": "make it blue"} for row in ROWS], Path())
    score(out, pairs=pairs)
    assert ids(out.with_name("scores.failures.jsonl")) == sorted(FAILING)
    score(out, recover, pairs=pairs, retry_failed=True)
    assert [*contents(out)] == ["jsonl", "run.json"]


def test_an_id_that_is_there_twice_is_not_hidden(out: Path) -> None:
    score(out, limit=5)
    out.write_bytes(out.read_bytes() * 2)
    assert results_to_table(out)["id"].duplicated().sum() == 3


def test_the_failures_of_before_stay_until_the_new_file_takes_their_place(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*paths: Path) -> None:
        raise Killed

    score(out)
    before = contents(out)["failures.jsonl"]
    with monkeypatch.context() as patch:
        patch.setattr(critic.files.os, "replace", killed)
        with pytest.raises(Killed):
            score(out, recover, retry_failed=True)
    assert contents(out)["failures.jsonl"].startswith(before)
    assert score(out).skipped_failures == len(BAD)
    assert ids(out.with_name("scores.failures.jsonl")) == sorted(BAD)


def test_new_pairs_are_scored_in_a_retry_too(out: Path) -> None:
    score(out, limit=4)
    score(out, recover, retry_failed=True)
    assert ids(out) == [1, 2, 3, *(row for row in range(4, COUNT) if row not in BAD)]


# --- what is never mixed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "average"}, 'mode was "greedy" and is "average"'),
        ({"samples": 4}, "samples was not set and is 4"),
        ({"seed": None}, "seed was 7 and is null"),
    ],
)
def test_other_settings_are_refused(out: Path, change: dict[str, Any], message: str) -> None:
    score(out, limit=5)
    before = contents(out)
    with pytest.raises(
        OutputError, match=rf"started with other settings: {message}\. Use .*, or choose another --out"
    ):
        score_to_file(PAIRS, lambda: judge, out, SETTINGS | change, batch_size=4)
    assert contents(out) == before


def test_a_file_of_a_version_with_other_rules_for_pictures_is_refused(out: Path) -> None:
    score(out, limit=5)
    record = out.with_name("scores.run.json")
    settings = json.loads(record.read_text())
    del settings["picture_rules"]
    record.write_text(json.dumps(settings))
    before = contents(out)
    with pytest.raises(
        OutputError, match=r"other settings: picture_rules was not set and is 2\. .* choose another --out"
    ):
        score(out)
    assert contents(out) == before


def test_pairs_from_elsewhere_are_refused(out: Path) -> None:
    score(out, limit=5)
    with pytest.raises(OutputError, match=r'pairs was "/.*pairs\.csv" and is "/.*other\.csv"'):
        score(out, pairs=Pairs("other.csv", IDS, ROWS, Path()))


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "notes.jsonl"
    out.write_text("half a line")
    with pytest.raises(OutputError, match=r"is there, but no .*notes\.run\.json with its settings: choose"):
        score(out)
    assert contents(out) == {"jsonl": b"half a line"}
    with pytest.raises(OutputError, match=r"scores\.csv is not a \.jsonl file: give --out a name that ends"):
        score(tmp_path / "scores.csv")
    (tmp_path / "notes.run.json").write_text("[1]")
    with pytest.raises(OutputError, match=r"notes\.run\.json can't be read"):
        score(out)


def test_two_processes_can_not_write_one_file(out: Path) -> None:
    def meddle(edits: Sequence[Edit]) -> list[Result]:
        with pytest.raises(OutputError, match=r"scores\.jsonl is being written by another process: wait for it"):
            score(out)
        return judge(edits)

    assert score(out, meddle).scored == COUNT - 6
    assert score(out).skipped == COUNT - 6


# --- files that can't be written


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link to a device"])
def test_what_is_not_a_regular_file_is_refused_and_left_alone(out: Path, kind: str) -> None:
    out.parent.mkdir()
    {"FIFO": os.mkfifo, "folder": os.mkdir, "link to a device": lambda path: path.symlink_to("/dev/full")}[kind](
        out
    )
    before = out.lstat()
    with pytest.raises(OutputError, match=r"scores\.jsonl is not a regular file"):
        score(out)
    assert out.lstat() == before
    assert os.listdir(out.parent) == [out.name]


def test_standard_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"/dev/stdout is not a \.jsonl file"):
        score(Path("/dev/stdout"))


def test_a_link_is_followed_and_stays(out: Path, tmp_path: Path) -> None:
    out.parent.mkdir()
    out.symlink_to(tmp_path / "elsewhere.jsonl")
    score(out)
    score(out, recover, retry_failed=True)
    assert out.is_symlink()
    assert len(ids(tmp_path / "elsewhere.jsonl")) == COUNT - len(BAD)


def test_a_folder_that_cant_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/scores\.jsonl can't be written: (Not a direct|File exists)"):
        score(tmp_path / "file/scores.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(out: Path) -> None:
    out.parent.mkdir(mode=0o500)
    with pytest.raises(OutputError, match=r"scores\.jsonl can't be written: Permission denied\. Choose a folder"):
        score(out)


def test_a_full_disk_ends_the_run_and_the_next_one_continues(out: Path) -> None:
    score(out)
    whole = contents(out)
    for file in out.parent.iterdir():
        file.unlink()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limit[1]))
    try:
        with pytest.raises(OutputError, match=r"scores\.jsonl can't be written: File too large\. Free some space"):
            score(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert 0 < out.stat().st_size <= 1500
    score(out)
    assert contents(out) == whole


# --- reading


def test_a_table_has_the_scores_and_then_the_failures(out: Path) -> None:
    score(out)
    out.write_bytes(out.read_bytes() + b'{"id": "half')
    table = results_to_table(out)
    assert len(table) == COUNT
    assert table["score"].notna().sum() == COUNT - 6
    assert [*table["id"][-6:]] == [f"{row:05d}" for row in sorted(FAILING | BAD)]
    assert [*table["status"][-2:]] == ["bad_input", "timed_out"]
    assert table["reasoning"][0] == "naïve\u2028\n?"
    assert "latency" not in table


def test_a_table_of_nothing_has_the_columns(out: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no .*scores\.jsonl"):
        results_to_table(out)
    score(out, limit=0)
    assert [*results_to_table(out)][:3] == ["id", "score", "status"]

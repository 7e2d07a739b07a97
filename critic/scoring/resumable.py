"""Score many pairs into a file, so that a kill at any moment costs no more than the batch that was being scored.

    tally = score_to_file(read_pairs(Path("pairs.csv")), open_judge, Path("scores.jsonl"), settings, batch_size=16)
    print(tally.describe())
    table = results_to_table(Path("scores.jsonl"))

`scores.jsonl` gets a line a verdict that has a score, `scores.failures.jsonl` one a verdict that hasn't, both in
the order of the pairs; `scores.run.json` says what they were begun with. Called again with the same, it goes on
with the pairs that are in neither file, and ends with the bytes that an uninterrupted run would have written.
"""

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pandas as pd
from tqdm import tqdm

from critic.edits import Edit
from critic.results import Failure, Result
from critic.scoring.inputs import BadPair, Pairs

Judge = Callable[[Sequence[Edit]], list[Result]]
"""Scores a batch: one verdict an item, in order, whatever becomes of it."""

Judged = Callable[[Sequence[int]], Generator[list[Result], None, None]]
"""Scores rows by their numbers, one at least: the verdicts of all, in order, some at a time. Closed where a run
ends early. What is opened by the call itself is not in a run's rate."""

_Batch = list[Edit | BadPair]


class OutputError(ValueError):
    """Files of verdicts that can't be written or read; the message names the file and what to do."""


@dataclass
class Tally:
    """What a run of `score_to_file` came to.

    Attributes:
        scored: pairs that got a score.
        failed: pairs that got none, by status.
        skipped: pairs whose score was there already.
        skipped_failures: pairs left alone that had failed before.
        seconds: of wall clock, without those that it took to open the judge.
    """

    scored: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    skipped_failures: int = 0
    seconds: float = 0.0

    def describe(self) -> str:
        """For the end: a line, and one more for each status of failures."""
        rate = f", {(self.scored + self.failed.total()) / self.seconds:.2f} edits/s" if self.seconds else ""
        lines = [f"{self.scored} scored, {self.failed.total()} failed in {self.seconds:.1f} s{rate}"]
        if self.skipped or self.skipped_failures:
            lines[0] += f"; {self.skipped} were scored before, {self.skipped_failures} had failed before"
        return "\n".join([*lines, *(f"  {count} x {status}" for status, count in self.failed.most_common())])


def score_to_file(
    pairs: Pairs,
    open_judge: Callable[[], Judge],
    out: Path,
    settings: Mapping[str, Any],
    *,
    batch_size: int,
    retry_failed: bool = False,
    limit: int | None = None,
) -> Tally:
    """Score the pairs that `out` and the file of failures beside it don't have yet.

    A pair is known by its id. The next batch is read and decoded while the judge works, so two batches of decoded
    pictures (3 bytes a pixel) are in memory.

    Args:
        pairs: to score; a `BadPair` becomes a verdict of `Failure.BAD_INPUT`.
        open_judge: called once it is clear that `out` can be written and that there is something to score; what it
            or the judge raises ends the run, and the batches before stay.
        out: a .jsonl file, begun by this function or not there.
        settings: all that a verdict depends on (model, contract, mode, seed...), as JSON. Kept with where the
            pairs are from; verdicts of other settings are never mixed in.
        batch_size: so many rows at a time.
        retry_failed: score those that failed before again. Their old verdicts stay until there is a new one.
        limit: only the first so many pairs.

    Raises:
        OutputError: as `results_to_file`.
        SourceError: the pairs can't be read any more.
    """

    def judged(rows: Sequence[int]) -> Generator[list[Result], None, None]:
        return _judged(pairs, rows, open_judge(), batch_size)

    return results_to_file(pairs, judged, out, settings, retry_failed=retry_failed, limit=limit)


def results_to_file(
    pairs: Pairs,
    judged: Judged,
    out: Path,
    settings: Mapping[str, Any],
    *,
    retry_failed: bool = False,
    limit: int | None = None,
) -> Tally:
    """As `score_to_file`, whoever reads the pairs and scores them: `judged` is given the numbers of their rows.

    Raises:
        OutputError: `out` is no .jsonl file, was written by something else, was begun with other settings, is
            being written by another process, or a line of it is no verdict.
        RuntimeError: the verdicts aren't one a row, in the rows' order; those before stay.
    """
    with _Files(out, {"pairs": str(Path(pairs.where).absolute()), **settings}) as files:
        rows = range(len(pairs))[:limit]
        scored = sum(pairs.ids[row] in files.scored for row in rows)
        todo = [
            row
            for row in rows
            if pairs.ids[row] not in files.scored and (retry_failed or pairs.ids[row] not in files.failures)
        ]
        tally = Tally(skipped=scored, skipped_failures=len(rows) - scored - len(todo))
        if not todo:
            return tally
        left = iter([pairs.ids[row] for row in todo])
        coming = judged(todo)
        started = time.monotonic()
        with (
            closing(coming) as batches,
            tqdm(total=len(rows), initial=len(rows) - len(todo), desc="scoring", unit=" edits") as bar,
        ):
            for verdicts in batches:
                if [verdict.id for verdict in verdicts] != [*islice(left, len(verdicts))]:
                    raise RuntimeError("the verdicts are not of the rows that were asked for, in their order")
                files.add(verdicts)
                tally.scored += sum(verdict.ok for verdict in verdicts)
                tally.failed.update(str(verdict.status) for verdict in verdicts if not verdict.ok)
                bar.update(len(verdicts))
                bar.set_postfix(failed=tally.failed.total(), refresh=False)
        if (id := next(left, None)) is not None:
            raise RuntimeError(f"there is no verdict of {id} and those after it")
    tally.seconds = time.monotonic() - started
    return tally


def judge_batch(batch: Sequence[Edit | BadPair], judge: Judge) -> list[Result]:
    """The verdicts of a batch, in its order; a `BadPair` becomes one of `Failure.BAD_INPUT`.

    Raises:
        RuntimeError: the judge didn't give one verdict an edit, in order.
    """
    items = [pair for pair in batch if not isinstance(pair, BadPair)]
    verdicts = judge(items) if items else []
    if [verdict.id for verdict in verdicts] != [item.id for item in items]:
        raise RuntimeError(f"the judge gave {len(verdicts)} verdicts of {len(items)} edits, or in another order")
    judged = iter(verdicts)
    return [
        Result(id=pair.id, score=None, status=Failure.BAD_INPUT, detail=pair.detail)
        if isinstance(pair, BadPair)
        else next(judged)
        for pair in batch
    ]


def results_to_table(out: Path) -> pd.DataFrame:
    """The verdicts of a file that `score_to_file` wrote, then the failures from beside it: see the column status.

    A run may be writing them meanwhile. Columns are a `Result`'s fields but the latency; score is NaN where there
    is none.

    Raises:
        OutputError: there is no such file, or a line of it is no verdict.
    """
    if not out.exists():
        raise OutputError(f"there is no {out}: give the file of `critic score --out`")
    verdicts = [verdict for verdict, _ in _read(out)]
    scored = {verdict.id for verdict in verdicts}
    failures = {verdict.id: verdict for verdict, _ in _read(_beside(out, "failures.jsonl"))}
    verdicts += [verdict for id, verdict in failures.items() if id not in scored]
    names = [field.name for field in fields(Result) if field.name != "latency"]
    table = pd.DataFrame([asdict(verdict) for verdict in verdicts], columns=names)
    return table.astype({"score": float, "argmax": float, "spread": float})


class _Files:
    """The file of scores, that of failures and the record of a run, held by this process alone.

    Attributes:
        scored: ids in the file of scores.
        failures: the last line of each id in the file of failures, in its order.
    """

    def __init__(self, out: Path, record: Mapping[str, Any]):
        if out.suffix != ".jsonl":
            raise OutputError(f"{out} is no .jsonl file: give such a name; results_to_table reads it as a table")
        self._out, self._failures = out, _beside(out, "failures.jsonl")
        out.parent.mkdir(parents=True, exist_ok=True)
        self._scores = out.open("ab")
        try:
            _lock(self._scores, out)
            _check_record(out, self._failures, json.loads(json.dumps(record)))
            self.scored = {verdict.id for verdict, _ in _read_whole(out)}
            self.failures: dict[str, bytes] = {}
            self._superseded = False
            for verdict, line in _read_whole(self._failures):
                self._superseded |= verdict.id in self.failures or verdict.id in self.scored
                self.failures[verdict.id] = line
            self._settle()
        except BaseException:
            self._scores.close()
            raise

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *error: object) -> None:
        with self._scores:
            self._settle()

    def add(self, verdicts: Sequence[Result]) -> None:
        """Write a batch down, to the disk itself, each file in the batch's order."""
        failures = {verdict.id: _line(verdict) for verdict in verdicts if not verdict.ok}
        scores = {verdict.id: _line(verdict) for verdict in verdicts if verdict.ok}
        self._superseded |= any(verdict.id in self.failures for verdict in verdicts)
        if failures:
            with self._failures.open("ab") as file:
                _append(file, failures.values())
        _append(self._scores, scores.values())
        self.failures |= failures
        self.scored |= scores.keys()

    def _settle(self) -> None:
        """Take those failures out that have a later verdict, and the file if none is left."""
        left = [line for id, line in self.failures.items() if id not in self.scored]
        if not left:
            self._failures.unlink(missing_ok=True)
        elif self._superseded:
            _replace(self._failures, b"".join(left))
        self._superseded = False


def _beside(out: Path, ending: str) -> Path:
    return out.with_suffix(f".{ending}")


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"{path} is being written by another process: wait for it, or choose another --out"
        ) from None


def _check_record(out: Path, failures: Path, now: dict[str, Any]) -> None:
    path = _beside(out, "run.json")
    ours = f"choose another --out, or delete {out}, {failures} and {path} to begin anew"
    if not path.exists():
        if any(file.exists() and file.stat().st_size for file in (out, failures)):
            raise OutputError(f"{out} or {failures} is there, and no {path} that says how it was made: {ours}")
        _replace(path, json.dumps(now, indent=2).encode() + b"\n")
        return
    try:
        begun = dict(json.loads(path.read_bytes()))
    except (TypeError, ValueError) as error:
        raise OutputError(f"{path} can't be read ({error}): {ours}") from None
    absent = object()
    other = [name for name in {**begun, **now} if begun.get(name, absent) != now.get(name, absent)]
    if other:
        changes = "; ".join(f"{name} was {_shown(begun, name)} and is {_shown(now, name)}" for name in other)
        raise OutputError(f"{out} was begun with other settings: {changes}. Go on with the same, or {ours}")


def _shown(record: Mapping[str, Any], name: str) -> str:
    return json.dumps(record[name]) if name in record else "not set"


def _read(path: Path) -> Iterator[tuple[Result, bytes]]:
    """The verdicts of a file with their lines, but for a last line that is not whole; none if there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        following = file.readline()
        number = 0
        while line := following:
            following, number = file.readline(), number + 1
            try:
                verdict = Result.from_json(line.decode())
            except ValueError as error:
                if not following:
                    return
                raise OutputError(f"{path}, line {number} is {error}: remove it, and run again") from None
            if line.endswith(b"\n"):
                yield verdict, line


def _read_whole(path: Path) -> Iterator[tuple[Result, bytes]]:
    """As `_read`, and a last line that is not whole is then cut off."""
    whole = 0
    for verdict, line in _read(path):
        whole += len(line)
        yield verdict, line
    if path.exists():
        os.truncate(path, whole)


def _line(verdict: Result) -> bytes:
    """A line of JSON; half of a surrogate pair, which no text can have, becomes a question mark."""
    return verdict.to_json().encode("utf-8", "replace") + b"\n"


def _append(file: IO[bytes], lines: Iterable[bytes]) -> None:
    file.write(b"".join(lines))
    file.flush()
    os.fsync(file.fileno())


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        _append(file, [content])
    os.replace(partial, path)


def _judged(
    pairs: Pairs, rows: Sequence[int], judge: Judge, batch_size: int
) -> Generator[list[Result], None, None]:
    with _ahead(_batches(pairs, rows, batch_size)) as batches:
        for batch in batches:
            yield judge_batch(batch, judge)


def _batches(pairs: Pairs, rows: Sequence[int], size: int) -> Iterator[_Batch]:
    for start in range(0, len(rows), size):
        yield [pairs[row] for row in rows[start : start + size]]


@contextmanager
def _ahead(batches: Iterator[_Batch]) -> Iterator[Iterator[_Batch]]:
    """Batches, each made in a thread while the one before is in use."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as pool:

        def made() -> Iterator[_Batch]:
            coming = pool.submit(next, batches, None)
            while batch := coming.result():
                coming = pool.submit(next, batches, None)
                yield batch

        yield made()

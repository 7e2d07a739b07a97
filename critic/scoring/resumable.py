"""Score many pairs into a file. A kill at any moment costs no more than the batch that was being scored.

    tally = score_to_file(read_pairs(Path("pairs.csv")), open_judge, Path("scores.jsonl"), settings, batch_size=16)
    print(tally.describe())
    table = results_to_table(Path("scores.jsonl"))

`scores.jsonl` gets a line for each result with a score, `scores.failures.jsonl` a line for each without, both in
the order of the pairs; `scores.run.json` holds the settings. Called again with the same settings, a run continues
with the pairs that are in neither file, and ends with the bytes that an uninterrupted run would have written.
"""

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import pandas as pd
from tqdm import tqdm

from critic.edits import Edit
from critic.files import OutputError, output_errors, write_bytes, write_json
from critic.results import BadPair, Result, score_batch

PICTURE_RULES = 2
"""The version of `critic.pictures`' rules, kept with a run; increase it when a file gives other pixels."""


class Pairs(Protocol):
    """What to score, as `critic.scoring.inputs.Pairs`: the file it is from, and pairs and their ids by number."""

    @property
    def where(self) -> str: ...
    @property
    def ids(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> Edit | BadPair: ...


ScoreBatch = Callable[[Sequence[Edit]], list[Result]]
"""Scores a batch: one result for each edit, in order."""

ScoreRows = Callable[[Sequence[int]], Generator[list[Result], None, None]]
"""Scores rows, given their numbers (at least one): yields the results of all, in order, some at a time. It is
closed if a run ends early. The call itself loads the model, so that a run's rate doesn't count that time."""


@dataclass
class Tally:
    """The counts of a run of `score_to_file`: pairs that got a score, and those that got none, by status.

    `skipped` counts pairs whose score was there already, `skipped_failures` those that had failed before and were
    left alone. `seconds` is the wall-clock time without loading the model.
    """

    scored: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    skipped_failures: int = 0
    seconds: float = 0.0

    def describe(self) -> str:
        """A summary line, and one more line for each status of failures."""
        rate = f", {(self.scored + self.failed.total()) / self.seconds:.2f} edits/s" if self.seconds else ""
        lines = [f"{self.scored} scored, {self.failed.total()} failed in {self.seconds:.1f} s{rate}"]
        if self.skipped or self.skipped_failures:
            lines[0] += f"; {self.skipped} were scored before, {self.skipped_failures} had failed before"
        return "\n".join([*lines, *(f"  {count} x {status}" for status, count in self.failed.most_common())])


def score_to_file(
    pairs: Pairs,
    open_judge: Callable[[], ScoreBatch],
    out: Path,
    settings: Mapping[str, Any],
    *,
    batch_size: int,
    retry_failed: bool = False,
    limit: int | None = None,
) -> Tally:
    """Score the pairs that are not yet in `out` or in the file of failures beside it.

    A pair is identified by its id. The next batch is decoded while the judge works, so two batches of decoded
    pictures (3 bytes a pixel) are in memory.

    Args:
        open_judge: called once `out` is open and there is something to score. An exception of it or of the judge
            ends the run; the batches before it stay.
        out: a .jsonl file that this function wrote, or a new one.
        settings: everything that a result depends on (model, contract, mode, seed...), as JSON. It is stored with
            the path of the pairs and `PICTURE_RULES`; results of different settings are never mixed.
        batch_size: rows at a time.
        retry_failed: score pairs that failed before again. Their old results stay until there is a new one.
        limit: score only the first N pairs.

    Raises:
        OutputError: as `results_to_file`.
        TableError: the pairs can't be read any more.
    """
    return results_to_file(
        pairs,
        lambda rows: _score_rows(pairs, rows, open_judge(), batch_size),
        out,
        settings,
        retry_failed=retry_failed,
        limit=limit,
    )


def results_to_file(
    pairs: Pairs,
    score_rows: ScoreRows,
    out: Path,
    settings: Mapping[str, Any],
    *,
    retry_failed: bool = False,
    limit: int | None = None,
) -> Tally:
    """As `score_to_file`, with a function that reads the pairs and scores them itself.

    Raises:
        OutputError: `out` is not a .jsonl file, can't be written, was written by something else or with other
            settings, is being written by another process, or has a line that is not a result.
        RuntimeError: the results aren't one for each row, in the rows' order; those before stay.
    """
    inputs = {"pairs": str(Path(pairs.where).absolute()), "picture_rules": PICTURE_RULES}
    with _Files(out, {**inputs, **settings}) as files:
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
        coming = score_rows(todo)
        started = time.monotonic()
        with (
            closing(coming) as batches,
            tqdm(total=len(rows), initial=len(rows) - len(todo), desc="scoring", unit=" edits") as bar,
        ):
            for results in batches:
                if [result.id for result in results] != [*islice(left, len(results))]:
                    raise RuntimeError("the results are not those of the given rows, in their order")
                files.add(results)
                tally.scored += sum(result.ok for result in results)
                tally.failed.update(str(result.status) for result in results if not result.ok)
                bar.update(len(results))
                bar.set_postfix(failed=tally.failed.total(), refresh=False)
        if (id := next(left, None)) is not None:
            raise RuntimeError(f"the results of {id} and of the edits after it are missing")
    tally.seconds = time.monotonic() - started
    return tally


def results_to_table(out: Path) -> pd.DataFrame:
    """The results of a file that `score_to_file` wrote, then the failures from the file beside it.

    A run may be writing them at the same time. The columns are the fields of `Result` without the latency; score
    is NaN for failures.

    Raises:
        OutputError: the file isn't there, or has a line that is not a result.
    """
    names = [field.name for field in fields(Result) if field.name != "latency"]
    table = pd.DataFrame([asdict(result) for result in all_results(out)], columns=names)
    return table.astype({"score": float, "argmax": float, "spread": float})


def all_results(out: Path) -> Iterator[Result]:
    """The rows of `results_to_table`, one at a time; of an edit that failed several times, the last failure."""
    if not out.exists():
        raise OutputError(f"there is no {out}: give the file of `critic score --out`")
    scored = set[str]()
    for result, _ in read_results(out):
        scored.add(result.id)
        yield result
    failures = {result.id: result for result, _ in read_results(out.with_suffix(".failures.jsonl"))}
    yield from (result for id, result in failures.items() if id not in scored)


class _Files:
    """The files of scores, of failures and of settings; a lock keeps other processes from writing them."""

    def __init__(self, out: Path, settings: Mapping[str, Any]):
        if out.suffix != ".jsonl":
            raise OutputError(f"{out} is not a .jsonl file: give --out a name that ends in .jsonl")
        if out.exists() and not out.is_file():
            raise OutputError(
                f"{out} is not a regular file: scores are appended to it and read again. Choose another"
            )
        self._out, self._failures = out, out.with_suffix(".failures.jsonl")
        with output_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            self._scores = out.open("ab", buffering=0)
        try:
            fcntl.flock(self._scores, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check_settings(out, self._failures, json.loads(json.dumps(settings)))
            self.scored = {result.id for result, _ in _read_whole(out)}
            self.failures: dict[str, bytes] = {}  # the last line of each id, in the file's order
            self._superseded = False
            for result, line in _read_whole(self._failures):
                self._superseded |= result.id in self.failures or result.id in self.scored
                self.failures[result.id] = line
            self._settle()
        except BaseException as error:
            self._scores.close()
            if isinstance(error, BlockingIOError):
                fix = "wait for it, or choose another --out"
                raise OutputError(f"{out} is being written by another process: {fix}") from None
            raise

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *error: object) -> None:
        with self._scores:
            self._settle()

    def add(self, results: Sequence[Result]) -> None:
        """Append a batch to both files, in the batch's order, and sync them to disk."""
        failures = {result.id: _line(result) for result in results if not result.ok}
        scores = {result.id: _line(result) for result in results if result.ok}
        self._superseded |= any(result.id in self.failures for result in results)
        if failures:
            with output_errors(self._failures), self._failures.open("ab", buffering=0) as file:
                _append(file, failures.values())
        with output_errors(self._out):
            _append(self._scores, scores.values())
        self.failures |= failures
        self.scored |= scores.keys()

    def _settle(self) -> None:
        """Remove the failures that have a later result, and the file if none is left."""
        left = [line for id, line in self.failures.items() if id not in self.scored]
        if not left:
            with output_errors(self._failures):
                self._failures.unlink(missing_ok=True)
        elif self._superseded:
            write_bytes(self._failures, b"".join(left))
        self._superseded = False


def _check_settings(out: Path, failures: Path, now: dict[str, Any]) -> None:
    path = out.with_suffix(".run.json")
    fix = f"choose another --out, or delete {out}, {failures} and {path} to start over"
    if not path.exists():
        if any(file.exists() and file.stat().st_size for file in (out, failures)):
            raise OutputError(f"{out} or {failures} is there, but no {path} with its settings: {fix}")
        write_json(path, now)
        return
    try:
        before = dict(json.loads(path.read_bytes()))
    except (OSError, TypeError, ValueError) as error:
        raise OutputError(f"{path} can't be read ({error}): {fix}") from None

    def shown(settings: Mapping[str, Any], name: str) -> str:
        return json.dumps(settings[name]) if name in settings else "not set"

    every = {**before, **now}
    if other := [name for name in every if name not in before or name not in now or before[name] != now[name]]:
        changes = "; ".join(f"{name} was {shown(before, name)} and is {shown(now, name)}" for name in other)
        raise OutputError(f"{out} was started with other settings: {changes}. Use the same settings, or {fix}")


def read_results(path: Path) -> Iterator[tuple[Result, bytes]]:
    """The results of a file with their lines, except an incomplete last line; none if there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        following, number = file.readline(), 0
        while line := following:
            following, number = file.readline(), number + 1
            try:
                result = Result.from_json(line.decode())
            except ValueError as error:
                if not following:
                    return
                raise OutputError(f"{path}, line {number} is {error}: remove it, and run again") from None
            if line.endswith(b"\n"):
                yield result, line


def _read_whole(path: Path) -> Iterator[tuple[Result, bytes]]:
    """As `read_results`, then cuts an incomplete last line off the file."""
    whole = 0
    for result, line in read_results(path):
        whole += len(line)
        yield result, line
    if path.exists():
        with output_errors(path):
            os.truncate(path, whole)


def _line(result: Result) -> bytes:
    """A line of JSON; a lone surrogate, which UTF-8 can't encode, becomes a question mark."""
    return result.to_json().encode("utf-8", "replace") + b"\n"


def _append(file: IO[bytes], lines: Iterable[bytes]) -> None:
    content = memoryview(b"".join(lines))
    while content:
        content = content[file.write(content) :]
    os.fsync(file.fileno())


def _score_rows(
    pairs: Pairs, rows: Sequence[int], judge: ScoreBatch, batch_size: int
) -> Generator[list[Result], None, None]:
    batches = (
        [pairs[row] for row in rows[start : start + batch_size]] for start in range(0, len(rows), batch_size)
    )
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as pool:
        coming = pool.submit(next, batches, None)
        while batch := coming.result():
            coming = pool.submit(next, batches, None)
            yield score_batch(batch, judge)

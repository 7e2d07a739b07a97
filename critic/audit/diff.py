"""The differences between two critics: params, code, data, environment, and the scores that they give."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

import pandas as pd

from critic.audit.records import Record, differing, flatten
from critic.audit.rerun import environment_changes
from critic.audit.resolve import Subject
from critic.data.generated import as_edits
from critic.tables import read_parquet

PREDICTIONS = "reports/predictions/{model}.parquet"
TABLES = ("data/validated/train.parquet", "data/validated/validation.parquet", "data/validated/test.parquet")


@dataclass(frozen=True)
class Difference:
    """A difference of one kind: params, code, data, contract, revision, environment or stage.

    `where` is the stage, and the key or file; `a`, `b` the value of each critic, "nothing" if it has none.
    """

    kind: str
    where: str
    a: str
    b: str


def differences(a: Subject, b: Subject) -> Iterator[Difference]:
    """The differences between the lineages of two subjects, in the order of the pipeline."""
    makers = [{step.maker.stage: step.maker for step in s.record.lineage(s.path) if step.maker} for s in (a, b)]
    order = [stage for stage in a.record.stages if any(stage in made for made in makers)]
    for stage in [*order, *(stage for stage in makers[1] if stage not in order)]:
        old, new = makers[0].get(stage), makers[1].get(stage)
        if old is None or new is None:
            yield Difference("stage", stage, "ran" if old else "nothing", "ran" if new else "nothing")
            continue
        yield from _values("params", stage, flatten(old.params), flatten(new.params))
        yield from _values("code", stage, old.code, new.code)
        inputs = [{path: material.sha256 for path, material in m.inputs.items()} for m in (old, new)]
        yield from _values("data", stage, *inputs)
        yield from _values("revision", stage, old.revisions, new.revisions)
        contracts = [m.contract.sha256 if m.contract else "nothing" for m in (old, new)]
        if contracts[0] != contracts[1]:
            yield Difference("contract", stage, *contracts)
        for name, then, now in environment_changes(old.environment, new.environment):
            yield Difference("environment", f"{stage} {name}", then, now)


def row_gaps(a: Record, b: Record) -> dict[str, dict[str, list[str]]]:
    """The ids of the rows of each validated table that were "added", are "gone" or have "changed".

    Rows are compared by pictures, instruction and MOS. Identical tables are left out. Raises a `FileNotFoundError`
    if a table is in neither the checkout nor DVC's cache and remote, and a `TableError` if one is damaged.
    """
    gaps = {}
    files = [record.manifest("validate").outputs["data/validated"].files for record in (a, b)]
    for table in TABLES:
        name = table.rpartition("/")[2]
        if files[0].get(name) == files[1].get(name):
            continue
        old, new = (_row_hashes(record, table) for record in (a, b))
        both = old.index.intersection(new.index)
        gaps[table] = {
            "added": sorted(new.index.difference(old.index)),
            "gone": sorted(old.index.difference(new.index)),
            "changed": sorted(both[(old.loc[both] != new.loc[both]).to_numpy()]),
        }
    return gaps


def score_gaps(a: Subject, b: Subject) -> pd.DataFrame:
    """The scores of both critics for the same test edits: id, score_a, score_b, gap; largest gap first.

    Failed answers have no score and come last. It raises as `row_gaps`.
    """
    tables = []
    for subject in (a, b):
        path = PREDICTIONS.format(model=subject.path.rpartition("/")[2])
        with subject.record.file_system().open(path) as file:
            tables.append(read_parquet(path, ["id", "score"], file))
    joined = tables[0].merge(tables[1], on="id", suffixes=("_a", "_b"))
    joined["gap"] = (joined["score_b"] - joined["score_a"]).astype(float)
    return joined.sort_values("gap", key=abs, ascending=False, kind="stable", ignore_index=True)


def _values(kind: str, stage: str, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[Difference]:
    for key in differing(old, new):
        yield Difference(kind, f"{stage} {key}", str(old.get(key, "nothing")), str(new.get(key, "nothing")))


def _row_hashes(record: Record, table: str) -> "pd.Series[int]":
    with record.file_system().open(table) as file:
        rows = as_edits(read_parquet(table, file=file))
        pictures = [sha256(b"".join(image["bytes"] for image in images)).hexdigest() for images in rows["images"]]
    plain = rows[["instruction", "mos"]].astype(str).assign(pictures=pictures)
    return pd.util.hash_pandas_object(plain, index=False).set_axis(rows["id"])

"""What differs between two critics: their params, code, data, environment, and the scores that they give.

for difference in differ(find(repository, "v1.1.0"), find(repository, "models/grpo")): ...
scores = score_gaps(a, b)        # id, score_a, score_b, gap, the widest first
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from critic.audit.records import Record, flat
from critic.audit.rerun import differing
from critic.audit.resolve import Subject

PREDICTIONS = "reports/predictions/{model}.parquet"
TABLES = ("data/validated/train.parquet", "data/validated/validation.parquet", "data/validated/test.parquet")


@dataclass(frozen=True)
class Difference:
    """One of a kind (params, code, data, rows, contract, revision, environment) in a stage or table.

    Attributes:
        where: the stage or table, and the key, file or row.
        a, b: what each has; "nothing" where it isn't in one.
    """

    kind: str
    where: str
    a: str
    b: str


def differ(a: Subject, b: Subject) -> Iterator[Difference]:
    """The differences of two subjects' lineages, from raw data on.

    Raises:
        RecordError: a record can't be read.
    """
    makers = [{step.maker.stage: step.maker for step in s.record.lineage(s.path) if step.maker} for s in (a, b)]
    order = [stage for stage in a.record.stages if any(stage in made for made in makers)]
    for stage in [*order, *(stage for stage in makers[1] if stage not in order)]:
        old, new = makers[0].get(stage), makers[1].get(stage)
        if old is None or new is None:
            yield Difference("stage", stage, "ran" if old else "nothing", "ran" if new else "nothing")
            continue
        yield from _values("params", stage, flat(old.params), flat(new.params))
        yield from _values("code", stage, old.code, new.code)
        yield from _values(
            "data",
            stage,
            {path: m.sha256 for path, m in old.inputs.items()},
            {path: m.sha256 for path, m in new.inputs.items()},
        )
        yield from _values("revision", stage, old.revisions, new.revisions)
        contracts = [m.contract.sha256 if m.contract else "nothing" for m in (old, new)]
        if contracts[0] != contracts[1]:
            yield Difference("contract", stage, *contracts)
        for words in differing(old.environment, new.environment):
            name, _, rest = words.partition(": ")
            then, _, now = rest.partition(", now ")
            yield Difference("environment", f"{stage} {name}", then, now)


def row_gaps(a: Record, b: Record) -> dict[str, dict[str, list[str]]]:
    """The rows of the validated tables that aren't in both or the same: table -> added, gone, changed -> ids.

    A row is compared by its pictures, instruction and MOS. Tables that are the same to the byte are left out.

    Raises:
        FileNotFoundError: neither the checkout nor DVC's cache or remote has a table.
    """
    gaps = {}
    manifests = [record.manifest("validate").outputs["data/validated"].files for record in (a, b)]
    for table in TABLES:
        name = table.rpartition("/")[2]
        if manifests[0].get(name) == manifests[1].get(name):
            continue
        old, new = (_hashed(record, table) for record in (a, b))
        both = old.index.intersection(new.index)
        gaps[table] = {
            "added": sorted(new.index.difference(old.index)),
            "gone": sorted(old.index.difference(new.index)),
            "changed": sorted(both[(old.loc[both] != new.loc[both]).to_numpy()]),
        }
    return gaps


def score_gaps(a: Subject, b: Subject) -> pd.DataFrame:
    """The scores that both critics gave to the same edits of their test: id, score_a, score_b, gap, widest first.

    Failed answers have no score, so they come last.

    Raises:
        FileNotFoundError: as `row_gaps`.
    """
    tables = []
    for subject in (a, b):
        path = PREDICTIONS.format(model=subject.path.rpartition("/")[2])
        with subject.record.open_files().open(path) as file:
            tables.append(pd.read_parquet(file, columns=["id", "score"]))
    joined = tables[0].merge(tables[1], on="id", suffixes=("_a", "_b"))
    joined["gap"] = (joined["score_b"] - joined["score_a"]).astype(float)
    return joined.sort_values("gap", key=abs, ascending=False, kind="stable", ignore_index=True)


def _values(kind: str, stage: str, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[Difference]:
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield Difference(kind, f"{stage} {key}", str(old.get(key, "nothing")), str(new.get(key, "nothing")))


def _hashed(record: Record, table: str) -> "pd.Series[int]":
    with record.open_files().open(table) as file:
        rows = pd.read_parquet(file)
    pictures = rows["images"].map(lambda images: b"".join(image["bytes"] for image in images))
    plain = rows[["instruction", "mos"]].astype(str).assign(pictures=pictures)
    return pd.util.hash_pandas_object(plain, index=False).set_axis(rows["id"])

"""data/raw -> data/validated, data/validation.json: the benchmark, if it is fit to be used.

    python -m stages.validate

A benchmark without a validation split (the hub's) gets one, carved from its train split by source
image. A released SFT set and AGIQA-3k are checked too, if they are there. Data Docs go to
runs/data_docs, whatever the outcome. When an expectation fails, the rows are named, the exit status
is 1 and there are no outputs, not even those of an earlier run.
"""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa

from critic import params
from critic.data import rationale_sets
from critic.data.expectations import describe, validate_tables
from critic.data.near_duplicates import carve, group_sources
from critic.edits import GENERATED_COLUMNS, SPLITS, normalise, read_table, write_table


class InvalidBenchmark(ValueError):
    """A benchmark that is not as expected; the message names the rows and what to do."""


def main() -> None:
    section = params.load(params.Validate)
    try:
        validate(Path("data"), Path("runs/data_docs"), section)
    except InvalidBenchmark as error:
        raise SystemExit(str(error)) from None


def validate(data: Path, docs: Path, section: params.Validate) -> None:
    """Check `data`/raw; write `data`/validated and `data`/validation.json, or neither.

    Raises:
        InvalidBenchmark: an expectation failed.
        FileNotFoundError, ValueError: the train or test table is not there, or one is not Parquet.
    """
    validated, report = data / "validated", data / "validation.json"
    shutil.rmtree(validated, ignore_errors=True)
    report.unlink(missing_ok=True)

    tables = _read(data / "raw")
    rationales, agiqa = (_read_extra(data / f"raw/{name}.parquet") for name in ("rationales", "agiqa"))
    validation = validate_tables(
        tables,
        rationales,
        agiqa,
        phash_distance=section.phash_distance,
        min_side=section.min_side,
        max_instruction_chars=section.max_instruction_chars,
        docs=docs,
    )
    if validation.failures:
        raise InvalidBenchmark(
            f"{data / 'raw'} can't be used. <split> row <n> is row n, from 0, of "
            f"{data / 'raw' / '<split>.parquet'}. As pages: {docs / 'index.html'}\n"
            + describe(validation.failures)
        )
    if "validation" not in tables:
        facts = validation.facts
        groups = group_sources(facts[facts["split"] == "train"], section.phash_distance)
        tables["train"], tables["validation"] = carve(tables["train"], groups, section.validation_fraction)
    extras, counts = {}, {}
    if rationales is not None:
        told = validation.rationales
        table = rationale_sets.finish(
            rationales, told, validation.facts, tables["validation"], section.phash_distance
        )
        extras["rationales"] = (table, rationale_sets.COLUMNS)
        counts["rationales"] = {split: int((table["split"] == split).sum()) for split in ("train", "validation")}
    if agiqa is not None:
        extras["agiqa"] = (agiqa, GENERATED_COLUMNS)
        counts["agiqa"] = {"pictures": len(agiqa)}
    _write(tables, extras, validated)
    summary = {split: _summary(tables[split]) for split in SPLITS}
    _write_json({"splits": summary, **counts, "checks": validation.checks}, report)


def _read(raw: Path) -> dict[str, pd.DataFrame]:
    """The normalised tables by split; only that of validation may be left out."""
    paths = {split: raw / f"{split}.parquet" for split in SPLITS}
    return {
        split: normalise(read_table(path), split)
        for split, path in paths.items()
        if split != "validation" or path.exists()
    }


def _read_extra(path: Path) -> pd.DataFrame | None:
    return read_table(path) if path.exists() else None


def _summary(table: pd.DataFrame) -> dict[str, float]:
    return {
        "edits": len(table),
        "sources": table["source_id"].nunique(),
        "lowest_mos": table["mos"].min(),
        "mean_mos": round(table["mos"].mean(), 4),
        "highest_mos": table["mos"].max(),
    }


def _write(
    tables: dict[str, pd.DataFrame],
    extras: dict[str, tuple[pd.DataFrame, dict[str, pa.DataType]]],
    folder: Path,
) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split, table in tables.items():
        write_table(table, partial / f"{split}.parquet")
    for name, (table, types) in extras.items():
        write_table(table, partial / f"{name}.parquet", types)
    os.replace(partial, folder)


def _write_json(content: object, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


if __name__ == "__main__":
    main()

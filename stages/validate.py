"""Check data/raw and write data/validated and data/validation.json.

    python -m stages.validate

A benchmark without a validation split gets one, carved from its train split by source image, or by prompt if it
has generated pictures. With `download.hub.split: official`, test may share source images with the other splits,
and the report counts them. A released SFT set, AGIQA-3k and the preferences in data/preferences are checked too,
if they are there; pairs with a source image of validation or test are left out. Data Docs are written to
runs/data_docs in any case. If an expectation fails, the stage names the rows, exits with status 1 and leaves no
outputs, not even earlier ones. It stops before these checks if there are generated pictures and the prompt
contract has no text for them.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from critic import files, params
from critic.data import generated, preference_sets, rationale_sets
from critic.data.expectations import SplitName, describe, validate_tables
from critic.data.near_duplicates import carve, group_sources
from critic.edits import COLUMNS, GENERATED_COLUMNS, SPLITS, normalise
from critic.prompts import CONTRACT_FILE, LEARNT, Contract, ContractError, stage_contract
from critic.tables import TableError, read_parquet, write_parquet


class InvalidBenchmark(ValueError):
    """A benchmark that fails an expectation; the message names the rows and the fix."""


def main() -> None:
    try:
        contract = stage_contract(params.load(params.Prompt).contract, "data/raw")
        validate(Path("data"), Path("runs/data_docs"), params.load(params.Validate), contract)
    except (InvalidBenchmark, ContractError, TableError, files.OutputError) as error:
        raise SystemExit(str(error)) from None


def validate(data: Path, docs: Path, section: params.Validate, contract: Contract) -> None:
    """Check `data`/raw; write `data`/validated and `data`/validation.json, or neither.

    Raises:
        ContractError: there are generated pictures, and the contract has no `generated_text`.
        InvalidBenchmark: an expectation failed.
        FileNotFoundError: the train or test table is missing.
        TableError: a table is not Parquet, or a preference set is malformed.
        OutputError: an output can't be written.
    """
    validated, report, raw = data / "validated", data / "validation.json", data / "raw"
    shutil.rmtree(validated, ignore_errors=True)
    report.unlink(missing_ok=True)

    tables = {}
    for name in SPLITS:
        if name != "validation" or (raw / "validation.parquet").exists():
            table = read_parquet(raw / f"{name}.parquet")
            has_pictures = generated.is_generated(table)
            tables[name] = (generated.normalise_generated if has_pictures else normalise)(table, name)
    extra = [raw / f"{name}.parquet" for name in ("rationales", "agiqa")]
    rationales, agiqa = (read_parquet(path) if path.exists() else None for path in extra)
    checksums = raw / "checksums.json"
    recorded = json.loads(checksums.read_text()) if checksums.exists() else {}
    split: SplitName = recorded.get("split", "given")  # as `download` recorded it
    if contract.generated_text is None and (has_pictures or agiqa is not None):
        raise ContractError(_no_generated_text(contract, raw, has_pictures))
    preferred, pairs = preference_sets.read_sets(data / "preferences")
    if preferred and has_pictures:
        raise InvalidBenchmark(
            f"{data / 'preferences'} has edits, and {raw} pictures without a source image: remove the preferences"
        )
    validation = validate_tables(
        tables,
        rationales,
        agiqa,
        preferred,
        split=split,
        resize=contract.resize,
        system=contract.system,
        phash_distance=section.phash_distance,
        min_side=section.min_side,
        max_instruction_chars=section.max_instruction_chars,
        docs=docs,
    )
    if validation.failures:
        raise InvalidBenchmark(
            f"{raw} can't be used. <split> row <n> is row n, from 1, of {raw / '<split>.parquet'}, and "
            f"preferences/<set> row <n> of {data / 'preferences/<set>/edits.parquet'}. "
            f"The same as web pages: {docs / 'index.html'}\n{describe(validation.failures)}"
        )
    if "validation" not in tables:
        groups = [*tables["train"]["source_id"]]
        if not has_pictures:
            facts = validation.facts
            groups = group_sources(facts[facts["split"] == "train"], section.phash_distance)
        tables["train"], tables["validation"] = carve(tables["train"], groups, section.validation_fraction)
    types = dict.fromkeys(tables, generated.COLUMNS if has_pictures else COLUMNS)
    summary = {name: _summary(tables[name]) for name in SPLITS}
    counts: dict[str, dict[str, Any]] = {"split": {"name": split, "leak": validation.leak}}
    if has_pictures:
        counts["split"]["of"] = generated.words(tables["test"]).sources
    if rationales is not None:
        table = rationale_sets.finish(
            rationales, validation.rationales, validation.facts, tables["validation"], section.phash_distance
        )
        tables["rationales"], types["rationales"] = table, rationale_sets.COLUMNS
        counts["rationales"] = {
            **{name: int((table["split"] == name).sum()) for name in ("train", "validation")},
            "bare_numbers": int(validation.rationales["is_bare"].sum()),
            "dropped": validation.dropped,
        }
    if preferred:
        held_out = {*tables["validation"]["source_id"], *tables["test"]["source_id"]}
        known = validation.facts[validation.facts["source_id"].isin(held_out)]
        tables["preferences"], tables["pairs"] = preference_sets.leave_out(
            preferred, pairs, validation.preferences, known, section.phash_distance
        )
        if tables["pairs"].empty:
            raise InvalidBenchmark(
                f"every pair in {data / 'preferences'} has a source image of validation or test: remove them"
            )
        types["preferences"], types["pairs"] = COLUMNS, preference_sets.PAIR_COLUMNS
        counts["preferences"] = {
            "edits": len(tables["preferences"]),
            "pairs": len(tables["pairs"]),
            "dropped": len(pairs) - len(tables["pairs"]),
        }
    if agiqa is not None:
        tables["agiqa"], types["agiqa"] = agiqa, GENERATED_COLUMNS
        counts["agiqa"] = {"pictures": len(agiqa)}
    with files.replacing_folder(validated) as partial:
        for name, table in tables.items():
            write_parquet(table, partial / f"{name}.parquet", types[name])
        if (raw / CONTRACT_FILE).exists():
            shutil.copyfile(raw / CONTRACT_FILE, partial / CONTRACT_FILE)
    files.write_json(report, {"splits": summary, **counts, "checks": validation.checks})


def _no_generated_text(contract: Contract, raw: Path, has_pictures: bool) -> str:
    """What is wrong with a contract for edits alone, if the benchmark has pictures, or else AGIQA-3k beside it."""
    of, more = ("the benchmark", "") if has_pictures else ("AGIQA-3k", ", or set download.agiqa to null")
    add = "add it to the contract"
    if contract.name == LEARNT:
        add = f"add it, and `requests`, to a copy of {raw / CONTRACT_FILE} that prompt.contract names"
    return (
        f"contract {contract.name} has no `generated_text`, and the pictures of {of} have no source image: {add}, "
        f"or choose another prompt.contract{more}"
    )


def _summary(table: pd.DataFrame) -> dict[str, float]:
    return {
        "edits": len(table),
        "sources": table["source_id"].nunique(),
        "lowest_mos": table["mos"].min(),
        "mean_mos": round(table["mos"].mean(), 4),
        "highest_mos": table["mos"].max(),
    }


if __name__ == "__main__":
    main()

"""What a benchmark of edits must be before anything is trained or judged on it.

    validation = validate_tables(tables, phash_distance=24, min_side=56,
                                 max_instruction_chars=1000, docs=Path("runs/data_docs"))
    print(describe(validation.failures))

Great Expectations suites, one function a table: `table_suite` for each split as it came,
`edits_suite` for the facts of all rows (`critic.data.features`), `sources_suite` for source images in two
splits (`critic.data.near_duplicates`), and where there are such tables `rationales_suite` (`critic.data.rationale_sets`) and
`generated_suite`. Each run writes its results as Data Docs, pages to read in a browser.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from critic.data.features import SCALE, SCORES, edit_facts, generated_facts
from critic.data.near_duplicates import find_shared
from critic.data.rationale_sets import rationale_facts
from critic.edits import GENERATED_AXES, GENERATED_SCALE, RAW_NAMES

os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when great_expectations is imported

import great_expectations as gx
import great_expectations.expectations as gxe
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.data_context import EphemeralDataContext
from great_expectations.data_context.types.base import ProgressBarsConfig

MAX_ASPECT = 200
"""Longer side over shorter; qwen-vl-utils refuses an image above it (its MAX_RATIO)."""

_LONGEST_FOUND = 100
_CORRECT, _REPLACE = "correct it or drop the row", "replace the image or drop the row"
_OWN_ID = "give each row an id of its own"
_LEAVE_OUT = (
    "write data/raw/rationales.parquet without these rows to a file elsewhere, and give that as "
    "download.rationales.path in params.yaml"
)
_WHERE = ["split", "row", "id"]
_RAW_COLUMNS = {name: raw_name for raw_name, name in RAW_NAMES.items()}


@dataclass(frozen=True)
class Failure:
    """A row that is not as expected, or a whole split if `row` is None.

    `row` counts from 0 and `column` has its name in the raw table. `found` is the value, or what is
    wrong with it; None if nothing is there.
    """

    split: str
    row: int | None
    id: str | None
    column: str
    found: str | None
    expected: str
    fix: str


@dataclass(frozen=True)
class Validation:
    """What was checked, {table, column, expected} each, and every failure.

    `facts` are those of `critic.data.features.edit_facts`, `rationales` those of
    `critic.data.rationale_sets.rationale_facts`, empty without a released set. If a table lacks columns or rows,
    the checks end there and both are empty.
    """

    checks: list[dict[str, str]]
    failures: list[Failure]
    facts: pd.DataFrame
    rationales: pd.DataFrame


def validate_tables(
    tables: Mapping[str, pd.DataFrame],
    rationales: pd.DataFrame | None = None,
    agiqa: pd.DataFrame | None = None,
    *,
    phash_distance: int,
    min_side: int,
    max_instruction_chars: int,
    docs: Path,
) -> Validation:
    """Check that tables have their columns, rows what they should, and splits no image in common.

    Args:
        tables: normalised tables by split (`critic.edits.normalise`).
        rationales: the raw table of a released SFT set.
        agiqa: the raw table of AGIQA-3k.
        phash_distance: source images look alike up to so many differing bits (`critic.data.near_duplicates`).
        min_side: least pixels of an image's shorter side.
        max_instruction_chars: most characters of an instruction.
        docs: folder for Data Docs, those of this run only; reading starts at its index.html.
    """
    context = _context(docs)
    facts, told = pd.DataFrame(), pd.DataFrame()
    results = {split: _run(context, table_suite(split), tables[split]) for split in tables}
    if all(result.success for result in results.values()):
        facts = edit_facts(tables)
        suite = edits_suite(
            min_side=min_side,
            max_instruction_chars=max_instruction_chars,
            raters={int(count) for count in facts["raters"].mode()[:1]},
        )
        results["edits"] = _run(context, suite, facts)
        shared = find_shared(facts, phash_distance)
        results["sources"] = _run(context, sources_suite(phash_distance), shared)
        if rationales is not None:
            told = rationale_facts(rationales, facts, phash_distance)
            results["rationales"] = _run(context, rationales_suite(min_side), told)
        if agiqa is not None:
            results["agiqa"] = _run(context, generated_suite(min_side), generated_facts(agiqa))
    outcomes = [(table, one) for table, result in results.items() for one in _sorted(result)]
    return Validation(
        checks=[
            {"table": table, "column": column, "expected": expected}
            for table, one in outcomes
            for column, expected, _ in [_words(one)]
        ],
        failures=[failure for table, one in outcomes for failure in _failures(table, one)],
        facts=facts,
        rationales=told,
    )


def table_suite(split: str) -> gx.ExpectationSuite:
    """A split's table: the columns that can't be done without, and at least one row."""
    like_bench = "name the columns as IE-Bench-4k does: images, edit_inst, problem, answer"
    return gx.ExpectationSuite(
        name=split,
        expectations=[
            *(
                _expect(gxe.ExpectColumnToExist, name, "the column is there", like_bench)
                for name in ("images", "instruction", "problem", "mos")
            ),
            gxe.ExpectTableRowCountToBeBetween(
                min_value=1,
                description="the table has rows",
                meta={"column": "all columns", "fix": "put edits into the split"},
            ),
        ],
    )


def edits_suite(*, min_side: int, max_instruction_chars: int, raters: Collection[int]) -> gx.ExpectationSuite:
    """The facts of all rows: an id, two whole images, an instruction, scores on the scale.

    Args:
        min_side: least pixels of an image's shorter side.
        max_instruction_chars: most characters of an instruction.
        raters: how many ratings a row may have.
    """
    low, high = SCALE
    return gx.ExpectationSuite(
        name="edits",
        expectations=[
            _expect(
                gxe.ExpectColumnValuesToBeUnique,
                "id",
                "no other row of any split has the same id",
                "give each row an id of its own, or leave the column out",
            ),
            *_pair_expectations(min_side),
            _expect(
                gxe.ExpectColumnValueLengthsToBeBetween,
                "instruction",
                "the instruction is not empty",
                _CORRECT,
                min_value=1,
            ),
            _expect(
                gxe.ExpectColumnValueLengthsToBeBetween,
                "instruction",
                f"the instruction has at most {max_instruction_chars} characters",
                f"{_CORRECT}, or raise validate.max_instruction_chars in params.yaml",
                max_value=max_instruction_chars,
            ),
            _expect(gxe.ExpectColumnValuesToNotBeNull, "mos", "there is a MOS", _CORRECT),
            *(expectation for name in SCORES for expectation in _score_expectations(name)),
            _expect(
                gxe.ExpectColumnValuesToBeNull,
                "odd_ratings",
                f"every rating is a number from {low} to {high}",
                _CORRECT,
                of="ratings",
            ),
            _expect(
                gxe.ExpectColumnValuesToBeInSet,
                "raters",
                "the row has as many ratings as most rows",
                _CORRECT,
                of="ratings",
                value_set=[*raters],
            ),
        ],
    )


def sources_suite(phash_distance: int) -> gx.ExpectationSuite:
    """The partners of `critic.data.near_duplicates.find_shared`: there are none."""
    together = "keep all edits of a source image in one split"
    return gx.ExpectationSuite(
        name="sources",
        expectations=[
            _expect(
                gxe.ExpectColumnValuesToBeNull,
                "same_source_id",
                "no other split has the same source_id",
                together,
                of="source_id",
            ),
            _expect(
                gxe.ExpectColumnValuesToBeNull,
                "same_pixels",
                "no other split has the same source image",
                together,
                of="images",
            ),
            _expect(
                gxe.ExpectColumnValuesToBeNull,
                "looks_like",
                "no other split has a source image that looks the same (perceptual hashes differ "
                f"in at most {phash_distance} bits)",
                f"{together}; if the pictures are different, lower validate.phash_distance in params.yaml",
                of="images",
            ),
        ],
    )


def rationales_suite(min_side: int) -> gx.ExpectationSuite:
    """The facts of a released set: two whole images, a user's turn and an answer to learn from.

    Args:
        min_side: least pixels of an image's shorter side.
    """
    low, high = SCALE
    return gx.ExpectationSuite(
        name="rationales",
        expectations=[
            _expect(gxe.ExpectColumnValuesToBeUnique, "id", "no other row has the same id", _OWN_ID),
            *_pair_expectations(min_side),
            _expect(
                gxe.ExpectColumnValuesToBeNull,
                "turns",
                "there is one turn of the user, then one of the assistant",
                _LEAVE_OUT,
                of="messages",
            ),
            _expect(
                gxe.ExpectColumnValuesToBeNull,
                "fault",
                f"the assistant's turn is <think>...</think> or nothing, then <answer> with a score from {low} "
                f"to {high} </answer>",
                _LEAVE_OUT,
                of="messages",
            ),
            _expect(
                gxe.ExpectColumnValuesToBeNull,
                "in_test",
                "the test split has no source image that is or looks the same",
                _LEAVE_OUT,
                of="images",
            ),
        ],
    )


def generated_suite(min_side: int) -> gx.ExpectationSuite:
    """The facts of generated pictures: an id, a prompt, a whole image, two scores on their scale.

    Args:
        min_side: least pixels of an image's shorter side.
    """
    low, high = GENERATED_SCALE
    return gx.ExpectationSuite(
        name="agiqa",
        expectations=[
            _expect(gxe.ExpectColumnValuesToBeUnique, "id", "no other row has the same id", _OWN_ID),
            _expect(
                gxe.ExpectColumnValueLengthsToBeBetween, "prompt", "the prompt is not empty", _CORRECT, min_value=1
            ),
            *_image_expectations("image", min_side, of="image"),
            *(
                expectation
                for name in GENERATED_AXES.values()
                for expectation in (
                    _expect(gxe.ExpectColumnValuesToNotBeNull, name, "there is a MOS", _CORRECT),
                    _expect(
                        gxe.ExpectColumnValuesToBeBetween,
                        name,
                        f"the score is from {low} to {high}",
                        _CORRECT,
                        min_value=low,
                        max_value=high,
                    ),
                )
            ),
        ],
    )


def describe(failures: Sequence[Failure], rows_a_check: int = 10) -> str:
    """Failures for people: by check, with the first `rows_a_check` rows of each and what to do."""
    lines = []
    for (column, expected, fix), group in groupby(
        failures, key=lambda failure: (failure.column, failure.expected, failure.fix)
    ):
        rows = [*group]
        lines += [f"{column}: expected that {expected}; not so in"]
        lines += [f"    {_place(row)}" for row in rows[:rows_a_check]]
        if len(rows) > rows_a_check:
            lines += [f"    and {len(rows) - rows_a_check} rows more"]
        lines += [f"    -> {fix}"]
    return "\n".join(lines)


def _place(failure: Failure) -> str:
    if failure.row is None:
        return failure.split
    found = failure.found or "nothing"
    end = "..." if len(found) > _LONGEST_FOUND else ""
    return f"{failure.split} row {failure.row}, id {failure.id!r}: {found[:_LONGEST_FOUND]}{end}"


def _pair_expectations(min_side: int) -> list[gxe.Expectation]:
    return [
        _expect(
            gxe.ExpectColumnValuesToBeInSet,
            "images",
            "there are two images, the source and the edited one",
            _REPLACE,
            value_set=[2],
        ),
        *_image_expectations("source", min_side),
        *_image_expectations("edited", min_side),
    ]


def _image_expectations(role: str, min_side: int, of: str = "images") -> list[gxe.Expectation]:
    return [
        _expect(
            gxe.ExpectColumnValuesToBeNull,
            f"{role}_error",
            f"the {role} image can be decoded",
            _REPLACE,
            of=of,
        ),
        _expect(
            gxe.ExpectColumnValuesToBeBetween,
            f"{role}_side",
            f"the {role} image's shorter side has at least {min_side} pixels",
            f"{_REPLACE}, or lower validate.min_side in params.yaml",
            of=of,
            min_value=min_side,
        ),
        _expect(
            gxe.ExpectColumnValuesToBeBetween,
            f"{role}_aspect",
            f"the {role} image's longer side is at most {MAX_ASPECT} times the shorter",
            _REPLACE,
            of=of,
            max_value=MAX_ASPECT,
        ),
    ]


def _score_expectations(name: str) -> list[gxe.Expectation]:
    low, high = SCALE
    return [
        _expect(
            gxe.ExpectColumnValuesToBeNull,
            f"{name}_text",
            "the score is a number",
            _CORRECT,
            of=name,
        ),
        _expect(
            gxe.ExpectColumnValuesToBeBetween,
            name,
            f"the score is from {low} to {high}",
            _CORRECT,
            min_value=low,
            max_value=high,
        ),
    ]


def _expect(
    kind: Callable[..., gxe.Expectation],
    column: str,
    expected: str,
    fix: str,
    *,
    of: str | None = None,
    **limits: Any,
) -> gxe.Expectation:
    """An expectation of a fact, worded for people; `of` is the table's column it is a fact of."""
    of = of or column
    meta = {"column": _RAW_COLUMNS.get(of, of), "fix": fix}
    return kind(column=column, description=expected, meta=meta, **limits)


def _context(docs: Path) -> EphemeralDataContext:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())}
    context.add_data_docs_site(
        site_name="docs",
        site_config={
            "class_name": "SiteBuilder",
            "store_backend": store,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    return context


def _run(
    context: EphemeralDataContext, suite: gx.ExpectationSuite, table: pd.DataFrame
) -> ExpectationSuiteValidationResult:
    asset = context.data_sources.add_pandas(suite.name).add_dataframe_asset(suite.name)
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(
            name=suite.name,
            data=asset.add_batch_definition_whole_dataframe("all rows"),
            suite=context.suites.add(suite),
        )
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=suite.name,
            validation_definitions=[definition],
            actions=[gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["docs"])],
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": [name for name in _WHERE if name in table],
            },
        )
    )
    (result,) = checkpoint.run(batch_parameters={"dataframe": table}).run_results.values()
    return result


def _sorted(result: ExpectationSuiteValidationResult) -> list[ExpectationValidationResult]:
    return sorted(result.results, key=_words)


def _words(one: ExpectationValidationResult) -> tuple[str, str, str]:
    config: Any = one.expectation_config
    return config.meta["column"], config.description, config.meta["fix"]


def _failures(table: str, one: ExpectationValidationResult) -> Iterator[Failure]:
    column, expected, fix = _words(one)
    config: Any = one.expectation_config
    rows = one.result.get("unexpected_index_list") or []
    if not one.success and not rows:
        yield Failure(table, None, None, column, None, expected, fix)
    for row in rows:
        fact = row[config.kwargs["column"]]
        found = None if pd.isna(fact) else str(fact)
        yield Failure(row["split"], int(row["row"]), row["id"], column, found, expected, fix)

"""Check a benchmark of edits before training and evaluation, with Great Expectations.

    validation = validate_tables(tables, resize=contract.resize, phash_distance=24, min_side=56,
                                 max_instruction_chars=1000, docs=Path("runs/data_docs"))
    print(describe(validation.failures))

Each run writes its results as web pages, the Data Docs, with a suite for each split (its columns), for the facts
about all rows (`critic.data.features`), for source images in two splits (`critic.data.near_duplicates`) and for
each other table.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from critic.data.features import SCALE, SCORES, Resize, edit_facts, generated_facts, picture_facts
from critic.data.generated import is_generated
from critic.data.near_duplicates import count_leak, count_shared_prompts, find_same_edits, find_shared
from critic.data.rationale_sets import rationale_facts
from critic.edits import GENERATED_AXES, GENERATED_SCALE, RAW_NAMES, count_images

os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when great_expectations is imported

import great_expectations as gx
import great_expectations.expectations as gxe
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.data_context import EphemeralDataContext
from great_expectations.data_context.types.base import ProgressBarsConfig

SplitName = Literal["given", "official", "by_source"]
"""How a benchmark is split: as its source gives it, or by `download.hub.split`."""

MAX_ASPECT = 200
"""The longer side divided by the shorter; qwen-vl-utils refuses an image above it (its MAX_RATIO)."""

_NULL, _NOT_NULL = gxe.ExpectColumnValuesToBeNull, gxe.ExpectColumnValuesToNotBeNull
_UNIQUE, _IN_SET = gxe.ExpectColumnValuesToBeUnique, gxe.ExpectColumnValuesToBeInSet
_BETWEEN, _LENGTHS = gxe.ExpectColumnValuesToBeBetween, gxe.ExpectColumnValueLengthsToBeBetween
_WITHIN_LIMITS = "can be resized to the pixel limits of the prompt contract"
_LONGEST_FOUND = 100
_CORRECT, _REPLACE = "correct it or drop the row", "replace the image or drop the row"
_OWN_ID = "give each row a different id"
_LEAVE_OUT = (
    "write data/raw/rationales.parquet without these rows to another file, and set download.rationales.path in "
    "params.yaml to it"
)
_WHERE = ["split", "row", "id"]
_RAW_COLUMNS = {name: raw_name for raw_name, name in RAW_NAMES.items()}


@dataclass(frozen=True)
class Failure:
    """A row that fails an expectation, or a whole split if `row` is None.

    Rows are numbered from 1; `column` is the name in the raw table. `found` is the value, or what is wrong with
    it; None if there is no value.
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
    """The checks of the data, {table, column, expected} each, and all failures.

    `checks` leaves out the limits of the prompt contract, which isn't part of the data. `facts` come from
    `critic.data.features.edit_facts`, or `picture_facts` of generated pictures, `rationales` from
    `critic.data.rationale_sets.rationale_facts` (empty if there is no such set) without the rows that are
    dropped: `dropped` is their number, by reason, and the index has the places of the others. `preferences` are
    the `edit_facts` of preference sets. `leak` comes from `critic.data.near_duplicates`: `count_leak`, or
    `count_shared_prompts` of generated pictures; with the split `official` it also has `same_edits`, the number of
    test edits that another split has. It is empty if there are failures. If a table lacks columns or rows, no row
    is checked and all these are empty.
    """

    checks: list[dict[str, str]]
    failures: list[Failure]
    facts: pd.DataFrame
    rationales: pd.DataFrame
    preferences: pd.DataFrame
    leak: dict[str, int]
    dropped: dict[str, int]


def validate_tables(
    tables: Mapping[str, pd.DataFrame],
    rationales: pd.DataFrame | None = None,
    agiqa: pd.DataFrame | None = None,
    preferences: Mapping[str, pd.DataFrame] | None = None,
    *,
    split: SplitName = "given",
    resize: Resize,
    system: str | None = None,
    phash_distance: int,
    min_side: int,
    max_instruction_chars: int,
    docs: Path,
) -> Validation:
    """Check the columns of tables, the values of their rows, and that splits share no source image.

    With the split `official`, test may share source images and edits with the other splits; both are counted. A
    released set is made for the published train split, so `by_source` drops its rows with a source image of test;
    `official` drops those with the two pictures of an edit of test.

    Args:
        tables: normalised tables by split (`critic.edits.normalise`, or
            `critic.data.generated.normalise_generated`, without rationales).
        rationales, agiqa: the raw tables of a released SFT set and of AGIQA-3k.
        preferences: the edits of preference sets, which have no MOS (`critic.data.preference_sets.read_sets`).
        split: how the benchmark is split.
        resize, system: the prompt contract's.
        phash_distance: source images are the same if their perceptual hashes differ in at most this many bits.
        min_side: the smallest shorter side of an image, in pixels.
        max_instruction_chars: the longest instruction, in characters.
        docs: the folder for Data Docs, which holds those of this run only; its first page is index.html.
    """
    context = _context(docs)
    facts, rationale_table, preferred = pd.DataFrame(), pd.DataFrame(), pd.DataFrame()
    leak, dropped = dict[str, int](), dict[str, int]()
    results: dict[str, ExpectationSuiteValidationResult] = {}

    def run(name: str, expectations: Sequence[gxe.Expectation], table: pd.DataFrame) -> bool:
        results[name] = _run(context, gx.ExpectationSuite(name=name, expectations=[*expectations]), table)
        return bool(results[name].success)

    generated = any(is_generated(table) for table in tables.values())
    for name, table in tables.items():
        run(name, _of_columns(generated), _without_pictures(table))
    valid = all(result.success for result in results.values())
    if valid and generated:
        facts = picture_facts(tables, resize)
        of_rows = _of_texts_and_scores("prompt", max_instruction_chars, _usual_raters(facts))
        if run("pictures", [*of_rows, *_of_image("image", min_side, of="image")], facts):
            leak = count_shared_prompts(facts)
    elif valid:
        facts = edit_facts(tables, resize)
        of_rows = _of_texts_and_scores("instruction", max_instruction_chars, _usual_raters(facts))
        run("edits", [*of_rows, *_of_pair(min_side)], facts)
        official = split == "official"
        apart = facts[facts["split"] != "test"].reset_index(drop=True) if official else facts
        run("sources", _of_sources(phash_distance, but_test=official), find_shared(apart, phash_distance))
        if rationales is not None:
            rationale_table = rationale_facts(rationales, facts, phash_distance, resize, system)
            rationale_table, dropped = _drop_of_test(rationale_table, split)
            run("rationales", _of_rationales(min_side, may_share_sources=official), rationale_table)
        if preferences:
            preferred = edit_facts(preferences, resize)
            of_rows = [*_of_texts("instruction", max_instruction_chars), *_of_pair(min_side)]
            run("preferences", of_rows, preferred)
        if all(result.success for result in results.values()):
            leak = count_leak(pd.concat([facts, rationale_table], ignore_index=True), phash_distance)
            if official:
                leak["same_edits"] = int(find_same_edits(facts)[facts["split"] == "test"].notna().sum())
    if valid and agiqa is not None:
        run("agiqa", _of_agiqa(min_side), generated_facts(agiqa, resize))
    outcomes = [(table, one) for table, result in results.items() for one in sorted(result.results, key=_words)]
    return Validation(
        checks=[
            {"table": table, "column": column, "expected": expected}
            for table, one in outcomes
            for column, expected, _ in [_words(one)]
            if _WITHIN_LIMITS not in expected
        ],
        failures=[failure for table, one in outcomes for failure in _failures(table, one)],
        facts=facts,
        rationales=rationale_table,
        preferences=preferred,
        leak=leak,
        dropped=dropped,
    )


def describe(failures: Sequence[Failure], rows_a_check: int = 10) -> str:
    """Failures as text: grouped by check, with the first `rows_a_check` rows of each and the fix."""
    lines = []
    for (column, expected, fix), group in groupby(
        failures, key=lambda failure: (failure.column, failure.expected, failure.fix)
    ):
        rows = [*group]
        lines += [f"{column}: expected that {expected}, which fails in"]
        lines += [f"    {_place(row)}" for row in rows[:rows_a_check]]
        if len(rows) > rows_a_check:
            lines += [f"    and {len(rows) - rows_a_check} more rows"]
        lines += [f"    -> {fix}"]
    return "\n".join(lines)


def _without_pictures(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the numbers of its pictures: Great Expectations pickles what it is given."""
    return table.assign(**{name: table[name].map(count_images) for name in ("images", "image") if name in table})


def _drop_of_test(rationales: pd.DataFrame, split: SplitName) -> tuple[pd.DataFrame, dict[str, int]]:
    """The facts about a released set without its rows of the test split, and the number of these by reason."""
    dropped = {"test_sources": 0, "test_edits": 0}
    reason = {"by_source": ("test_sources", "in_test"), "official": ("test_edits", "same_edit")}.get(split)
    if reason:
        kept = rationales[reason[1]].isna()
        dropped[reason[0]] = int((~kept).sum())
        rationales = rationales[kept]
    return rationales, dropped


def _place(failure: Failure) -> str:
    if failure.row is None:
        return failure.split
    found = failure.found or "nothing"
    end = "..." if len(found) > _LONGEST_FOUND else ""
    return f"{failure.split} row {failure.row}, id {failure.id!r}: {found[:_LONGEST_FOUND]}{end}"


def _usual_raters(facts: pd.DataFrame) -> set[int]:
    """The number of ratings that most rows have; empty if none has ratings."""
    return {int(count) for count in facts["raters"].mode()[:1]}


def _of_columns(generated: bool) -> list[gxe.Expectation]:
    names, fix = ("images", "instruction", "mos"), "name the columns as in IE-Bench-4k: images, edit_inst, answer"
    if generated:
        names, fix = ("image", "prompt", "mos"), "name the columns image, prompt and answer in each split"
    columns = [_expect(gxe.ExpectColumnToExist, name, "the column is there", fix) for name in names]
    meta = {"column": "all columns", "fix": "add edits to the split"}
    rows = gxe.ExpectTableRowCountToBeBetween(min_value=1, description="the table has rows", meta=meta)
    return [*columns, rows]


def _of_texts_and_scores(text: str, most_chars: int, raters: Collection[int]) -> list[gxe.Expectation]:
    """An id, an instruction or prompt, and scores on the scale; `raters`: the possible numbers of ratings."""
    low, high = SCALE
    one_id = "no other row of any split has the same id"
    ratings, as_many = f"every rating is a number from {low} to {high}", "the row has as many ratings as most rows"
    return [
        _expect(_UNIQUE, "id", one_id, "give each row a different id, or remove the column"),
        *_of_texts(text, most_chars),
        _expect(_NOT_NULL, "mos", "there is a MOS", _CORRECT),
        *(_expect(_NULL, f"{name}_text", "the score is a number", _CORRECT, of=name) for name in SCORES),
        *(_on_scale(name, low, high) for name in SCORES),
        _expect(_NULL, "odd_ratings", ratings, _CORRECT, of="ratings"),
        _expect(_IN_SET, "raters", as_many, _CORRECT, of="ratings", value_set=[*raters]),
    ]


def _of_texts(text: str, most_chars: int) -> list[gxe.Expectation]:
    shorten = f"{_CORRECT}, or raise validate.max_instruction_chars in params.yaml"
    return [
        _expect(_LENGTHS, text, f"the {text} is not empty", _CORRECT, min_value=1),
        _expect(_LENGTHS, text, f"the {text} has at most {most_chars} characters", shorten, max_value=most_chars),
    ]


def _of_pair(min_side: int) -> list[gxe.Expectation]:
    two = _expect(
        _IN_SET, "images", "there are two images, the source and the edited one", _REPLACE, value_set=[2]
    )
    return [two, *_of_image("source", min_side), *_of_image("edited", min_side)]


def _of_image(role: str, min_side: int, of: str = "images") -> list[gxe.Expectation]:
    image = "image" if role == "image" else f"{role} image"
    large = f"the {image}'s shorter side has at least {min_side} pixels"
    wide = f"the {image}'s longer side is at most {MAX_ASPECT} times the shorter"
    lower = f"{_REPLACE}, or lower validate.min_side in params.yaml"
    another = f"{_REPLACE}, or choose another prompt.contract in params.yaml"
    return [
        _expect(_NULL, f"{role}_error", f"the {image} can be decoded", _REPLACE, of=of),
        _expect(_BETWEEN, f"{role}_side", large, lower, of=of, min_value=min_side),
        _expect(_BETWEEN, f"{role}_aspect", wide, _REPLACE, of=of, max_value=MAX_ASPECT),
        _expect(_NULL, f"{role}_limits", f"the {image} {_WITHIN_LIMITS}", another, of=of),
    ]


def _of_sources(phash_distance: int, *, but_test: bool) -> list[gxe.Expectation]:
    """The columns of `critic.data.near_duplicates.find_shared` are empty; with `but_test`, test isn't compared."""
    together = "keep all edits of a source image in one split"
    no_other = f"no other split{' but test' if but_test else ''} has"
    bits = f"(perceptual hashes differ in at most {phash_distance} bits)"
    differ = f"{together}; if the pictures are different, lower validate.phash_distance in params.yaml"
    return [
        _expect(_NULL, "same_source_id", f"{no_other} the same source_id", together, of="source_id"),
        _expect(_NULL, "same_pixels", f"{no_other} the same source image", together, of="images"),
        _expect(_NULL, "looks_like", f"{no_other} a source image that looks the same {bits}", differ, of="images"),
    ]


def _of_rationales(min_side: int, *, may_share_sources: bool) -> list[gxe.Expectation]:
    """A released set may have source images of the test split if that is official, but none of its edits."""
    low, high = SCALE
    turns = "there is one turn of the user, then one of the assistant, and no system message but the prompt's own"
    answer = (
        f"the assistant's turn is <think>...</think> or nothing, then <answer> with a score from {low} "
        f"to {high} </answer>; or such a score alone"
    )
    column, apart = "in_test", "the test split has no source image that is or looks the same"
    if may_share_sources:
        column, apart = "same_edit", "the test split has no edit with the same two pictures"
    return [
        _expect(_UNIQUE, "id", "no other row has the same id", _OWN_ID),
        *_of_pair(min_side),
        _expect(_NULL, "turns", turns, _LEAVE_OUT, of="messages"),
        _expect(_NULL, "fault", answer, _LEAVE_OUT, of="messages"),
        _expect(_NULL, column, apart, _LEAVE_OUT, of="images"),
    ]


def _of_agiqa(min_side: int) -> list[gxe.Expectation]:
    return [
        _expect(_UNIQUE, "id", "no other row has the same id", _OWN_ID),
        _expect(_LENGTHS, "prompt", "the prompt is not empty", _CORRECT, min_value=1),
        *_of_image("image", min_side, of="image"),
        *(_expect(_NOT_NULL, name, "there is a MOS", _CORRECT) for name in GENERATED_AXES.values()),
        *(_on_scale(name, *GENERATED_SCALE) for name in GENERATED_AXES.values()),
    ]


def _on_scale(name: str, low: float, high: float) -> gxe.Expectation:
    expected = f"the score is from {low} to {high}"
    return _expect(_BETWEEN, name, expected, _CORRECT, min_value=low, max_value=high)


def _expect(
    kind: Callable[..., gxe.Expectation],
    column: str,
    expected: str,
    fix: str,
    *,
    of: str | None = None,
    **limits: Any,
) -> gxe.Expectation:
    """An expectation of a fact, with its description and fix; `of` is the table's column that has the fact."""
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

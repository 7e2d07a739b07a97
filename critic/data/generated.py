"""Benchmarks of pictures that were generated from text: each row has a picture, its prompt and MOS, and no source.

    table = normalise_generated(read_parquet("data/raw/test.parquet"), "test")
    edits_from_table(table)    # edits without a source
    as_edits(table)            # the same with the columns images (one each) and instruction, to measure and show

`source_id` is the prompt, or what else pictures have in common that must stay in one split.
"""

from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from critic.edits import COLUMNS as EDIT_COLUMNS
from critic.edits import GENERATED_COLUMNS, TYPES, normalise

_OWN = {name: GENERATED_COLUMNS[name] for name in ("image", "prompt")}
_OF_EDITS = ("images", "instruction", "problem", "prompt_number")

COLUMNS: dict[str, pa.DataType] = {
    **{name: EDIT_COLUMNS[name] for name in ("id", "source_id")},
    **_OWN,
    **{name: kind for name, kind in EDIT_COLUMNS.items() if name not in ("id", "source_id", *_OF_EDITS)},
}
"""The columns of a validated table, in order; those from `edit_type` on are optional."""

ALL_TYPES = TYPES | _OWN
"""All columns that a raw or a validated table of edits or of generated pictures can have."""


@dataclass(frozen=True)
class Words:
    """What the rows of a table are called, and what rows with the same `source_id` have in common."""

    item: str
    items: str
    sources: str


EDITS = Words("edit", "edits", "source images")


def is_generated(table: pd.DataFrame) -> bool:
    """Whether a table, raw or validated, is one of generated pictures."""
    return {*_OWN} <= {*table.columns}


def words(table: pd.DataFrame) -> Words:
    """What to call the rows of a validated table, which has the column source_id."""
    if not is_generated(table):
        return EDITS
    by_prompt = (table["source_id"] == table["prompt"]).all()
    return Words("picture", "pictures", "prompts" if by_prompt else EDITS.sources)


def without_sources(raw: pd.DataFrame) -> pd.DataFrame:
    """A raw table of edits as one of generated pictures: the edited pictures, with the instructions as prompts."""
    edited = pd.Series([images[1] for images in raw["images"]], raw.index, "object")
    return raw.assign(image=edited, prompt=raw["edit_inst"]).drop(columns=["images", "edit_inst", "problem"])


def normalise_generated(raw: pd.DataFrame, split: str) -> pd.DataFrame:
    """A raw table with the names, order and types of `COLUMNS`; a missing source_id becomes the prompt."""
    table = normalise(raw, split).assign(
        image=pd.Series([*raw["image"]], dtype="object"),
        prompt=pd.Series([*raw["prompt"]], dtype="object").map(str, na_action="ignore").astype("str"),
    )
    if "source_id" not in table:
        table["source_id"] = table["prompt"]
    return table[[name for name in COLUMNS if name in table]]


def as_edits(table: pd.DataFrame) -> pd.DataFrame:
    """A validated table with the columns of one of edits; `images` has one image. One of edits stays as it is."""
    if not is_generated(table):
        return table
    images = pd.Series([[image] for image in table["image"]], table.index, "object")
    return table.assign(images=images, instruction=table["prompt"]).drop(columns=[*_OWN])

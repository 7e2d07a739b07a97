"""A picture made from a text prompt alone, and the table that holds such: AGIQA-3k, the second benchmark.

    for generated in generated_from_table(read_table("data/validated/agiqa.parquet")):
        generated.image, generated.prompt

AGIQA-3k (arXiv 2306.04717) has two mean opinion scores a picture, of its quality and of its alignment with the
prompt, from 0 to 5. A critic of edits was not trained for either: it gives its one score, measured against both.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
from PIL import Image

from critic.edits import COLUMNS as EDIT_COLUMNS
from critic.edits import ImageError, decode_image

AXES = {"quality": "mos_quality", "alignment": "mos_alignment"}
SCALE = (0, 5)
"""Lowest and highest mean opinion score."""

COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "image": EDIT_COLUMNS["images"].value_type,
    "prompt": pa.string(),
    "mos_quality": pa.float64(),
    "mos_alignment": pa.float64(),
}
"""The columns of a raw and of a validated table, in order; `id` is the name of the image's file."""


@dataclass(frozen=True)
class Generated:
    """An RGB picture and the text prompt that it was generated from."""

    id: str
    image: Image.Image
    prompt: str


def generated_from_table(table: pd.DataFrame) -> Iterator[Generated]:
    """The pictures of a table, decoded one at a time, in its order.

    Raises:
        ImageError: one that can't be decoded.
    """
    for number, row in enumerate(table.to_dict("records")):
        try:
            image = decode_image(row["image"])
        except ImageError as error:
            raise ImageError(f"row {number}, id {row['id']!r}, image: {error}") from error
        yield Generated(row["id"], image, row["prompt"])

"""What can be told of each row of a table of edits, as plain columns that expectations look at.

    facts = edit_facts({"train": train, "test": test})

Nothing here judges or fails: what can't be read becomes a fact too.
"""

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import Any

import imagehash
import numpy as np
import pandas as pd
from PIL import Image

from critic.edits import GENERATED_AXES, ImageError, count_images, decode_image, image_file

HASH_SIZE = 16
"""Side of a perceptual hash, which has HASH_SIZE squared bits."""

SCORES = ("mos", "mos_alignment", "mos_fidelity", "mos_quality")
SCALE = (1, 5)
"""Lowest and highest score and rating."""

COLUMNS = (
    *("split", "row", "id", "source_id", "instruction", "images"),
    *("source_error", "source_side", "source_aspect", "pixels", "phash"),
    *("edited_error", "edited_side", "edited_aspect", "edited_pixels"),
    *(*SCORES, *(f"{name}_text" for name in SCORES), "raters", "odd_ratings"),
)
GENERATED_COLUMNS = (
    "split",
    "row",
    "id",
    "prompt",
    "image_error",
    "image_side",
    "image_aspect",
    *GENERATED_AXES.values(),
)


def edit_facts(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The facts of each row of normalised tables (split: table), in their order.

    Returns:
        split, row: where it is; rows count from 0 within a split.
        id, source_id: as they are.
        instruction: without the white space around it, empty if missing.
        images: how many there are.
        source_error, edited_error: why the image can't be decoded, missing if it can.
        source_side, edited_side: the shorter side in pixels, missing if not decoded.
        source_aspect, edited_aspect: the longer side over the shorter, missing if not decoded.
        pixels, edited_pixels: sha256 of the decoded image: the same picture whatever the file.
        phash: perceptual hash of the source image (of its cosine transform, in hex).
        mos, mos_alignment, mos_fidelity, mos_quality: as they are, missing if not a number.
        mos_text, ...: what is there instead of a number, missing if nothing or a number is.
        raters: how many ratings, missing if the column is.
        odd_ratings: the ratings outside `SCALE` as text, missing if there are none.
    """
    look = cache(_image_facts)
    rows = [
        {
            "split": split,
            "row": number,
            "id": row["id"],
            "source_id": row["source_id"],
            "instruction": "" if pd.isna(row["instruction"]) else row["instruction"].strip(),
            "images": count_images(row["images"]),
        }
        | look("source", image_file(row["images"], 0))
        | look("edited", image_file(row["images"], 1))
        | {key: fact for name in SCORES for key, fact in _score_facts(name, row.get(name)).items()}
        | _rating_facts(row.get("ratings"))
        for split, table in tables.items()
        for number, row in enumerate(table.to_dict("records"))
    ]
    numbers = [*SCORES, "raters", "source_side", "source_aspect", "edited_side", "edited_aspect"]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(numbers, float))


def source_facts(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Of each row of raw or normalised tables what `critic.data.near_duplicates.group_sources` goes by, as `edit_facts` has it.

    Returns:
        split, row, source_id (the sha256 of the source image's file where the table has none), pixels, phash.
    """
    look = cache(_image_facts)
    rows = []
    for split, table in tables.items():
        for number, row in enumerate(table.to_dict("records")):
            file = image_file(row["images"], 0)
            named = row.get("source_id")
            source = sha256(file or b"").hexdigest() if pd.isna(named) else named
            rows.append({"split": split, "row": number, "source_id": source} | look("source", file))
    return pd.DataFrame(rows, columns=["split", "row", "source_id", "pixels", "phash"])


def generated_facts(table: pd.DataFrame) -> pd.DataFrame:
    """The facts of each row of a raw table of generated pictures (`critic.edits`), in its order.

    Returns:
        split, row: "agiqa", and the number of the row, from 0.
        id, mos_quality, mos_alignment: as they are.
        prompt: without the white space around it, empty if missing.
        image_error, image_side, image_aspect: as `edit_facts` has them of the source image.
    """
    rows = [
        {"split": "agiqa", "row": number, **{name: row[name] for name in ("id", *GENERATED_AXES.values())}}
        | {"prompt": "" if pd.isna(row["prompt"]) else row["prompt"].strip()}
        | _image_facts("image", image_file([row["image"]], 0))
        for number, row in enumerate(table.to_dict("records"))
    ]
    return pd.DataFrame(rows, columns=GENERATED_COLUMNS).astype({"image_side": float, "image_aspect": float})


def _image_facts(role: str, file: bytes | None) -> dict[str, Any]:
    try:
        image = decode_image({"bytes": file})
    except ImageError as error:
        return {f"{role}_error": str(error)}
    short, long = sorted(image.size)
    facts = {f"{role}_error": None, f"{role}_side": short, f"{role}_aspect": long / short}
    match role:
        case "source":
            return facts | {"pixels": _digest(image), "phash": str(imagehash.phash(image, HASH_SIZE))}
        case "edited":
            return facts | {"edited_pixels": _digest(image)}
    return facts


def _digest(image: Image.Image) -> str:
    return sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def _score_facts(name: str, given: Any) -> dict[str, Any]:
    number = pd.to_numeric(given, errors="coerce")
    return {
        name: number,
        f"{name}_text": None if pd.isna(given) or pd.notna(number) else str(given),
    }


def _rating_facts(ratings: Any) -> dict[str, Any]:
    ratings = [*ratings] if isinstance(ratings, list | tuple | np.ndarray) else []
    low, high = SCALE
    values = pd.to_numeric(pd.Series(ratings, dtype="object"), errors="coerce")
    odd = [str(given) for given, value in zip(ratings, values, strict=True) if not low <= value <= high]
    return {"raters": len(ratings) or None, "odd_ratings": ", ".join(odd) or None}

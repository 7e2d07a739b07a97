"""The facts about each row of a table of edits, as plain columns for `critic.data.expectations` to check.

    facts = edit_facts({"train": train, "test": test}, contract.resize)

Nothing here raises for bad data: a value that can't be read becomes a fact.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from hashlib import sha256
from itertools import islice
from typing import Any

import imagehash
import numpy as np
import pandas as pd
from PIL import Image

from critic.edits import GENERATED_AXES, count_images, image_file
from critic.pictures import PictureError, decode_cell

Resize = Callable[[Image.Image], Image.Image]
"""Resizes a picture for the model, as `critic.prompts.Contract.resize`, or raises ValueError if it can't.

Whether it can depends on the size of the picture alone.
"""

HASH_SIZE = 16
"""Side of a perceptual hash, which has HASH_SIZE ** 2 bits."""

SCORES = ("mos", "mos_alignment", "mos_fidelity", "mos_quality")
SCALE = (1, 5)
"""The lowest and the highest score and rating."""

_ROWS_AT_ONCE = 64

COLUMNS = (
    *("split", "row", "id", "source_id", "instruction", "images"),
    *("source_error", "source_side", "source_aspect", "source_limits", "pixels", "phash"),
    *("edited_error", "edited_side", "edited_aspect", "edited_limits", "edited_pixels"),
    *(*SCORES, *(f"{name}_text" for name in SCORES), "raters", "odd_ratings"),
)
PICTURE_COLUMNS = (
    *("split", "row", "id", "source_id", "prompt"),
    *("image_error", "image_side", "image_aspect", "image_limits", "pixels"),
    *(*SCORES, *(f"{name}_text" for name in SCORES), "raters", "odd_ratings"),
)
GENERATED_COLUMNS = (
    *("split", "row", "id", "prompt", *GENERATED_AXES.values()),
    *("image_error", "image_side", "image_aspect", "image_limits"),
)


def edit_facts(tables: Mapping[str, pd.DataFrame], resize: Resize) -> pd.DataFrame:
    """The facts about each row of normalised tables (split: table), in their order.

    Args:
        resize: the prompt contract's.

    Returns:
        split, row: the place of the row; rows are numbered from 1 within a split.
        id, source_id: unchanged.
        instruction: without the whitespace around it, empty if missing.
        images: the number of images.
        source_error, edited_error: why the image can't be decoded, missing if it can.
        source_side, edited_side: the shorter side in pixels, missing if not decoded.
        source_aspect, edited_aspect: the longer side divided by the shorter, missing if not decoded.
        source_limits, edited_limits: why the image can't be resized, missing if it can or isn't decoded.
        pixels, edited_pixels: SHA-256 of the decoded image, equal for files of different formats.
        phash: perceptual hash of the source image (of its cosine transform, in hexadecimal digits).
        mos, mos_alignment, mos_fidelity, mos_quality: unchanged, missing if not a number.
        mos_text, ...: the value that is not a number, missing if there is a number or no value.
        raters: the number of ratings, missing if the table has no such column.
        odd_ratings: the ratings outside `SCALE` as text, missing if there are none.
    """
    pictures = _picture_facts(
        (
            {"source": image_file(images, 0), "edited": image_file(images, 1)}
            for table in tables.values()
            for images in table["images"]
        ),
        resize,
    )
    rows = [
        {
            "split": split,
            "row": number,
            "id": row["id"],
            "source_id": row["source_id"],
            "instruction": _stripped(row["instruction"]),
            "images": count_images(row["images"]),
        }
        | next(pictures)
        | {key: fact for name in SCORES for key, fact in _score_facts(name, row.get(name)).items()}
        | _rating_facts(row.get("ratings"))
        for split, table in tables.items()
        for number, row in enumerate(table.to_dict("records"), 1)
    ]
    numbers = [*SCORES, "raters", "source_side", "source_aspect", "edited_side", "edited_aspect"]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(numbers, float))


def picture_facts(tables: Mapping[str, pd.DataFrame], resize: Resize) -> pd.DataFrame:
    """The facts about each row of normalised tables of generated pictures (split: table), in their order.

    Args:
        resize: the prompt contract's.

    Returns:
        split, row, id, source_id, the scores and their texts, raters, odd_ratings: as in `edit_facts`.
        prompt, image_error, image_side, image_aspect, image_limits: as in `generated_facts`.
        pixels: SHA-256 of the decoded image, missing if not decoded.
    """
    cells = (image for table in tables.values() for image in table["image"])
    pictures = _picture_facts(({"image": image_file([image], 0)} for image in cells), resize)
    rows = [
        {"split": split, "row": number, "id": row["id"], "source_id": row["source_id"]}
        | {"prompt": _stripped(row["prompt"])}
        | next(pictures)
        | {key: fact for name in SCORES for key, fact in _score_facts(name, row.get(name)).items()}
        | _rating_facts(row.get("ratings"))
        for split, table in tables.items()
        for number, row in enumerate(table.to_dict("records"), 1)
    ]
    numbers = [*SCORES, "raters", "image_side", "image_aspect"]
    return pd.DataFrame(rows, columns=PICTURE_COLUMNS).astype(dict.fromkeys(numbers, float))


def source_facts(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The facts about each row of raw or normalised tables that `critic.data.near_duplicates.group_sources` needs.

    Returns:
        split, row, source_id (the SHA-256 of the source image's file if missing), pixels, phash: as `edit_facts`.
    """
    files = (image_file(images, 0) for table in tables.values() for images in table["images"])
    pictures = _picture_facts(({"source": file} for file in files), None)
    rows = []
    for split, table in tables.items():
        for number, row in enumerate(table.to_dict("records"), 1):
            named = row.get("source_id")
            source = sha256(image_file(row["images"], 0) or b"").hexdigest() if pd.isna(named) else named
            rows.append({"split": split, "row": number, "source_id": source} | next(pictures))
    return pd.DataFrame(rows, columns=["split", "row", "source_id", "pixels", "phash"])


def generated_facts(table: pd.DataFrame, resize: Resize) -> pd.DataFrame:
    """The facts about each row of a raw table of generated pictures (`critic.edits`), in its order.

    Args:
        resize: the prompt contract's.

    Returns:
        split, row: "agiqa", and the number of the row, from 1.
        id, mos_quality, mos_alignment: unchanged.
        prompt: without the whitespace around it, empty if missing.
        image_error, image_side, image_aspect, image_limits: as those of the source image in `edit_facts`.
    """
    pictures = _picture_facts(({"image": image_file([image], 0)} for image in table["image"]), resize)
    rows = [
        {"split": "agiqa", "row": number, **{name: row[name] for name in ("id", *GENERATED_AXES.values())}}
        | {"prompt": _stripped(row["prompt"])}
        | next(pictures)
        for number, row in enumerate(table.to_dict("records"), 1)
    ]
    return pd.DataFrame(rows, columns=GENERATED_COLUMNS).astype({"image_side": float, "image_aspect": float})


def _picture_facts(rows: Iterable[Mapping[str, bytes | None]], resize: Resize | None) -> Iterator[dict[str, Any]]:
    """The facts about the pictures of each row, which are given as {role: file}.

    Files are read here, some rows at a time, and decoded by all cores, each once: source images have many edits.
    """
    misfit = cache(partial(_misfit, resize))
    known: dict[tuple[str, bytes], dict[str, Any]] = {}
    rows = iter(rows)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        while some := [*islice(rows, _ROWS_AT_ONCE)]:
            keyed = [{(role, sha256(file or b"").digest()): file for role, file in row.items()} for row in some]
            new = {key: file for row in keyed for key, file in row.items() if key not in known}
            found = pool.map(_image_facts, [role for role, _ in new], new.values(), [misfit] * len(new))
            known.update(zip(new, found, strict=True))
            for row in keyed:
                yield {name: fact for key in row for name, fact in known[key].items()}


def _image_facts(role: str, file: bytes | None, misfit: Callable[[tuple[int, int]], str | None]) -> dict[str, Any]:
    try:
        image = decode_cell({"bytes": file})
    except PictureError as error:
        return {f"{role}_error": str(error)}
    short, long = sorted(image.size)
    facts: dict[str, Any] = {f"{role}_side": short, f"{role}_aspect": long / short}
    facts |= {f"{role}_error": None, f"{role}_limits": misfit(image.size)}
    match role:
        case "image":
            return facts | {"pixels": _digest(image)}
        case "source":
            return facts | {"pixels": _digest(image), "phash": str(imagehash.phash(image, HASH_SIZE))}
        case "edited":
            return facts | {"edited_pixels": _digest(image)}
    return facts


def _misfit(resize: Resize | None, size: tuple[int, int]) -> str | None:
    """Why a picture of this size can't be resized, None if it can."""
    try:
        if resize:
            resize(Image.new("RGB", size))
    except ValueError as error:
        return str(error)
    return None


def _stripped(text: Any) -> str:
    return "" if pd.isna(text) else text.strip()


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
    numbers = all(isinstance(rating, float) for rating in ratings)
    values = ratings if numbers else pd.to_numeric(pd.Series(ratings, dtype="object"), errors="coerce")
    odd = [str(given) for given, value in zip(ratings, values, strict=True) if not low <= value <= high]
    return {"raters": len(ratings) or None, "odd_ratings": ", ".join(odd) or None}

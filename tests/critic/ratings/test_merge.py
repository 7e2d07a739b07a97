"""Rated edits join the split of their source image; test never changes, and no image changes its split."""

from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from critic.ratings.increments import Increment, latest
from critic.ratings.merge import merge

DISTANCE = 56
"""Bits; two different pictures in these tests differ in 100 or more."""


def picture(seed: int, quality: int = 95) -> bytes:
    """A JPEG of coloured blocks; another quality gives another file that looks the same."""
    return jpeg(blocks(seed), quality)


def blocks(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(float)


def jpeg(colours: np.ndarray, quality: int = 95) -> bytes:
    file = BytesIO()
    image = Image.fromarray(colours.astype(np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def pair(source: bytes, edited: int) -> list[dict[str, Any]]:
    return [{"bytes": source, "path": None}, {"bytes": picture(edited), "path": None}]


def raw(split: str, *sources: int) -> pd.DataFrame:
    """A raw table with one edit per source image."""
    return pd.DataFrame(
        {
            "id": [f"{split}-{source}" for source in sources],
            "source_id": [f"{split}-s{source}" for source in sources],
            "images": [pair(picture(source), 1000 + source) for source in sources],
            "edit_inst": "make it red",
            "answer": 3.0,
            "ratings": [[3.0]] * len(sources),
        }
    )


TABLES = {"train": raw("train", 1, 2), "validation": raw("validation", 3), "test": raw("test", 4)}


def increment(name: str, *rows: tuple[str, bytes, float | None]) -> Increment:
    """An increment of edits, each with an id, a source image and a MOS."""
    edits = pd.DataFrame(
        {
            "id": [id for id, _, _ in rows],
            "source_id": [f"rated-{id}" for id, _, _ in rows],
            "images": [pair(source, 2000 + number) for number, (_, source, _) in enumerate(rows)],
            "instruction": "make it blue",
            "mos": [mos for *_, mos in rows],
            "ratings": [[3.0, 4.0, 5.0]] * len(rows),
        }
    )
    return Increment(name, edits, pd.DataFrame())


def placed(*increments: Increment) -> dict[str, str]:
    """Which split each rated edit is in."""
    merged, _ = merge(TABLES, [*increments], DISTANCE)
    return {id: split for split, table in merged.items() for id in table["id"] if id.startswith("r")}


def test_an_edit_goes_where_its_source_image_is_by_bytes_pixels_or_looks() -> None:
    rows = [("r1", picture(1), 4.0), ("r3", picture(3, quality=60), 2.0), ("r9", picture(9), 5.0)]
    assert placed(increment("0001", *rows)) == {"r1": "train", "r3": "validation", "r9": "train"}


def test_the_test_split_stays_as_it_is() -> None:
    rows = [("r4", picture(4), 1.0), ("r5", picture(4, quality=50), 1.0)]
    merged, counts = merge(TABLES, [increment("0001", *rows)], DISTANCE)
    pd.testing.assert_frame_equal(merged["test"], TABLES["test"])
    assert counts == {"0001": {"of test images": 2}}


def test_a_new_image_keeps_its_split_in_later_increments() -> None:
    first = increment("0001", ("r9", picture(9), 4.0))
    second = increment("0002", ("r10", picture(9, quality=50), 4.0))
    merged, _ = merge(TABLES, [first, second], DISTANCE)
    rated = merged["train"][merged["train"]["id"].str.startswith("r")]
    assert rated["source_id"].tolist() == ["rated-r9", "rated-r9"]


def test_an_edit_shares_the_source_id_of_the_benchmark() -> None:
    """Then a split by groups, as for a benchmark without validation, can't separate them."""
    merged, _ = merge(TABLES, [increment("0001", ("r1", picture(1), 4.0))], DISTANCE)
    assert merged["train"]["source_id"].tolist() == ["train-s1", "train-s2", "train-s1"]


def test_an_edit_without_a_mos_waits_until_it_has_one() -> None:
    first = increment("0001", ("r9", picture(9), None))
    assert placed(first) == {}
    assert merge(TABLES, [first], DISTANCE)[1] == {"0001": {"wait": 1}}
    assert placed(first, increment("0002", ("r9", picture(9), 4.0))) == {"r9": "train"}


def test_a_later_mos_replaces_an_earlier_one() -> None:
    increments = [increment(name, ("r9", picture(9), mos)) for name, mos in (("0001", 4.0), ("0002", 2.5))]
    merged, counts = merge(TABLES, increments, DISTANCE)
    assert merged["train"]["answer"].tolist() == [3.0, 3.0, 2.5]
    assert counts == {"0001": {"train": 1}, "0002": {}}
    assert latest(increments)["increment"].tolist() == ["0001"]


def test_an_edit_of_the_benchmark_keeps_the_benchmarks_mos() -> None:
    again = increment("0001", ("r1", picture(1), 5.0))
    edits = again.edits.assign(images=[TABLES["train"]["images"][0]], instruction="make it red")
    merged, counts = merge(TABLES, [Increment("0001", edits, pd.DataFrame())], DISTANCE)
    assert counts == {"0001": {"of the benchmark": 1}}
    assert merged["train"]["answer"].tolist() == [3.0, 3.0]


def test_whitespace_around_the_instruction_makes_no_other_edit() -> None:
    tables = {**TABLES, "train": raw("train", 1).assign(edit_inst="make it red ")}
    again = increment("0001", ("r1", picture(1), 5.0))
    edits = again.edits.assign(images=[TABLES["train"]["images"][0]], instruction="make it red")
    merged, counts = merge(tables, [Increment("0001", edits, pd.DataFrame())], DISTANCE)
    assert counts == {"0001": {"of the benchmark": 1}}
    assert merged["train"]["answer"].tolist() == [3.0]


def test_an_image_that_looks_like_two_different_groups_is_left_out() -> None:
    """A blend of two images looks like both, and these don't look like each other."""
    one, other, between = (jpeg(blocks(1) * (1 - w) + blocks(2) * w) for w in (0.35, 0.65, 0.5))
    tables = {**TABLES, "train": raw("train", 5, 6)}
    tables["train"]["images"] = [pair(one, 1), pair(other, 2)]
    merged, counts = merge(tables, [increment("0001", ("r9", between, 4.0))], DISTANCE)
    assert counts == {"0001": {"ambiguous": 1}}
    assert len(merged["train"]) == 2


def test_without_increments_nothing_changes() -> None:
    merged, counts = merge(TABLES, [], DISTANCE)
    assert counts == {} and all(merged[split] is TABLES[split] for split in TABLES)

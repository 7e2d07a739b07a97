"""The same source image is found again under another name, in another file, and recompressed."""

from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from critic.data.features import edit_facts
from critic.data.near_duplicates import carve, find_shared, group_sources
from critic.prompts import load_contract

DISTANCE = 24
RESIZE = load_contract("tiny").resize


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((80, 80), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    file = BytesIO()
    image.save(file, kind, **options)
    return {"bytes": file.getvalue(), "path": None}


def table(*sources: tuple[str, dict[str, Any]]) -> pd.DataFrame:
    """A table of edits with these (source_id, source image)."""
    edited = encode(picture(99))
    return pd.DataFrame(
        {
            "id": [str(row) for row in range(len(sources))],
            "source_id": [source_id for source_id, _ in sources],
            "images": [[image, edited] for _, image in sources],
            "instruction": "make it red",
            "mos": 3.0,
        }
    )


def shared(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    return find_shared(edit_facts({"train": train, "test": test}, RESIZE), DISTANCE)


def test_splits_of_different_pictures_share_none() -> None:
    train = table(*((f"s{seed}", encode(picture(seed))) for seed in range(20)))
    test = table(*((f"s{seed}", encode(picture(seed))) for seed in range(20, 30)))
    assert shared(train, test)[["same_source_id", "same_pixels", "looks_like"]].isna().all(axis=None)


def test_a_source_id_in_two_splits_is_found_from_both_sides() -> None:
    train = table(("a", encode(picture(0))), ("b", encode(picture(1))), ("b", encode(picture(1))))
    test = table(("c", encode(picture(2))), ("b", encode(picture(3))))
    found = shared(train, test)["same_source_id"]
    assert [*found.notna()] == [False, True, True, False, True]
    assert (found[1], found[4]) == ("test row 2, id '1'", "train row 2, id '1'")


def test_a_picture_in_another_file_is_found_by_its_pixels() -> None:
    train = table(("a", encode(picture(0))))
    found = shared(train, table(("b", encode(picture(0), optimize=True, compress_level=1))))
    assert found["same_pixels"].notna().all()
    assert found[["same_source_id", "looks_like"]].isna().all(axis=None)


@pytest.mark.parametrize(
    "copy",
    [
        encode(picture(0), "JPEG", quality=60),
        encode(picture(0).resize((160, 160))),
        encode(picture(0).point(lambda value: value * 0.9)),
    ],
    ids=["recompressed", "enlarged", "darkened"],
)
def test_a_copy_is_found_by_its_looks(copy: dict[str, Any]) -> None:
    train = table(("a", encode(picture(1))), ("b", encode(picture(0))))
    found = shared(train, table(("c", copy)))
    assert [*found["looks_like"].notna()] == [False, True, True]
    assert found["looks_like"][2].startswith("train row 2, id '1', ")
    assert found["looks_like"][2].endswith(" of 256 bits apart")
    assert found["same_pixels"].isna().all()


def test_an_image_that_is_not_there_is_like_no_other() -> None:
    gone = {"bytes": None, "path": "gone.png"}
    found = shared(table(("a", gone)), table(("b", gone)))
    assert found[["same_source_id", "same_pixels", "looks_like"]].isna().all(axis=None)


def test_groups_join_what_has_an_id_the_pixels_or_the_looks_in_common() -> None:
    same, recompressed = encode(picture(0)), encode(picture(0), "JPEG", quality=60)
    sources = table(
        ("d", same),
        ("c", same),
        ("b", recompressed),
        ("b", encode(picture(1))),
        ("a", encode(picture(2))),
    )
    assert group_sources(edit_facts({"train": sources}, RESIZE), DISTANCE) == ["b", "b", "b", "b", "a"]


def test_no_group_is_carved_in_two() -> None:
    rows = pd.DataFrame({"group": [f"g{row % 30}" for row in range(90)]})
    train, validation = carve(rows, rows["group"], 0.2)
    assert {*train["group"]}.isdisjoint(validation["group"])
    assert 1 <= validation["group"].nunique() <= 12
    assert len(train) + len(validation) == 90


def test_about_the_fraction_goes() -> None:
    rows = pd.DataFrame({"group": [f"g{row}" for row in range(2000)]})
    _, validation = carve(rows, rows["group"], 0.1)
    assert 160 <= len(validation) <= 240


def test_more_groups_move_none_that_were_there() -> None:
    before = pd.DataFrame({"group": [f"g{row}" for row in range(40)]})
    after = pd.DataFrame({"group": [f"g{row}" for row in range(400)]})
    _, then = carve(before, before["group"], 0.2)
    _, now = carve(after, after["group"], 0.2)
    assert {*then["group"]} == {*now["group"]} & {*before["group"]}


def test_where_a_group_goes_does_not_depend_on_the_order_of_rows() -> None:
    rows = pd.DataFrame({"group": [f"g{row % 30}" for row in range(90)]})
    _, once = carve(rows, rows["group"], 0.2)
    _, again = carve(rows[::-1], rows["group"][::-1], 0.2)
    assert {*once["group"]} == {*again["group"]}


@pytest.mark.parametrize(("fraction", "kept", "carved"), [(0.001, 2, 1), (0.999, 1, 2)])
def test_neither_side_is_left_empty(fraction: float, kept: int, carved: int) -> None:
    rows = pd.DataFrame({"group": ["a", "b", "c"]})
    train, validation = carve(rows, rows["group"], fraction)
    assert (len(train), len(validation)) == (kept, carved)


def test_a_single_source_image_is_not_carved() -> None:
    with pytest.raises(ValueError, match="can't be split in two"):
        carve(pd.DataFrame({"group": ["a", "a"]}), ["a", "a"], 0.5)

"""The same source image is found again under another name, in another file, and recompressed."""

from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.sparse.csgraph import connected_components

from critic.data.features import edit_facts
from critic.data.near_duplicates import (
    carve,
    choose_rows,
    count_leak,
    find_same_edits,
    find_shared,
    group_sources,
)
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


# --- whole groups, and what a split by row leaks


def test_whole_groups_are_chosen_up_to_about_the_share() -> None:
    groups = [f"g{row % 20}" for row in range(200)] + ["large"] * 30
    chosen = choose_rows(groups, 0.25)
    assert {*np.array(groups)[chosen]}.isdisjoint(np.array(groups)[~chosen])
    assert abs(chosen.mean() - 0.25) <= 15 / 230


def test_the_choice_is_the_same_everywhere() -> None:
    """The order comes from SHA-256, not from a generator of random numbers or the hash of this process."""
    assert [*choose_rows([*"abcdefgh"], 0.25)] == [letter in "ad" for letter in "abcdefgh"]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.999, 1.0])
def test_neither_part_is_empty(share: float) -> None:
    chosen = choose_rows(["a", "a", "b", "c"], share)
    assert chosen.any() and not chosen.all()


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="1 source images can't be split in two"):
        choose_rows(["a", "a"], 0.5)


def test_the_leak_of_a_test_split_is_counted_by_source_image() -> None:
    """One is there under its name, two as copies: recompressed in train, and once more in test."""
    copy, again = (encode(picture(1), "JPEG", quality=quality) for quality in (60, 70))
    train = table(("a", encode(picture(0))), ("b", copy), ("c", encode(picture(2))))
    test = table(
        *(("a", encode(picture(0))),) * 2, ("d", encode(picture(1))), ("e", again), ("f", encode(picture(3)))
    )
    facts = edit_facts({"train": train, "test": test}, RESIZE)
    assert count_leak(facts, DISTANCE) == {"edits": 4, "sources": 2}
    assert count_leak(facts[facts["split"] == "test"].reset_index(drop=True), DISTANCE) == {
        "edits": 0,
        "sources": 0,
    }


def test_a_split_that_shares_with_train_does_not_count_for_test() -> None:
    train, validation, test = (
        table((name, encode(picture(seed)))) for name, seed in (("a", 0), ("a", 0), ("b", 1))
    )
    facts = edit_facts({"train": train, "validation": validation, "test": test}, RESIZE)
    assert count_leak(facts, DISTANCE) == {"edits": 0, "sources": 0}


def test_the_same_edit_has_both_pictures_and_the_instruction() -> None:
    train = table(*(("a", encode(picture(0))),) * 3)
    test = table(*(("a", encode(picture(0))),) * 3)
    test.at[1, "instruction"] = "make it blue"
    test.at[2, "images"] = [test["images"][2][0], encode(picture(98))]
    train.loc[1:, "instruction"] = "make it round"
    found = find_same_edits(edit_facts({"train": train, "test": test}, RESIZE))
    assert [*found.notna()] == [True, False, False, True, False, False]
    assert found[3] == "train row 1, id '0'"


@pytest.mark.parametrize("distance", [0, 3, 24, 120])
def test_hashes_in_clusters_give_what_a_comparison_of_all_pairs_gives(distance: int) -> None:
    rng, rows = np.random.default_rng(distance), 500
    centres = rng.integers(0, 2, (60, 256), dtype=np.uint8)
    flips = rng.random((rows, 256)) < rng.choice([0, 0.003, 0.03, 0.1], (rows, 1))
    hashes = [np.packbits(bits).tobytes() for bits in centres[rng.integers(0, 60, rows)] ^ flips]
    facts = pd.DataFrame(
        {
            "split": rng.choice(["train", "validation", "test"], rows),
            "row": range(rows),
            "id": [*map(str, range(rows))],
            "source_id": [f"s{row:03d}" for row in range(rows)],
            "pixels": [f"p{row}" for row in range(rows)],
            "phash": [file.hex() for file in hashes],
        }
    )
    numbers = [int.from_bytes(file) for file in hashes]
    apart = np.array([[(one ^ other).bit_count() for other in numbers] for one in numbers])
    split, near = facts["split"].to_numpy(), apart <= distance
    _, component = connected_components(near, directed=False)
    smallest = facts.groupby(component)["source_id"].transform("min")
    assert group_sources(facts, distance) == [*smallest]
    found = find_shared(facts, distance)["looks_like"]
    for row in range(rows):
        there = np.where(near[row] & (split != split[row]), apart[row], 999)
        other = int(there.argmin())
        if there[other] == 999:
            assert pd.isna(found[row])
        else:
            name = f"{split[other]} row {other}, id '{other}', {there[other]} of 256 bits apart"
            assert found[row] == name

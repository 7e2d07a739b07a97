"""AGIQA-3k in the form of its public data.csv and images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from critic.data.readers.agiqa import choose_test, read_agiqa, rescale
from critic.edits import GENERATED_COLUMNS, edits_from_table
from critic.tables import TableError, read_parquet, write_parquet

HEAD = "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align"
ROWS = (
    'AttnGAN_normal_000.jpg,"a cat, sitting",,,,0.4124,0.1,1.5,0.2',
    "sdXL_normal_001.jpg,NA,,,anime style,3.9,0.1,4.8,0.2",
)


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    (tmp_path / "data.csv").write_text("\n".join((HEAD, *ROWS)) + "\n")
    (tmp_path / "images").mkdir()
    for seed, name in enumerate(("AttnGAN_normal_000.jpg", "sdXL_normal_001.jpg")):
        (tmp_path / "images" / name).write_bytes(picture(seed))
    return tmp_path


def test_pictures_prompts_and_both_scores_are_read(folder: Path, picture: Callable[..., bytes]) -> None:
    table = read_agiqa(folder)
    assert [*table] == [*GENERATED_COLUMNS]
    first, second = table.to_dict("records")
    assert first == {
        "id": "AttnGAN_normal_000.jpg",
        "image": {"bytes": picture(0), "path": "AttnGAN_normal_000.jpg"},
        "prompt": "a cat, sitting",
        "mos_quality": 0.4124,
        "mos_alignment": 1.5,
    }
    assert second["prompt"] == "NA"


def test_what_is_read_can_be_written_and_looked_at(folder: Path) -> None:
    write_parquet(read_agiqa(folder), folder / "agiqa.parquet", GENERATED_COLUMNS)
    pictures = list(edits_from_table(read_parquet(folder / "agiqa.parquet")))
    assert [picture.instruction for picture in pictures] == ["a cat, sitting", "NA"]
    assert pictures[0].edited.size == (72, 72)


def test_a_folder_without_a_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"data\.csv doesn't exist: set download\.agiqa\.folder to that"):
        read_agiqa(tmp_path)


@pytest.mark.parametrize("column", ["name", "prompt", "mos_quality", "mos_align"])
def test_a_missing_column_is_named_with_those_that_are_there(folder: Path, column: str) -> None:
    (folder / "data.csv").write_text("\n".join((HEAD.replace(column, "x", 1), *ROWS)))
    with pytest.raises(TableError, match=rf"data\.csv has no column {column}; it has .*x"):
        read_agiqa(folder)


def test_a_score_in_words_is_named(folder: Path) -> None:
    (folder / "data.csv").write_text("\n".join((HEAD, ROWS[0], ROWS[1].replace("4.8", "good"))))
    with pytest.raises(TableError, match=r"data\.csv line 3 has the mos_align 'good', not a number"):
        read_agiqa(folder)


def test_a_text_that_begins_with_a_quote_swallows_no_rows(folder: Path) -> None:
    (folder / "data.csv").write_text("\n".join((HEAD, ROWS[1].replace("NA", '"red" cat'), *ROWS)))
    with pytest.raises(TableError, match=r"data\.csv line 2: the row that begins here is not CSV"):
        read_agiqa(folder)


def test_an_image_that_is_nowhere_or_twice_is_named(folder: Path) -> None:
    (folder / "sdXL_normal_001.jpg").touch()
    with pytest.raises(
        TableError, match=r"line 3: the image sdXL_normal_001\.jpg is found 2 times \(.*, .*\): keep one"
    ):
        read_agiqa(folder)
    for path in folder.rglob("sdXL_normal_001.jpg"):
        path.unlink()
    with pytest.raises(TableError, match=r"line 3: the image sdXL_normal_001\.jpg isn't in .* below: add it"):
        read_agiqa(folder)


# --- the ten splits

GENERATORS = ("AttnGAN_normal", "glide_normal")
PLACES = [911, 1691, 1105, 2902, 1673, 132, 926, 2743, 670, 563, 1940, 2768]
NAMES = [f"{generator}_{number:03d}.jpg" for generator in GENERATORS for number in range(300)]


def test_the_first_splits_hold_out_the_prompts_that_upstream_holds_out() -> None:
    """Of its annos_idx0/test.jsonl, whose first pictures have these numbers."""
    held = np.array(NAMES)[choose_test(NAMES, 0)]
    assert len(held) == 2 * 60
    first = [int(name[-7:-4]) for name in held[:17]]
    assert first == [1, 3, 13, 20, 21, 34, 43, 48, 49, 50, 52, 53, 54, 58, 71, 80, 87]
    for split in range(5):
        in_test = choose_test(NAMES, split)
        assert (in_test[:300] == in_test[300:]).all()


def test_the_last_splits_hold_out_a_fifth_of_the_pictures_by_their_place() -> None:
    """The places of the first pictures of annos_idx7/test.jsonl in upstream's data_jsonl.jsonl, of 2,982."""
    in_test = choose_test([str(place) for place in range(2982)], 7)
    assert in_test.sum() == 597
    assert in_test[PLACES].all()


def test_the_ten_splits_differ_and_are_the_same_each_time() -> None:
    found = [choose_test(NAMES, split) for split in range(10)]
    assert len({one.tobytes() for one in found}) == 10
    assert all((one == choose_test(NAMES, split)).all() for split, one in enumerate(found))
    assert [int(one.sum()) for one in found] == [120] * 10


@pytest.mark.parametrize("name", ["cat.jpg", "AttnGAN_normal_300.jpg"])
def test_a_split_by_prompt_needs_the_prompts_numbers(name: str) -> None:
    with pytest.raises(TableError, match=rf"the name {name} doesn't end in the number of a prompt"):
        choose_test([name], 4)
    assert choose_test([name], 5).tolist() == [True]


def test_scores_are_scaled_by_the_lowest_and_the_highest() -> None:
    assert rescale(pd.Series([0.5, 4.5, 2.5])).tolist() == [1, 5, 3]
    with pytest.raises(TableError, match=r"all mos_quality in data\.csv are 2\.0"):
        rescale(pd.Series([2.0, 2.0], name="mos_quality"))

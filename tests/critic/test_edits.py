"""Tables of edits: what goes in comes out, and what can't be read says which row it is."""

from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from critic.edits import TYPES, edit_key, edits_from_table, normalise
from critic.tables import read_parquet, write_parquet

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    file = BytesIO()
    image.save(file, kind, **options)
    return {"bytes": file.getvalue(), "path": None}


PICTURE = Image.fromarray(PIXELS)
PNG, JPEG = encode(PICTURE), encode(PICTURE, "JPEG")


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": ["a", "b"],
            "source_id": ["s", "s"],
            "images": [[PNG, JPEG], [PNG, PNG]],
            "instruction": ["make it red", "remove the cat"],
            "problem": [None, "Rate this edit."],
            "mos": [3.5, np.nan],
            "ratings": [[3.0, 4.0], [2.0, 2.5]],
        }
    )


def test_a_table_is_read_back_as_it_was_written(table: pd.DataFrame, tmp_path: Path) -> None:
    write_parquet(table, tmp_path / "new folder" / "test.parquet", TYPES)
    back = read_parquet(tmp_path / "new folder" / "test.parquet")
    assert [*back] == [*table]
    assert back["images"][0][1] == JPEG
    assert [*back["ratings"][1]] == [2.0, 2.5]
    assert pd.isna(back["problem"][0])
    assert pd.isna(back["mos"][1])


def test_edits_are_decoded_in_the_order_of_the_table(table: pd.DataFrame) -> None:
    first, second = edits_from_table(table)
    assert (first.id, first.instruction, first.mos) == ("a", "make it red", 3.5)
    assert (second.id, second.source_id, second.mos) == ("b", "s", None)
    assert second.editor is None
    assert np.array_equal(np.asarray(first.source), PIXELS)
    assert not np.array_equal(np.asarray(first.edited), PIXELS)


@pytest.mark.parametrize("images", [[PNG], None, [PNG, PNG, PNG], [PNG, None]])
def test_a_row_without_two_images_is_named(table: pd.DataFrame, images: Any) -> None:
    table.at[1, "images"] = images
    with pytest.raises(ValueError, match=r"row 2, id 'b', images: .*"):
        list(edits_from_table(table))


def test_a_generated_picture_that_cant_be_decoded_is_named() -> None:
    table = pd.DataFrame({"id": ["a", "b"], "image": [PNG, None], "prompt": "a cat"})
    edits = edits_from_table(table)
    assert next(edits).source is None
    with pytest.raises(ValueError, match=r"row 2, id 'b', image: no bytes"):
        next(edits)


def test_a_raw_table_is_no_table_of_edits(table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"the table has no column \['instruction'\]; it has .*edit_inst"):
        list(edits_from_table(table.rename(columns={"instruction": "edit_inst"})))


def test_a_raw_table_gets_our_names_and_types(table: pd.DataFrame) -> None:
    raw = table.rename(columns={"instruction": "edit_inst"}).drop(columns=["id", "source_id"])
    raw = raw.assign(mos=0, answer=["3.75", 2], width=64)
    normal = normalise(raw, "train")
    digest = sha256(PNG["bytes"]).hexdigest()
    columns = ["id", "source_id", "images", "instruction", "problem", "mos", "ratings"]
    assert [*normal] == columns
    assert [*normal["id"]] == ["train-00000", "train-00001"]
    assert [*normal["source_id"]] == [digest, digest]
    assert [*normal["mos"]] == [3.75, 2.0]


def test_ids_that_are_given_stay(table: pd.DataFrame) -> None:
    given = table.assign(id=[17, 18], source_id=pd.Series(["s", None]))
    normal = normalise(given, "test")
    assert [*normal["id"]] == ["17", "18"]
    assert [*normal["source_id"]] == ["s", sha256(PNG["bytes"]).hexdigest()]


@pytest.mark.parametrize("images", [None, [], [None], ["a.png", "b.png"], "a.png", 3.0])
def test_a_cell_without_image_files_has_no_source_id(table: pd.DataFrame, images: Any) -> None:
    bare = table.assign(images=pd.Series([images, images], dtype="object"))
    assert normalise(bare.drop(columns="source_id"), "test")["source_id"].isna().all()


def test_a_score_that_is_no_number_stays_to_be_named(table: pd.DataFrame) -> None:
    normal = normalise(table.astype({"mos": object}).assign(mos=[3.5, "good"]), "test")
    assert [*normal["mos"]] == [3.5, "good"]


def test_whitespace_around_the_instruction_is_not_part_of_an_edits_identity() -> None:
    key = edit_key("a" * 64, "b" * 64, "make it red")
    assert key == edit_key("a" * 64, "b" * 64, " make it red \n")
    others = [
        ("b" * 64, "a" * 64, "make it red"),
        ("a" * 64, "b" * 64, "make it  red"),
        ("a" * 64, "b" * 64, "Make"),
    ]
    assert key not in {edit_key(*other) for other in others}

"""Tables of edits: what goes in comes out, and what can't be read says which row it is."""

from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from critic.edits import (
    ImageError,
    decode_image,
    edits_from_table,
    normalise,
    read_table,
    write_table,
)

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
    write_table(table, tmp_path / "new folder" / "test.parquet")
    back = read_table(tmp_path / "new folder" / "test.parquet")
    assert [*back] == [*table]
    assert back["images"][0][1] == JPEG
    assert [*back["ratings"][1]] == [2.0, 2.5]
    assert pd.isna(back["problem"][0])
    assert pd.isna(back["mos"][1])


def test_the_same_table_gives_the_same_bytes(table: pd.DataFrame, tmp_path: Path) -> None:
    write_table(table, tmp_path / "one.parquet")
    write_table(read_table(tmp_path / "one.parquet"), tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_long_table_keeps_its_order(table: pd.DataFrame, tmp_path: Path) -> None:
    ids = [str(number) for number in range(700)]
    long = pd.concat([table] * 350, ignore_index=True).assign(id=ids)
    write_table(long, tmp_path / "long.parquet")
    assert [*read_table(tmp_path / "long.parquet")["id"]] == ids


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("colour", "red", "unknown columns.*colour"), ("mos", "good", "column mos")],
)
def test_a_write_that_fails_leaves_the_earlier_file(
    table: pd.DataFrame, tmp_path: Path, column: str, value: str, message: str
) -> None:
    write_table(table, tmp_path / "test.parquet")
    before = (tmp_path / "test.parquet").read_bytes()
    with pytest.raises(ValueError, match=message):
        write_table(table.assign(**{column: value}), tmp_path / "test.parquet")
    assert (tmp_path / "test.parquet").read_bytes() == before


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.parquet").write_text("id,mos\n")
    with pytest.raises(ValueError, match=r"test\.parquet is not a whole Parquet file"):
        read_table(tmp_path / "test.parquet")


def test_edits_are_decoded_in_the_order_of_the_table(table: pd.DataFrame) -> None:
    first, second = edits_from_table(table)
    assert (first.id, first.instruction, first.mos, first.problem) == (
        "a",
        "make it red",
        3.5,
        None,
    )
    assert (second.id, second.source_id, second.mos) == ("b", "s", None)
    assert second.editor is None
    assert np.array_equal(np.asarray(first.source), PIXELS)
    assert not np.array_equal(np.asarray(first.edited), PIXELS)


@pytest.mark.parametrize("images", [[PNG], None, [PNG, PNG, PNG], [PNG, None]])
def test_a_row_without_two_images_is_named(table: pd.DataFrame, images: Any) -> None:
    table.at[1, "images"] = images
    with pytest.raises(ImageError, match=r"row 1, id 'b', images: .*"):
        list(edits_from_table(table))


def test_a_raw_table_is_no_table_of_edits(table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"no column \['instruction'\]"):
        list(edits_from_table(table.rename(columns={"instruction": "edit_inst"})))


def test_an_image_stands_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees clockwise
    assert decode_image(encode(PICTURE, "JPEG", exif=exif)).size == (40, 64)


def test_what_is_transparent_becomes_white() -> None:
    red = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    red.putpixel((1, 0), (255, 0, 0, 0))
    image = decode_image(encode(red))
    assert image.mode == "RGB"
    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == [(255, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize(
    "image",
    [
        None,
        {},
        {"bytes": None, "path": "photo.jpg"},
        {"bytes": b"", "path": None},
        {"bytes": b"<html>404 Not Found</html>"},
        {"bytes": JPEG["bytes"][: len(JPEG["bytes"]) // 2]},
        {"bytes": JPEG["bytes"][:-300] + bytes(300)},
        {"bytes": PNG["bytes"][: len(PNG["bytes"]) // 2]},
    ],
    ids=["none", "empty", "path", "no bytes", "page", "cut jpeg", "jpeg of holes", "cut png"],
)
def test_what_is_no_whole_image_is_refused(image: Any) -> None:
    with pytest.raises(ImageError):
        decode_image(image)


@settings(deadline=None)
@given(start=st.integers(0, len(JPEG["bytes"])), junk=st.binary(max_size=200))
def test_decoding_broken_bytes_ends_in_an_image_or_an_image_error(start: int, junk: bytes) -> None:
    for good in (JPEG["bytes"], PNG["bytes"]):
        try:
            image = decode_image({"bytes": good[:start] + junk + good[start + len(junk) :]})
        except ImageError:
            continue
        assert image.mode == "RGB"


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

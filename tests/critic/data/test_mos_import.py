"""Other people's MOS sets: a map of columns and a scale, what it refuses, and what it writes."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.data import mos_import
from critic.data.mos_import import import_benchmark, load_map
from critic.data.readers.local import read_local
from critic.tables import TableError

MAP = """scale: [0, 100]
columns:
  source: src
  edited: out
  instruction: prompt
  mos: [look, fit]
  mos_quality: look
  mos_alignment: fit
  edit_type: task
"""
HEAD = "src,out,prompt,look,fit,task,rater"
ROWS = ("a.png,b.png,add a boat,0,50,add,x", "b.png,a.png,remove the boat,100,75.5,remove,y")


@pytest.fixture
def study(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    for seed, name in enumerate("ab"):
        (tmp_path / f"{name}.png").write_bytes(picture(seed))
    (tmp_path / "map.yaml").write_text(MAP)
    for split, rows in {"train": ROWS, "test": ROWS[:1]}.items():
        (tmp_path / f"{split}.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    return tmp_path


def test_a_folder_becomes_a_benchmark_that_the_pipeline_reads(study: Path, picture: Callable[..., bytes]) -> None:
    assert import_benchmark(study, study / "map.yaml", study / "out") == {"train": 2, "test": 1}
    tables = dict(read_local(study / "out"))
    first, second = tables["train"].to_dict("records")
    assert (first["mos"], first["mos_quality"], first["mos_alignment"]) == (2, 1, 3)
    assert (second["mos"], second["mos_quality"], second["edit_type"]) == (1 + 4 * 0.8775, 5, "remove")
    assert [image["bytes"] for image in first["images"]] == [picture(0), picture(1)]
    assert {*tables["test"]} == {*first} and "rater" not in first


def test_one_file_has_a_column_of_splits(study: Path) -> None:
    (study / "all.csv").write_text(f"part,{HEAD}\ntrain,{ROWS[0]}\ntest,{ROWS[1]}\n")
    (study / "map.yaml").write_text(f"{MAP}  split: part\n")
    assert import_benchmark(study / "all.csv", study / "map.yaml", study / "out") == {"train": 1, "test": 1}


def test_an_import_replaces_an_older_one_whole_or_not_at_all(
    study: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (study / "validation.csv").write_text((study / "test.csv").read_text())
    import_benchmark(study, study / "map.yaml", study / "out")
    (study / "validation.csv").unlink()
    monkeypatch.setattr(
        mos_import, "write_parquet", lambda table, path, types: path.write_bytes(b"half") and 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        import_benchmark(study, study / "map.yaml", study / "out")
    assert [*dict(read_local(study / "out"))] == ["train", "validation", "test"]
    monkeypatch.undo()
    import_benchmark(study, study / "map.yaml", study / "out")
    assert [*dict(read_local(study / "out"))] == ["train", "test"]


def test_an_imported_parquet_can_be_imported_again(study: Path) -> None:
    """Pictures in the file, as `images`, instead of paths."""
    import_benchmark(study, study / "map.yaml", study / "out")
    (study / "again.yaml").write_text(
        "scale: [1, 5]\ncolumns: {images: images, instruction: instruction, mos: mos}\n"
    )
    import_benchmark(study / "out", study / "again.yaml", study / "twice")
    once, twice = (dict(read_local(study / folder))["train"] for folder in ("out", "twice"))
    assert [*once["mos"]] == [*twice["mos"]]
    assert [dict(image) for image in once["images"][0]] == [dict(image) for image in twice["images"][0]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,b.png,x,100.1,50,add,x", r"train.csv line 3 has the look '100.1', not a number from 0 to 100"),
        ("a.png,b.png,x,50,-1,add,x", "line 3 has the fit '-1', not a number from 0 to 100"),
        ("a.png,b.png,x,50,,add,x", "line 3 has no fit"),
        ("a.png,no.png,x,50,50,add,x", "line 3: the image no.png can't be read"),
    ],
)
def test_a_malformed_row_is_named_and_nothing_is_written(study: Path, row: str, message: str) -> None:
    (study / "train.csv").write_text("\n".join([HEAD, ROWS[0], row]) + "\n")
    with pytest.raises(TableError, match=message):
        import_benchmark(study, study / "map.yaml", study / "out")
    assert not (study / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[0, 100]", "[100, 0]", r"scale must be the lowest and the highest MOS, not \[100, 0\]"),
        ("[0, 100]", "[100]", "map.yaml: scale: .*at least 2"),
        ("scale: [0, 100]\n", "", "scale: Field required"),
        ("  edit_type: task", "  style: task", "columns has style; known are source, edited"),
        ("  mos: [look, fit]\n", "", "columns lacks mos"),
        ("mos_quality: look", "mos_quality: [look, fit]", "columns.mos_quality must name one column"),
        ("[look, fit]", "[]", "columns.mos names no column"),
        ("src", "sauce", "train.csv has no column sauce; it has src, .*: correct the map"),
        ("columns:", "columns", "can't be read as YAML"),
    ],
)
def test_a_fault_of_the_map_is_named(study: Path, old: str, new: str, message: str) -> None:
    (study / "map.yaml").write_text(MAP.replace(old, new))
    with pytest.raises(TableError, match=message):
        import_benchmark(study, study / "map.yaml", study / "out")


@given(st.integers(-50, 50), st.integers(1, 100), st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_any_scale_goes_onto_one_to_five_in_the_same_order(low: int, width: int, shares: list[float]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        values = [low, low + width, *(low + share * width for share in shares)]
        rows = [f"a,b,c,{min(max(value, low), low + width)!r}" for value in values]
        file, map_file = Path(folder, "t.csv"), Path(folder, "m.yaml")
        file.write_text("\n".join(["s,e,i,m", *rows]))
        columns = "{source: s, edited: e, instruction: i, mos: m}"
        map_file.write_text(f"scale: [{low}, {low + width}]\ncolumns: {columns}\n")
        mos = load_map(map_file).read(file)["mos"]
    assert [*mos[:2]] == [1, 5] and mos.between(1, 5).all()
    ordered = sorted(range(len(values)), key=lambda at: values[at])
    assert all(mos.iloc[a] <= mos.iloc[b] for a, b in pairwise(ordered))

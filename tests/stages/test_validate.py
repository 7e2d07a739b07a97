"""The validate stage writes a valid benchmark completely, and stops at an invalid one, naming its rows."""

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from critic import params
from critic.data.preferences.pairs import Pair, write_pairs
from critic.edits import SPLITS, TYPES, edits_from_table
from critic.prompts import load_contract
from critic.tables import TableError, read_parquet, write_parquet
from stages.validate import InvalidBenchmark, main, validate

pytestmark = pytest.mark.usefixtures("compiled_templates")
SECTION = params.Validate(phash_distance=24, min_side=56, max_instruction_chars=100, validation_fraction=0.25)
CONTRACT = load_contract("tiny")
EDITS = 8
PICTURES = Path(__file__).parents[1] / "critic/pictures"
DEFAULT_IDS = [f"test-{row:05d}" for row in range(EDITS)]


def picture(seed: int) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (72, 72, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return {"bytes": file.getvalue(), "path": None}


def hub_table(first_source: int) -> pd.DataFrame:
    """Two edits of each of four source images, with the hub's columns only."""
    return pd.DataFrame(
        {
            "images": [[picture(first_source + row // 2), picture(100 + row)] for row in range(EDITS)],
            "edit_inst": "make it red",
            "problem": "Rate this edit.",
            "answer": np.linspace(1, 5, EDITS),
        }
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder that holds a good raw benchmark as the hub has it: train and test."""
    return write_raw(tmp_path / "data")


def write_raw(data: Path) -> Path:
    write_parquet(hub_table(0), data / "raw/train.parquet", TYPES)
    write_parquet(hub_table(10), data / "raw/test.parquet", TYPES)
    return data


@pytest.fixture(scope="module")
def once_validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with that benchmark in `data`, which is valid, and its Data Docs in `docs`."""
    folder = tmp_path_factory.mktemp("validated")
    validate(write_raw(folder / "data"), folder / "docs", SECTION, CONTRACT)
    return folder


@pytest.fixture
def validated(once_validated: Path, tmp_path: Path) -> Path:
    """A copy of its data folder; the Data Docs are beside it."""
    shutil.copytree(once_validated, tmp_path, dirs_exist_ok=True)
    return tmp_path / "data"


def spoil(data: Path, split: str, change: Callable[[pd.DataFrame], object]) -> None:
    table = read_parquet(data / f"raw/{split}.parquet")
    change(table)
    write_parquet(table, data / f"raw/{split}.parquet", TYPES)


def outputs(data: Path) -> dict[str, bytes]:
    """The files outside of raw: path to bytes."""
    files = [path for path in data.rglob("*") if path.is_file()]
    return {str(path.relative_to(data)): path.read_bytes() for path in files if path.parent != data / "raw"}


def test_a_hub_benchmark_is_normalised_and_gets_a_validation_split(validated: Path) -> None:
    splits = {split: read_parquet(validated / f"validated/{split}.parquet") for split in SPLITS}
    assert [len(table) for table in splits.values()] == [EDITS - 2, 2, EDITS]
    assert {*splits["train"]["source_id"]}.isdisjoint(splits["validation"]["source_id"])
    assert [*splits["test"]] == ["id", "source_id", "images", "instruction", "problem", "mos"]
    assert splits["test"]["id"][3] == "test-00003"
    first = next(edits_from_table(splits["test"]))
    assert (first.instruction, first.mos) == ("make it red", 1.0)


def test_the_report_counts_and_lists_the_checks(once_validated: Path) -> None:
    report = json.loads((once_validated / "data/validation.json").read_text())
    assert report["split"] == {"name": "given", "leak": {"edits": 0, "sources": 0}}
    assert report["splits"]["test"] == {
        "edits": EDITS,
        "sources": 4,
        "lowest_mos": 1.0,
        "mean_mos": 3.0,
        "highest_mos": 5.0,
    }
    assert {
        "table": "edits",
        "column": "answer",
        "expected": "the score is from 1 to 5",
    } in report["checks"]
    assert str(once_validated) not in json.dumps(report)


def test_the_same_benchmark_gives_the_same_bytes(validated: Path, tmp_path: Path) -> None:
    once = outputs(validated)
    validate(validated, tmp_path / "docs", SECTION, CONTRACT)
    assert outputs(validated) == once
    assert {*once} == {
        "validation.json",
        *(f"validated/{split}.parquet" for split in ("train", "validation", "test")),
    }


def test_a_validation_split_that_is_there_is_kept(data: Path, tmp_path: Path) -> None:
    write_parquet(hub_table(20), data / "raw/validation.parquet", TYPES)
    validate(data, tmp_path / "docs", SECTION, CONTRACT)
    assert len(read_parquet(data / "validated/train.parquet")) == EDITS
    assert len(read_parquet(data / "validated/validation.parquet")) == EDITS


def test_what_a_killed_run_left_is_cleared(data: Path, tmp_path: Path) -> None:
    write_parquet(hub_table(0), data / ".validated.partial/stale.parquet", TYPES)
    validate(data, tmp_path / "docs", SECTION, CONTRACT)
    assert not {*outputs(data)} & {"validated/stale.parquet", ".validated.partial/stale.parquet"}


def write_preferences(data: Path, sources: list[int], **changed: Any) -> Path:
    """A set with a pair of each source image, the last one changed."""
    pairs = [
        {"source": picture(seed), "a": picture(200 + seed), "b": picture(300 + seed), "axis": "overall"}
        for seed in sources
    ]
    pairs[-1] |= changed
    rows = [Pair("row", str(n), **pair, instruction="make it red", winner="b") for n, pair in enumerate(pairs)]
    write_pairs(data / "preferences/mine", None, rows, "here")
    return data / "preferences/mine"


def test_preferences_without_the_source_images_of_test_and_validation_are_kept(data: Path, tmp_path: Path) -> None:
    (data / "preferences").mkdir()
    (data / "preferences/README.md").touch()
    write_preferences(data, [10, 0, 1, 2, 3, 30])
    validate(data, tmp_path / "docs", SECTION, CONTRACT)
    edits, pairs = (read_parquet(data / f"validated/{name}.parquet") for name in ("preferences", "pairs"))
    report = json.loads((data / "validation.json").read_text())
    assert report["preferences"] == {"edits": 8, "pairs": 4, "dropped": 2}
    assert report["split"]["leak"] == {"edits": 0, "sources": 0}
    assert [*edits] == ["id", "source_id", "images", "instruction"] and [*pairs["order"]] == [-1.0] * 4
    assert [*edits["id"]] == [*pairs[["edited_a", "edited_b"]].to_numpy().ravel()]
    held_out = pd.concat([read_parquet(data / f"validated/{name}.parquet") for name in ("validation", "test")])
    sources = {images[0]["bytes"] for images in held_out["images"]}
    assert sources.isdisjoint(images[0]["bytes"] for images in edits["images"])
    assert picture(30)["bytes"] in [images[0]["bytes"] for images in edits["images"]]
    assert {"table": "preferences", "column": "images", "expected": "the edited image can be decoded"} in report[
        "checks"
    ]


@pytest.mark.parametrize(
    ("sources", "changed", "error", "message"),
    [
        ([30], {"b": {"bytes": b"no picture", "path": None}}, InvalidBenchmark, "preferences/mine row 2, id '"),
        ([10, 11], {}, InvalidBenchmark, "every pair in .*preferences has a source image of validation or test"),
        ([30], {"axis": "quality"}, TableError, "mine/pairs.jsonl has no pair with the axis overall"),
    ],
)
def test_preferences_that_cannot_be_used_are_named(
    data: Path, tmp_path: Path, sources: list[int], changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    write_preferences(data, sources, **changed)
    with pytest.raises(error, match=message):
        validate(data, tmp_path / "docs", SECTION, CONTRACT)
    assert {*outputs(data)} <= {
        f"preferences/mine/{name}" for name in ("edits.parquet", "pairs.jsonl", "origin.json")
    }


def test_preferences_of_unknown_edits_are_named(data: Path, tmp_path: Path) -> None:
    folder = write_preferences(data, [30])
    edits = read_parquet(folder / "edits.parquet")
    write_parquet(edits[1:], folder / "edits.parquet", TYPES)
    with pytest.raises(
        TableError, match=rf"has the edit {edits['id'][0]}, which .*edits.parquet lacks: write both"
    ):
        validate(data, tmp_path / "docs", SECTION, CONTRACT)


def test_preferences_that_were_not_pulled_are_named(data: Path, tmp_path: Path) -> None:
    folder = write_preferences(data, [30])
    folder.with_suffix(".dvc").touch()
    validate(data, tmp_path / "docs", SECTION, CONTRACT)
    (data / "preferences/other.v2.dvc").touch()
    with pytest.raises(
        TableError, match=r"preferences/other\.v2 is missing: get it with `dvc pull .*/other\.v2\.dvc`"
    ):
        validate(data, tmp_path / "docs", SECTION, CONTRACT)


def set_cell(table: pd.DataFrame, row: int, column: str, value: Any) -> None:
    table.at[row, column] = value


CORRUPT = {"bytes": picture(50)["bytes"][:700], "path": None}
BAD_INPUT: dict[str, tuple[Callable[[pd.DataFrame], object], str, list[int]]] = {
    "a missing image": (lambda t: set_cell(t, 2, "images", [picture(50)]), "images", [2]),
    "a corrupt JPEG": (lambda t: set_cell(t, 3, "images", [CORRUPT, picture(51)]), "images", [3]),
    "a MOS of 7": (lambda t: set_cell(t, 4, "answer", 7.0), "answer", [4]),
    "a duplicate id": (
        lambda t: t.insert(0, "id", ["a", "b", "c", "d", "e", "f", "b", "h"]),
        "id",
        [1, 6],
    ),
    "an empty instruction": (lambda t: set_cell(t, 5, "edit_inst", ""), "edit_inst", [5]),
    "a shared source image": (
        lambda t: set_cell(t, 7, "images", [picture(0), picture(50)]),
        "images",
        [7],
    ),
}


@pytest.mark.parametrize(("change", "column", "rows"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_named_and_leaves_nothing_downstream(
    validated: Path,
    tmp_path: Path,
    change: Callable[[pd.DataFrame], object],
    column: str,
    rows: list[int],
) -> None:
    spoil(validated, "test", change)
    with pytest.raises(InvalidBenchmark) as failure:
        validate(validated, tmp_path / "docs", SECTION, CONTRACT)
    message = str(failure.value)
    assert f"\n{column}: expected that " in message
    assert "data/raw/<split>.parquet" in message
    for row in rows:
        assert f"test row {row + 1}, id " in message
    assert "    -> " in message
    assert outputs(validated) == {}
    pages = "".join(page.read_text() for page in (tmp_path / "docs/validations").rglob("*.html"))
    for row in rows:
        assert read_parquet(validated / "raw/test.parquet").get("id", DEFAULT_IDS)[row] in pages


def test_files_of_phones_and_scanners_are_valid_and_several_pictures_are_not(data: Path, tmp_path: Path) -> None:
    files = {path.name: {"bytes": path.read_bytes(), "path": None} for path in PICTURES.iterdir()}
    several = files.pop("anim.webp")
    names = iter(files)
    for split, first in (("train", 0), ("test", 10)):
        table = read_parquet(data / f"raw/{split}.parquet")
        for row in range(EDITS):
            set_cell(table, row, "images", [picture(first + row // 2), files[next(names, "plain.png")]])
        write_parquet(table, data / f"raw/{split}.parquet", TYPES)
    validate(data, tmp_path / "docs", SECTION, CONTRACT)
    spoil(data, "test", lambda table: set_cell(table, 4, "images", [picture(12), several]))
    with pytest.raises(InvalidBenchmark, match=r"image can be decoded(.|\n)*test row 5, .*pictures: give one"):
        validate(data, tmp_path / "docs", SECTION, CONTRACT)


def test_a_picture_outside_the_contracts_limits_is_named(data: Path, tmp_path: Path) -> None:
    file = BytesIO()
    Image.new("RGB", (60, 5000)).save(file, "PNG")
    thin = {"bytes": file.getvalue(), "path": None}
    spoil(data, "test", lambda table: set_cell(table, 4, "images", [picture(12), thin]))
    with pytest.raises(InvalidBenchmark, match=r"test row 5, id 'test-00004': a picture of 60 x 5000 pixels"):
        validate(data, tmp_path / "docs", SECTION, CONTRACT)
    assert outputs(data) == {}


def test_run_as_a_stage_bad_input_ends_in_a_message(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt = params.Prompt(contract="tiny")
    monkeypatch.setattr(params, "load", {params.Validate: SECTION, params.Prompt: prompt}.get)
    main()
    assert (data / "validation.json").exists()
    spoil(data, "test", lambda table: set_cell(table, 4, "answer", 7.0))
    with pytest.raises(SystemExit, match=r"data/raw can't be used(.|\n)*test row 5.*: 7\.0\n"):
        main()
    assert (tmp_path / "runs/data_docs/index.html").exists()
    assert outputs(data) == {}


def test_a_table_that_is_not_there_is_named(validated: Path, tmp_path: Path) -> None:
    (validated / "raw/test.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"raw/test\.parquet"):
        validate(validated, tmp_path / "docs", SECTION, CONTRACT)
    assert outputs(validated) == {}

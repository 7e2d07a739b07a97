"""Each preference benchmark from files in its shape, malformed rows, and the files that are written."""

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Sequence, Value
from local_hub import COMMIT, Hub

from critic.data.preferences import BENCHMARKS
from critic.data.preferences.order import read_preferences
from critic.data.preferences.pairs import LeftOut, Pair, write_pairs
from critic.data.readers.hub import HubError, Snapshot, fetch
from critic.edits import edits_from_table
from critic.evaluation.preferences import OWN
from critic.scoring.inputs import read_pairs
from critic.tables import TableError, read_parquet

Picture = Callable[..., bytes]
Row = dict[str, Any]
TEXT, IMAGE = Value("string"), Image()

EDITREWARD = Features(
    dict.fromkeys(("id", "instruction", "ranking", "comparison_type", "dataset", "model_1", "model_2"), TEXT)
    | dict.fromkeys(("source_image", "candidate_1", "candidate_2"), IMAGE)
)
EDITSCORE = Features(
    {
        "key": Sequence(TEXT, length=2),
        "instruction": TEXT,
        "input_image": IMAGE,
        "output_images": Sequence(IMAGE, length=2),
        "task_type": TEXT,
        "dimension": TEXT,
    }
)
GENAI = Features(
    dict.fromkeys(("source_prompt", "target_prompt", "instruct_prompt"), TEXT)
    | {"source_image": IMAGE, "left_model": TEXT, "left_output_image": IMAGE}
    | {"right_model": TEXT, "right_output_image": IMAGE, "vote_type": TEXT}
)
MMRB2 = Features(
    dict.fromkeys(("pair_id", "prompt_text", "prompt_source", "prompt_metadata", "chosen"), TEXT)
    | dict.fromkeys(("response_a_text", "response_a_model", "response_b_text", "response_b_model"), TEXT)
    | {name: Sequence(IMAGE) for name in ("prompt_images", "response_a_images", "response_b_images")}
    | {"human_annotations": TEXT}
)


@pytest.fixture
def image(picture: Picture) -> Callable[[int], Row]:
    return lambda seed: {"bytes": picture(seed), "path": None}


def save(folder: Path, name: str, features: Features, rows: list[Row]) -> None:
    columns = {column: [row.get(column) for row in rows] for column in features}
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=features).to_parquet(folder / name)


def read(name: str, path: Path) -> list[Pair | LeftOut]:
    module = import_module(f"critic.data.preferences.{BENCHMARKS[name].module}")
    found: Iterator[Pair | LeftOut] = module.read(Snapshot(str(path), "", "", path))
    return [*found]


def judgements(pairs: list[Pair | LeftOut]) -> list[tuple[str, str, str, str | None]]:
    return [(pair.group, pair.winner, pair.axis, pair.subtask) for pair in pairs if isinstance(pair, Pair)]


def editreward(image: Callable[[int], Row], **changed: str) -> list[Row]:
    """A tie of two edits, and a group of three with A over C over B."""
    group = [("A", "B", "A>B"), ("A", "C", "A>C"), ("B", "C", "C>B")]
    rows = [{"id": "d0_x", "dataset": "2pair", "ranking": "A=B", "candidate_1": image(1), "candidate_2": image(2)}]
    for first, second, ranking in group:
        pictures = {"candidate_1": image(ord(first)), "candidate_2": image(ord(second))}
        compared = {"id": f"d1_{first}{second}", "dataset": "3pair", "comparison_type": f"{first}vs{second}"}
        rows.append(compared | pictures | {"ranking": ranking})
    rows[-1] |= changed
    return [row | {"instruction": "paint the boat", "source_image": image(0)} for row in rows]


def test_editreward_bench(tmp_path: Path, image: Callable[[int], Row], picture: Picture) -> None:
    rows = editreward(image)
    save(tmp_path, "2pair/train-00000-of-00001.parquet", EDITREWARD, rows[:1])
    save(tmp_path, "3pair/train-00000-of-00001.parquet", EDITREWARD, rows[1:])
    pairs = read("editreward-bench", tmp_path)
    three = [("3pair-d1", winner, "overall", None) for winner in "aab"]
    assert judgements(pairs) == [("2pair-d0_x", "tie", "overall", None), *three]
    last = pairs[-1]
    assert isinstance(last, Pair) and last.b["bytes"] == picture(ord("C")) and last.instruction == "paint the boat"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ranking": "A>C"}, r"split train, row 4: column ranking has 'A>C', not B>C, C>B or B=C"),
        ({"comparison_type": "B-C"}, "row 4: column comparison_type has 'B-C', not as AvsB"),
        ({"dataset": "5pair"}, "row 4: column dataset has '5pair', not one of 2pair, 3pair, 4pair"),
        ({"id": "d2_BC"}, "group d1 of 3pair has 2 pairs, not 3"),
    ],
)
def test_a_malformed_row_of_editreward_bench_is_named(
    tmp_path: Path, image: Callable[[int], Row], changed: Row, message: str
) -> None:
    save(tmp_path, "3pair/train-00000-of-00001.parquet", EDITREWARD, editreward(image, **changed))
    with pytest.raises(TableError, match=message):
        read("editreward-bench", tmp_path)


def editscore(image: Callable[[int], Row], **changed: Any) -> list[Row]:
    row = {"key": ["k1", "k2"], "instruction": "add a kite", "input_image": image(0)}
    row |= {"output_images": [image(1), image(2)], "task_type": "subject-add"}
    return [row | {"dimension": axis} for axis in ("overall", "consistency")] + [row | changed] * bool(changed)


def test_editscore_bench_has_the_better_edit_first(
    tmp_path: Path, image: Callable[[int], Row], picture: Picture
) -> None:
    Dataset.from_list(editscore(image), features=EDITSCORE).save_to_disk(tmp_path / "bench")
    pairs = read("editscore-bench", tmp_path / "bench")
    assert judgements(pairs) == [
        ("00000", "a", "overall", "subject-add"),
        ("00001", "a", "consistency", "subject-add"),
    ]
    assert isinstance(pairs[0], Pair) and (pairs[0].a["bytes"], pairs[0].b["bytes"]) == (picture(1), picture(2))


def test_a_malformed_row_of_editscore_bench_is_named(tmp_path: Path, image: Callable[[int], Row]) -> None:
    save(tmp_path, "test-00000-of-00001.parquet", EDITSCORE, editscore(image, dimension="style"))
    with pytest.raises(TableError, match=r"row 3: column dimension has 'style', not one of overall"):
        read("editscore-bench", tmp_path)


def genai(image: Callable[[int], Row], votes: list[str]) -> list[Row]:
    pictures = {"source_image": image(0), "left_output_image": image(1), "right_output_image": image(2)}
    return [pictures | {"instruct_prompt": "remove the sign", "vote_type": vote} for vote in votes]


def save_genai(folder: Path, rows: list[Row]) -> None:
    files = [f"  - split: {split}\n    path: image_edition/{split}-*\n" for split in ("test", "test_v1")]
    card = f"---\nconfigs:\n- config_name: image_edition\n  data_files:\n{''.join(files)}---\n"
    save(folder, "image_edition/test-00000-of-00001.parquet", GENAI, rows[:1])
    save(folder, "image_edition/test_v1-00000-of-00001.parquet", GENAI, rows)
    (folder / "README.md").write_text(card)


def test_genai_bench(tmp_path: Path, image: Callable[[int], Row]) -> None:
    save_genai(tmp_path, genai(image, ["leftvote", "rightvote", "tievote", "bothbad_vote"]))
    assert [winner for _, winner, _, _ in judgements(read("genai-bench", tmp_path))] == ["a", "b", "tie", "tie"]


def test_a_malformed_row_of_genai_bench_is_named(tmp_path: Path, image: Callable[[int], Row]) -> None:
    save_genai(tmp_path, genai(image, ["leftvote", "novote"]))
    with pytest.raises(
        TableError, match="split test_v1, row 2: column vote_type has 'novote', not one of leftvote"
    ):
        read("genai-bench", tmp_path)
    rows = genai(image, ["leftvote"])
    save_genai(tmp_path / "b", [rows[0] | {"left_output_image": None}])
    with pytest.raises(TableError, match="row 1: column left_output_image has 0 pictures instead of one"):
        read("genai-bench", tmp_path / "b")


def mmrb2(image: Callable[[int], Row], **changed: Any) -> Row:
    row = {"pair_id": "emu_1", "prompt_text": "<image_1> make it snow", "prompt_images": [image(0)], "chosen": "B"}
    row |= {"response_a_images": [image(1)], "response_b_images": [image(2)], "prompt_source": "emu-edit"}
    return row | changed


def test_mmrb2_has_pairs_of_one_source_image(tmp_path: Path, image: Callable[[int], Row]) -> None:
    several = mmrb2(image, prompt_images=[image(0), image(3)])
    answers = mmrb2(image, response_a_images=[image(1), image(3)])
    save(tmp_path, "edit/test-00000-of-00001.parquet", MMRB2, [mmrb2(image), several, answers])
    card = "---\nconfigs:\n- config_name: edit\n  data_files:\n  - split: test\n    path: edit/test-*\n---\n"
    (tmp_path / "README.md").write_text(card)
    pairs = read("mmrb2", tmp_path)
    assert judgements(pairs) == [("emu_1", "b", "overall", "emu-edit")]
    assert isinstance(pairs[0], Pair) and pairs[0].instruction == "make it snow"
    assert pairs[1:] == [LeftOut("several source images"), LeftOut("several images in a response")]
    save(tmp_path, "edit/test-00000-of-00001.parquet", MMRB2, [mmrb2(image, chosen="C")])
    with pytest.raises(TableError, match="row 1: column chosen has 'C', not one of A, B"):
        read("mmrb2", tmp_path)


@pytest.fixture
def pictures(tmp_path: Path, picture: Picture) -> Path:
    for seed, name in enumerate(("cat", "elm", "oak")):
        (tmp_path / f"{name}.png").write_bytes(picture(seed))
    return tmp_path


def compass(**changed: str) -> Row:
    row = {"dimension": "IA", "source_image": "cat.png", "prompt": "add a hat", "winner": "elm.png"}
    return row | {"loser": "oak.png", "label": "preference"} | changed


def test_editreward_compass(pictures: Path, picture: Picture) -> None:
    file = pictures / "reward.json"
    file.write_text(json.dumps([compass(), compass(label="tie", dimension="VQ")]))
    pairs = read("editreward-compass", file)
    assert judgements(pairs) == [("00000", "a", "IA", None), ("00001", "tie", "VQ", None)]
    assert isinstance(pairs[0], Pair) and pairs[0].a["bytes"] == picture(1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dimension": "XX"}, "json row 2: column dimension has 'XX', not one of IA, VC, VQ"),
        ({"label": "?"}, "row 2: column label has '.', not one of preference, tie"),
        ({"loser": "../no.png"}, "row 2, column loser: the image ../no.png is outside"),
        ({"loser": "no.png"}, "row 2, column loser: the image no.png can't be read"),
    ],
)
def test_a_malformed_row_of_editreward_compass_is_named(pictures: Path, changed: Row, message: str) -> None:
    file = pictures / "reward.json"
    file.write_text(json.dumps([compass(), compass(**changed)]))
    with pytest.raises(TableError, match=message):
        read("editreward-compass", file)


HEAD = "source,instruction,edited_a,edited_b,winner"


def test_a_table_of_ones_own(pictures: Path) -> None:
    file = pictures / "pairs.csv"
    rows = [f"cat.png,add a hat,elm.png,oak.png,{winner},add" for winner in ("oak.png", "elm.png", "tie", "a")]
    file.write_text("\n".join([f"{HEAD},subtask", *rows]))
    assert judgements(read("table", file)) == [
        (f"{number:05}", winner, "overall", "add") for number, winner in enumerate(("b", "a", "tie", "a"))
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "cat.png,add a hat,elm.png,oak.png,cat.png",
            "line 2: column winner has 'cat.png', not one of a, b, oak.png, elm",
        ),
        ("cat.png,,elm.png,oak.png,tie", "line 2 has no instruction"),
        ("cat.png,add a hat,elm.png,elm.png,a", "line 2: edited_a and edited_b are the same picture: make"),
        ("cat.png,add a hat,elm.png,no.png,tie", "line 2, column edited_b: the image no.png can't be read"),
    ],
)
def test_a_malformed_row_of_ones_own_table_is_named(pictures: Path, row: str, message: str) -> None:
    (pictures / "pairs.csv").write_text(f"{HEAD}\n{row}\n")
    with pytest.raises(TableError, match=message):
        read("table", pictures / "pairs.csv")


def test_what_is_written_can_be_scored_and_evaluated(tmp_path: Path, image: Callable[[int], Row]) -> None:
    """Edits are written once, though a group has each in several pairs."""
    save(tmp_path, "3pair/train-00000-of-00001.parquet", EDITREWARD, editreward(image))
    found = read("editreward-bench", tmp_path)
    twin = Pair("row 9", "g", image(0), image(7), image(7), "paint the boat", "a")
    told = write_pairs(tmp_path / "out", "editreward-bench", [*found, LeftOut("no reason"), twin], "a folder")
    assert told == {
        "origin": "a folder",
        "benchmark": "editreward-bench",
        "edits": 7,
        "pairs": 5,
        "left_out": {"no reason": 1},
    }
    assert json.loads((tmp_path / "out/origin.json").read_text()) == told
    pairs = read_preferences(tmp_path / "out/pairs.jsonl")
    assert [*pairs["ways"]] == [2, 3, 3, 3, 2] and [*pairs["order"]] == [0, 1, 1, -1, 1]
    assert {*pairs["benchmark"]} == {"editreward-bench"} and pairs["source_id"].nunique() == 1
    edits = [*edits_from_table(read_parquet(tmp_path / "out/edits.parquet"))]
    assert {edit.id for edit in edits} == {*pairs["edited_a"], *pairs["edited_b"]}
    assert [pair.id for pair in read_pairs(tmp_path / "out/edits.parquet")] == [edit.id for edit in edits]


def test_without_pairs_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"here has no pairs to evaluate; left out: .'no reason': 1"):
        write_pairs(tmp_path / "out", None, [LeftOut("no reason")], "here")
    assert not (tmp_path / "out").exists()


def test_a_benchmark_comes_from_the_hub_at_a_revision(hub: Hub, image: Callable[[int], Row]) -> None:
    rows = editreward(image)
    hub.push("owner/bench", EDITREWARD, {"train": {name: [row.get(name) for row in rows] for name in EDITREWARD}})
    module = import_module("critic.data.preferences.editreward")
    origin = fetch("owner/bench", "main")
    assert origin.commit == COMMIT and len([*module.read(origin)]) == 4
    with pytest.raises(HubError, match="owner/bench at revision main has no config image_edition"):
        [*import_module("critic.data.preferences.genai").read(origin)]


def test_each_benchmark_has_a_protocol() -> None:
    assert {*BENCHMARKS} - {"table"} == {*OWN}

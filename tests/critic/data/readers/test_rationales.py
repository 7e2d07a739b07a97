"""SFT sets in LLaMA-Factory's two layouts, from the hub and from files; both end in one."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
import released
from datasets import Features, Image, Sequence, Value
from hypothesis import example, given
from hypothesis import strategies as st

from critic.data.readers.hub import HubError, fetch
from critic.data.readers.rationales import COLUMNS, read_file, read_rows, read_snapshot
from critic.tables import TableError, number_rows, read_parquet, write_parquet

NAME = "Coobiw/IE-Bench-CoT-mixed"
USER = "<image><image>How good is this edit?"
ANSWERS = ("<think>Half done.</think>\n<answer>3.25</answer>", "<think></think><answer>1</answer>")
KEYS = {"messages": ("role", "content", "user", "assistant"), "conversations": ("from", "value", "human", "gpt")}
TURNS = [[{"role": "user", "content": USER}, {"role": "assistant", "content": answer}] for answer in ANSWERS]


def conversations(layout: str) -> list[list[dict[str, str]]]:
    """The two conversations of `TURNS` in a layout."""
    role, content, user, assistant = KEYS[layout]
    return [[{role: user, content: USER}, {role: assistant, content: answer}] for answer in ANSWERS]


def features(layout: str) -> Features:
    role, content, *_ = KEYS[layout]
    turn = {role: Value("string"), content: Value("string")}
    return Features({layout: [turn], "images": Sequence(Image())})


@pytest.fixture
def images(picture: Callable[..., bytes]) -> list[list[dict[str, Any]]]:
    return [[{"bytes": picture(2 * n + k), "path": f"{n}{k}.png"} for k in (0, 1)] for n in (0, 1)]


@pytest.fixture
def folder(tmp_path: Path, images: list[list[dict[str, Any]]]) -> Path:
    """A folder with the images' files."""
    for image in (image for pair in images for image in pair):
        (tmp_path / image["path"]).write_bytes(image["bytes"])
    return tmp_path


def rows(layout: str) -> list[dict[str, Any]]:
    """The set as a file of JSON has it: images are paths."""
    pairs = [["00.png", "01.png"], ["10.png", "11.png"]]
    return [{layout: turns, "images": pair} for turns, pair in zip(conversations(layout), pairs, strict=True)]


@pytest.mark.parametrize("layout", KEYS)
def test_both_layouts_of_the_hub_become_one(hub: Any, images: list[list[dict[str, Any]]], layout: str) -> None:
    hub.push(NAME, features(layout), {"train": {layout: conversations(layout), "images": images}})
    table = read_snapshot(fetch(NAME, "main"))
    assert {*table} == {"id", "images", "messages"}
    assert [*table["messages"]] == TURNS
    assert [[*pair] for pair in table["images"]] == images
    assert [*table["id"]] == ["rationale-00000", "rationale-00001"]


@pytest.mark.parametrize("layout", KEYS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_files_have_paths_of_images(
    folder: Path, images: list[list[dict[str, Any]]], layout: str, suffix: str
) -> None:
    lines = "\n".join(json.dumps(row) for row in rows(layout)) + "\n"
    (folder / f"set{suffix}").write_text(lines if suffix == ".jsonl" else json.dumps(rows(layout)))
    table = read_file(folder / f"set{suffix}")
    assert [*table["messages"]] == TURNS
    assert [*table["images"]] == images


@pytest.mark.parametrize("push", [released.Released.push, released.Released.push_json], ids=["Parquet", "JSON"])
def test_the_released_set_is_read_to_the_letter(hub: Any, push: Callable[[released.Released, Any], None]) -> None:
    """Bare numbers, literal marks and the spaces after them; the pictures keep the names of their files."""
    sets = released.make(sources=2)
    push(sets, hub)
    table = read_snapshot(fetch(NAME, "main"))
    assert [*table["messages"]] == sets.sft["messages"]
    assert [[*pair] for pair in table["images"]] == sets.sft["images"]


def test_what_is_written_can_be_read_again(folder: Path) -> None:
    """So a set can be given without some of its rows."""
    given = [row | {"edit_inst": "make it red", "id": f"r{n}"} for n, row in enumerate(rows("messages"))]
    table = read_rows(number_rows(pd.DataFrame(given), "the set"), folder)
    assert [*table["instruction"]] == ["make it red"] * 2
    write_parquet(table, folder / "raw.parquet", COLUMNS)
    write_parquet(read_parquet(folder / "raw.parquet")[1:], folder / "less.parquet", COLUMNS)
    less = read_file(folder / "less.parquet")
    assert [*less["id"]] == ["r1"]
    assert [*less["messages"]] == TURNS[1:]
    assert [*less["instruction"]] == ["make it red"]


def test_a_system_turn_is_kept_for_the_checks_to_name(folder: Path) -> None:
    given = [rows("conversations")[0] | {"system": "Be kind."}, rows("conversations")[1] | {"system": ""}]
    first, second = read_rows(number_rows(pd.DataFrame(given), "the set"), folder)["messages"]
    assert [message["role"] for message in first] == ["system", "user", "assistant"]
    assert [message["role"] for message in second] == ["user", "assistant"]


@given(st.text(st.characters(exclude_categories=("Cs",))), st.text(st.characters(exclude_categories=("Cs",))))
@example("two\u2028lines\x85or\x0cmore", "\r\n")
def test_any_text_comes_through_json_lines_as_it_is(user: str, answer: str) -> None:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    line = json.dumps({"messages": turns, "images": []}, ensure_ascii=False)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "set.jsonl"
        file.write_bytes(f"{line}\n\n{line}\n".encode())
        assert [*read_file(file)["messages"]] == [turns, turns]


# --- what can't be read

GOOD = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
NO_LIST = "row 1: messages is not a list of role and content, both text"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "neither layout": ({"text": "a", "images": []}, "has 1 rows with the columns text, images: give rows of"),
    "no images": ({"messages": GOOD}, "has no column images; it has messages"),
    "mixed keys": ({"messages": [{"from": "human", "value": "a"}], "images": []}, NO_LIST),
    "no turns": ({"messages": [], "images": []}, NO_LIST),
    "parts of content": ({"messages": PARTS, "images": []}, NO_LIST),
    "text alone": ({"conversations": "a", "images": []}, "row 1: conversations is not a list of from and value"),
    "no file": ({"messages": GOOD, "images": ["x.png", "y.png"]}, r"row 1: the image x\.png can't be read"),
}


@pytest.mark.parametrize(("row", "message"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (tmp_path / "set.json").write_text(json.dumps([row]))
    with pytest.raises(TableError, match=rf"set\.json {message}"):
        read_file(tmp_path / "set.json")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("set.jsonl", '{"messages": []}\n{"messages', r"set\.jsonl line 2 is not JSON: "),
        ("set.json", "{", r"set\.json is not JSON: "),
        ("set.json", '{"messages": []}', r"set\.json is not a list of objects, \[\{\.\.\.\}, \.\.\.\]"),
        ("set.json", "[]", r"set\.json has 0 rows with the columns none: give rows of(.|\n)*conversations"),
        ("set.csv", "a,b", r"set\.csv is not a \.json, \.jsonl or \.parquet file: give a file of rows"),
        ("set.parquet", "PAR1", r"set\.parquet is not a whole Parquet file"),
        ("set.json", None, r"set\.json doesn't exist: give a file of rows"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(TableError, match=message):
        read_file(tmp_path / name)


def test_a_set_without_a_train_split_is_named(hub: Any, images: list[list[dict[str, Any]]]) -> None:
    hub.push(NAME, features("messages"), {"test": {"messages": TURNS, "images": images}})
    with pytest.raises(HubError, match=rf"{NAME} at revision main has no split train; it has test"):
        read_snapshot(fetch(NAME, "main"))

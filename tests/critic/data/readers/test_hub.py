"""The hub's data sets, read by the real libraries from a hub on the loopback, and each way not to get them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
import pytest
from datasets import Features, Image, Sequence, Value
from huggingface_hub import constants
from pydantic import ValidationError

from critic.data.readers.hub import (
    HubError,
    Settings,
    add_named,
    fetch,
    read,
    read_benchmark,
    read_splits,
    split_by_source,
)
from critic.tables import TableError

NAME = "Coobiw/IE-Bench-4k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FEATURES = Features(
    {
        "images": Sequence(Image()),
        "edit_inst": Value("string"),
        "problem": Value("string"),
        "answer": Value("string"),
        "width": Value("int64"),
    }
)


@pytest.fixture
def columns(picture: Callable[..., bytes]) -> dict[str, list[Any]]:
    """Three rows as IE-Bench-4k has them, with one column more."""
    return {
        "images": [[{"bytes": picture(2 * n + k), "path": f"{n}-{k}.png"} for k in (0, 1)] for n in range(3)],
        "edit_inst": ["make it red", "remove the cat", "NA"],
        "problem": ["<image><image>Rate this edit."] * 3,
        "answer": ["3.75", "1", "5.00"],
        "width": [72, 72, 72],
    }


@pytest.fixture
def bench(hub: Any, columns: dict[str, list[Any]]) -> Any:
    """A hub that has the benchmark."""
    hub.push(NAME, FEATURES, {"train": columns, "test": {k: v[:1] for k, v in columns.items()}})
    return hub


def without(features: Features, columns: dict[str, list[Any]], *names: str) -> tuple[Features, dict[str, Any]]:
    kept = {name: kind for name, kind in features.items() if name not in names}
    return Features(kept), {name: columns[name] for name in kept}


# --- what is read


def test_the_splits_are_read_as_they_are_at_the_commit_of_the_revision(
    bench: Any, columns: dict[str, list[Any]]
) -> None:
    snapshot = fetch(NAME, "main")
    assert (snapshot.commit, str(snapshot)) == (COMMIT, f"{NAME} at revision main")
    tables = dict(read_benchmark(snapshot))
    assert [*tables] == ["train", "test"]
    train = tables["train"]
    assert [*train] == ["images", "edit_inst", "problem", "answer"]
    assert [[*images] for images in train["images"]] == columns["images"]
    assert [*train["answer"]] == [3.75, 1.0, 5.0]
    assert [*train["edit_inst"]] == columns["edit_inst"]


def test_images_that_are_paths_are_read_from_the_data_set(hub: Any, picture: Callable[..., bytes]) -> None:
    row = '{"images": ["a.png", "b.png"], "edit_inst": "x", "problem": "y", "answer": 2}\n'
    files = {f"{split}.jsonl": row.encode() for split in ("train", "test")}
    hub.files[NAME] = files | {"a.png": picture(0), "b.png": picture(1)}
    table = dict(read_benchmark(fetch(NAME, "main")))["train"]
    assert [image["bytes"] for image in table["images"][0]] == [picture(0), picture(1)]


def test_images_outside_of_the_data_set_are_not_read(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    row = f'{{"images": ["{tmp_path}/secret.png"], "edit_inst": "x", "problem": "y", "answer": 2}}\n'
    hub.files[NAME] = {f"{split}.jsonl": row.encode() for split in ("train", "test")}
    with pytest.raises(
        TableError, match=rf"{NAME} at revision main, split train, row 1: .*secret\.png is outside"
    ):
        dict(read_benchmark(fetch(NAME, "main")))


def test_the_token_is_that_of_the_environment(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(NAME, "main")
    assert all("authorization" not in headers for _, _, headers in bench.requests)
    bench.requests.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_lab")
    fetch(NAME, "main")
    assert [headers["authorization"] for _, _, headers in bench.requests] == ["Bearer hf_of_the_lab"]


def test_splits_have_the_names_that_params_give(hub: Any, columns: dict[str, list[Any]]) -> None:
    hub.push(NAME, FEATURES, {"fit": columns, "dev": {k: v[:1] for k, v in columns.items()}, "eval": columns})
    settings = Settings(
        dataset=NAME, revision="main", train_split="fit", validation_split="dev", test_split="eval"
    )
    tables = dict(read(settings, 7, {}))
    assert {split: len(table) for split, table in tables.items()} == {"train": 3, "validation": 1, "test": 3}


def test_the_config_is_the_one_that_params_name(hub: Any, columns: dict[str, list[Any]]) -> None:
    two_configs(hub, columns)
    (table,) = dict(read_benchmark(fetch(NAME, "main"), "small", {"train": "train"})).values()
    assert len(table) == 1


def test_a_config_that_must_be_named_is_named_with_those_that_are_there(
    hub: Any, columns: dict[str, list[Any]]
) -> None:
    two_configs(hub, columns)
    with pytest.raises(HubError, match=r"has several configs; it has large, small: choose one of them by name"):
        read_splits(fetch(NAME, "main"))
    with pytest.raises(HubError, match=r"has no config tiny; it has large, small: choose one of them by name"):
        read_splits(fetch(NAME, "main"), "tiny")


def two_configs(hub: Any, columns: dict[str, list[Any]]) -> None:
    """Put a data set on the hub with the configs large, of three rows, and small, of one."""
    hub.push(NAME, FEATURES, {"large": columns, "small": {k: v[:1] for k, v in columns.items()}})
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: data/{name}-*\n"
        for name in ("large", "small")
    )
    hub.files[NAME]["README.md"] = f"---\nconfigs:\n{configs}---\n".encode()


def test_problem_is_read_where_it_is_there(hub: Any, columns: dict[str, list[Any]]) -> None:
    features, kept = without(FEATURES, columns, "problem")
    hub.push(NAME, features, {"train": kept, "test": kept})
    assert [*dict(read_benchmark(fetch(NAME, "main")))["train"]] == ["images", "edit_inst", "answer"]


# --- what the files' names tell


def named(*names: str | None) -> pd.DataFrame:
    """A raw table whose edited pictures have these names."""
    return pd.DataFrame({"images": [[{"path": "x.png"}, {"path": name}] for name in names]})


def test_names_tell_the_editor_the_source_and_the_prompts_number() -> None:
    table = add_named(
        named(
            "a1b2c_H-Edit_IEB_00179_prompt1.png", "dst/0z9y8_Some_Editor_IEB_00022_prompt12.jpeg", None, "cat.png"
        )
    )
    told = table[["editor", "source_id", "prompt_number"]].astype(object).where(lambda cells: cells.notna(), None)
    assert told.to_numpy().tolist() == [
        ["H-Edit", "IEB_00179", "1"],
        ["Some_Editor", "IEB_00022", "12"],
        [None] * 3,
        [None] * 3,
    ]


def test_what_the_table_says_is_kept() -> None:
    names = ("a1b2c_H-Edit_IEB_00179_prompt1.png", "0z9y8_MagicBrush_IEB_00022_prompt2.png")
    table = add_named(named(*names).assign(editor=["its own", None]))
    assert [*table["editor"]] == ["its own", "MagicBrush"]


@pytest.mark.parametrize(
    "name", ["cat.png", "", "_IEB_00179_prompt1.png", "a_b_IEB_00179_prompt.png", "a_b_IEB__prompt1.png", None]
)
def test_other_names_tell_nothing(name: str | None) -> None:
    assert [*add_named(named(name))] == ["images"]


# --- our own split


def rows(picture: Callable[..., bytes], *sources: int, first: int = 0) -> pd.DataFrame:
    """A raw table with an edit of each of these source images."""
    pairs = [(picture(source), picture(100 + first + row)) for row, source in enumerate(sources)]
    images = [[{"bytes": file, "path": None} for file in pair] for pair in pairs]
    return pd.DataFrame({"images": images, "edit_inst": "make it red", "answer": range(first, first + len(pairs))})


def sources_of(picture: Callable[..., bytes], table: pd.DataFrame) -> set[int]:
    numbers = {picture(seed): seed for seed in range(20)}
    return {numbers[images[0]["bytes"]] for images in table["images"]}


def test_a_split_by_source_has_all_rows_and_no_shared_source(picture: Callable[..., bytes]) -> None:
    tables = {"train": rows(picture, *range(10), *range(10)), "test": rows(picture, *range(10), first=20)}
    split = split_by_source(tables, 24)
    assert [*split] == ["train", "test"]
    assert sources_of(picture, split["train"]).isdisjoint(sources_of(picture, split["test"]))
    assert len(split["test"]) == 9  # of 30 rows, three of each source image, next to the published share of 10
    assert sorted(pd.concat(split.values())["answer"]) == [*range(30)]
    assert split["train"]["answer"].is_monotonic_increasing


def test_names_that_contradict_the_pictures_hide_no_leak(picture: Callable[..., bytes]) -> None:
    """Rows stay together if either says that they have the same source image."""
    tables = {"train": rows(picture, *range(8), *range(8)), "test": rows(picture, *range(8), first=16)}
    tables["train"]["source_id"] = [f"IEB_{row:05d}" for row in range(16)]  # another for each row
    tables["test"]["source_id"] = [f"IEB_{min(row, 6):05d}" for row in range(8)]  # one for two source images
    split = split_by_source(tables, 24)
    train, test = (sources_of(picture, split[name]) for name in ("train", "test"))
    assert train.isdisjoint(test)
    assert {6, 7} <= train or {6, 7} <= test
    assert {*split["train"]["source_id"]}.isdisjoint(split["test"]["source_id"])


def test_a_source_image_that_cannot_be_decoded_is_left_to_the_checks(picture: Callable[..., bytes]) -> None:
    tables = {"train": rows(picture, *range(6)), "test": rows(picture, *range(6), first=6)}
    tables["test"].at[0, "images"] = [{"bytes": b"broken", "path": None}, {"bytes": picture(1), "path": None}]
    split = split_by_source(tables, 24)
    assert 6 in {*split["train"]["answer"]}
    assert len(split["train"]) + len(split["test"]) == 12


def test_one_source_image_cannot_be_split(picture: Callable[..., bytes]) -> None:
    tables = {"train": rows(picture, 0, 0), "test": rows(picture, 0, first=2)}
    with pytest.raises(HubError, match=r"1 source images can't be split in two.*download\.hub\.split to official"):
        split_by_source(tables, 24)


# --- a network that fails now and then


def test_a_file_that_breaks_off_goes_on_where_it_was(
    bench: Any, columns: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # of 10 MiB, which are written at once
    path = "data/train-00000-of-00001.parquet"
    bench.cut.add(path)
    tables = dict(read_benchmark(fetch(NAME, "main")))
    assert [[*images] for images in tables["train"]["images"]] == columns["images"]
    first, second = bench.sent(path)
    assert "range" not in first
    assert second["range"] == f"bytes={len(bench.files[NAME][path]) // 2 // 1024 * 1024}-"


def test_files_that_are_there_are_not_fetched_anew(bench: Any) -> None:
    fetch(NAME, "main")
    bench.requests.clear()
    fetch(NAME, "main")
    assert [path for _, path, _ in bench.requests] == [f"/api/datasets/{NAME}/revision/main"]


def test_a_hub_out_of_order_is_asked_again(bench: Any) -> None:
    bench.out_of_order = 1
    assert fetch(NAME, "main").commit == COMMIT


def test_a_commit_needs_no_hub_once_it_is_there_but_a_branch_does(bench: Any) -> None:
    """The commit that a branch had the last time isn't used."""
    folder = fetch(NAME, "main").folder
    bench.stop()
    assert fetch(NAME, COMMIT).folder == folder
    with pytest.raises(HubError, match="can't be reached"):
        fetch(NAME, "main")


# --- what can't be had


def test_a_data_set_that_is_not_there_is_named(hub: Any) -> None:
    with pytest.raises(
        HubError, match=rf"^{NAME} at revision main can't be downloaded: the hub has no such data set.*HF_TOKEN"
    ):
        fetch(NAME, "main")


@pytest.mark.parametrize("revision", ["v9", "f" * 40])
def test_a_revision_that_is_not_there_is_named(bench: Any, revision: str) -> None:
    with pytest.raises(HubError, match=rf"^{NAME} at revision {revision} can't .*: the revision doesn't exist"):
        fetch(NAME, revision)


def test_a_gated_data_set_tells_where_to_ask(bench: Any) -> None:
    bench.gated.add(NAME)
    with pytest.raises(HubError, match=rf"it is gated\. Ask for access on {bench.url}/datasets/{NAME}.*HF_TOKEN"):
        fetch(NAME, "main")


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_hub_that_is_down_is_named(bench: Any, revision: str) -> None:
    bench.stop()
    with pytest.raises(HubError, match=rf"{bench.url} can't be reached.*HF_ENDPOINT"):
        fetch(NAME, revision)


def test_a_hub_that_stays_out_of_order_is_named(bench: Any) -> None:
    bench.out_of_order = 100
    with pytest.raises(HubError, match=r"answers with a server error \((.|\n)*503"):
        fetch(NAME, "main")


def test_offline_mode_is_named(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        fetch(NAME, "main")


def test_a_name_that_is_none_is_named() -> None:
    with pytest.raises(HubError, match="an owner/a name/main at revision main can't be downloaded"):
        fetch("an owner/a name/main", "main")


@pytest.mark.parametrize("column", ["edit_inst", "answer"])
def test_a_missing_column_is_named_with_those_that_are_there(
    hub: Any, columns: dict[str, list[Any]], column: str
) -> None:
    features, kept = without(FEATURES, columns, column)
    hub.push(NAME, features, {"train": kept, "test": kept})
    with pytest.raises(TableError, match=rf"split train, has no column .*{column}.*; it has images, .*width"):
        dict(read_benchmark(fetch(NAME, "main")))


def test_a_data_set_without_images_is_named(hub: Any, columns: dict[str, list[Any]]) -> None:
    features, kept = without(FEATURES, columns, "images")
    hub.push(NAME, features, {"train": kept, "test": kept})
    with pytest.raises(HubError, match=r"split train, has no column images; it has edit_inst, "):
        dict(read_benchmark(fetch(NAME, "main")))


def test_a_column_of_images_that_holds_none_is_named(hub: Any, columns: dict[str, list[Any]]) -> None:
    kept = columns | {"images": [1, 2, 3]}
    hub.push(NAME, Features(FEATURES | {"images": Value("int64")}), {"train": kept, "test": kept})
    with pytest.raises(HubError, match="column images must hold lists of images"):
        dict(read_benchmark(fetch(NAME, "main")))


def test_a_missing_split_is_named_with_those_that_are_there(hub: Any, columns: dict[str, list[Any]]) -> None:
    hub.push(NAME, FEATURES, {"train": columns, "dev": columns})
    with pytest.raises(HubError, match=r"has no split test; it has train, dev: correct train_split"):
        dict(read_benchmark(fetch(NAME, "main")))


def test_two_splits_of_one_name_are_named() -> None:
    with pytest.raises(ValidationError, match="must have different names"):
        Settings(dataset=NAME, revision="main", train_split="all", test_split="all")


def test_a_score_that_is_no_number_is_named_with_its_row(hub: Any, columns: dict[str, list[Any]]) -> None:
    columns["answer"][1] = "good"
    hub.push(NAME, FEATURES, {"train": columns, "test": columns})
    with pytest.raises(TableError, match=r"split train, row 2 has the answer 'good', not a number"):
        dict(read_benchmark(fetch(NAME, "main")))


def test_files_that_are_no_data_set_are_named(hub: Any) -> None:
    hub.files[NAME] = {"train.parquet": b"PAR1, or not"}
    with pytest.raises(HubError, match=f"{NAME} at revision main can't be read by datasets"):
        dict(read_benchmark(fetch(NAME, "main")))

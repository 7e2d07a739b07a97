"""SFT sets in LLaMA-Factory's two layouts, `messages` (role, content) and ShareGPT `conversations` (from, value).

    table = read_file(Path("rationales.jsonl"))
    table = read_snapshot(fetch("Coobiw/IE-Bench-CoT-mixed", "main"))

Both give the raw table of `COLUMNS`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from critic.data.readers.hub import HubError, Snapshot, read_splits
from critic.data.readers.rows import SourceError, choose_columns, embed_images
from critic.edits import COLUMNS as EDIT_COLUMNS
from critic.edits import count_images, read_table

COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "images": EDIT_COLUMNS["images"],
    "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
    "instruction": pa.string(),
}
"""The columns of a raw table: `images` are source and edited, `instruction` is optional."""

LAYOUTS = {"messages": ("role", "content"), "conversations": ("from", "value")}
ROLES = {"human": "user", "gpt": "assistant"}
EXAMPLE = """rows of

    {"messages": [{"role": "user", "content": "<image><image>..."}, {"role": "assistant", "content": "..."}],
     "images": ["source.png", "edited.png"]}

or of

    {"conversations": [{"from": "human", "value": "<image><image>..."}, {"from": "gpt", "value": "..."}],
     "images": ["source.png", "edited.png"]}"""


def read_file(path: Path) -> pd.DataFrame:
    """The set in a .json (a list), .jsonl or .parquet file; the paths of images are relative to its folder.

    Raises:
        SourceError: there is no such file, it is none of these, or as `read_rows`.
    """
    if not path.is_file():
        raise SourceError(f"there is no file {path}: download.rationales.path is a .json, .jsonl or .parquet file")
    match path.suffix:
        case ".parquet":
            return read_rows(_parquet(path), path.parent, str(path))
        case ".json":
            rows = _decode(path.read_bytes(), str(path))
        case ".jsonl":
            lines = path.read_bytes().split(b"\n")
            rows = [_decode(line, f"{path} line {n}") for n, line in enumerate(lines, 1) if line.strip()]
        case _:
            raise SourceError(f"{path} is no .json, .jsonl or .parquet file: expected {EXAMPLE}")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SourceError(f"{path} is no list of objects: expected {EXAMPLE}")
    return read_rows(pd.DataFrame(rows), path.parent, str(path))


def read_snapshot(snapshot: Snapshot) -> pd.DataFrame:
    """The train split of a set on the hub.

    Raises:
        HubError: it can't be read, or has no train split.
        SourceError: as `read_rows`.
    """
    splits = read_splits(snapshot)
    if "train" not in splits:
        raise HubError(f"{snapshot} has no split train; it has {', '.join(splits)}: give another SFT set")
    return read_rows(splits["train"].to_pandas(), snapshot.folder, str(snapshot))


def read_rows(table: pd.DataFrame, folder: Path, where: str) -> pd.DataFrame:
    """A raw table: ids are made where there are none, roles are named user, assistant and system.

    Args:
        table: rows in one of the layouts, `images` and, if there is one, a column `system`.
        folder: that the images' paths are relative to.
        where: what the table is, for errors.

    Raises:
        SourceError: no rows, neither layout, a turn that is not in it, or an image's file isn't there.
    """
    layout = next((name for name in LAYOUTS if name in table), None)
    if layout is None or table.empty:
        raise SourceError(
            f"{where} has {len(table)} rows of {', '.join(map(str, table.columns)) or 'no columns'}: "
            f"expected {EXAMPLE}"
        )
    system = table["system"] if "system" in table else [None] * len(table)
    messages: list[Any] = [
        _messages(turns, before, layout=layout, place=f"{where} row {row}")
        for row, (turns, before) in enumerate(zip(table[layout], system, strict=True))
    ]
    if "id" not in table:
        table = table.assign(id=[f"rationale-{row:05d}" for row in range(len(table))])
    if "edit_inst" in table:
        table = table.drop(columns="instruction", errors="ignore").rename(columns={"edit_inst": "instruction"})
    table = table.assign(messages=pd.Series(messages, index=table.index, dtype="object"))
    table = choose_columns(table, COLUMNS, ("id", "images", "messages"), where)
    return table.assign(images=embed_images(table["images"], folder, where))


def _messages(turns: Any, system: Any, *, layout: str, place: str) -> list[dict[str, str]]:
    role, content = LAYOUTS[layout]
    if not count_images(turns) or not all(_is_turn(turn, role, content) for turn in turns):
        raise SourceError(f"{place}: {layout} is no list of {role} and {content}, both text: expected {EXAMPLE}")
    messages = [{"role": ROLES.get(turn[role], turn[role]), "content": turn[content]} for turn in turns]
    return [{"role": "system", "content": system}] * bool(isinstance(system, str) and system) + messages


def _is_turn(turn: Any, role: str, content: str) -> bool:
    return isinstance(turn, Mapping) and isinstance(turn.get(role), str) and isinstance(turn.get(content), str)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return read_table(path)
    except ValueError as error:
        raise SourceError(str(error)) from None


def _decode(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # of JSON or of its encoding
        raise SourceError(f"{where} is not JSON: {error}: expected {EXAMPLE}") from None

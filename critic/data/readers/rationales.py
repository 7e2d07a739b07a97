"""Read SFT sets in LLaMA-Factory's layouts: `messages` (role, content) or ShareGPT `conversations` (from, value).

Raw tables have the columns `COLUMNS`. With `images=False` they have no images, and no image is read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from critic.data.readers._rows import choose_columns, find_images
from critic.data.readers.hub import HubError, Snapshot, as_table, read_splits
from critic.edits import COLUMNS as EDIT_COLUMNS
from critic.edits import count_images
from critic.tables import TableError, number_rows, place, read

COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "images": EDIT_COLUMNS["images"],
    "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
    "instruction": pa.string(),
}
"""The columns of a raw table: `images` are the source and the edited image, `instruction` is optional."""

LAYOUTS = {"messages": ("role", "content"), "conversations": ("from", "value")}
ROLES = {"human": "user", "gpt": "assistant"}
EXAMPLE = """rows of

    {"messages": [{"role": "user", "content": "<image><image>..."}, {"role": "assistant", "content": "..."}],
     "images": ["source.png", "edited.png"]}

or of

    {"conversations": [{"from": "human", "value": "<image><image>..."}, {"from": "gpt", "value": "..."}],
     "images": ["source.png", "edited.png"]}"""


def read_file(path: Path, *, images: bool = True) -> pd.DataFrame:
    """The set in a .json (a list), .jsonl or .parquet file; paths of images are relative to its folder.

    Raises:
        TableError: the file doesn't exist, has another format or is malformed; or as `read_rows`.
    """
    if not path.is_file() or path.suffix.lower() not in (".json", ".jsonl", ".parquet"):
        reason = "is not a .json, .jsonl or .parquet file" if path.is_file() else "doesn't exist"
        raise TableError(f"{path} {reason}: give a file of {EXAMPLE}")
    return read_rows(read(path), path.parent if images else None)


def read_snapshot(snapshot: Snapshot, *, images: bool = True) -> pd.DataFrame:
    """The train split of a set on the hub.

    Raises a `HubError` if the set can't be read or has no train split, and as `read_rows`.
    """
    splits = read_splits(snapshot)
    if "train" not in splits:
        raise HubError(f"{snapshot} has no split train; it has {', '.join(splits)}: give another SFT set")
    train = splits["train"]
    table = as_table(train) if images else train.remove_columns("images").to_pandas()
    return read_rows(number_rows(table, str(snapshot)), snapshot.folder if images else None)


def read_rows(table: pd.DataFrame, folder: Path | None) -> pd.DataFrame:
    """A raw table with roles named user, assistant and system; without a column `id`, ids are made.

    Args:
        table: with the index of `critic.tables`; rows in one of the layouts, `images` and, optionally, `system`.
        folder: that paths of images are relative to; None for a table without images.

    Raises:
        TableError: there are no rows, they have neither layout, a turn is malformed, or an image's file can't be
            read.
    """
    layout = next((name for name in LAYOUTS if name in table), None)
    if layout is None or table.empty:
        raise TableError(
            f"{str(table.index.name).rpartition(' ')[0]} has {len(table)} rows with the columns "
            f"{', '.join(map(str, table.columns)) or 'none'}: give {EXAMPLE}"
        )
    system = table["system"] if "system" in table else [None] * len(table)
    messages: list[Any] = [
        _messages(turns, text, layout, place(table, row))
        for row, (turns, text) in enumerate(zip(table[layout], system, strict=True))
    ]
    if "id" not in table:
        table = table.assign(id=[f"rationale-{row:05d}" for row in range(len(table))])
    if "edit_inst" in table:
        table = table.drop(columns="instruction", errors="ignore").rename(columns={"edit_inst": "instruction"})
    table = table.assign(messages=pd.Series(messages, index=table.index, dtype="object"))
    if folder is None:
        kinds = {name: kind for name, kind in COLUMNS.items() if name != "images"}
        return choose_columns(table, kinds, ("id", "messages")).reset_index(drop=True)
    return find_images(choose_columns(table, COLUMNS, ("id", "images", "messages")), folder)


def _messages(turns: Any, system: Any, layout: str, where: str) -> list[dict[str, str]]:
    role, content = LAYOUTS[layout]
    turns = turns if count_images(turns) else []
    texts = [turn.get(key) if isinstance(turn, Mapping) else None for turn in turns for key in (role, content)]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise TableError(f"{where}: {layout} is not a list of {role} and {content}, both text: give {EXAMPLE}")
    messages = [{"role": ROLES.get(turn[role], turn[role]), "content": turn[content]} for turn in turns]
    return [{"role": "system", "content": system}] * bool(isinstance(system, str) and system) + messages

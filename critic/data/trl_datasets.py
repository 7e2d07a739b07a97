"""Write and load the Parquet files of data/sft and data/rl, in TRL's conversational format.

dataset = load_samples("data/sft/train.parquet", contract)
dataset[0]["images"]    # two pictures, resized to the contract's pixel limits
"""

import os
from functools import lru_cache
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from PIL import Image

from critic.edits import COLUMNS
from critic.pictures import decode_cell
from critic.prompts import Contract

_MESSAGES = pa.list_(
    pa.struct({"role": pa.string(), "content": pa.list_(pa.struct({"type": pa.string(), "text": pa.string()}))})
)
_SCHEMA = {
    "id": pa.string(),
    "mode": pa.string(),
    "prompt": _MESSAGES,
    "completion": _MESSAGES,
    "images": COLUMNS["images"],
    "mos": pa.float64(),
}
"""The columns of a file: SFT samples have mode and completion, RL samples have mos."""


def write_samples(samples: list[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write samples, at least one and all with the same columns; `images` holds the files' bytes, as in edits."""
    schema = pa.schema([(name, kind) for name, kind in _SCHEMA.items() if name in samples[0]])
    pq.write_table(pa.Table.from_pylist(samples, schema=schema), path, compression="zstd")


def load_samples(path: str | os.PathLike[str], contract: Contract, *, keep: int = 0) -> Dataset:
    """Load a file of samples; images are decoded and resized on access.

    Args:
        keep: how many of the pictures used last stay in memory, decoded and resized. TRL reads each generation
            batch of GRPO `steps_per_generation` times, and a prompt once for each of its completions.

    Returns:
        The file's columns, and `group`: samples with the same pictures have the same number.
    """
    dataset = Dataset.from_parquet(os.fspath(path))

    @lru_cache(maxsize=keep)
    def picture(file: bytes | None) -> Image.Image:
        return contract.resize(decode_cell({"bytes": file}))

    def with_pictures(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "images" not in batch:
            return batch
        pictures = [[picture(image["bytes"]) for image in images] for images in batch["images"]]
        return {**batch, "images": pictures}

    return dataset.add_column("group", _groups(dataset)).with_transform(with_pictures)


def _groups(dataset: Dataset) -> list[int]:
    numbers: dict[bytes, int] = {}
    groups = []
    for batch in dataset.select_columns(["images"]).with_format("arrow").iter(batch_size=64):
        for images in batch["images"].to_pylist():
            digest = b"".join(sha256(image["bytes"]).digest() for image in images)
            groups.append(numbers.setdefault(digest, len(numbers)))
    return groups

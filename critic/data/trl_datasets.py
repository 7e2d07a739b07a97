"""Write and load the samples in data/sft and data/rl, in TRL's conversational format, and their pictures.

    with PictureWriter("data/pictures/train.arrow", "../pictures/train.arrow") as pictures:
        write_samples(samples, "data/sft/train.parquet", pictures)
    dataset = load_samples("data/sft/train.parquet", contract)
    dataset[0]["images"]    # two pictures, resized to the contract's pixel limits

A sample names its pictures by the SHA-256 of their files. The files are in an Arrow file, each once, which several
files of samples can share. It is mapped into memory: only the pictures that are asked for are read.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

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
    "images": pa.list_(pa.string()),
    "mos": pa.float64(),
    **{name: kind for name, kind in COLUMNS.items() if name.startswith("mos_")},
    "pair": pa.string(),
    "wins": pa.float64(),
}
"""The columns of a file: SFT samples have mode and completion, RL samples have mos and those of the axes rated. If
some are of preferences, they have pair, the same for two samples, and wins: 1 for the preferred one, else 0."""
_PICTURES = pa.schema({"sha256": pa.string(), "bytes": pa.binary()})
_WHERE = b"pictures"
"""The key of the samples' metadata with the path of their pictures, relative to their own folder."""
_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 32 << 20


class PictureWriter:
    """An Arrow file that gets each picture once; a context manager.

    Args:
        path: of the file.
        name: its path relative to the folder of the samples.
    """

    def __init__(self, path: str | os.PathLike[str], name: str):
        self.path, self.name = path, name
        self._known: set[str] = set()
        self._waiting: dict[str, bytes] = {}
        self._bytes = 0

    def __enter__(self) -> Self:
        self._file = pa.ipc.new_stream(os.fspath(self.path), _PICTURES)
        return self

    def __exit__(self, *error: object) -> None:
        with self._file:
            self._write()

    def add(self, image: Mapping[str, Any]) -> str:
        """The name of a picture, {"bytes": its file}, which is written unless it is there."""
        name = sha256(image["bytes"]).hexdigest()
        if name not in self._known:
            self._known.add(name)
            self._waiting[name] = image["bytes"]
            self._bytes += len(image["bytes"])
            if self._bytes >= _BYTES_AT_ONCE:
                self._write()
        return name

    def _write(self) -> None:
        columns = [[*self._waiting], [*self._waiting.values()]]
        self._file.write_batch(pa.record_batch(columns, schema=_PICTURES))
        self._waiting, self._bytes = {}, 0


def write_samples(
    samples: Iterable[dict[str, Any]], path: str | os.PathLike[str], pictures: PictureWriter | None = None
) -> None:
    """Write samples as they come.

    Args:
        samples: at least one, all with the same columns; `images` holds the files' bytes, as in edits.
        pictures: where their pictures go; None for a file of their own, with the samples' name and `.arrow`.
    """
    samples = iter(samples)
    first = next(samples)
    with ExitStack() as stack:
        if pictures is None:
            own = Path(path).with_suffix(".arrow")
            pictures = stack.enter_context(PictureWriter(own, own.name))
        schema = pa.schema([(name, kind) for name, kind in _SCHEMA.items() if name in first])
        schema = schema.with_metadata({_WHERE: pictures.name})
        writer = stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd"))
        named = _named(chain([first], samples), pictures)
        while rows := [*islice(named, _ROWS_AT_ONCE)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _named(samples: Iterable[dict[str, Any]], pictures: PictureWriter) -> Iterator[dict[str, Any]]:
    """The samples with the names of their pictures. Samples of one edit follow each other, with one list."""
    images, names = None, list[str]()
    for sample in samples:
        if "images" in sample and sample["images"] is not images:
            images = sample["images"]
            names = [pictures.add(image) for image in images]
        yield {**sample, "images": names}


def load_samples(path: str | os.PathLike[str], contract: Contract, *, keep: int = 0) -> Dataset:
    """Load a file of samples; images are decoded and resized on access, and are in the order of the contract.

    Args:
        keep: how many of the pictures used last stay in memory, decoded and resized. TRL reads each generation
            batch of GRPO `steps_per_generation` times, and a prompt once for each of its completions.

    Returns:
        The file's columns, and `group`: samples with the same pictures have the same number.
    """
    dataset = Dataset.from_parquet(os.fspath(path))
    where = Path(path).parent / pq.read_schema(path).metadata[_WHERE].decode()
    files = Dataset.from_file(os.path.normpath(where))
    rows = {name: row for row, name in enumerate(files["sha256"])}

    @lru_cache(maxsize=keep)
    def picture(name: str) -> Image.Image:
        return contract.resize(decode_cell({"bytes": files[rows[name]]["bytes"]}))

    def with_pictures(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "images" not in batch:
            return batch
        ordered = [contract.in_order(names) for names in batch["images"]]
        return {**batch, "images": [[picture(name) for name in names] for names in ordered]}

    return dataset.add_column("group", _groups(dataset)).with_transform(with_pictures)


def _groups(dataset: Dataset) -> list[int]:
    numbers: dict[tuple[str, ...], int] = {}
    return [numbers.setdefault(tuple(names), len(numbers)) for names in dataset["images"]]

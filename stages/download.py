"""download.source -> data/raw: the benchmark's tables as they come, one Parquet file a split.

    python -m stages.download

`minibench` makes itself; `hub` is read through `datasets`, at a pinned revision.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from datasets import Image, Sequence, get_dataset_split_names, load_dataset

from critic import params
from critic.edits import write_table
from critic.minibench import make_table

RAW = Path("data/raw")


class HubError(RuntimeError):
    """The hub's data set can't be had; the message says which and what to do."""


def main() -> None:
    section = params.load(params.Download)
    if section.source == "hub" and section.hub is not None:
        tables = from_hub(section.hub)
    elif section.minibench is not None:
        tables = from_minibench(section.minibench, params.seed())
    partial = RAW.with_name(".raw.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split, table in tables:
        write_table(table, partial / f"{split}.parquet")
    shutil.rmtree(RAW, ignore_errors=True)
    os.replace(partial, RAW)


def from_minibench(section: params.Minibench, seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """The splits of minibench, made on the spot."""
    sources = {
        "train": section.train_sources,
        "validation": section.validation_sources,
        "test": section.test_sources,
    }
    for split, number in sources.items():
        yield split, make_table(split, number, section.side, seed)


def from_hub(section: params.Hub) -> Iterator[tuple[str, pd.DataFrame]]:
    """The splits of a data set on the hub, images as the files that they are.

    Raises:
        HubError: it can't be reached, or there is no such data set or revision.
    """
    name = f"{section.dataset} at revision {section.revision}"
    try:
        for split in get_dataset_split_names(section.dataset, revision=section.revision):
            dataset = load_dataset(section.dataset, revision=section.revision, split=split)
            dataset = dataset.cast_column("images", Sequence(Image(decode=False)))
            yield split, dataset.to_pandas()
    except (OSError, ValueError) as error:
        raise HubError(
            f"{name} can't be had from the hub ({error}): check the network, the name and HF_TOKEN, "
            "or set download.source to minibench"
        ) from error


if __name__ == "__main__":
    main()

"""Data sets on the Hugging Face hub, through `huggingface_hub` and `datasets`.

    snapshot = fetch("Coobiw/IE-Bench-4k", "main")
    for split, table in read_benchmark(snapshot):
        ...
    snapshot.commit    # what `main` was

A snapshot is a commit's files in the hub's cache (HF_HOME), where they stay: a run that was cut off goes on
with those that it lacks. HF_TOKEN in the environment opens private and gated data sets.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import pandas as pd
from datasets import DatasetDict, Image, Sequence, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from critic.data.readers.rows import SourceError, choose_columns, embed_images
from critic.edits import SPLITS, TYPES

REQUIRED = ("images", "instruction", "problem", "mos")
WAITS = (1, 5, 20)
"""Seconds before each new try, once the hub can't be reached or is out of order."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_T = TypeVar("_T")


class HubError(SourceError):
    """The hub's data set can't be had; the message says which and what to do."""


class HubUnreachable(HubError):
    """The hub can't be reached or is out of order, which may pass."""


@dataclass(frozen=True)
class Snapshot:
    """The files of a data set at a commit, as they are on the hub."""

    dataset: str
    revision: str
    commit: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.dataset} at revision {self.revision}"


def fetch(dataset: str, revision: str) -> Snapshot:
    """The files of a data set at a revision, from the hub or, if all of a commit's are there, from its cache.

    A branch or tag is looked up on the hub each time, and never taken from the cache: what it was once can be
    had by its commit.

    Args:
        dataset: owner/name.
        revision: a branch, a tag or, for always the same data, the 40 digits of a commit.

    Raises:
        HubUnreachable: the hub can't be reached or is out of order.
        HubError: there is no such data set or revision; it is private or gated.
    """
    try:
        commit = revision if _COMMIT.fullmatch(revision) else _persistent(lambda: _look_up(dataset, revision))
        folder = _persistent(lambda: snapshot_download(dataset, repo_type="dataset", revision=commit))
    except (httpx.HTTPError, OSError, ValueError) as error:
        kind = HubUnreachable if _may_pass(error) else HubError
        raise kind(f"{dataset} at revision {revision} can't be had: {_advice(error, dataset)}") from error
    return Snapshot(dataset, revision, commit, Path(folder))


def read_splits(snapshot: Snapshot) -> DatasetDict:
    """The splits of a snapshot, with an image column `images` whose files are not decoded.

    Raises:
        HubError: `datasets` can't read it, or a split has no column `images`, or one of something else.
    """
    try:
        splits = load_dataset(str(snapshot.folder))
    except (DatasetsError, OSError, ValueError) as error:
        raise HubError(
            f"{snapshot} can't be read by datasets: {error}: give a revision that can, "
            "or its Parquet files as download.source local"
        ) from error
    for split, table in splits.items():
        if "images" not in table.column_names:
            raise HubError(
                f"{snapshot}, split {split}, has no column images; it has {', '.join(table.column_names)}: "
                "give a data set in a layout of docs/data.md, or another revision"
            )
    try:
        return splits.cast_column("images", Sequence(Image(decode=False)))
    except (TypeError, ValueError) as error:
        raise HubError(f"{snapshot}: column images must hold lists of images: {error}") from error


def read_benchmark(snapshot: Snapshot) -> Iterator[tuple[str, pd.DataFrame]]:
    """The train, validation (if any) and test split of a benchmark in IE-Bench-4k's layout, as raw tables.

    Raises:
        HubError: as `read_splits`; there is no train or test split.
        SourceError: a column is missing, a score is no number, or an image's file isn't there.
    """
    splits = read_splits(snapshot)
    if missing := {"train", "test"} - {*splits}:
        raise HubError(f"{snapshot} has no split {' or '.join(sorted(missing))}; it has {', '.join(splits)}")
    for split in SPLITS:
        if split in splits:
            where = f"{snapshot}, split {split},"
            table = choose_columns(splits[split].to_pandas(), TYPES, REQUIRED, where)
            yield split, table.assign(images=embed_images(table["images"], snapshot.folder, where))


def _look_up(dataset: str, revision: str) -> str:
    return str(HfApi().dataset_info(dataset, revision=revision).sha)


def _may_pass(error: Exception) -> bool:
    return isinstance(error, httpx.TransportError) or (
        isinstance(error, HfHubHTTPError) and error.response.status_code >= 500
    )


def _persistent(call: Callable[[], _T]) -> _T:
    """What a call gives, tried anew after each of `WAITS` while the hub can't be reached or is out of order."""
    for wait in WAITS:
        try:
            return call()
        except (httpx.TransportError, HfHubHTTPError) as error:
            if not _may_pass(error):
                raise
            time.sleep(wait)
    return call()


def _advice(error: Exception, dataset: str) -> str:
    page = f"{constants.ENDPOINT}/datasets/{dataset}"
    match error:
        case GatedRepoError():
            return (
                f"it is gated. Ask for access on {page}, and set HF_TOKEN in the environment to a token "
                "of the account that has it"
            )
        case RepositoryNotFoundError():
            return (
                "the hub has no such data set, or it is private. Correct the name in params.yaml, "
                "or set HF_TOKEN in the environment to a token that may read it"
            )
        case RevisionNotFoundError():
            return f"it has no such revision. Give a branch, tag or commit of {page}/commits/main"
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set. Unset it, or give a commit whose files are all in the cache"
        case httpx.TransportError() | HfHubHTTPError():
            return (
                f"{constants.ENDPOINT} can't be reached or is out of order ({error}). Check the network and "
                "HF_ENDPOINT, and run the stage again: files that are there are not fetched anew"
            )
    return f"{error}"

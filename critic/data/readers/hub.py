"""Read data sets from the Hugging Face hub, through `huggingface_hub` and `datasets`.

    snapshot = fetch("Coobiw/IE-Bench-4k", "main")
    for split, table in read_benchmark(snapshot):
        ...
    snapshot.commit    # the commit of `main`

A snapshot is a commit's files in the hub's cache (HF_HOME). An interrupted download resumes with the missing
files. HF_TOKEN in the environment gives access to private and gated data sets.
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

from critic.data.readers._rows import choose_columns, embed_images
from critic.edits import SPLITS, TYPES
from critic.params import Part
from critic.tables import number_rows

REQUIRED = ("images", "instruction", "problem", "mos")
WAITS = (1, 5, 20)
"""Seconds to wait before each retry if the hub can't be reached or answers with a server error."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_T = TypeVar("_T")


class HubError(ValueError):
    """A data set of the hub that can't be used; the message names it, the cause and the fix."""


class HubUnreachable(HubError):
    """The hub can't be reached or answers with a server error; a later run can succeed."""


class Settings(Part):
    """A data set on the hub and the revision to read: a commit never changes, a branch or tag may move."""

    dataset: str
    revision: str


@dataclass(frozen=True)
class Snapshot:
    """The files of a data set at a commit."""

    dataset: str
    revision: str
    commit: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.dataset} at revision {self.revision}"


def read(settings: Settings, seed: int, snapshots: dict[str, Snapshot]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The splits of a benchmark, whose snapshot is added to `snapshots`.

    Raises:
        HubError: as `fetch` and `read_benchmark`.
        TableError: as `read_benchmark`.
    """
    snapshots["benchmark"] = fetch(settings.dataset, settings.revision)
    yield from read_benchmark(snapshots["benchmark"])


def fetch(dataset: str, revision: str) -> Snapshot:
    """Download the files of a data set at a revision, except those of the commit that are in the cache.

    A branch or tag is looked up on the hub each time, since it can move.

    Args:
        dataset: owner/name.
        revision: a branch, a tag, or the 40 digits of a commit, whose data never change.

    Raises:
        HubUnreachable: the hub can't be reached or answers with a server error.
        HubError: the data set or revision doesn't exist, or is private or gated.
    """
    try:
        commit = revision if _COMMIT.fullmatch(revision) else _retried(lambda: _look_up(dataset, revision))
        folder = _retried(lambda: snapshot_download(dataset, repo_type="dataset", revision=commit))
    except (httpx.HTTPError, OSError, ValueError) as error:
        kind = HubUnreachable if _may_pass(error) else HubError
        raise kind(f"{dataset} at revision {revision} can't be downloaded: {_advice(error, dataset)}") from error
    return Snapshot(dataset, revision, commit, Path(folder))


def read_splits(snapshot: Snapshot) -> DatasetDict:
    """The splits of a snapshot, with a column `images` whose files are not decoded.

    Raises:
        HubError: `datasets` can't read the snapshot, or a split has no column `images` with lists of images.
    """
    try:
        splits = load_dataset(str(snapshot.folder))
    except (DatasetsError, OSError, ValueError) as error:
        raise HubError(
            f"{snapshot} can't be read by datasets: {error}: give another revision, or download its Parquet "
            "files and set download.source to local"
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
    """The train, validation (optional) and test split of a benchmark in IE-Bench-4k's layout, as raw tables.

    Raises:
        HubError: as `read_splits`; the train or test split is missing.
        TableError: a column is missing, a score isn't a number, or an image's file can't be read.
    """
    splits = read_splits(snapshot)
    if missing := {"train", "test"} - {*splits}:
        raise HubError(f"{snapshot} has no split {' or '.join(sorted(missing))}; it has {', '.join(splits)}")
    for split in SPLITS:
        if split in splits:
            table = number_rows(splits[split].to_pandas(), f"{snapshot}, split {split},")
            yield split, embed_images(choose_columns(table, TYPES, REQUIRED), snapshot.folder)


def _look_up(dataset: str, revision: str) -> str:
    return str(HfApi().dataset_info(dataset, revision=revision).sha)


def _may_pass(error: Exception) -> bool:
    return isinstance(error, httpx.TransportError) or (
        isinstance(error, HfHubHTTPError) and error.response.status_code >= 500
    )


def _retried(call: Callable[[], _T]) -> _T:
    """The result of a call, which is retried after each of `WAITS` if `_may_pass`."""
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
                "of an account that has access"
            )
        case RepositoryNotFoundError():
            return (
                "the hub has no such data set, or it is private. Correct the name in params.yaml, "
                "or set HF_TOKEN in the environment to a token with read access"
            )
        case RevisionNotFoundError():
            return f"the revision doesn't exist. Give a branch, tag or commit of {page}/commits/main"
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set. Unset it, or give a commit whose files are all in the cache"
        case httpx.TransportError() | HfHubHTTPError():
            return (
                f"{constants.ENDPOINT} can't be reached or answers with a server error ({error}). Check the "
                "network and HF_ENDPOINT, and run the stage again: it downloads only the missing files"
            )
    return f"{error}"

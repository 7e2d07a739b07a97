"""Read data sets from the Hugging Face hub, through `huggingface_hub` and `datasets`.

    snapshot = fetch("Coobiw/IE-Bench-4k", "main")
    for split, table in read_benchmark(snapshot):
        ...
    snapshot.commit    # the commit of `main`
    tables = split_by_source(dict(read_benchmark(snapshot)), phash_distance=24)

A snapshot is a commit's files in the hub's cache (HF_HOME). An interrupted download resumes with the missing
files. HF_TOKEN in the environment gives access to private and gated data sets.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import (
    Dataset,
    DatasetDict,
    Image,
    Sequence,
    get_dataset_config_names,
    get_dataset_default_config_name,
    load_dataset,
)
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi, constants, errors, snapshot_download
from pydantic import model_validator

from critic.data.features import source_facts
from critic.data.near_duplicates import choose_rows, group_sources
from critic.data.readers._rows import REQUIRED, choose_columns, find_images
from critic.edits import TYPES, count_images
from critic.params import Part
from critic.tables import StoredPicture, number_rows

SPLIT_NAMES = {"train": "train", "test": "test"}
"""This project's splits, each with the name of a data set's split."""
WAITS = (1, 5, 20)
"""Seconds to wait before each retry if the hub can't be reached or answers with a server error."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE_NAME = re.compile(r"[^_]+_(?P<editor>.+)_(?P<source_id>IEB_[^_]+)_prompt(?P<prompt_number>[0-9]+)\.[^.]+")
"""The names of the picture files in IE-Bench-4k: a2b3c_SomeEditor_IEB_00017_prompt2.png."""
_T = TypeVar("_T")
Kind = Literal["dataset", "model"]


class HubError(ValueError):
    """A data set or model of the hub that can't be used; the message names it, the cause and the fix."""


class HubUnreachable(HubError):
    """The hub can't be reached or answers with a server error; a later run can succeed."""


class Settings(Part):
    """A data set on the hub, the revision to read, and how its rows are split.

    Attributes:
        revision: a commit never changes, a branch or tag may move.
        name: the data set's config, as `datasets.load_dataset` calls it; null if it has only one or a default.
        train_split, validation_split, test_split: the names of its splits; null if it has no validation split.
        split: `official` keeps the published splits, whose test split may share source images with the others;
            `by_source` pools their rows and splits them again (`split_by_source`).
    """

    dataset: str
    revision: str
    name: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str = "test"
    split: Literal["official", "by_source"] = "by_source"

    @model_validator(mode="after")
    def _has_different_splits(self) -> Self:
        if len({*self.split_names.values()}) < len(self.split_names):
            raise ValueError("train_split, validation_split and test_split must have different names")
        return self

    @property
    def split_names(self) -> dict[str, str]:
        """The name of each split, as in `SPLIT_NAMES`."""
        names = {"train": self.train_split, "validation": self.validation_split, "test": self.test_split}
        return {split: name for split, name in names.items() if name is not None}


@dataclass(frozen=True)
class Snapshot:
    """The files of a data set, or of a model, at a commit; without a revision, those of a local folder."""

    dataset: str
    revision: str
    commit: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.dataset} at revision {self.revision}" if self.revision else self.dataset


def read(settings: Settings, seed: int, snapshots: dict[str, Snapshot]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The published splits of a benchmark, whose snapshot is added to `snapshots`."""
    snapshots["benchmark"] = fetch(settings.dataset, settings.revision)
    yield from read_benchmark(snapshots["benchmark"], settings.name, settings.split_names)


def fetch(name: str, revision: str, *, kind: Kind = "dataset", only: list[str] | None = None) -> Snapshot:
    """Download the files of a data set or model at a revision, except those of the commit that are in the cache.

    A branch or tag is looked up on the hub each time, since it can move.

    Args:
        name: owner/name.
        revision: a branch, a tag, or the 40 digits of a commit, whose data never change.
        only: patterns of the files' names, as `*.json`; None for all files.

    Raises:
        HubUnreachable: the hub can't be reached or answers with a server error.
        HubError: the data set, model or revision doesn't exist, or is private or gated.
    """
    try:
        commit = revision if _COMMIT.fullmatch(revision) else _retried(lambda: _look_up(name, revision, kind))
        folder = _retried(lambda: snapshot_download(name, repo_type=kind, revision=commit, allow_patterns=only))
    except (httpx.HTTPError, OSError, ValueError) as error:
        failure = HubUnreachable if _may_pass(error) else HubError
        raise failure(
            f"{name} at revision {revision} can't be downloaded: {_advice(error, name, kind)}"
        ) from error
    return Snapshot(name, revision, commit, Path(folder))


def load_splits(snapshot: Snapshot, name: str | None = None) -> DatasetDict:
    """The splits of a snapshot as `datasets` has them.

    `name` is the config; None if there is only one or a default. A folder of `save_to_disk` has the split train.

    Raises:
        HubError: `datasets` can't read the snapshot, or there is no such config.
    """
    folder = str(snapshot.folder)
    try:
        if (snapshot.folder / "state.json").is_file():
            return DatasetDict(train=Dataset.load_from_disk(folder))
        configs = get_dataset_config_names(folder)
        if name not in configs and (name or get_dataset_default_config_name(folder) is None):
            fault = f"has no config {name}" if name else "has several configs"
            raise HubError(
                f"{snapshot} {fault}; it has {', '.join(configs)}: choose one of them by name; "
                "an SFT set must have one alone, or be given as a file"
            )
        fresh = {"download_mode": "force_redownload", "verification_mode": "no_checks"}  # a folder may change
        return load_dataset(folder, name=name, **({} if snapshot.revision else fresh))
    except HubError:
        raise
    except (DatasetsError, OSError, ValueError) as error:
        raise HubError(
            f"{snapshot} can't be read by datasets: {error}: give another revision, or download its Parquet "
            "files and give these"
        ) from error


def read_splits(snapshot: Snapshot, name: str | None = None) -> DatasetDict:
    """The splits of `load_splits`, with a column `images` whose files are not decoded.

    Raises:
        HubError: as `load_splits`; a split has no column `images` with lists of images.
    """
    splits = load_splits(snapshot, name)
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


def read_benchmark(
    snapshot: Snapshot, name: str | None = None, split_names: Mapping[str, str] = SPLIT_NAMES
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The splits of a benchmark in IE-Bench-4k's layout, as raw tables.

    `name` is as in `read_splits`, and `split_names` as `SPLIT_NAMES`.

    Raises:
        HubError: as `read_splits`; a split is missing.
        TableError: a column is missing, a score isn't a number, or an image's file can't be read.
    """
    splits = read_splits(snapshot, name)
    if missing := [published for published in split_names.values() if published not in splits]:
        raise HubError(
            f"{snapshot} has no split {' or '.join(missing)}; it has {', '.join(splits)}: correct "
            "train_split, validation_split and test_split"
        )
    for split, published in split_names.items():
        table = number_rows(as_table(splits[published]), f"{snapshot}, split {published},")
        yield split, add_named(find_images(choose_columns(table, TYPES, REQUIRED), snapshot.folder))


def as_table(dataset: Dataset) -> pd.DataFrame:
    """A split of `read_splits`; its images stay in the cache of `datasets` until they are asked for."""
    column, cells = dataset.data.column("images"), list[list[StoredPicture | None] | None]()
    for chunk in column.chunks:
        images = chunk.flatten()
        shapes = zip(images.field("path").to_pylist(), images.is_null().to_pylist(), strict=True)
        for number in chunk.value_lengths().to_pylist():
            row = len(cells)
            cells.append(
                None
                if number is None
                else [
                    None if is_null else StoredPicture(path, partial(_file, column, row, place))
                    for place, (path, is_null) in enumerate(islice(shapes, number))
                ]
            )
    table = dataset.remove_columns("images").to_pandas()
    return table.assign(images=pd.Series(cells, table.index, dtype="object"))[dataset.column_names]


def _file(column: pa.ChunkedArray, row: int, place: int) -> bytes | None:
    return column[row][place]["bytes"].as_py()


def add_named(table: pd.DataFrame) -> pd.DataFrame:
    """The table with what the names of the edited images' files tell: editor, source_id and prompt_number.

    Only names of IE-Bench-4k's form tell something, `<random>_<editor>_IEB_<source>_prompt<n>.png`; the source_id
    is `IEB_<source>`. Values that the table has are kept, and no column is added if no name tells anything.
    """
    found = [_FILE_NAME.fullmatch(_file_name(images)) for images in table["images"]]
    if any(found):
        for column in _FILE_NAME.groupindex:
            told = pd.Series([match[column] if match else None for match in found], dtype="str")
            table = table.assign(**{column: table[column].fillna(told) if column in table else told})
    return table


def split_by_source(tables: Mapping[str, pd.DataFrame], phash_distance: int) -> dict[str, pd.DataFrame]:
    """All rows of a benchmark, split again into train and test so that no source image is in both.

    Rows whose source images are the same, look alike or have the same source_id stay together
    (`critic.data.near_duplicates.group_sources`, which explains `phash_distance`). The test split gets about the
    share of rows that it had. The same rows always give the same splits, whatever the seed of a training. Rows
    keep their order; one whose source image can't be decoded goes to train.

    Raises:
        HubError: there are fewer than two source images.
    """
    pooled = pd.concat([*tables.values()], ignore_index=True)
    facts = source_facts({"all": pooled})
    decoded = facts["phash"].notna().to_numpy()
    in_test = np.zeros(len(pooled), dtype=bool)
    try:
        groups = group_sources(facts[decoded], phash_distance)
        in_test[decoded] = choose_rows(groups, len(tables["test"]) / len(pooled))
    except ValueError as error:
        raise HubError(
            f"the benchmark can't be split by source: {error}. Lower validate.phash_distance, or set "
            "download.hub.split to official"
        ) from None
    return {"train": pooled[~in_test].reset_index(drop=True), "test": pooled[in_test].reset_index(drop=True)}


def _file_name(images: Any) -> str:
    """The name of the edited image's file without its folder, empty if there is none."""
    image = images[1] if count_images(images) > 1 else None
    return Path(str(image.get("path") or "")).name if isinstance(image, Mapping) else ""


def _look_up(name: str, revision: str, kind: Kind) -> str:
    return str(HfApi().repo_info(name, revision=revision, repo_type=kind).sha)


def _may_pass(error: Exception) -> bool:
    return isinstance(error, httpx.TransportError) or (
        isinstance(error, errors.HfHubHTTPError) and error.response.status_code >= 500
    )


def _retried(call: Callable[[], _T]) -> _T:
    """The result of a call, which is retried after each of `WAITS` if `_may_pass`."""
    for wait in WAITS:
        try:
            return call()
        except (httpx.TransportError, errors.HfHubHTTPError) as error:
            if not _may_pass(error):
                raise
            time.sleep(wait)
    return call()


def _advice(error: Exception, name: str, kind: Kind) -> str:
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    match error:
        case errors.GatedRepoError():
            return (
                f"it is gated. Ask for access on {page}, and set HF_TOKEN in the environment to a token "
                "of an account that has access"
            )
        case errors.RepositoryNotFoundError():
            return (
                f"the hub has no such {'data set' if kind == 'dataset' else 'model'}, or it is private. Correct "
                "the name, or set HF_TOKEN in the environment to a token with read access"
            )
        case errors.RevisionNotFoundError():
            return f"the revision doesn't exist. Give a branch, tag or commit of {page}/commits/main"
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set. Unset it, or give a commit whose files are all in the cache"
        case httpx.TransportError() | errors.HfHubHTTPError():
            return (
                f"{constants.ENDPOINT} can't be reached or answers with a server error ({error}). Check the "
                "network and HF_ENDPOINT, and try again: only the missing files are downloaded"
            )
    return f"{error}"

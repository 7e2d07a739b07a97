"""download.source -> data/raw: tables as they come, one Parquet file a split, and their checksums.

    python -m stages.download

`minibench` makes itself, `hub` is read at a pinned revision, `local` is a folder or file of this machine. A
released SFT set and AGIQA-3k come beside it where params.yaml gives them: see docs/data.md. What people have rated
since (data/ratings) joins the splits: see docs/ratings.md. The exit code is 75 (EX_TEMPFAIL) where the hub can't
be reached, and 1 for all else.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path

import pandas as pd

from critic import params
from critic.data.minibench import make_table
from critic.data.readers import rationale_sets
from critic.data.readers.agiqa import read_agiqa
from critic.data.readers.hub import HubUnreachable, Snapshot, fetch, read_benchmark
from critic.data.readers.local import read_local
from critic.data.readers.rows import SourceError
from critic.edits import GENERATED_COLUMNS, write_table
from critic.ratings.increments import FOLDER, IncrementError, merge, read_increments

RAW = Path("data/raw")


def main() -> None:
    try:
        distance = params.load(params.Validate).phash_distance
        download(params.load(params.Download), params.seed(), RAW, FOLDER, distance)
    except HubUnreachable as error:
        print(error, file=sys.stderr)
        raise SystemExit(os.EX_TEMPFAIL) from None
    except (SourceError, IncrementError) as error:
        raise SystemExit(str(error)) from None


def download(section: params.Download, seed: int, raw: Path, ratings: Path, phash_distance: int) -> None:
    """Write the folder `raw`: a table a split, rationales and agiqa if there are any, and checksums.json.

    Args:
        ratings: the folder of increments (`critic.ratings.increments`).
        phash_distance: source images look alike up to so many differing bits.

    Raises:
        SourceError, IncrementError: a source can't be had or isn't as it should be; `raw` is then as it was.
    """
    partial = raw.with_name(f".{raw.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    snapshots: dict[str, Snapshot] = {}
    if section.source == "hub" and section.hub is not None:
        snapshots["benchmark"] = fetch(section.hub.dataset, section.hub.revision)
        tables = read_benchmark(snapshots["benchmark"])
    elif section.source == "local" and section.local is not None:
        tables = read_local(Path(section.local.path))
    elif section.minibench is not None:
        tables = from_minibench(section.minibench, seed)
    told: dict[str, dict[str, int]] = {}
    if increments := read_increments(ratings):
        merged, told = merge(dict(tables), increments, phash_distance)
        tables = iter(merged.items())
    for split, table in tables:
        write_table(table, partial / f"{split}.parquet")
    if (given := section.rationales) is not None:
        if given.dataset is not None and given.revision is not None:
            snapshots["rationales"] = fetch(given.dataset, given.revision)
            table = rationale_sets.read_snapshot(snapshots["rationales"])
        elif given.path is not None:
            table = rationale_sets.read_file(Path(given.path))
        write_table(table, partial / "rationales.parquet", rationale_sets.COLUMNS)
    if section.agiqa is not None:
        write_table(read_agiqa(Path(section.agiqa)), partial / "agiqa.parquet", GENERATED_COLUMNS)
    write_checksums(partial, snapshots, told)
    shutil.rmtree(raw, ignore_errors=True)
    os.replace(partial, raw)


def from_minibench(section: params.Minibench, seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """The splits of minibench, made on the spot."""
    sources = {
        "train": section.train_sources,
        "validation": section.validation_sources,
        "test": section.test_sources,
    }
    for split, number in sources.items():
        yield split, make_table(split, number, section.side, seed)


def write_checksums(folder: Path, snapshots: dict[str, Snapshot], ratings: dict[str, dict[str, int]]) -> None:
    """checksums.json: each file's SHA-256, the commit of each data set of the hub, what became of ratings."""
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            files[path.name] = file_digest(file, "sha256").hexdigest()
    hub = {
        part: {"dataset": found.dataset, "revision": found.revision, "commit": found.commit}
        for part, found in snapshots.items()
    }
    content = {"hub": hub, "sha256": files} | ({"ratings": ratings} if ratings else {})
    (folder / "checksums.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Read the benchmark that params.yaml names and write it to data/raw, one Parquet file per split.

    python -m stages.download

`download.source` names a module of critic/data/readers: `minibench` (generated), `hub` (a revision of a data set),
`local` (a folder or file) or `agiqa` (pictures without a source image). The hub's rows are split again by source
image unless `download.hub.split` is `official`. A released SFT set and AGIQA-3k are read if params.yaml names
them, see docs/data.md. Ratings in data/ratings are added to splits of edits, see docs/ratings.md. The exit code is
75 (EX_TEMPFAIL) if the hub can't be reached, and 1 after any other error.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pandas as pd

from critic import files, params
from critic.data import readers
from critic.data.generated import ALL_TYPES
from critic.data.learnt_contract import LearnError, learn, read_template
from critic.data.readers import rationales as rationale_sets
from critic.data.readers.agiqa import read_agiqa
from critic.data.readers.hub import HubError, HubUnreachable, Snapshot, fetch, split_by_source
from critic.data.readers.hub import Settings as HubSettings
from critic.edits import GENERATED_COLUMNS
from critic.prompts import CONTRACT_FILE, LEARNT
from critic.ratings.increments import FOLDER, IncrementError, read_increments
from critic.ratings.merge import merge
from critic.tables import TableError, write_parquet

RAW = Path("data/raw")


def main() -> None:
    try:
        distance = params.load(params.Validate).phash_distance
        download(params.load(params.Download), params.seed(), RAW, FOLDER, distance)
    except HubUnreachable as error:
        print(error, file=sys.stderr)
        raise SystemExit(os.EX_TEMPFAIL) from None
    except (params.ParamsError, HubError, TableError, LearnError, IncrementError, files.OutputError) as error:
        raise SystemExit(str(error)) from None


def download(section: params.Download, seed: int, raw: Path, ratings: Path, phash_distance: int) -> None:
    """Write the folder `raw`: a table per split, those of the SFT set and AGIQA-3k, the contract, checksums.json.

    Args:
        ratings: the folder of increments, see `critic.ratings.increments`.
        phash_distance: source images are the same if their perceptual hashes differ in at most this many bits.

    Raises:
        ParamsError, HubError, TableError, LearnError, IncrementError, OutputError: the settings of the source are
            wrong, a source can't be read, no contract can be learnt, or the folder can't be written; `raw` is then
            unchanged.
    """
    with files.replacing_folder(raw) as partial:
        snapshots: dict[str, Snapshot] = {}
        reader = import_module(f"{readers.__name__}.{section.source}")
        settings = section.settings(reader.Settings)
        generated = getattr(settings, "generated", False)
        if generated and section.rationales is not None:
            raise params.ParamsError(
                f"{params.FILE}: download.rationales is a set about edits, and the pictures of "
                f"download.{section.source} have no source image: set it to null"
            )
        tables = _read_benchmark(section.source, reader.read(settings, seed, snapshots))
        hub_split = settings.split if isinstance(settings, HubSettings) else None
        if hub_split == "by_source":
            tables = iter(split_by_source(dict(tables), phash_distance).items())
        counts: dict[str, dict[str, int]] = {}
        if not generated and (increments := read_increments(ratings)):
            merged, counts = merge(dict(tables), increments, phash_distance)
            tables = iter(merged.items())
        for split, table in tables:
            write_parquet(table, partial / f"{split}.parquet", ALL_TYPES)
        if (given := section.rationales) is not None:
            with _naming("rationales"):
                if given.dataset is not None and given.revision is not None:
                    snapshots["rationales"] = fetch(given.dataset, given.revision)
                    table = rationale_sets.read_snapshot(snapshots["rationales"])
                elif given.path is not None:
                    table = rationale_sets.read_file(Path(given.path))
            write_parquet(table, partial / "rationales.parquet", rationale_sets.COLUMNS)
            if section.learn_contract is not None:
                commit = snapshots["rationales"].commit if given.dataset else None
                origin = f"{given.dataset} at {commit}" if commit else str(given.path)
                with _naming("learn_contract"):
                    text = learn_contract(table, section.learn_contract, origin)
                files.write_text(partial / CONTRACT_FILE, text)
        if section.agiqa is not None and section.source != "agiqa":
            write_parquet(read_agiqa(Path(section.agiqa.folder)), partial / "agiqa.parquet", GENERATED_COLUMNS)
        hub = {
            part: {"dataset": one.dataset, "revision": one.revision, "commit": one.commit}
            for part, one in snapshots.items()
        }
        digests = {path.name: files.sha256(path) for path in sorted(partial.iterdir())}
        content = {"hub": hub, "sha256": digests} | ({"ratings": counts} if counts else {})
        files.write_json(partial / "checksums.json", content | ({"split": hub_split} if hub_split else {}))


def _read_benchmark(source: str, tables: Iterable[tuple[str, pd.DataFrame]]) -> Iterator[tuple[str, pd.DataFrame]]:
    with _naming(source):
        yield from tables


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """Errors of what `part` of `download` names, with this key of params.yaml."""
    try:
        yield
    except (HubError, TableError, LearnError) as error:
        raise type(error)(f"{params.FILE}: download.{part}: {error}") from error


def learn_contract(table: pd.DataFrame, section: params.LearnContract, origin: str) -> str:
    """The file of the contract that is learnt from an SFT set; rows that it doesn't render are printed.

    Raises:
        LearnError, HubUnreachable: as `read_template` and `learn`.
    """
    least, most = section.min_pixels, section.max_pixels
    pixels = None if least is None or most is None else (least, most)
    learnt = learn(table, read_template(section.model, section.revision), LEARNT, origin, pixels)
    print(f"the learnt contract renders {len(table) - len(learnt.failures)} of {len(table)} rows byte for byte")
    for line in [*(f"not {failure}" for failure in learnt.failures), *learnt.notes]:
        print(f"  {line}")
    return learnt.contract.text


if __name__ == "__main__":
    main()

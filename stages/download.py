"""Read the benchmark that params.yaml names and write it to data/raw, one Parquet file per split.

    python -m stages.download

`download.source` names a module of critic/data/readers: `minibench` (generated), `hub` (a revision of a data set)
or `local` (a folder or file). A released SFT set and AGIQA-3k are read if params.yaml names them, see
docs/data.md. Ratings in data/ratings are added to the splits, see docs/ratings.md. The exit code is 75
(EX_TEMPFAIL) if the hub can't be reached, and 1 after any other error.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

from critic import files, params
from critic.data import readers
from critic.data.readers import rationales as rationale_sets
from critic.data.readers.agiqa import read_agiqa
from critic.data.readers.hub import HubError, HubUnreachable, Snapshot, fetch
from critic.edits import GENERATED_COLUMNS, TYPES
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
    except (params.ParamsError, HubError, TableError, IncrementError, files.OutputError) as error:
        raise SystemExit(str(error)) from None


def download(section: params.Download, seed: int, raw: Path, ratings: Path, phash_distance: int) -> None:
    """Write the folder `raw`: a table per split, those of the SFT set and AGIQA-3k, and checksums.json.

    Args:
        ratings: the folder of increments, see `critic.ratings.increments`.
        phash_distance: source images are the same if their perceptual hashes differ in at most this many bits.

    Raises:
        ParamsError, HubError, TableError, IncrementError, OutputError: the settings of the source are wrong, a
            source can't be read, or the folder can't be written; `raw` is then unchanged.
    """
    with files.replacing_folder(raw) as partial:
        snapshots: dict[str, Snapshot] = {}
        reader = import_module(f"{readers.__name__}.{section.source}")
        tables = reader.read(section.settings(reader.Settings), seed, snapshots)
        counts: dict[str, dict[str, int]] = {}
        if increments := read_increments(ratings):
            merged, counts = merge(dict(tables), increments, phash_distance)
            tables = iter(merged.items())
        for split, table in tables:
            write_parquet(table, partial / f"{split}.parquet", TYPES)
        if (given := section.rationales) is not None:
            if given.dataset is not None and given.revision is not None:
                snapshots["rationales"] = fetch(given.dataset, given.revision)
                table = rationale_sets.read_snapshot(snapshots["rationales"])
            elif given.path is not None:
                table = rationale_sets.read_file(Path(given.path))
            write_parquet(table, partial / "rationales.parquet", rationale_sets.COLUMNS)
        if section.agiqa is not None:
            write_parquet(read_agiqa(Path(section.agiqa)), partial / "agiqa.parquet", GENERATED_COLUMNS)
        hub = {
            part: {"dataset": one.dataset, "revision": one.revision, "commit": one.commit}
            for part, one in snapshots.items()
        }
        digests = {path.name: files.sha256(path) for path in sorted(partial.iterdir())}
        content = {"hub": hub, "sha256": digests} | ({"ratings": counts} if counts else {})
        files.write_json(partial / "checksums.json", content)


if __name__ == "__main__":
    main()

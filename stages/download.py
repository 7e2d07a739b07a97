"""download.source -> data/raw: the benchmark's tables as they come, one Parquet file a split.

    python -m stages.download
"""

from pathlib import Path

from critic import params
from critic.edits import write_table
from critic.minibench import make_table


def main() -> None:
    section = params.load(params.Download)
    if section.source == "hub":
        raise SystemExit("download.source hub is not there yet: use minibench")
    for split in ("train", "validation", "test"):
        table = make_table(split, getattr(section, f"{split}_sources"), section.side, params.seed())
        write_table(table, Path(f"data/raw/{split}.parquet"))


if __name__ == "__main__":
    main()

"""Average the figures of `evaluate` over test splits, such as the ten of AGIQA-3k.

    dvc exp run --queue -n agiqa -S profile=agiqa -S 'profiles.agiqa.download.agiqa.split=range(0,10)'
    dvc exp run --run-all
    python benchmarks/splits.py agiqa-1 agiqa-2 ... agiqa-10

Takes the names of DVC experiments, or git revisions, and reads reports/metrics.json of each. See docs/full-run.md.
"""

import argparse
import json

import dvc.api

from critic.evaluation.metrics import SHOWN
from critic.evaluation.splits import over_splits

METRICS_FILE = "reports/metrics.json"


def main() -> None:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=rest, formatter_class=formatter)
    parser.add_argument("revisions", nargs="+", metavar="EXPERIMENT", help="of one split each")
    parser.add_argument("--metrics", nargs="+", choices=[*SHOWN], default=["main_score", "plcc", "srcc"])
    given = parser.parse_args()
    splits = [json.loads(dvc.api.read(METRICS_FILE, rev=revision)) for revision in given.revisions]
    print("\n".join(table(splits, given.metrics)))
    for revision, one in zip(given.revisions, splits, strict=True):
        if notes := {scores["split"]["note"] for scores in one.values() if "split" in scores}:
            print(f"{revision}: this test split {', '.join(notes)}")


def table(splits: list[dict[str, dict[str, dict[str, float]]]], metrics: list[str]) -> list[str]:
    """Lines of Markdown: mean ± standard deviation over the splits, and in brackets the lowest and the highest."""
    found = over_splits(splits)
    lines = [f"| {len(splits)} splits | {' | '.join(SHOWN[name].heading for name in metrics)} |"]
    lines.append(f"|---|{'---|' * len(metrics)}")
    for model, spreads in found.items():
        cells = [
            f"{one.mean:.3f} ± {one.std:.3f} ({one.lowest:.3f} to {one.highest:.3f})"
            for one in (spreads[name] for name in metrics)
        ]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()

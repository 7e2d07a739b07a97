"""Measure the time and memory of download, validate and build by the number of edits.

    python benchmarks/data_path.py                                          # 2,000, 10,000 and 100,000 edits
    python benchmarks/data_path.py --edits 600 --edits 6000 --json runs/data_path.json

Makes a study of synthetic JPEG files, six edits of each source image, in a scratch folder, and runs the stages on
it with the settings of profile tiny, each in a process of its own. Seconds are CPU time of all threads, so that
other work on the machine counts little, without imports; the peak of memory is with them. The exponent is fitted
to all sizes: 1 is time linear in the number of edits. 100,000 edits need 20 GB of disk and half an hour on two
cores.
"""

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from tqdm import tqdm

from critic.files import write_json
from critic.params import FILE

ROOT = Path(__file__).parents[1]
SIZES = (2_000, 10_000, 100_000)
STAGES = ("download", "validate", "build")
OUTPUTS = ("raw", "validated", "sft", "rl", "pictures")
EDITS = 6
"""Edits of a source image."""
TEST_SHARE = 6
"""One source image in so many is in the test split."""
HEAD = ("source", "edited", "instruction", "mos", "mos_alignment", "mos_fidelity", "mos_quality")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--edits", action="append", type=int, help=f"May be repeated (default: {' '.join(map(str, SIZES))})."
    )
    parser.add_argument("--side", type=int, default=384, help="Of the pictures, in pixels (default: 384).")
    parser.add_argument("--scratch", type=Path, help="Make the folder here (default: a temporary folder).")
    parser.add_argument("--json", type=Path, help="Write all figures to this file.")
    parser.add_argument("--stage", choices=STAGES, help="Run only this stage, in this folder, and print JSON.")
    given = parser.parse_args()
    if given.stage:
        print(json.dumps(run(given.stage)))
        return
    if given.scratch:
        given.scratch.mkdir(parents=True, exist_ok=True)
    rows = [measure(edits, given.side, given.scratch) for edits in given.edits or SIZES]
    exponents = {stage: fit_exponent(rows, stage) for stage in (*STAGES, "all")}
    print(f"| edits | pictures | {' | '.join(f'{stage} | peak' for stage in STAGES)} | all |")
    print(f"|---:|---:|{'---:|' * (2 * len(STAGES) + 1)}")
    for row in rows:
        cells = [f"{row[stage]['seconds']:,.0f} s | {row[stage]['peak_mib']:,.0f} MiB" for stage in STAGES]
        total = f"{row['all']['seconds']:,.0f} s"
        print(f"| {row['edits']:,} | {row['picture_bytes'] / 1e9:.2f} GB | {' | '.join(cells)} | {total} |")
    if len(rows) > 1:
        cells = [f"n^{exponents[stage]:.2f} |" for stage in STAGES]
        print(f"| | time: | {' | '.join(cells)} | n^{exponents['all']:.2f} |")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, {"side": given.side, "rows": rows, "exponents": exponents})


def measure(edits: int, side: int, scratch: Path | None = None) -> dict[str, Any]:
    """The seconds and the peak of each stage, and the bytes of the study's pictures and of each output.

    Raises:
        SystemExit: a stage failed.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        found: dict[str, Any] = {"edits": edits, "picture_bytes": make_study(folder / "study", edits, side)}
        content = yaml.safe_load((ROOT / FILE).read_text())
        content["profiles"]["tiny"]["download"] = {"source": "local", "local": {"path": "study"}}
        (folder / FILE).write_text(yaml.safe_dump(content | {"profile": "tiny"}))
        for stage in STAGES:
            command = [sys.executable, os.path.abspath(__file__), "--stage", stage]
            done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise SystemExit(f"{stage} of {edits} edits failed with exit status {done.returncode}")
            found[stage] = json.loads(done.stdout.splitlines()[-1])
            if stage == "download":
                shutil.rmtree(folder / "study")
        found["all"] = {"seconds": sum(found[stage]["seconds"] for stage in STAGES)}
        found["bytes"] = {output: size(folder / "data" / output) for output in OUTPUTS}
    return found


def run(stage: str) -> dict[str, float]:
    """CPU seconds, seconds and the peak of this process in MiB of a stage in the current folder."""
    module = import_module(f"stages.{stage}")
    began, began_on_clock = time.process_time(), time.perf_counter()
    module.main()
    return {
        "seconds": time.process_time() - began,
        "clock_seconds": time.perf_counter() - began_on_clock,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def make_study(folder: Path, edits: int, side: int) -> int:
    """Write train.csv, test.csv and their images; returns the bytes of the images.

    A picture is a random coarse one, enlarged, with noise, so that its file has the size of a photograph's, and no
    two sources look alike. An edit changes a part of it.
    """
    (folder / "images").mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 10, (side, side, 3)).astype(np.float32)
    sources = range(-(-edits // EDITS))
    make, written = partial(make_source, folder, edits=edits, noise=noise), 0
    with (folder / "train.csv").open("w") as train, (folder / "test.csv").open("w") as test:
        writers = [csv.writer(file) for file in (train, test)]
        for writer in writers:
            writer.writerow(HEAD)
        with ThreadPoolExecutor() as pool:
            made = tqdm(pool.map(make, sources), total=len(sources), desc="study", unit=" sources", mininterval=2)
            for source, (rows, number) in enumerate(made):
                writers[source % TEST_SHARE == 0].writerows(rows)
                written += number
    return written


def make_source(
    folder: Path, number: int, edits: int, noise: "np.ndarray[Any, Any]"
) -> tuple[list[list[Any]], int]:
    """The rows of a source image's edits, whose files are written, and the number of bytes."""
    rng = np.random.default_rng([1, number])
    coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    rows, written = [], 0

    def save(name: str, picture: "np.ndarray[Any, Any]") -> str:
        nonlocal written
        large = Image.fromarray(picture).resize(noise.shape[:2], Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(large) + np.roll(noise, rng.integers(noise.size)), 0, 255).astype(np.uint8)
        file = BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=90)
        written += (folder / "images" / name).write_bytes(file.getvalue())
        return f"images/{name}"

    source = save(f"{number:06d}.jpg", coarse)
    for edit in range(min(EDITS, edits - EDITS * number)):
        edited, (top, left) = coarse.copy(), rng.integers(0, 9, 2)
        edited[top : top + 4, left : left + 4] = rng.integers(0, 256, 3)
        scores = rng.uniform(1, 5, 3).round(2)
        name = save(f"{number:06d}-{edit}.jpg", edited)
        rows.append([source, name, f"paint a square at {left}, {top}", scores.mean().round(4), *scores])
    return rows, written


def fit_exponent(rows: list[dict[str, Any]], stage: str) -> float | None:
    """The slope of log time over log edits, by least squares; None for one size."""
    if len({row["edits"] for row in rows}) < 2:
        return None
    edits, seconds = zip(*((row["edits"], row[stage]["seconds"]) for row in rows), strict=True)
    return float(np.polyfit(np.log(edits), np.log(seconds), 1)[0])


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    main()

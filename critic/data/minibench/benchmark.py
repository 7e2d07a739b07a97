"""Generate the benchmark's tables from a seed, one source image after another."""

import io
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from critic.data.minibench.editors import EDITORS, Editor, Request, draw_edit, random_request
from critic.data.minibench.raters import Panel
from critic.data.minibench.scenes import Scene, random_scene, render

REQUESTS_A_SOURCE = 2
EDITS_A_REQUEST = 3
EDITS_A_SOURCE = REQUESTS_A_SOURCE * EDITS_A_REQUEST
SOURCES_OF_A_PROCESS = 60
"""One process draws fewer faster than several do."""


def make_table(split: str, sources: int, side: int, seed: int) -> pd.DataFrame:
    """A raw table with six edits of each source image; its columns are those of IE-Bench-4k and some more.

    Args:
        split: "train", "validation" or "test"; splits share no source image.
        sources: the number of source images.
        side: width and height of the pictures, in pixels.
        seed: the same seed gives the same bytes; all splits of a seed have the same raters.
    """
    draw = partial(_edits_of_source, split, side, seed)
    progress = partial(tqdm, desc=f"minibench {split}", total=sources, unit=" sources", mininterval=2)
    if sources < SOURCES_OF_A_PROCESS:
        drawn = [*progress(map(draw, range(sources)))]
    else:
        with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            drawn = [*progress(pool.map(draw, range(sources), chunksize=8))]
    rows = [row for of_source in drawn for row in of_source]
    return pd.DataFrame([{"id": f"{split}-{number:05d}", **row} for number, row in enumerate(rows)])


def _edits_of_source(split: str, side: int, seed: int, number: int) -> list[dict[str, Any]]:
    panel = Panel(np.random.default_rng([seed, 0]))
    stream = {"train": 1, "validation": 2, "test": 3}[split]
    rng = np.random.default_rng([seed, stream, number])
    scene = random_scene(rng)
    source = {"bytes": _jpeg(render(scene, side)), "path": None}
    rows: list[dict[str, Any]] = []
    kinds = set[str]()
    while len(kinds) < REQUESTS_A_SOURCE:
        request = random_request(scene, rng)
        if request.edit_type in kinds:
            continue
        kinds.add(request.edit_type)
        for editor in rng.choice(len(EDITORS), EDITS_A_REQUEST, replace=False):
            row = _row(scene, request, EDITORS[editor], panel, side, rng)
            row["images"].insert(0, source)
            rows.append({"source_id": f"{split}-{number:04d}", **row})
    return rows


def _row(
    scene: Scene, request: Request, editor: Editor, panel: Panel, side: int, rng: np.random.Generator
) -> dict[str, Any]:
    outcome = editor.attempt(scene, request, rng)
    edited = _jpeg(draw_edit(scene, request, outcome, side, rng))
    ratings = panel.rate(outcome.overall, rng)
    return {
        "images": [{"bytes": edited, "path": None}],
        "edit_inst": request.instruction,
        "problem": f"<image><image>How good is this edit, from 1 to 5? Instruction: {request.instruction}",
        "answer": _mean(ratings),
        "edit_type": request.edit_type,
        "editor": editor.name,
        "mos_alignment": _mean(panel.rate(outcome.alignment, rng)),
        "mos_fidelity": _mean(panel.rate(outcome.fidelity, rng)),
        "mos_quality": _mean(panel.rate(outcome.quality, rng)),
        "ratings": ratings,
    }


def _mean(ratings: np.ndarray) -> float:
    return round(float(ratings.mean()), 4)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()

"""Read AGIQA-3k from a folder with its public data.csv and its images.

The ten splits are those of IE-Critic-R1's authors (github.com/Coobiw/LLaMA-Factory-20250504,
data/agiqa3k/split_data.py), to the picture: five by prompt, then five by picture.
"""

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from critic.edits import GENERATED_AXES, GENERATED_COLUMNS
from critic.params import Agiqa as Settings
from critic.tables import StoredPicture, TableError, numbers, place
from critic.tables import read as read_table

NAMES = {"id": "name", "prompt": "prompt", "mos_quality": "mos_quality", "mos_alignment": "mos_align"}
"""The columns of the raw table, each with the column of data.csv that it comes from."""

SPLITS_BY_PROMPT = 5
"""The first of the ten splits; a prompt's pictures have its number, 0 to 299, at the end of their names."""

PROMPTS = 300
TRAIN_SHARE = 0.8
SEED = 42
"""Upstream's, of both generators."""

_PROMPT_NUMBER = re.compile(r"_([0-9]+)\.[^.]+\Z")


def read(settings: Settings, seed: int, snapshots: dict[str, Any]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The train and the test split number `settings.split`, as raw tables of `critic.data.generated`.

    `answer` is the MOS that `settings.mos` names. Both MOS are scaled to 1..5 by the lowest and the highest of all
    pictures, as upstream's. `source_id` is the prompt. The seed isn't used. Raises as the functions below.
    """
    assert settings.split is not None  # critic.params.Download requires it
    table = read_agiqa(Path(settings.folder))
    in_test = choose_test([*table["id"]], settings.split)
    scores = {column: rescale(table[column]) for column in GENERATED_AXES.values()}
    table = table.assign(**scores, source_id=table["prompt"], answer=scores[GENERATED_AXES[settings.mos]])
    for split, rows in (("train", ~in_test), ("test", in_test)):
        yield split, table[rows].reset_index(drop=True)


def choose_test(names: Sequence[str], split: int) -> NDArray[np.bool_]:
    """For each picture of data.csv, in its order, whether it is in the test split.

    Splits 0 to 4 hold out 60 of the 300 prompts; 5 to 9 hold out a fifth of the pictures, so that nearly all
    prompts are in both splits.

    Raises:
        TableError: a split by prompt, and a name that doesn't end in the number of a prompt.
    """
    if split < SPLITS_BY_PROMPT:
        prompts = np.array([_prompt_number(name) for name in names])
        generator = np.random.RandomState(SEED)  # the generator of upstream
        orders = [generator.permutation(PROMPTS) for _ in range(split + 1)]
        return np.isin(prompts, orders[-1][int(TRAIN_SHARE * PROMPTS) :])
    shuffled = random.Random(SEED)
    for _ in range(split - SPLITS_BY_PROMPT + 1):
        order = [*range(len(names))]
        shuffled.shuffle(order)
    return np.isin(np.arange(len(names)), order[int(TRAIN_SHARE * len(names)) :])


def rescale(scores: "pd.Series[float]") -> "pd.Series[float]":
    """Scores mapped linearly to 1..5, the lowest to 1 and the highest to 5; a `TableError` if all are the same."""
    low, high = scores.min(), scores.max()
    if low == high:
        raise TableError(f"all {scores.name} in data.csv are {low}, so they can't be scaled to 1..5: add pictures")
    return 1 + (scores - low) * 4 / (high - low)


def read_agiqa(folder: Path) -> pd.DataFrame:
    """The pictures listed in data.csv; their files are in its folder or in any folder below.

    Raises:
        TableError: data.csv is missing or malformed, lacks a column of `NAMES`, or has a score that isn't a
            number; an image's file is missing, or several files have its name.
    """
    file = folder / "data.csv"
    if not file.is_file():
        raise TableError(
            f"{file} doesn't exist: set download.agiqa.folder to that of AGIQA-3k's data.csv and images"
        )
    table = read_table(file, required=[*NAMES.values()], optional=(), fix="give AGIQA-3k's own data.csv")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        found.setdefault(path.name, []).append(path)
    columns: dict[str, Any] = {name: table[column] for name, column in NAMES.items()}
    columns |= {name: numbers(table, NAMES[name]) for name in ("mos_quality", "mos_alignment")}
    columns["image"] = []
    for row, name in enumerate(table["name"]):
        match found.get(name, []):
            case [path]:
                columns["image"].append(StoredPicture(name, path.read_bytes))
            case []:
                raise TableError(
                    f"{place(table, row)}: the image {name} isn't in {folder} or a folder below: add it"
                )
            case paths:
                there = ", ".join(map(str, paths))
                raise TableError(
                    f"{place(table, row)}: the image {name} is found {len(paths)} times ({there}): keep one"
                )
    return pd.DataFrame(columns)[[*GENERATED_COLUMNS]].reset_index(drop=True)


def _prompt_number(name: str) -> int:
    number = _PROMPT_NUMBER.search(name)
    if number is None or int(number[1]) >= PROMPTS:
        raise TableError(
            f"data.csv: the name {name} doesn't end in the number of a prompt, as in AttnGAN_normal_007.jpg: "
            f"correct it, or set download.agiqa.split to {SPLITS_BY_PROMPT} or more"
        )
    return int(number[1])

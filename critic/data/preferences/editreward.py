"""TIGER-Lab's EditReward-Bench (hub: TIGER-Lab/EditReward-Bench; arXiv 2509.26346).

A row is a pair of a group of 2, 3 or 4 edits. The columns and the values of `ranking` are those that the scripts
inference_{2,3,4}pair_hf.py of github.com/TIGER-AI-Lab/EditReward (84602889) read; a group's rows share the part of
the id before the first "_", or its first ten characters.
"""

import re
from collections import Counter
from collections.abc import Iterator

from critic.data.preferences.pairs import Pair, Winner, hub_rows
from critic.data.readers.hub import Snapshot
from critic.tables import TableError

COLUMNS = ("id", "instruction", "ranking", "comparison_type", "dataset")
PICTURES = ("source_image", "candidate_1", "candidate_2")
PAIRS = {"2pair": 1, "3pair": 3, "4pair": 6}
"""The pairs of a group, by the column `dataset`."""

_COMPARED = re.compile(r"([A-D])vs([A-D])")
_RANKING = re.compile(r"([A-D])([<=>])([A-D])(?:=Good|=Bad)?")


def read(origin: Snapshot) -> Iterator[Pair]:
    """The pairs; a `TableError` for a row with another ranking or a group that lacks a pair."""
    groups = Counter[tuple[str, str]]()
    for row in hub_rows(origin, COLUMNS, PICTURES, split="train"):
        kind, id = row.text("dataset", PAIRS), row.text("id")
        compared = _COMPARED.fullmatch("AvsB" if kind == "2pair" else row.text("comparison_type"))
        if compared is None:
            raise row.error("comparison_type", "as AvsB")
        ranking = _RANKING.fullmatch(row.text("ranking"))
        if ranking is None or {ranking[1], ranking[3]} != {*compared.groups()}:
            first, second = compared.groups()
            raise row.error("ranking", f"{first}>{second}, {second}>{first} or {first}={second}")
        group = id if kind == "2pair" else id.partition("_")[0] if "_" in id else id[:10]
        groups[kind, group] += 1
        source, first_picture, second_picture = map(row.picture, PICTURES)
        better = {">": ranking[1], "<": ranking[3], "=": None}[ranking[2]]
        winner: Winner = "tie" if better is None else "a" if better == compared[1] else "b"
        instruction, name = row.text("instruction"), f"{kind}-{group}"
        yield Pair(row.where, name, source, first_picture, second_picture, instruction, winner)
    for (kind, group), pairs in groups.items():
        if pairs != PAIRS[kind]:
            raise TableError(
                f"{origin}: group {group} of {kind} has {pairs} pairs, not {PAIRS[kind]}: add the others"
            )

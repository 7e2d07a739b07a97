"""A study of pairs: two edits of one source and instruction, of which people choose the better one.

study = PairStudy(Path("study/edits.csv"))
pair = random.choice(study.best(*feedback.count_voters("ann")))     # if there is one left for Ann
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from heapq import nsmallest
from itertools import combinations
from math import hypot
from pathlib import Path

import pandas as pd

from critic.answers import HIGHEST, LOWEST
from critic.pictures import PictureError, decode
from critic.ratings.increments import edit_id
from critic.tables import TableError, filled, numbers, place, read

EXAMPLE = """a table with one edit per row and picture paths relative to it:

    source,edited,instruction,editor,score
    images/cat.png,images/cat-red.png,make the cat red,brush,3.4"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A picture's file, and the SHA-256 that it had when the study was read."""

    path: Path
    sha256: str

    def read(self) -> bytes:
        """The file; a `TableError` if it is missing or has changed."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise TableError(f"{self.path} can't be read any more: {error.strerror}") from None
        if sha256(data).hexdigest() != self.sha256:
            raise TableError(f"{self.path} has changed since the study was read: restart the service")
        return data


@dataclass(frozen=True)
class StudiedEdit:
    """An edit of a study: who made it, if known, and the critic's score (1..5) and its spread, if given."""

    id: str
    picture: Picture
    editor: str | None
    score: float | None
    spread: float | None


@dataclass(frozen=True)
class Pair:
    """Two edits of one source and instruction.

    Attributes:
        id: of both edits' ids, in any order.
        edits: in the order of their ids, which says nothing about who made them.
        certainty: how sure the critic is of the order: the difference of the scores, in points, or in a study with
            all spreads in standard deviations of that difference. 0 if a score is missing.
    """

    id: str
    source: Picture
    instruction: str
    edits: tuple[StudiedEdit, StudiedEdit]
    certainty: float


class PairStudy:
    """The pairs of a table of edits, which has the columns source, edited (paths relative to the table) and
    instruction, and optionally editor, score (1..5) and spread (points).

    Raises:
        TableError: a column, a value or a picture is missing or can't be read, or there is no pair.
    """

    def __init__(self, path: Path):
        needed = "source", "edited", "instruction"
        table = read(path, required=needed, optional=("editor", "score", "spread"), fix=f"give {EXAMPLE}")
        filled(table, needed)
        bounds = {"score": (LOWEST, HIGHEST), "spread": (0, 4)}
        for name in bounds:
            table[name] = numbers(table, name, *bounds[name]) if name in table else float("nan")
        pictures, sources = dict[Path, Picture](), dict[str, Picture]()
        groups: dict[tuple[str, str], dict[str, StudiedEdit]] = defaultdict(dict)
        for position, row in enumerate(table.to_dict("records")):
            where, instruction = place(table, position), str(row["instruction"]).strip()
            paths = [path.parent / str(row[name]) for name in ("source", "edited")]
            for one in paths:
                if one not in pictures:
                    pictures[one] = _open(one, where)
            source, edited = (pictures[one] for one in paths)
            edit = StudiedEdit(
                edit_id(source.sha256, edited.sha256, instruction),
                edited,
                *(None if pd.isna(row.get(name)) else row[name] for name in ("editor", "score", "spread")),
            )
            sources[source.sha256] = source
            if groups[source.sha256, instruction].setdefault(edit.id, edit) is not edit:
                _log.warning("%s is left out: an earlier row has the same two pictures and instruction", where)
        in_deviations = bool((table["spread"] > 0).all())
        self._pairs = {
            (pair := _pair(sources[source], instruction, edits, in_deviations)).id: pair
            for (source, instruction), group in groups.items()
            for edits in combinations((group[id] for id in sorted(group)), 2)
        }
        if not self._pairs:
            raise TableError(f"{path} has no two different edits of one source and instruction: give {EXAMPLE}")

    def __len__(self) -> int:
        return len(self._pairs)

    def __contains__(self, id: str) -> bool:
        return id in self._pairs

    def __getitem__(self, id: str) -> Pair:
        return self._pairs[id]

    def best(self, voters: Mapping[str, int], done: Collection[str], most: int = 8) -> list[Pair]:
        """The pairs to ask for: of those with the fewest `voters` the `most` of which the critic is least sure.

        The least sure comes first; there are none if all are `done`.
        """
        left = [pair for pair in self._pairs.values() if pair.id not in done]
        fewest = min((voters.get(pair.id, 0) for pair in left), default=0)
        asked = (pair for pair in left if voters.get(pair.id, 0) == fewest)
        return nsmallest(most, asked, key=lambda pair: (pair.certainty, pair.id))


def pair_id(first: str, second: str) -> str:
    """The id of the pair of two edits' ids."""
    return sha256(" ".join(sorted((first, second))).encode()).hexdigest()[:16]


def _pair(source: Picture, instruction: str, edits: tuple[StudiedEdit, StudiedEdit], in_deviations: bool) -> Pair:
    first, second = edits
    certainty = 0.0
    if first.score is not None and second.score is not None:
        unit = hypot(first.spread or 0, second.spread or 0) if in_deviations else 1.0
        certainty = abs(first.score - second.score) / unit
    return Pair(pair_id(first.id, second.id), source, instruction, edits, certainty)


def _open(path: Path, where: str) -> Picture:
    try:
        data = path.read_bytes()
        decode(data)
    except (OSError, PictureError) as error:
        raise TableError(f"{where}: the picture {path} can't be read: {error}") from None
    return Picture(path, sha256(data).hexdigest())

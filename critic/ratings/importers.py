"""Load raw human ratings, and votes on pairs, from a study's file or from the service's feedback store."""

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from critic.answers import AXES, HIGHEST, LOWEST
from critic.edits import SPLITS, image_file
from critic.pictures import PictureError, decode
from critic.ratings.exports import read_export
from critic.ratings.increments import FOLDER, PATTERN, RATINGS, VOTES, edit_id, read_increments
from critic.ratings.picture_store import SUFFIXES
from critic.ratings.store import Feedback, Rating, Vote
from critic.tables import StoredPicture, TableError, filled, numbers, place, read, read_parquet, require_columns

COLUMNS = ("rater", "item", "score", *AXES, "feedback_id")
"""The columns of ratings.parquet: item is the edit's id, feedback_id the rating's id in the feedback store."""

VOTE_COLUMNS = ("rater", "left", "right", "choice", "seconds", "vote_id")
"""The columns of votes.parquet: left and right are ids of edits, choice is left, right or tie, seconds is how long
the vote took, if known, and vote_id the vote's id in the feedback store."""

EXAMPLE = """a CSV file with one rating per row and picture paths relative to it:

    rater,source,edited,instruction,score
    ann,images/cat.png,images/cat-red.png,make the cat red,4

or with the id of an edit of the benchmark instead of source, edited and instruction; or one vote per row:

    rater,source,edited_a,edited_b,instruction,winner
    ann,images/cat.png,images/cat-red.png,images/cat-pink.png,make the cat red,a

see docs/ratings.md"""

_WINNERS = {"a": "left", "b": "right", "tie": "tie"}
_LOCAL_FILE = re.compile(r".*/local-files/?\?d=")
"""How Label Studio writes the path of a file of the machine that it runs on."""
_DATA_URL = re.compile(r"data:image/[a-z]+;base64,")


@dataclass(frozen=True)
class RatingBatch:
    """New ratings and votes: a row each, the earlier before the later, with the columns `COLUMNS` and
    `VOTE_COLUMNS`; and their edits.

    `edits` has id, source_id, images, instruction and, if known, edit_type and editor; `lost` the ids of edits
    whose pictures are missing.
    """

    ratings: pd.DataFrame
    edits: pd.DataFrame
    lost: tuple[str, ...] = ()
    votes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=VOTE_COLUMNS))

    @property
    def items(self) -> set[str]:
        """The ids of the edits that were rated or voted on."""
        return {*self.ratings["item"], *self.votes["left"], *self.votes["right"]}


def count_new(store: str, repository: Path) -> int:
    """The number of ratings in a feedback store that no increment has."""
    return len(_new(store, repository)[0])


def read_store(store: str, repository: Path, pictures: Path | None) -> RatingBatch:
    """The ratings and votes of a feedback store that no increment has, and their edits.

    Args:
        pictures: the folder in which the service keeps pictures (CRITIC_KEEP_IMAGES), None if it keeps none.

    Raises:
        FeedbackError: the store can't be read.
        IncrementError: an increment's file is missing.
    """
    rows, votes = _new(store, repository)
    edits = {_item(row): ((row.source_sha256, row.edited_sha256), row.instruction) for row in rows}
    editors = dict[str, str]()
    for vote in votes:
        digests, named = (vote.left_sha256, vote.right_sha256), (vote.left_editor, vote.right_editor)
        for item, digest, editor in zip(_sides(vote), digests, named, strict=True):
            edits[item] = (vote.source_sha256, digest), vote.instruction
            if editor is not None:
                editors[item] = editor
    ours = _pictures(repository)
    found, lost = [], []
    for item, (digests, instruction) in edits.items():
        source, edited = (ours.get(digest) or _kept(digest, pictures) for digest in digests)
        if source is None or edited is None:
            lost.append(item)
        else:
            found.append(_edit((source, edited), digests, instruction) | {"editor": editors.get(item)})
    ratings = [{"rater": row.rater, "item": _item(row), "score": row.score, "feedback_id": row.id} for row in rows]
    given = [
        dict(zip(VOTE_COLUMNS, (vote.rater, *_sides(vote), vote.choice, vote.seconds, vote.id), strict=True))
        for vote in votes
    ]
    return RatingBatch(
        pd.DataFrame(ratings, columns=COLUMNS),
        pd.DataFrame(found),
        tuple(lost),
        pd.DataFrame(given, columns=VOTE_COLUMNS),
    )


def read_study(path: Path, repository: Path) -> RatingBatch:
    """The ratings or votes in a file, and their edits.

    The columns of ratings are rater, score (1..5), and either source, edited (paths relative to the file) and
    instruction, or the id of an edit of the benchmark; optional are alignment, fidelity and quality (1..5),
    edit_type and editor. The columns of votes are rater, source, edited_a (shown on the left), edited_b,
    instruction and winner (a, b or tie); optional are seconds, edit_type, editor_a and editor_b. The file may be
    an export of another tool, see `critic.ratings.exports`.

    Raises:
        TableError: a column, a value or a picture is missing or can't be read.
    """
    table = read(path)
    if (exported := read_export(table)) is not None:
        table = exported
    if "winner" in table:
        return _read_votes(path, table)
    by_id = "id" in table and "source" not in table
    needed = ("rater", "score", *(("id",) if by_id else ("source", "edited", "instruction")))
    _check(path, table, needed)
    scores = {name: numbers(table, name, LOWEST, HIGHEST).to_list() for name in ("score", *AXES) if name in table}
    known = benchmark(repository) if by_id else {}
    rated = []
    for position, row in enumerate(table.to_dict("records")):
        where = place(table, position)
        if by_id and row["id"] not in known:
            raise TableError(f"{where} has the id {row['id']!r}, and no edit of data/validated has it: correct it")
        rated.append(known[row["id"]] if by_id else _read_edit(row, path.parent, where))
    raters = [str(rater).strip() for rater in table["rater"]]
    ratings = pd.DataFrame({"rater": raters, "item": [edit["id"] for edit in rated]} | scores, columns=COLUMNS)
    return RatingBatch(ratings, _distinct(rated))


def _read_votes(path: Path, table: pd.DataFrame) -> RatingBatch:
    _check(path, table, ("rater", "source", "edited_a", "edited_b", "instruction", "winner"))
    seconds = numbers(table, "seconds", 0).to_list() if "seconds" in table else np.nan
    pairs = []
    for position, row in enumerate(table.to_dict("records")):
        where = place(table, position)
        if row["winner"] not in _WINNERS:
            raise TableError(f"{where} has the winner {row['winner']!r}, not a, b or tie: correct it")
        pairs.append(tuple(_read_edit(row, path.parent, where, suffix) for suffix in ("_a", "_b")))
        if pairs[-1][0]["id"] == pairs[-1][1]["id"]:
            raise TableError(f"{where} compares an edit with itself: remove the row")
    left, right = ([edit["id"] for edit in side] for side in zip(*pairs, strict=True))
    raters, choices = table["rater"].map(str).str.strip().to_list(), table["winner"].map(_WINNERS).to_list()
    votes = pd.DataFrame(
        {"rater": raters, "left": left, "right": right, "choice": choices, "seconds": seconds},
        columns=VOTE_COLUMNS,
    )
    edits = _distinct(edit for pair in pairs for edit in pair)
    return RatingBatch(pd.DataFrame(columns=COLUMNS), edits, votes=votes)


def _distinct(edits: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per edit, with what any of its rows tells."""
    merged = dict[str, dict[str, Any]]()
    for edit in edits:
        merged[edit["id"]] = merged.get(edit["id"], {}) | edit
    return pd.DataFrame([*merged.values()])


def _check(path: Path, table: pd.DataFrame, needed: Sequence[str]) -> None:
    require_columns(path, [*table.columns], needed, f"give {EXAMPLE}")
    if table.empty:
        raise TableError(f"{path} has no rows: give {EXAMPLE}")
    filled(table, needed)


def benchmark(repository: Path) -> dict[str, dict[str, Any]]:
    """The edits of data/validated with their split, by their own id and by the id that an increment gives them."""
    edits: dict[str, dict[str, Any]] = {}
    for split, table in _benchmark_tables(repository).items():
        for row in table.to_dict("records"):
            source, edited = (image_file(row["images"], index) for index in (0, 1))
            if source is not None and edited is not None:
                edit = _edit(row["images"], (_sha256(source), _sha256(edited)), row["instruction"])
                edit |= {name: row.get(name) for name in ("edit_type", "editor", "mos")}
                edit |= {"name": row["id"], "split": split}
                edits[row["id"]] = edits[edit["id"]] = edit
    return edits


def _pictures(repository: Path) -> dict[str, Mapping[str, Any]]:
    """The pictures of increments and of the benchmark, by the SHA-256 of their files."""
    tables = [
        *(one.edits for one in read_increments(repository / FOLDER)),
        *_benchmark_tables(repository).values(),
    ]
    found = {}
    for images in (images for table in tables for images in table["images"]):
        for index in (0, 1):
            if (file := image_file(images, index)) is not None:
                found[_sha256(file)] = images[index]
    return found


def _kept(digest: str, pictures: Path | None) -> Mapping[str, Any] | None:
    """A picture that the service keeps, by the SHA-256 of its file."""
    paths = [pictures / digest[:2] / (digest + suffix) for suffix in SUFFIXES.values()] if pictures else []
    return next(({"bytes": path.read_bytes(), "path": None} for path in paths if path.exists()), None)


def _benchmark_tables(repository: Path) -> dict[str, pd.DataFrame]:
    paths = {split: repository / f"data/validated/{split}.parquet" for split in SPLITS}
    return {split: read_parquet(path) for split, path in paths.items() if path.exists()}


def _read_edit(row: Mapping[Any, Any], folder: Path, where: str, suffix: str = "") -> dict[str, Any]:
    """The edit in the columns source, instruction and edited and editor with a suffix."""
    files = []
    for name in ("source", f"edited{suffix}"):
        try:
            files.append(_file(str(row[name]), folder))
            decode(files[-1])
        except (OSError, PictureError, binascii.Error) as error:
            cell = str(row[name])[:200]
            raise TableError(f"{where}: the {name} picture {cell} can't be read: {error}") from None
    images = [{"bytes": file, "path": None} for file in files]
    edit = _edit(images, (_sha256(files[0]), _sha256(files[1])), str(row["instruction"]).strip())
    more = {"edit_type": row.get("edit_type"), "editor": row.get(f"editor{suffix}")}
    return edit | {name: value for name, value in more.items() if pd.notna(value)}


def _file(cell: str, folder: Path) -> bytes:
    """The picture in a data URL, or at a path relative to the folder."""
    if data_url := _DATA_URL.match(cell):
        return b64decode(cell[data_url.end() :], validate=True)
    return (folder / _LOCAL_FILE.sub("", cell)).read_bytes()


def _edit(images: Sequence[Mapping[str, Any]], digests: tuple[str, str], instruction: str) -> dict[str, Any]:
    return {
        "id": edit_id(*digests, instruction),
        "source_id": f"rated-{digests[0][:16]}",
        "images": [StoredPicture(None, partial(image.get, "bytes")) for image in images],
        "instruction": instruction,
    }


def _sha256(file: bytes) -> str:
    return sha256(file).hexdigest()


def _new(store: str, repository: Path) -> tuple[list[Rating], list[Vote]]:
    """The ratings and votes of a store that no increment has.

    The id alone doesn't identify a rating: another database starts again at 1, and with several writers a lower id
    may appear after a higher one.
    """
    feedback = Feedback(store)
    ratings = _taken(repository, RATINGS, ["feedback_id", "rater", "item", "score"])
    votes = _taken(repository, VOTES, ["vote_id", "rater", "left", "right", "choice"])
    rows = [row for row in feedback.rows() if (row.id, row.rater, _item(row), row.score) not in ratings]
    new = [vote for vote in feedback.votes() if (vote.id, vote.rater, *_sides(vote), vote.choice) not in votes]
    feedback.close()
    return rows, new


def _taken(repository: Path, name: str, columns: list[str]) -> set[tuple[Any, ...]]:
    """The rows of a table of all increments, without those that aren't of a feedback store."""
    tables = (read_parquet(path, columns) for path in sorted((repository / FOLDER).glob(f"{PATTERN}/{name}")))
    return {row for table in tables for row in table.dropna(subset=columns[0]).itertuples(index=False, name=None)}


def _item(row: Rating) -> str:
    return edit_id(row.source_sha256, row.edited_sha256, row.instruction)


def _sides(vote: Vote) -> tuple[str, str]:
    """The ids of the left and the right edit."""
    of_pair = partial(edit_id, vote.source_sha256, instruction=vote.instruction)
    return of_pair(vote.left_sha256), of_pair(vote.right_sha256)

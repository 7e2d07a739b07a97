"""What people have said of edits: ratings as they were given, of a study or of the service's feedback store.

heard = read_study(Path("study.csv"), repository)
heard = read_store("sqlite:///feedback.db", repository, Path("pictures"))     # those that no increment has yet
heard.ratings, heard.edits
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from critic.answers import HIGHEST, LOWEST
from critic.edits import SPLITS, ImageError, decode_image, image_file, read_table
from critic.ratings.increments import FOLDER, RATINGS, read_increments
from critic.ratings.picture_store import SUFFIXES
from critic.ratings.screening import RatingsError
from critic.ratings.store import Feedback, Rating

AXES = ("alignment", "fidelity", "quality")
COLUMNS = ("rater", "item", "score", *AXES, "feedback_id")
"""Of ratings.parquet; item is the edit's id, and feedback_id that of the feedback store, if it came from there."""

EXAMPLE = """a CSV of one rating a row, with the pictures' paths beside it:

    rater,source,edited,instruction,score
    ann,images/cat.png,images/cat-red.png,make the cat red,4

or with the id of an edit of the benchmark instead of source, edited and instruction; see docs/ratings.md"""


@dataclass(frozen=True)
class RatingBatch:
    """What people have said.

    Attributes:
        ratings: `COLUMNS`, a row a rating, the earlier before the later.
        edits: those that they are of, with id, source_id, images, instruction and, if it is known, edit_type and
            editor.
        lost: ids of edits whose pictures nobody has; their ratings are kept.
    """

    ratings: pd.DataFrame
    edits: pd.DataFrame
    lost: tuple[str, ...] = ()


def waiting(store: str, repository: Path) -> int:
    """How many ratings of a feedback store are in no increment.

    Raises:
        FeedbackError: the store can't be read.
    """
    return len(_new(store, repository))


def read_store(store: str, repository: Path, pictures: Path | None) -> RatingBatch:
    """The ratings of a feedback store that are in no increment, and their edits.

    Args:
        pictures: the folder where the service keeps pictures (CRITIC_KEEP_IMAGES), None if it keeps none.

    Raises:
        FeedbackError: the store can't be read.
        IncrementError: an increment isn't here.
    """
    rows = _new(store, repository)
    edits = {_item(row): row for row in rows}
    files = _Files(repository, pictures)
    found, lost = [], []
    for item, row in edits.items():
        source, edited = files.find(row.source_sha256), files.find(row.edited_sha256)
        if source is None or edited is None:
            lost.append(item)
        else:
            found.append(_edit(source, edited, row.instruction))
    ratings = [{"rater": row.rater, "item": _item(row), "score": row.score, "feedback_id": row.id} for row in rows]
    return RatingBatch(pd.DataFrame(ratings, columns=COLUMNS), pd.DataFrame(found), tuple(lost))


def read_study(path: Path, repository: Path) -> RatingBatch:
    """The ratings of a CSV file, and their edits.

    Its columns are rater, score (1..5), and either source, edited (paths beside the file) and instruction, or the
    id of an edit of the benchmark; if there are, alignment, fidelity and quality (1..5), edit_type and editor.
    Rows count from 2, as in a spreadsheet.

    Raises:
        RatingsError: a column, a value or a picture is missing or can't be read.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise RatingsError(f"{path} can't be read ({error}): give {EXAMPLE}") from None
    by_id = "id" in table and "source" not in table
    needed = ("rater", "score", *(("id",) if by_id else ("source", "edited", "instruction")))
    if missing := [name for name in needed if name not in table]:
        raise RatingsError(f"{path} has no column {', '.join(missing)}: give {EXAMPLE}")
    known = benchmark(repository) if by_id else {}
    edits: dict[str, dict[str, Any]] = {}
    ratings = []
    for number, row in enumerate(table.to_dict("records"), 2):
        where = f"{path} row {number}"
        for name in needed:
            if pd.isna(row[name]) or not row[name].strip():
                raise RatingsError(f"{where} has no {name}: fill it in, or leave the row out")
        if by_id and row["id"] not in known:
            raise RatingsError(f"{where}: no edit of data/validated has the id {row['id']!r}")
        edit = known[row["id"]] if by_id else _read_edit(row, path.parent, where)
        edits[edit["id"]] = edit
        scores = {name: _score(row.get(name), f"{where}, {name}") for name in ("score", *AXES)}
        ratings.append({"rater": row["rater"].strip(), "item": edit["id"], **scores})
    return RatingBatch(pd.DataFrame(ratings, columns=COLUMNS), pd.DataFrame([*edits.values()]))


class _Files:
    """Pictures by the SHA-256 of their files."""

    def __init__(self, repository: Path, kept: Path | None):
        self._kept = kept
        self._ours: dict[str, bytes] = {}
        tables = [one.edits for one in read_increments(repository / FOLDER)] + _tables(repository)
        for table in tables:
            for images in table["images"]:
                for place in (0, 1):
                    if (file := image_file(images, place)) is not None:
                        self._ours.setdefault(sha256(file).hexdigest(), file)

    def find(self, digest: str) -> bytes | None:
        if digest in self._ours:
            return self._ours[digest]
        for suffix in SUFFIXES.values() if self._kept else ():
            path = Path(self._kept or "", digest[:2], digest + suffix)
            if path.exists():
                return path.read_bytes()
        return None


def _tables(repository: Path) -> list[pd.DataFrame]:
    paths = [repository / f"data/validated/{split}.parquet" for split in SPLITS]
    return [read_table(path) for path in paths if path.exists()]


def benchmark(repository: Path) -> dict[str, dict[str, Any]]:
    """The edits of data/validated, by their own id and by that which an increment would give them."""
    edits: dict[str, dict[str, Any]] = {}
    for table in _tables(repository):
        for row in table.to_dict("records"):
            source, edited = (image_file(row["images"], place) for place in (0, 1))
            if source is not None and edited is not None:
                edit = _edit(source, edited, row["instruction"])
                edit |= {name: row.get(name) for name in ("edit_type", "editor", "mos")} | {"name": row["id"]}
                edits[row["id"]] = edits[edit["id"]] = edit
    return edits


def _read_edit(row: Mapping[Any, Any], folder: Path, where: str) -> dict[str, Any]:
    files = []
    for name in ("source", "edited"):
        try:
            file = (folder / row[name]).read_bytes()
            decode_image({"bytes": file})
        except (OSError, ImageError) as error:
            raise RatingsError(f"{where}: the {name} picture {row[name]} can't be read: {error}") from None
        files.append(file)
    edit = _edit(files[0], files[1], row["instruction"].strip())
    return edit | {name: row[name] for name in ("edit_type", "editor") if pd.notna(row.get(name))}


def _edit(source: bytes, edited: bytes, instruction: str) -> dict[str, Any]:
    digests = sha256(source).hexdigest(), sha256(edited).hexdigest()
    return {
        "id": _id(*digests, instruction),
        "source_id": f"rated-{digests[0][:16]}",
        "images": [{"bytes": source, "path": None}, {"bytes": edited, "path": None}],
        "instruction": instruction,
    }


def _id(source: str, edited: str, instruction: str) -> str:
    return "rated-" + sha256(f"{source} {edited} {instruction}".encode()).hexdigest()[:16]


def _score(given: Any, where: str) -> float | None:
    if given is None or pd.isna(given):
        return None
    try:
        score = float(str(given))
    except ValueError:
        raise RatingsError(f"{where}: {given!r} is no number") from None
    if not LOWEST <= score <= HIGHEST:
        raise RatingsError(f"{where}: {given} isn't from {LOWEST:g} to {HIGHEST:g}: bring it to this scale")
    return score


def _new(store: str, repository: Path) -> list[Rating]:
    """The ratings of a store that no increment has.

    They are told by all that they say and not by their ids alone: in another database these begin anew, and where
    several write at a time a lower one may come after a higher one.
    """
    taken = set()
    for path in sorted((repository / FOLDER).glob(f"[0-9][0-9][0-9][0-9]/{RATINGS}")):
        table = pd.read_parquet(path, columns=["feedback_id", "rater", "item", "score"])
        taken |= {*table.dropna(subset="feedback_id").itertuples(index=False, name=None)}
    feedback = Feedback(store)
    rows = [row for row in feedback.rows() if (row.id, row.rater, _item(row), row.score) not in taken]
    feedback.close()
    return rows


def _item(row: Rating) -> str:
    return _id(row.source_sha256, row.edited_sha256, row.instruction)

"""Load raw human ratings from a study's file or from the service's feedback store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from critic.answers import AXES, HIGHEST, LOWEST
from critic.edits import SPLITS, image_file
from critic.pictures import PictureError, decode
from critic.ratings.increments import FOLDER, PATTERN, RATINGS, edit_id, read_increments
from critic.ratings.picture_store import SUFFIXES
from critic.ratings.store import Feedback, Rating
from critic.tables import StoredPicture, TableError, filled, numbers, place, read, read_parquet, require_columns

COLUMNS = ("rater", "item", "score", *AXES, "feedback_id")
"""The columns of ratings.parquet: item is the edit's id, feedback_id the rating's id in the feedback store."""

EXAMPLE = """a CSV file with one rating per row and picture paths relative to it:

    rater,source,edited,instruction,score
    ann,images/cat.png,images/cat-red.png,make the cat red,4

or with the id of an edit of the benchmark instead of source, edited and instruction; see docs/ratings.md"""


@dataclass(frozen=True)
class RatingBatch:
    """New ratings: a row each, the earlier before the later, with the columns `COLUMNS`; and the rated edits.

    `edits` has id, source_id, images, instruction and, if known, edit_type and editor; `lost` the ids of rated
    edits whose pictures are missing.
    """

    ratings: pd.DataFrame
    edits: pd.DataFrame
    lost: tuple[str, ...] = ()


def count_new(store: str, repository: Path) -> int:
    """The number of ratings in a feedback store that no increment has."""
    return len(_new(store, repository))


def read_store(store: str, repository: Path, pictures: Path | None) -> RatingBatch:
    """The ratings of a feedback store that no increment has, and their edits.

    Args:
        pictures: the folder in which the service keeps pictures (CRITIC_KEEP_IMAGES), None if it keeps none.

    Raises:
        FeedbackError: the store can't be read.
        IncrementError: an increment's file is missing.
    """
    rows = _new(store, repository)
    ours = _pictures(repository)
    found, lost = [], []
    for item, row in {_item(row): row for row in rows}.items():
        digests = row.source_sha256, row.edited_sha256
        source, edited = (ours.get(digest) or _kept(digest, pictures) for digest in digests)
        if source is None or edited is None:
            lost.append(item)
        else:
            found.append(_edit((source, edited), digests, row.instruction))
    ratings = [{"rater": row.rater, "item": _item(row), "score": row.score, "feedback_id": row.id} for row in rows]
    return RatingBatch(pd.DataFrame(ratings, columns=COLUMNS), pd.DataFrame(found), tuple(lost))


def read_study(path: Path, repository: Path) -> RatingBatch:
    """The ratings in a file, and their edits.

    Its columns are rater, score (1..5), and either source, edited (paths relative to the file) and instruction, or
    the id of an edit of the benchmark; optional are alignment, fidelity and quality (1..5), edit_type and editor.

    Raises:
        TableError: a column, a value or a picture is missing or can't be read.
    """
    table = read(path)
    by_id = "id" in table and "source" not in table
    needed = ("rater", "score", *(("id",) if by_id else ("source", "edited", "instruction")))
    require_columns(path, [*table.columns], needed, f"give {EXAMPLE}")
    if table.empty:
        raise TableError(f"{path} has no rows: give {EXAMPLE}")
    filled(table, needed)
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
    return RatingBatch(ratings, pd.DataFrame([*{edit["id"]: edit for edit in rated}.values()]))


def benchmark(repository: Path) -> dict[str, dict[str, Any]]:
    """The edits of data/validated, by their own id and by the id that an increment gives them."""
    edits: dict[str, dict[str, Any]] = {}
    for table in _benchmark_tables(repository):
        for row in table.to_dict("records"):
            source, edited = (image_file(row["images"], index) for index in (0, 1))
            if source is not None and edited is not None:
                edit = _edit(row["images"], (_sha256(source), _sha256(edited)), row["instruction"])
                edit |= {name: row.get(name) for name in ("edit_type", "editor", "mos")} | {"name": row["id"]}
                edits[row["id"]] = edits[edit["id"]] = edit
    return edits


def _pictures(repository: Path) -> dict[str, Mapping[str, Any]]:
    """The pictures of increments and of the benchmark, by the SHA-256 of their files."""
    tables = [one.edits for one in read_increments(repository / FOLDER)] + _benchmark_tables(repository)
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


def _benchmark_tables(repository: Path) -> list[pd.DataFrame]:
    paths = [repository / f"data/validated/{split}.parquet" for split in SPLITS]
    return [read_parquet(path) for path in paths if path.exists()]


def _read_edit(row: Mapping[Any, Any], folder: Path, where: str) -> dict[str, Any]:
    files = []
    for name in ("source", "edited"):
        try:
            files.append((folder / str(row[name])).read_bytes())
            decode(files[-1])
        except (OSError, PictureError) as error:
            raise TableError(f"{where}: the {name} picture {row[name]} can't be read: {error}") from None
    images = [{"bytes": file, "path": None} for file in files]
    edit = _edit(images, (_sha256(files[0]), _sha256(files[1])), str(row["instruction"]).strip())
    return edit | {name: row[name] for name in ("edit_type", "editor") if pd.notna(row.get(name))}


def _edit(images: Sequence[Mapping[str, Any]], digests: tuple[str, str], instruction: str) -> dict[str, Any]:
    return {
        "id": edit_id(*digests, instruction),
        "source_id": f"rated-{digests[0][:16]}",
        "images": [StoredPicture(None, partial(image.get, "bytes")) for image in images],
        "instruction": instruction,
    }


def _sha256(file: bytes) -> str:
    return sha256(file).hexdigest()


def _new(store: str, repository: Path) -> list[Rating]:
    """The ratings of a store that no increment has.

    The id alone doesn't identify a rating: another database starts again at 1, and with several writers a lower id
    may appear after a higher one.
    """
    taken = set()
    for path in sorted((repository / FOLDER).glob(f"{PATTERN}/{RATINGS}")):
        table = read_parquet(path, ["feedback_id", "rater", "item", "score"])
        taken |= {*table.dropna(subset="feedback_id").itertuples(index=False, name=None)}
    feedback = Feedback(store)
    rows = [row for row in feedback.rows() if (row.id, row.rater, _item(row), row.score) not in taken]
    feedback.close()
    return rows


def _item(row: Rating) -> str:
    return edit_id(row.source_sha256, row.edited_sha256, row.instruction)

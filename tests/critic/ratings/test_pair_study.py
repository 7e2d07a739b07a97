"""A study's pairs are two edits of one source and instruction, and the least certain ones come first."""

from pathlib import Path

import pandas as pd
import pytest

from critic.ratings import pair_study
from critic.ratings.pair_study import PairStudy
from critic.tables import TableError


@pytest.fixture
def write(tmp_path: Path, picture):
    """Writes a study of three edits of one source, and one of another; columns may be replaced or added."""

    def write(**columns: list[object]) -> Path:
        for number in range(4):
            (tmp_path / f"{number}.png").write_bytes(picture(number))
            (tmp_path / f"source-{number}.png").write_bytes(picture(10 + number // 3))
        table = {
            "source": [f"source-{number}.png" for number in range(4)],
            "edited": [f"{number}.png" for number in range(4)],
            "instruction": ["make it red"] * 4,
            "score": [3.0, 3.1, 4.5, 2.0],
        }
        pd.DataFrame(table | columns).to_csv(tmp_path / "edits.csv", index=False)
        return tmp_path / "edits.csv"

    return write


def names(study: PairStudy, voters: dict[str, int] | None = None) -> list[str]:
    """The edited files of all pairs in the order in which they are chosen."""
    done: list[str] = []
    found = []
    while pairs := study.best(voters or {}, done, 1):
        (pair,) = pairs
        done.append(pair.id)
        found.append("-".join(sorted(edit.picture.path.stem for edit in pair.edits)))
    return found


def test_pairs_are_of_one_source_by_its_content_and_the_closest_scores_come_first(write) -> None:
    assert names(PairStudy(write())) == ["0-1", "1-2", "0-2"]
    with pytest.raises(TableError, match=r"edits\.csv has no two different edits of one source and instruction"):
        PairStudy(write(instruction=["a", "b", "c", "d"]))


def test_with_spreads_the_difference_counts_in_standard_deviations(write) -> None:
    assert names(PairStudy(write(spread=[0.01, 0.01, 2.0, 1.0]))) == ["1-2", "0-2", "0-1"]
    assert names(PairStudy(write(spread=[0.01, 0.01, None, 1.0])))[0] == "0-1"


def test_pairs_with_fewer_votes_and_those_without_a_score_come_first(write) -> None:
    study = PairStudy(write(score=[3.0, 3.1, None, 2.0]))
    assert names(study)[-1] == "0-1"
    first, *others = study.best({}, ())
    assert study.best({first.id: 1}, ()) == others


def test_the_order_of_a_pair_says_nothing_of_the_tables(write) -> None:
    table = pd.read_csv(write())
    for order in (1, -1):
        study = PairStudy(write(**{name: [*table[name]][::order] for name in table}))
        assert all(first.id < second.id for first, second in (pair.edits for pair in study.best({}, ())))


def test_a_picture_is_read_once(write, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(pair_study, "decode", opened.append)
    PairStudy(write(source=["source-0.png"] * 4))
    assert len(opened) == 5


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("edited", "none.png", r"edits\.csv line 3: the picture .*none\.png can't be read"),
        ("edited", "edits.csv", r"edits\.csv line 3: the picture .*edits\.csv can't be read"),
        ("instruction", None, r"edits\.csv line 3 has no instruction"),
        ("score", 9, r"edits\.csv line 3 has the score '9.*', not a number from 1 to 5"),
    ],
)
def test_an_invalid_row_is_named(column: str, value: object, said: str, write) -> None:
    table = pd.read_csv(write())
    with pytest.raises(TableError, match=said):
        PairStudy(write(**{column: [table[column][0], value, *table[column][2:]]}))

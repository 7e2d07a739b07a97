"""The journal returns what was added, after a kill too, and accepts no damaged line as an answer."""

from pathlib import Path

import pytest

from critic.data.teacher.journal import Answer, Journal, JournalError


def answer(number: int, text: str = "naïve\n<answer>3</answer>") -> Answer:
    return Answer(
        id=f"train-{number}", request=f"{number:064x}", text=text, finished=True, input_tokens=9, output_tokens=3
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with two answers in a folder that had to be made."""
    path = tmp_path / "runs/teacher/journal.jsonl"
    with Journal(path) as journal:
        for number in range(2):
            journal.add(answer(number))
            assert journal.find(f"train-{number}", f"{number:064x}") == answer(number)
    return path


def test_answers_come_back_by_edit_and_request(path: Path) -> None:
    with Journal(path) as journal:
        assert [journal.find(f"train-{n}", f"{n:064x}") for n in range(3)] == [answer(0), answer(1), None]
        assert journal.find("train-0", f"{1:064x}") is None
        assert journal.find("train-1", f"{0:064x}") is None


def test_an_answer_is_in_the_file_at_once(path: Path) -> None:
    with Journal(path) as journal:
        journal.add(answer(2))
        with Journal(path) as other:
            assert other.find("train-2", f"{2:064x}") == answer(2)


@pytest.mark.parametrize("torn", [1, 20, 60, 150])
def test_a_torn_last_line_is_cut_off_and_the_next_answer_starts_a_line(path: Path, torn: int) -> None:
    path.write_bytes(path.read_bytes()[:-torn])
    with Journal(path) as journal:
        assert journal.find("train-0", f"{0:064x}") == answer(0)
        assert journal.find("train-1", f"{1:064x}") is None
        journal.add(answer(2))
    with Journal(path) as journal:
        assert [journal.find(f"train-{n}", f"{n:064x}") for n in range(3)] == [answer(0), None, answer(2)]


@pytest.mark.parametrize("line", ["", "{}", "[1", '{"id": "train-0"}'])
def test_another_line_that_is_no_answer_is_named(path: Path, line: str) -> None:
    good = path.read_text().splitlines()
    path.write_text("\n".join([good[0], line, good[1], ""]))
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"journal\.jsonl line 2 is not an answer, remove it"):
        Journal(path)
    assert path.read_bytes() == before

"""An acknowledged rating survives any end of the service; passwords aren't shown."""

import re
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import SQLAlchemyError

from critic.ratings import store as module
from critic.ratings.receipts import Receipt
from critic.ratings.store import SCHEMA, AlreadyVoted, Feedback, FeedbackError, Vote

RECEIPT = Receipt(
    request_id="9f1c",
    pair_id="0",
    source_sha256="a" * 64,
    edited_sha256="b" * 64,
    instruction="make the red star blue",
    mode="greedy",
    score=3.42,
    status="ok",
    model="sha256:" + "c" * 64,
    version="critic:grpo",
    contract="d" * 64,
    scored_at=datetime(2026, 1, 2, 3, 4, 5, 678901, timezone(timedelta(hours=5))),
)

WRITER = f"""
import itertools, sys
from datetime import datetime
from critic.ratings.store import Feedback
from critic.ratings.receipts import Receipt

url, rater, count = sys.argv[1:]
receipt = Receipt.model_validate_json({RECEIPT.model_dump_json()!r})
feedback = Feedback(url)
for number in itertools.islice(itertools.count(), int(count) or None):
    print(feedback.add(receipt, rater, 1 + number % 5, str(number)), number, flush=True)
"""
"""Adds a number of ratings, or ratings without end, and prints the id and number of each acknowledged one."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'feedback.db'}"


@pytest.fixture
def feedback(url: str) -> Iterator[Feedback]:
    with closing(Feedback(url)) as feedback:
        yield feedback


def writer(url: str, rater: str, count: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, url, rater, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


# --- keeping them


def test_a_rating_is_kept_with_all_that_its_receipt_says(feedback: Feedback) -> None:
    before = datetime.now(UTC)
    id = feedback.add(RECEIPT, "ann", 4.5, "the edges are off")
    (rating,) = feedback.rows()
    assert (rating.id, rating.rater, rating.score, rating.comment) == (id, "ann", 4.5, "the edges are off")
    assert (rating.critic_score, rating.critic_status) == (3.42, "ok")
    for name in Receipt.model_fields.keys() - {"score", "status"}:
        assert getattr(rating, name) == getattr(RECEIPT, name)
    assert before <= rating.at <= datetime.now(UTC)
    assert rating.at.tzinfo is UTC


def test_an_edit_without_a_score_can_be_rated(feedback: Feedback) -> None:
    feedback.add(RECEIPT.model_copy(update={"score": None, "status": "truncated"}), "ann", 1)
    (rating,) = feedback.rows()
    assert (rating.critic_score, rating.critic_status) == (None, "truncated")


def test_all_ratings_stay_and_the_documented_query_gives_each_raters_last(feedback: Feedback, url: str) -> None:
    other = RECEIPT.model_copy(update={"instruction": "make it green"})
    for receipt, rater, score in (
        (RECEIPT, "ann", 2),
        (RECEIPT, "bob", 3),
        (other, "ann", 4),
        (RECEIPT, "ann", 5),
    ):
        feedback.add(receipt, rater, score)
    assert [rating.score for rating in feedback.rows()] == [2, 3, 4, 5]
    assert [rating.score for rating in [*feedback.rows()][2:]] == [4, 5]
    (query,) = re.findall(r"SELECT .*\)\n", module.__doc__ or "", re.DOTALL)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        database.row_factory = sqlite3.Row
        assert [row["score"] for row in database.execute(query)] == [3, 4, 5]


def test_an_id_is_not_used_again(feedback: Feedback, url: str) -> None:
    feedback.add(RECEIPT, "ann", 3)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        database.execute("DELETE FROM ratings")
    assert feedback.add(RECEIPT, "ann", 3) == 2


@pytest.mark.parametrize("score", [0.99, 5.01, float("nan"), float("inf")])
def test_a_score_off_the_scale_is_refused(score: float, feedback: Feedback) -> None:
    with pytest.raises(ValueError, match=r"score is .*, not within 1\.\.5"):
        feedback.add(RECEIPT, "ann", score)
    assert [*feedback.rows()] == []


def test_invalid_characters_are_replaced(feedback: Feedback) -> None:
    feedback.add(
        RECEIPT.model_copy(update={"instruction": "red\ud800", "pair_id": "\0"}), "ann\0", 3, "naïve\udfff"
    )
    (rating,) = feedback.rows()
    assert (rating.rater, rating.comment, rating.instruction) == ("ann\ufffd", "naïve?", "red?")
    assert rating.pair_id == "\ufffd"


# --- votes on pairs


def vote(choice: str = "left", ballot: str = "1", rater: str = "ann", pair: str = "p") -> Vote:
    digests = {f"{name}_sha256": name for name in ("source", "left", "right")}
    facts = dict.fromkeys(("left_editor", "right_editor", "left_score", "right_score"))
    own = {"choice": choice, "ballot": ballot, "rater": rater, "pair_id": pair}
    return Vote(at=datetime.now(UTC), seconds=2.5, instruction="make it red", **own, **digests, **facts)


def test_a_ballot_has_one_vote(feedback: Feedback) -> None:
    assert feedback.add_vote(vote("tie")) == feedback.add_vote(vote("tie")) == 1
    with pytest.raises(AlreadyVoted, match="your vote 'tie' already"):
        feedback.add_vote(vote("left"))
    with pytest.raises(FeedbackError, match="can't be used"):
        feedback.add_vote(vote("both", "2"))
    (stored,) = feedback.votes()
    assert (stored.choice, stored.seconds, stored.at.tzinfo) == ("tie", 2.5, UTC)


def test_voters_are_counted_and_not_votes(feedback: Feedback) -> None:
    for number, (rater, pair) in enumerate((("ann", "p"), ("ann", "p"), ("bob", "p"), ("bob", "q"))):
        feedback.add_vote(vote(ballot=str(number), rater=rater, pair=pair))
    assert feedback.count_voters("ann") == ({"p": 2, "q": 1}, {"p"})
    assert feedback.count_voters("cyn") == ({"p": 2, "q": 1}, set())


def test_a_database_of_a_release_without_votes_gets_their_table(feedback: Feedback, url: str) -> None:
    feedback.add(RECEIPT, "ann", 3)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        database.execute("DROP TABLE votes")
    with closing(Feedback(url)) as opened:
        assert opened.add_vote(vote()) == 1
        assert [rating.score for rating in opened.rows()] == [3]


# --- for good


def test_ratings_survive_a_kill(url: str) -> None:
    acknowledged: dict[int, str] = {}
    for kill, count in enumerate((1, 7, 40)):
        with writer(url, f"rater-{kill}") as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(count)]
            process.send_signal(signal.SIGKILL)
            lines += [line for line in process.stdout if line.endswith("\n")]
        for line in lines:
            id, number = line.split()
            acknowledged[int(id)] = f"rater-{kill}: {number}"
    with closing(Feedback(url)) as feedback:
        there = {rating.id: f"{rating.rater}: {rating.comment}" for rating in feedback.rows()}
    assert len(acknowledged) >= 48
    assert acknowledged.items() <= there.items()


def test_an_sqlite_file_is_synchronised_at_each_rating(feedback: Feedback) -> None:
    with feedback._engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        ]
    assert pragmas == ["wal", 2]


def test_four_processes_that_start_together_lose_no_rating(url: str) -> None:
    writers = [writer(url, f"rater-{number}", 25) for number in range(4)]
    said = {f"rater-{number}": process.communicate()[0] for number, process in enumerate(writers)}
    assert [process.returncode for process in writers] == [0] * 4
    acknowledged = {
        (int(line.split()[0]), rater, line.split()[1])
        for rater, lines in said.items()
        for line in lines.splitlines()
    }
    with closing(Feedback(url)) as feedback:
        there = {(rating.id, rating.rater, rating.comment) for rating in feedback.rows()}
    assert len(there) == 100
    assert acknowledged == there


def test_an_incomplete_database_is_completed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise SQLAlchemyError("disk full")

    with monkeypatch.context() as beginning:
        beginning.setattr("sqlalchemy.insert", fail)
        with pytest.raises(FeedbackError, match="disk full"):
            Feedback(url)
    with closing(Feedback(url)) as feedback:
        assert feedback.add(RECEIPT, "ann", 3) == 1


# --- databases that can't be used

PASSWORD = "hunter2"


def test_ratings_of_another_schema_are_left_alone(feedback: Feedback, url: str) -> None:
    feedback.add(RECEIPT, "ann", 3)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        database.execute("UPDATE ratings_schema SET number = 7")
    with pytest.raises(FeedbackError, match=f"has ratings of schema 7, and this release writes {SCHEMA}"):
        Feedback(url)


def test_a_foreign_table_is_left_alone(url: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        database.execute("CREATE TABLE ratings (stars INTEGER)")
    with pytest.raises(FeedbackError, match="has ratings of schema None"):
        Feedback(url)


def test_a_database_that_fails_later_is_an_error_and_not_a_rating(feedback: Feedback, url: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        database.execute("DROP TABLE ratings")
    with pytest.raises(FeedbackError, match="no such table: ratings") as failed:
        feedback.add(RECEIPT, "ann", 3, "a word of Ann's")
    assert "a word of Ann's" not in str(failed.value)
    with pytest.raises(FeedbackError, match=r"feedback\.db can't be used: no such table: ratings"):
        next(feedback.rows())


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(FeedbackError, match="is in memory and would lose the ratings"):
        Feedback(url)


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Feedback("sqlite:///~/ratings.db").close()
    assert (tmp_path / "ratings.db").exists()


def test_a_folder_that_isnt_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeedbackError, match=rf"{tmp_path}/none/feedback\.db can't be used: unable to open"):
        Feedback(f"sqlite:///{tmp_path}/none/feedback.db")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "feedback.db").write_text("ann, 3\n" * 1000)
    with pytest.raises(FeedbackError, match=r"feedback\.db can't be used: file is not a database"):
        Feedback(f"sqlite:///{tmp_path}/feedback.db")


@pytest.mark.parametrize(
    "url",
    [
        "unknown://ann:{}@host/ratings",
        "unknown://ann@host/ratings?password={}",
        "sqlite://ann:{}@host/ratings.db",
        "unknown://ann:{}",
        "unknown://ann:{}@host:port/ratings",
        "{}",
    ],
)
@settings(deadline=None, max_examples=50)
@given(st.text("aZ09%:/@?#[]&=+ ", max_size=9))
def test_a_password_is_never_shown(url: str, rest: str) -> None:
    with pytest.raises(FeedbackError) as failed:
        Feedback(url.format(PASSWORD + rest))
    assert PASSWORD not in "".join(traceback.format_exception(failed.value))


def test_the_rest_of_the_url_is_shown() -> None:
    with pytest.raises(
        FeedbackError, match=r"^unknown://ann:\*\*\*@host/ratings can't be used: Can't load plugin"
    ):
        Feedback("unknown://ann:hunter2@host/ratings?sslmode=require")

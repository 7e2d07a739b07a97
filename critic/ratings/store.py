"""The feedback store: people's scores of edits that the critic scored, and their votes on pairs, in a database.

    feedback = Feedback("sqlite:///feedback.db")
    id = feedback.add(receipts.read(token), rater="ann", score=4.0)
    for rating in feedback.rows():
        rating.rater, rating.score, rating.critic_score

Ratings and votes are added and never changed. If a rater rates an edit again, the last rating counts:

    SELECT * FROM ratings WHERE id IN (
        SELECT max(id) FROM ratings GROUP BY rater, source_sha256, edited_sha256, instruction
    )
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from critic.answers import HIGHEST, LOWEST
from critic.ratings.receipts import Receipt

SCHEMA = 1
"""The version of the table of ratings; it changes with the columns."""

_TIMEOUT = 30
"""Seconds to wait for other writers of an SQLite file."""


class FeedbackError(RuntimeError):
    """Ratings can't be stored or read; the message names the database, without its password."""


class AlreadyVoted(ValueError):
    """A ballot that has another vote already."""


class _UTC(TypeDecorator[datetime]):
    """A time with its zone, UTC: SQLite doesn't store the zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None or value.tzinfo is None:
            return value and value.replace(tzinfo=UTC)
        return value.astimezone(UTC)


class _Table(MappedAsDataclass, DeclarativeBase, kw_only=True):
    type_annotation_map = {str: sa.Text, float: sa.Double, datetime: _UTC}  # noqa: RUF012


class Rating(_Table):
    """One person's score (1..5) of one edit, given `at` a time: a row of the table `ratings`.

    `id` increases, and is never used again. See `Receipt` for the critic's score and status, and the rest.
    """

    __tablename__ = "ratings"
    __table_args__ = (sa.CheckConstraint(f"score BETWEEN {LOWEST} AND {HIGHEST}"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    at: Mapped[datetime]
    rater: Mapped[str]
    score: Mapped[float]
    comment: Mapped[str]
    request_id: Mapped[str]
    pair_id: Mapped[str]
    source_sha256: Mapped[str]
    edited_sha256: Mapped[str]
    instruction: Mapped[str]
    critic_score: Mapped[float | None]
    critic_status: Mapped[str]
    mode: Mapped[str]
    model: Mapped[str]
    version: Mapped[str]
    contract: Mapped[str]
    scored_at: Mapped[datetime]


class Vote(_Table):
    """One person's choice between two edits of one source, given `at` a time: a row of the table `votes`.

    Attributes:
        choice: "left", "right" or "tie", of the edits as they were shown.
        seconds: from the request for the pair to the vote.
        ballot: `Ballot.number`; a ballot has one vote.
        pair_id: of `critic.ratings.pair_study.Pair`.
        left_score, right_score: the critic's, 1..5, if the study has them.
    """

    __tablename__ = "votes"
    __table_args__ = (sa.CheckConstraint("choice IN ('left', 'right', 'tie')"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    at: Mapped[datetime]
    rater: Mapped[str]
    choice: Mapped[str]
    seconds: Mapped[float]
    ballot: Mapped[str] = mapped_column(unique=True)
    pair_id: Mapped[str]
    source_sha256: Mapped[str]
    left_sha256: Mapped[str]
    right_sha256: Mapped[str]
    instruction: Mapped[str]
    left_editor: Mapped[str | None]
    right_editor: Mapped[str | None]
    left_score: Mapped[float | None]
    right_score: Mapped[float | None]


class _Schema(_Table):
    __tablename__ = "ratings_schema"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


def require_file(url: str) -> None:
    """Raise a `FeedbackError` if the URL's SQLite file doesn't exist: `Feedback` would make an empty one."""
    parsed, shown = _parse(url)
    name = parsed.database or ""
    if _is_file(parsed) and not name.startswith("file:") and not (file := Path(name)).exists():
        raise FeedbackError(
            f"{shown}: there is no {file.absolute()}. Give the URL that the service has as CRITIC_FEEDBACK_URL, "
            "sqlite:///~/edit-critic-feedback.db if you set none"
        )


def _parse(url: str) -> tuple[sa.URL, str]:
    """The URL with ~ expanded, and a text of it without the password."""
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        raise FeedbackError(
            "CRITIC_FEEDBACK_URL is not a database URL: give one like sqlite:///feedback.db or "
            "postgresql+psycopg://user:password@host/database"
        ) from None
    shown = parsed.difference_update_query([*parsed.query]).render_as_string(hide_password=True)
    if not _is_file(parsed):
        return parsed, shown
    if parsed.database in (None, "", ":memory:"):
        raise FeedbackError(
            f"{shown} is in memory and would lose the ratings: give a file, as sqlite:///feedback.db"
        )
    return parsed.set(database=os.path.expanduser(parsed.database or "")), shown


def _is_file(url: sa.URL) -> bool:
    return url.get_backend_name() == "sqlite"


class Feedback:
    """The ratings in a database; several processes may add to it at a time.

    In an SQLite file an added rating survives a kill and a power cut: each one synchronises the write-ahead log.

    Args:
        url: a database URL for SQLAlchemy, in which ~ in the path of an SQLite file is expanded. The table is made
            if it is missing. Databases other than SQLite need their driver installed.

    Raises:
        FeedbackError: the database doesn't exist, can't be used, or has ratings of another schema.
    """

    def __init__(self, url: str):
        parsed, self._shown = _parse(url)
        sqlite = _is_file(parsed)
        options = {"connect_args": {"timeout": _TIMEOUT}} if sqlite else {}
        with self._named():
            self._engine = sa.create_engine(parsed, hide_parameters=True, pool_pre_ping=True, **options)
            if sqlite:
                sa.event.listen(self._engine, "connect", _make_durable)
            try:
                self._prepare(sqlite)
            except (IntegrityError, ProgrammingError):  # another process made the tables just now
                self._prepare(sqlite)

    def add(self, receipt: Receipt, rater: str, score: float, comment: str = "") -> int:
        """Store a rating and return its id; by then it is on the disk.

        Characters that a database can't hold, halves of surrogate pairs and NUL, are replaced.

        Raises:
            FeedbackError: it wasn't stored.
            ValueError: the score isn't within 1..5.
        """
        if not LOWEST <= score <= HIGHEST:
            raise ValueError(f"score is {score}, not within {LOWEST:g}..{HIGHEST:g}")
        facts = receipt.model_dump(exclude={"score", "status", "scored_at"})
        rating = Rating(
            at=datetime.now(UTC),
            rater=_text(rater),
            score=score,
            comment=_text(comment),
            critic_score=receipt.score,
            critic_status=receipt.status,
            scored_at=receipt.scored_at.astimezone(UTC),
            **{name: _text(value) for name, value in facts.items()},
        )
        with self._named(), Session(self._engine, expire_on_commit=False) as session:
            session.add(rating)
            session.commit()
        return rating.id

    def rows(self) -> Iterator[Rating]:
        """All ratings by id, loaded a thousand at a time.

        With several writers at a time, as in Postgres, a lower id may appear after a higher one.
        """
        with self._named(), Session(self._engine) as session:
            wanted = sa.select(Rating).order_by(Rating.id)
            yield from session.scalars(wanted.execution_options(yield_per=1000))

    def add_vote(self, vote: Vote) -> int:
        """Store a vote and return its id; by then it is on the disk. The same vote again has the first one's id.

        Raises:
            AlreadyVoted: its ballot has another choice.
            FeedbackError: it wasn't stored.
        """
        ballot, choice = vote.ballot, vote.choice
        with self._named(), Session(self._engine, expire_on_commit=False) as session:
            session.add(vote)
            try:
                session.commit()
                return vote.id
            except IntegrityError:
                session.rollback()
            first = session.scalars(sa.select(Vote).where(Vote.ballot == ballot)).one()
        if first.choice != choice:
            raise AlreadyVoted(f"this pair has your vote {first.choice!r} already: ask for the next pair")
        return first.id

    def votes(self) -> Iterator[Vote]:
        """All votes by id, as `rows`."""
        with self._named(), Session(self._engine) as session:
            yield from session.scalars(sa.select(Vote).order_by(Vote.id).execution_options(yield_per=1000))

    def count_voters(self, rater: str) -> tuple[dict[str, int], set[str]]:
        """The number of people who voted on each pair, by its id; and the pairs that `rater` voted on."""
        with self._named(), Session(self._engine) as session:
            voters = sa.select(Vote.pair_id, sa.func.count(Vote.rater.distinct())).group_by(Vote.pair_id)
            own = session.scalars(sa.select(Vote.pair_id).where(Vote.rater == rater).distinct())
            return dict(session.execute(voters).tuples().all()), {*own}

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _prepare(self, sqlite: bool) -> None:
        with self._engine.begin() as connection:
            if sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # makes other processes wait
            if not sa.inspect(connection).has_table(Rating.__tablename__):
                _Table.metadata.create_all(connection)
                connection.execute(sa.insert(_Schema).values(number=SCHEMA))
            named = sa.inspect(connection).has_table(_Schema.__tablename__)
            number = connection.scalar(sa.select(_Schema.number)) if named else None
            if number != SCHEMA:
                raise FeedbackError(
                    f"{self._shown} has ratings of schema {number}, and this release writes {SCHEMA}: set "
                    "CRITIC_FEEDBACK_URL to another database, or use the release that made this one"
                )
            _Table.metadata.create_all(connection)  # the tables that a database of an older release lacks

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the database in errors, and leave the values out."""
        try:
            yield
        except (SQLAlchemyError, ImportError) as error:
            reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
            raise FeedbackError(
                f"{self._shown} can't be used: {reason}. Check CRITIC_FEEDBACK_URL, the server or the folder's "
                "permissions and free space, and that the driver is installed"
            ) from None


def _make_durable(connection: sqlite3.Connection, _: Any) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:  # SQLite itself doesn't wait if several processes create a file
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")

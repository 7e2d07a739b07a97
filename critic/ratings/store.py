"""People's own scores of edits that the critic has scored, in a database, ready to be trained on.

    feedback = Feedback("sqlite:///feedback.db")
    id = feedback.add(receipts.read(token), rater="ann", score=4.0)
    for rating in feedback.rows():
        rating.rater, rating.score, rating.critic_score

Ratings are added and never changed. Who rates an edit again has thought again, and the last one counts:

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
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    Text,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from critic.answers import HIGHEST, LOWEST
from critic.ratings.receipts import Receipt

SCHEMA = 1
"""Of the table of ratings. A release that writes other columns has another number."""

_WAIT = 30
"""Seconds for other writers of an SQLite file."""


class FeedbackError(RuntimeError):
    """Ratings can't be kept or read; the message names the database, without its password."""


class _UTC(TypeDecorator[datetime]):
    """A time with its zone, UTC, which SQLite would leave out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is None:
            return value and value.replace(tzinfo=UTC)
        return value.astimezone(UTC)


class _Table(MappedAsDataclass, DeclarativeBase, kw_only=True):
    type_annotation_map = {str: Text, float: Double, datetime: _UTC}  # noqa: RUF012


class Rating(_Table):
    """One person's score of one edit: a row of the table `ratings`.

    Attributes:
        id: rises from rating to rating, and isn't used again.
        at: when it was given.
        rater: who gave it.
        score: theirs, 1..5.
        critic_score, critic_status: the critic's own, as far as the person knew: see `Receipt` for these and the
            rest.
    """

    __tablename__ = "ratings"
    __table_args__ = (CheckConstraint(f"score BETWEEN {LOWEST} AND {HIGHEST}"), {"sqlite_autoincrement": True})

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


class _Schema(_Table):
    __tablename__ = "ratings_schema"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Feedback:
    """The ratings of a database; several processes may add to it at a time.

    In an SQLite file a rating that was added survives a kill and a power cut: it has a write-ahead log that is
    synchronised at each rating.

    Args:
        url: as SQLAlchemy takes it, but for ~ in the path of an SQLite file, which is expanded; the table is made
            if need be. Other databases than SQLite need their driver installed.

    Raises:
        FeedbackError: there is no such database, it can't be used, or its ratings are of another schema.
    """

    def __init__(self, url: str):
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            raise FeedbackError(
                "CRITIC_FEEDBACK_URL is no database URL: give one like sqlite:///feedback.db or "
                "postgresql+psycopg://user:password@host/database"
            ) from None
        self._shown = parsed.difference_update_query([*parsed.query]).render_as_string(hide_password=True)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database in (None, "", ":memory:"):
            raise FeedbackError(f"{self._shown} forgets its ratings: give a file, like sqlite:///feedback.db")
        if sqlite:
            parsed = parsed.set(database=os.path.expanduser(parsed.database or ""))
        options = {"connect_args": {"timeout": _WAIT}} if sqlite else {}
        with self._named():
            self._engine = create_engine(parsed, hide_parameters=True, pool_pre_ping=True, **options)
            if sqlite:
                event.listen(self._engine, "connect", _make_durable)
            try:
                self._prepare(sqlite)
            except (IntegrityError, ProgrammingError):  # another process has just made the tables
                self._prepare(sqlite)

    def add(self, receipt: Receipt, rater: str, score: float, comment: str = "") -> int:
        """Keep a rating; when this returns its id, it is on the disk.

        What no database can hold of a text, halves of surrogate pairs and the character 0, is replaced in it.

        Args:
            score: 1..5.

        Raises:
            FeedbackError: it wasn't kept.
            ValueError: the score isn't within 1..5.
        """
        if not LOWEST <= score <= HIGHEST:
            raise ValueError(f"score is {score}, not within {LOWEST:g}..{HIGHEST:g}")
        rating = Rating(
            at=datetime.now(UTC),
            rater=_text(rater),
            score=score,
            comment=_text(comment),
            request_id=_text(receipt.request_id),
            pair_id=_text(receipt.pair_id),
            source_sha256=receipt.source_sha256,
            edited_sha256=receipt.edited_sha256,
            instruction=_text(receipt.instruction),
            critic_score=receipt.score,
            critic_status=receipt.status,
            mode=receipt.mode,
            model=receipt.model,
            version=receipt.version,
            contract=receipt.contract,
            scored_at=receipt.scored_at.astimezone(UTC),
        )
        with self._named(), Session(self._engine, expire_on_commit=False) as session:
            session.add(rating)
            session.commit()
        return rating.id

    def rows(self, since_id: int = 0) -> Iterator[Rating]:
        """All ratings of an id above `since_id`, by id, a thousand in memory at a time.

        Where several writers add at a time, as in Postgres, a lower id may appear after a higher one.

        Raises:
            FeedbackError: they can't be read.
        """
        with self._named(), Session(self._engine) as session:
            wanted = select(Rating).where(Rating.id > since_id).order_by(Rating.id)
            yield from session.scalars(wanted.execution_options(yield_per=1000))

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()

    def _prepare(self, sqlite: bool) -> None:
        with self._engine.begin() as connection:
            if sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # while others wait
            if not inspect(connection).has_table(Rating.__tablename__):
                _Table.metadata.create_all(connection)
                connection.execute(insert(_Schema).values(number=SCHEMA))
            named = inspect(connection).has_table(_Schema.__tablename__)
            number = connection.scalar(select(_Schema.number)) if named else None
            if number != SCHEMA:
                raise FeedbackError(
                    f"{self._shown} has ratings of schema {number}, and this release writes {SCHEMA}: choose "
                    "another database by CRITIC_FEEDBACK_URL, or the release that made this one"
                )

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors get the database's name, and lose the values that they were about."""
        try:
            yield
        except (SQLAlchemyError, ImportError) as error:
            reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
            raise FeedbackError(
                f"{self._shown} can't be used: {reason}. Look at CRITIC_FEEDBACK_URL, at its server or the rights "
                "and room of its folder, and whether its driver is installed"
            ) from None


def _make_durable(connection: sqlite3.Connection, _: Any) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:  # when several begin a file, SQLite itself doesn't wait
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")

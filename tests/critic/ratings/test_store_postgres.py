"""The feedback store on a real PostgreSQL: many clients, and a server that is killed under their load."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import postgres
import pytest
from test_store import RECEIPT, vote

from critic.ratings.store import Feedback, FeedbackError

CLIENTS = 64

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Postgres]:
    with TemporaryDirectory(prefix="postgres-") as folder:  # its user can't enter pytest's folders
        Path(folder).chmod(0o755)
        with postgres.serve(Path(folder) / "server") as server:
            yield server


def test_each_of_many_clients_finds_its_rating(server: postgres.Postgres) -> None:
    with closing(Feedback(server.url)) as feedback:

        def rate(client: int) -> list[int]:
            return [feedback.add(RECEIPT, f"rater-{client}", 1 + number) for number in range(5)]

        with ThreadPoolExecutor(CLIENTS) as pool:
            ids = [id for of_client in pool.map(rate, range(CLIENTS)) for id in of_client]
        rows = {rating.id: rating for rating in feedback.rows()}
    assert len({*ids}) == len(rows) == 5 * CLIENTS
    for place, id in enumerate(ids):
        assert (rows[id].rater, rows[id].score) == (f"rater-{place // 5}", 1 + place % 5)


def test_a_ballot_that_many_clients_send_at_a_time_is_one_vote(server: postgres.Postgres) -> None:
    with closing(Feedback(server.url)) as feedback, feedback._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE votes")
    with closing(Feedback(server.url)) as feedback, ThreadPoolExecutor(CLIENTS) as pool:
        ids = [*pool.map(lambda _: feedback.add_vote(vote("tie")), range(CLIENTS))]
        assert len({*ids}) == 1 and [stored.id for stored in feedback.votes()] == ids[:1]
        assert feedback.count_voters("ann") == ({"p": 1}, {"p"})


def test_what_was_acknowledged_survives_kills_of_the_server_under_load(server: postgres.Postgres) -> None:
    acknowledged: dict[int, str] = {}
    over = threading.Event()
    with closing(Feedback(server.url)) as feedback:

        def rate(client: int) -> int:
            """Adds ratings until it is over; returns how many failed."""
            failures = 0
            while not over.is_set():
                try:
                    comment = f"{client}-{time.monotonic_ns()}"
                    acknowledged[feedback.add(RECEIPT, f"kill-{client}", 3, comment)] = comment
                except FeedbackError:
                    failures += 1
                    time.sleep(0.05)
            return failures

        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(rate, client) for client in range(CLIENTS)]
            try:
                for _ in range(3):
                    time.sleep(1)
                    server.kill()
                    server.start()
                after_last_start = len(acknowledged)
                time.sleep(1)
            finally:
                over.set()
            failed = sum(client.result() for client in clients)
        rows = {rating.id: rating.comment for rating in feedback.rows() if rating.rater.startswith("kill-")}
    assert failed > 0, "no client met the kill"
    assert len(acknowledged) > after_last_start > 0, "clients go on when the server is back"
    assert acknowledged.items() <= rows.items()


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(FeedbackError, match=r"postgresql\+psycopg://ann:\*\*\*@127.0.0.1:1/ratings can't be used"):
        Feedback("postgresql+psycopg://ann:secret@127.0.0.1:1/ratings?connect_timeout=2")

"""Requests beyond the limit are refused at once, and each request frees its room in the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.service.concurrency import ConcurrencyLimiter
from critic.service.errors import Refused


def test_a_request_that_fits_is_admitted_and_frees_its_room() -> None:
    limiter = ConcurrencyLimiter(concurrency=2, queue=1)
    with limiter.admit(2), limiter.admit(1):
        assert limiter.pending == 3
    assert limiter.pending == 0


def test_a_request_that_doesnt_fit_now_is_refused_with_a_retry_after() -> None:
    limiter = ConcurrencyLimiter(concurrency=2, queue=1)
    with limiter.admit(2):
        with pytest.raises(Refused) as refused, limiter.admit(2):
            pass
        assert (refused.value.status, refused.value.code) == (429, "busy")
        assert refused.value.retry_after is not None and 1 <= refused.value.retry_after <= 60
        assert limiter.pending == 2


def test_a_request_above_the_limit_is_refused_without_a_retry_after() -> None:
    limiter = ConcurrencyLimiter(concurrency=2, queue=1)
    with pytest.raises(Refused, match="needs 4 answers, the limit is 3") as refused, limiter.admit(4):
        pass
    assert (refused.value.status, refused.value.retry_after) == (413, None)


def test_a_failed_request_frees_its_room() -> None:
    limiter = ConcurrencyLimiter(concurrency=1, queue=1)
    with pytest.raises(RuntimeError), limiter.admit(1):
        raise RuntimeError
    assert limiter.pending == 0


def test_the_wait_grows_with_pending_answers_and_with_their_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("critic.service.concurrency.monotonic", lambda: clock)
    limiter = ConcurrencyLimiter(concurrency=4, queue=1000)
    assert limiter.wait() == 1
    with limiter.admit(40):
        assert limiter.wait() == 5  # ten rounds of a second each, half of them
        clock = 410.0
    with limiter.admit(40):
        assert limiter.wait() == 25  # now of five seconds: a tenth of the way from 1 to the 41 that each took
    with limiter.admit(1000):
        assert limiter.wait() == 60


@given(st.lists(st.integers(-6, 6)))
def test_pending_is_the_admitted_answers_and_never_over_the_limit(changes: list[int]) -> None:
    """A positive change is a request for that many answers; for a negative one an earlier request ends."""
    limiter, rooms = ConcurrencyLimiter(concurrency=3, queue=4), []
    for change in changes:
        if change > 0:
            room = limiter.admit(change)
            try:
                room.__enter__()
                rooms.append((change, room))
            except Refused:
                assert sum(answers for answers, _ in rooms) + change > 7
        elif rooms:
            _, room = rooms.pop(change % len(rooms))
            room.__exit__(None, None, None)
        assert limiter.pending == sum(answers for answers, _ in rooms) <= 7
    for _, room in rooms:
        room.__exit__(None, None, None)
    assert limiter.pending == 0

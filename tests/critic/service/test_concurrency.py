"""More answers than can be held are refused at once, and room that was taken is always given back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.service.concurrency import Admission
from critic.service.errors import Refused


def test_what_fits_is_let_in_and_its_room_is_free_again() -> None:
    admission = Admission(at_a_time=2, waiting=1)
    with admission.admit(2), admission.admit(1):
        assert admission.pending == 3
    assert admission.pending == 0


def test_more_than_fits_now_is_told_when_to_come_again() -> None:
    admission = Admission(at_a_time=2, waiting=1)
    with admission.admit(2):
        with pytest.raises(Refused) as refused, admission.admit(2):
            pass
        assert (refused.value.status, refused.value.code) == (429, "busy")
        assert refused.value.retry_after is not None and 1 <= refused.value.retry_after <= 60
        assert admission.pending == 2


def test_more_than_ever_fits_is_told_to_send_fewer() -> None:
    admission = Admission(at_a_time=2, waiting=1)
    with pytest.raises(Refused, match="4 answers in a request, of 3 at most") as refused, admission.admit(4):
        pass
    assert (refused.value.status, refused.value.retry_after) == (413, None)


def test_room_is_given_back_after_a_failure() -> None:
    admission = Admission(at_a_time=1, waiting=1)
    with pytest.raises(RuntimeError), admission.admit(1):
        raise RuntimeError
    assert admission.pending == 0


def test_the_wait_grows_with_what_is_pending_and_with_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("critic.service.concurrency.monotonic", lambda: clock)
    admission = Admission(at_a_time=4, waiting=1000)
    assert admission.wait() == 1
    with admission.admit(40):
        assert admission.wait() == 5  # ten rounds of a second each, half of them
        clock = 41.0
    with admission.admit(40):
        assert admission.wait() == 25  # now of five seconds: a tenth of the way from 1 to 41
    with admission.admit(1000):
        assert admission.wait() == 60


@given(st.lists(st.integers(-6, 6)))
def test_pending_is_what_was_let_in_and_never_over_the_bound(changes: list[int]) -> None:
    """A number above 0 asks for so many answers; below, the request that came so many places ago ends."""
    admission, rooms = Admission(at_a_time=3, waiting=4), []
    for change in changes:
        if change > 0:
            room = admission.admit(change)
            try:
                room.__enter__()
                rooms.append((change, room))
            except Refused:
                assert sum(answers for answers, _ in rooms) + change > 7
        elif rooms:
            _, room = rooms.pop(change % len(rooms))
            room.__exit__(None, None, None)
        assert admission.pending == sum(answers for answers, _ in rooms) <= 7
    for _, room in rooms:
        room.__exit__(None, None, None)
    assert admission.pending == 0

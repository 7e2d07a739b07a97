"""How many answers may be written and waited for at a time; more are told when to come again."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from time import monotonic

from critic.service.errors import Refused
from critic.service.monitoring import PENDING

_NEWEST = 0.1
"""Weight of the newest answer in the running mean of the seconds that one takes."""


class Admission:
    """Counts answers from when they are asked for until they are given.

    Attributes:
        pending: answers being written or waiting.
    """

    def __init__(self, at_a_time: int, waiting: int):
        self._at_a_time, self._most = at_a_time, at_a_time + waiting
        self.pending = 0
        self._seconds = 1.0

    @contextmanager
    def admit(self, answers: int) -> Iterator[None]:
        """Room for so many answers.

        Raises:
            Refused: 429, with the seconds until there should be room; 413 if there never will be.
        """
        if answers > self._most:
            raise Refused(
                413, "too_many_answers", f"{answers} answers in a request, of {self._most} at most: send fewer"
            )
        if self.pending + answers > self._most:
            raise Refused(
                429,
                "busy",
                f"{self.pending} answers are being written or waited for: come again later",
                retry_after=self.wait(),
            )
        self.pending += answers
        PENDING.inc(answers)
        begun = monotonic()
        try:
            yield
        finally:
            self.pending -= answers
            PENDING.dec(answers)
            self._seconds += _NEWEST * (monotonic() - begun - self._seconds)

    def wait(self) -> int:
        """Whole seconds after which about half of what is pending should be done."""
        rounds = self.pending / self._at_a_time
        return max(1, min(60, ceil(self._seconds * rounds / 2)))

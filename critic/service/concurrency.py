"""The limit on pending answers: requests beyond it are refused with a Retry-After."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from time import monotonic

from critic.service.errors import Refused
from critic.service.monitoring import PENDING

_NEWEST_WEIGHT = 0.1
"""Weight of the newest request in the running mean of a round's seconds."""


class ConcurrencyLimiter:
    """Counts the pending answers, from the request to the response."""

    def __init__(self, concurrency: int, queue: int):
        self._concurrency, self._limit = concurrency, concurrency + queue
        self.pending = 0
        self._seconds = 1.0

    @contextmanager
    def admit(self, answers: int) -> Iterator[None]:
        """Count a request's answers as pending during a `with` block.

        Raises `Refused`: 429, no room now, with the seconds until there should be; 413, more than the limit.
        """
        limit = f"the limit is {self._limit}"
        if answers > self._limit:
            message = f"the request needs {answers} answers, {limit}: send fewer edits"
            raise Refused(413, "too_many_answers", message)
        if self.pending + answers > self._limit:
            message = f"{self.pending} answers are pending, {limit}: try again later"
            raise Refused(429, "busy", message, retry_after=self.wait())
        self.pending += answers
        PENDING.inc(answers)
        started, rounds = monotonic(), max(1.0, self._rounds())
        try:
            yield
        finally:
            self.pending -= answers
            PENDING.dec(answers)
            self._seconds += _NEWEST_WEIGHT * ((monotonic() - started) / rounds - self._seconds)

    def wait(self) -> int:
        """Whole seconds, 1..60, after which about half of the pending answers should be done."""
        return max(1, min(60, ceil(self._seconds * self._rounds() / 2)))

    def _rounds(self) -> float:
        """Pending answers by those that are generated at a time: a request lasts as many rounds."""
        return self.pending / self._concurrency

"""Why the client has no answer of the service: one exception for each kind of failure."""

from critic.client.schemas import Problem
from critic.results import Failure


class CriticError(RuntimeError):
    """The service gave no answer; the message says why. A batch gives the edit the status `failure`."""

    failure: Failure


class BadInput(CriticError, ValueError):
    """A picture can't be read, or the instruction is empty. Nothing was sent."""

    failure = Failure.BAD_INPUT


class Refused(CriticError):
    """The service says that the request is wrong or not allowed.

    `status` is the HTTP status, 4xx; for `code` and `request_id` see `critic.client.schemas.Problem`.
    """

    failure = Failure.REFUSED

    def __init__(self, status: int, problem: Problem):
        super().__init__(f"{status} {problem.code}: {problem.message}")
        self.status, self.code, self.request_id = status, problem.code, problem.request_id


class Unavailable(CriticError):
    """The service couldn't be reached, was too busy or failed, also when the request was retried."""

    def __init__(self, failure: Failure, message: str):
        super().__init__(message)
        self.failure = failure


class BadReply(CriticError):
    """The reply isn't what this version of the service sends."""

    failure = Failure.GARBLED

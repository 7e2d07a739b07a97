"""What scoring one edit ended in: a score, or the named reason for having none.

    verdict.score, verdict.status, verdict.spread
    line = verdict.to_json()                 # what `critic score` writes
    Result.from_json(line) == verdict       # but for the latency, which isn't kept

A `critic.answers.Critique` is one response read; a verdict is what one or several of them, and the requests behind
them, come to.
"""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Literal, Self, get_args

Mode = Literal["greedy", "direct", "average", "expected"]
"""How an edit is scored, see `critic.scoring.scorer`."""
MODES: tuple[Mode, ...] = get_args(Mode)


class Failure(StrEnum):
    """Why there is no response to read. Responses that can't be read have a `critic.answers.Status`."""

    BAD_INPUT = "bad_input"
    """The edit itself: a missing or broken image, an empty instruction."""
    TOO_LONG = "too_long"
    """Prompt, pictures and answer together exceed what the model can hold."""
    UNREACHABLE = "unreachable"
    """No connection, or one that broke."""
    TIMED_OUT = "timed_out"
    """No answer within the time that was given."""
    REFUSED = "refused"
    """The server says that the request is wrong or not allowed (HTTP 4xx)."""
    SERVER_ERROR = "server_error"
    """The server failed (HTTP 5xx, or 429 for too long)."""
    GARBLED = "garbled"
    """The server's reply isn't what its protocol says."""


@dataclass(frozen=True)
class Result:
    """One scored edit.

    Attributes:
        id: of the edit.
        score: 1..5, or None unless `status` is "ok". Of several samples, their mean; in mode "expected", the mean
            of the answer's distribution.
        status: "ok", another `critic.answers.Status`, or a `Failure`.
        detail: what exactly failed, for people; "" if nothing did.
        mode: a `Mode`, or that of another judge.
        argmax: the score of the greedy response, 1..5; None where there is none.
        spread: standard deviation in points of MOS, of the samples' scores or of the answer's distribution; None
            where neither was asked for.
        samples: the score of each sample, None for one that failed; empty but in mode "average".
        sub_scores: "alignment", "fidelity", "quality", each 1..5, those that the reasoning states.
        reasoning: the text inside `<think>`.
        raw: the response as it came, the prefill included.
        prompt_tokens, tokens: read, placeholders of pictures included, and written, over all requests.
        model: which weights: "sha256:<hash>" of a folder, "<name>@<commit>" on the hub, or the server's name.
        contract: SHA-256 of the prompt contract.
        latency: seconds from asking to the verdict, shared by the edits of one batch; not kept by `to_json`, so
            that scoring twice gives the same bytes.
    """

    id: str
    score: float | None
    status: str
    detail: str = ""
    mode: str = "greedy"
    argmax: float | None = None
    spread: float | None = None
    samples: list[float | None] = field(default_factory=list)
    sub_scores: dict[str, float] = field(default_factory=dict)
    reasoning: str = ""
    raw: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    model: str = ""
    contract: str = ""
    latency: float | None = field(default=None, compare=False)

    @property
    def ok(self) -> bool:
        """Whether there is a score."""
        return self.score is not None

    def to_json(self) -> str:
        """One line of JSON, without the latency."""
        fields = asdict(self)
        del fields["latency"]
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The verdict of a line.

        Raises:
            ValueError: the line is no whole verdict.
        """
        try:
            return cls(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a verdict: {error}") from error

"""What scoring one edit ended in: a score, or the named reason why there is none.

    result.score, result.status, result.spread
    line = result.to_json()                 # what `critic score` writes
    Result.from_json(line) == result        # except the latency, which isn't written

A `critic.answers.Critique` is one response that was read. A result combines the responses, or failed requests, of
one edit.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, Self, TypeVar, get_args

Mode = Literal["greedy", "direct", "average", "expected"]
"""How an edit is scored, see `critic.scoring.scorer`."""
MODES: tuple[Mode, ...] = get_args(Mode)


class Failure(StrEnum):
    """Why there is no response to read. A response that can't be read has a `critic.answers.Status`."""

    BAD_INPUT = "bad_input"
    """The edit itself: a missing or broken image, an empty instruction."""
    TOO_LONG = "too_long"
    """Prompt, pictures and answer together exceed the model's context."""
    UNREACHABLE = "unreachable"
    """No connection, or one that broke."""
    TIMED_OUT = "timed_out"
    """No answer before the timeout."""
    REFUSED = "refused"
    """The request is wrong or not allowed (HTTP 4xx), or a content filter withheld the answer."""
    SERVER_ERROR = "server_error"
    """The server failed (HTTP 5xx, or 429 after all retries)."""
    GARBLED = "garbled"
    """The server's reply doesn't follow its protocol."""


@dataclass(frozen=True)
class Result:
    """One scored edit.

    Attributes:
        id: the edit's.
        score: 1..5, or None unless `status` is "ok". The mean of several samples; in mode "expected", the mean of
            the answer's distribution.
        status: "ok", another `critic.answers.Status`, or a `Failure`.
        detail: what exactly failed, for people; "" if nothing did.
        mode: a `Mode`, or "judge" for another judge than the critic.
        argmax: the score of the greedy response, 1..5; None if there is none.
        spread: std, in points of MOS, of the samples' scores or of the answer's distribution; None if neither was
            asked for.
        samples: the score of each sample, None for one that failed; empty except in mode "average".
        sub_scores: "alignment", "fidelity" and "quality", each 1..5, as far as the reasoning states them.
        reasoning: the text inside `<think>`.
        raw: the response with the prefill.
        prompt_tokens, tokens: tokens read (those of pictures included) and generated, over all requests.
        model: the weights: "sha256:<hash>" of a folder, "<name>@<commit>" on the hub, or the server's name.
        contract: SHA-256 of the prompt contract.
        latency: seconds from request to result, shared by the edits of one batch; left out by `to_json`, so that
            scoring twice gives the same bytes.
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
        """The result in a line; a `ValueError` if it is not a complete one."""
        try:
            return cls(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a result: {error}") from error


@dataclass(frozen=True)
class BadPair:
    """A row that can't be scored, and what is wrong with it."""

    id: str
    detail: str


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


_Edit = TypeVar("_Edit", bound=_Identified)


def score_batch(
    batch: Sequence[_Edit | BadPair], judge: Callable[[Sequence[_Edit]], list[Result]]
) -> list[Result]:
    """The results of a batch, in its order; a `BadPair` becomes one with `Failure.BAD_INPUT`.

    Raises:
        RuntimeError: the judge didn't give one result for each edit, in order.
    """
    edits = [pair for pair in batch if not isinstance(pair, BadPair)]
    results = judge(edits) if edits else []
    if [result.id for result in results] != [edit.id for edit in edits]:
        raise RuntimeError(f"the judge gave {len(results)} results for {len(edits)} edits, or in another order")
    coming = iter(results)
    return [
        Result(id=pair.id, score=None, status=Failure.BAD_INPUT, detail=pair.detail)
        if isinstance(pair, BadPair)
        else next(coming)
        for pair in batch
    ]

"""Compare engines: the same edits, scored by transformers, by vLLM in process and by vLLM behind HTTP.

All decode greedily, so they should generate the same text. Kernels that add in a different order may break a tie
of two tokens differently, so each difference has a gap: the nats by which the reference engine preferred its own
token where the two texts diverge.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from critic.edits import Edit
from critic.engines.base import Completion, Engine, Failed, Request, Sampling
from critic.prompts import Contract
from critic.scoring.scorer import read_response

MIN_SAME_TEXT, MIN_SAME_SCORE = 0.99, 0.995
"""The shares of edits that must get the same text, and the same score, from two engines."""

Outcome = Completion | Failed
_PARTIAL_WORD = re.compile(r" ?[^\W\d_]*\Z")
"""If the texts diverge within a word, the tokens diverge at its start, with the space before it."""


@dataclass(frozen=True)
class Difference:
    """An edit for which two engines generated different texts.

    Attributes:
        scores: 1..5 each, None for a response without a score.
        gap: nats by which the reference engine preferred its own token to the next likeliest one where the texts
            diverge; None if it is unknown.
    """

    id: str
    reference: str
    other: str
    scores: tuple[float | None, float | None]
    gap: float | None


@dataclass(frozen=True)
class Parity:
    """One way of running the critic, compared with the reference."""

    name: str
    edits: int
    differences: list[Difference]

    @property
    def same_text(self) -> float:
        """Share of edits with the same text, 0..1."""
        return 1 - len(self.differences) / self.edits

    @property
    def same_score(self) -> float:
        """Share of edits with the same score, or with none from both, 0..1."""
        return 1 - sum(a != b for a, b in (d.scores for d in self.differences)) / self.edits

    @property
    def largest(self) -> float:
        """The largest difference between the two scores of an edit, in points."""
        pairs = [d.scores for d in self.differences]
        return max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)

    @property
    def ok(self) -> bool:
        """Whether it is within `MIN_SAME_TEXT` and `MIN_SAME_SCORE`."""
        return self.same_text >= MIN_SAME_TEXT and self.same_score >= MIN_SAME_SCORE


def mixed_sizes(edits: Sequence[Edit]) -> Iterator[Edit]:
    """The edits, with one picture squeezed in two of three, so that sizes differ within and between edits."""
    for number, edit in enumerate(edits):
        if number % 3 == 1:
            source, _ = edit.pair
            yield replace(edit, source=source.resize((max(28, source.width * 2 // 3), source.height)))
        elif number % 3 == 2:
            width, height = edit.edited.size
            yield replace(edit, edited=edit.edited.resize((width, max(28, height * 3 // 4))))
        else:
            yield edit


def in_batches(engine: Engine, requests: Sequence[Request], size: int) -> list[Outcome]:
    return [
        outcome
        for start in range(0, len(requests), size)
        for outcome in engine.complete(requests[start : start + size])
    ]


def shuffled(engine: Engine, requests: Sequence[Request], size: int) -> list[Outcome]:
    """Complete requests in a random order, `size` at a time; outcomes have the order of `requests`."""
    order = random.Random(0).sample(range(len(requests)), len(requests))
    outcomes = in_batches(engine, [requests[number] for number in order], size)
    placed = dict(zip(order, outcomes, strict=True))
    return [placed[number] for number in range(len(requests))]


def compare_outcomes(
    name: str,
    ids: Sequence[str],
    requests: Sequence[Request],
    reference: Sequence[Outcome],
    others: Sequence[Outcome],
    engine: Engine,
    contract: Contract,
) -> Parity:
    """Compare two engines' outcomes of the same requests.

    Args:
        reference: the outcomes of `engine`, which must give log-probabilities.
    """
    differences = [
        Difference(
            id,
            _text(one),
            _text(other),
            (_score(one, contract), _score(other, contract)),
            _gap(engine, asked, one, other),
        )
        for id, asked, one, other in zip(ids, requests, reference, others, strict=True)
        if _text(one) != _text(other)
    ]
    return Parity(name, len(ids), differences)


def _text(outcome: Outcome) -> str:
    if isinstance(outcome, Failed):
        return f"[{outcome.status}: {outcome.detail}]"
    return outcome.text if outcome.finished else f"{outcome.text} [cut off]"


def _score(outcome: Outcome, contract: Contract) -> float | None:
    return None if isinstance(outcome, Failed) else read_response(outcome, contract.prefill).score


def _gap(engine: Engine, asked: Request, one: Outcome, other: Outcome) -> float | None:
    if isinstance(one, Failed) or isinstance(other, Failed):
        return None
    diverged = next(
        (n for n, (a, b) in enumerate(zip(one.text, other.text, strict=False)) if a != b),
        min(len(one.text), len(other.text)),
    )
    shared = _PARTIAL_WORD.sub("", one.text[:diverged])
    before = replace(asked, prompt=asked.prompt + shared)
    (outcome,) = engine.complete([before], Sampling(max_tokens=1, top_logprobs=2))
    if isinstance(outcome, Failed):
        return None
    likely = sorted(outcome.logprobs.values(), reverse=True)
    return likely[0] - likely[1] if len(likely) == 2 else None

"""Do the engines agree? The same edits, scored by transformers, vLLM in process and vLLM behind HTTP.

    reference = in_batches(transformers, requests, 32)
    result = compare("vLLM", ids, requests, reference, in_batches(vllm, requests, 32), transformers, contract)
    result.same_text, result.same_score, result.differences

All decode greedily, so they should write the same; kernels that add in another order may break a tie of two tokens
otherwise. Each difference is therefore told with how near a tie it was: by how many nats the reference engine
preferred its own token where the two texts part.
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
"""What share of edits must get the same text, and the same score, from two engines."""

Outcome = Completion | Failed
_WORD_BEGUN = re.compile(r" ?[^\W\d_]*\Z")
"""Where the texts part within a word, the tokens part at its start, the blank before it included."""


@dataclass(frozen=True)
class Difference:
    """An edit that two engines didn't write the same about.

    Attributes:
        id: of the edit.
        reference, other: what each wrote.
        scores: 1..5 each, None for a response without.
        gap: nats by which the reference engine preferred its own token to the likeliest other one where the texts
            part; None where that can't be told.
    """

    id: str
    reference: str
    other: str
    scores: tuple[float | None, float | None]
    gap: float | None


@dataclass(frozen=True)
class Parity:
    """How one way of running the critic compares with the reference."""

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
        """The largest distance between two scores of an edit, in points."""
        pairs = [d.scores for d in self.differences]
        return max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)

    @property
    def ok(self) -> bool:
        """Whether it is within `MIN_SAME_TEXT` and `MIN_SAME_SCORE`."""
        return self.same_text >= MIN_SAME_TEXT and self.same_score >= MIN_SAME_SCORE


def mixed_sizes(edits: Sequence[Edit]) -> Iterator[Edit]:
    """The edits, of two in three one picture squeezed, so that sizes differ within edits and between them."""
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
    """Complete requests, `size` at a time."""
    return [
        outcome
        for start in range(0, len(requests), size)
        for outcome in engine.complete(requests[start : start + size])
    ]


def shuffled(engine: Engine, requests: Sequence[Request], size: int) -> list[Outcome]:
    """Complete requests in another order, `size` at a time; outcomes come in the order of `requests`."""
    order = random.Random(0).sample(range(len(requests)), len(requests))
    outcomes = in_batches(engine, [requests[number] for number in order], size)
    placed = dict(zip(order, outcomes, strict=True))
    return [placed[number] for number in range(len(requests))]


def compare(
    name: str,
    ids: Sequence[str],
    requests: Sequence[Request],
    reference: Sequence[Outcome],
    others: Sequence[Outcome],
    engine: Engine,
    contract: Contract,
) -> Parity:
    """What differs between two engines' outcomes of the same requests.

    Args:
        reference: the outcomes of `engine`, which must be able to tell first tokens' probabilities.
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
    parted = next(
        (n for n, (a, b) in enumerate(zip(one.text, other.text, strict=False)) if a != b),
        min(len(one.text), len(other.text)),
    )
    shared = _WORD_BEGUN.sub("", one.text[:parted])
    before = replace(asked, prompt=asked.prompt + shared)
    (outcome,) = engine.complete([before], Sampling(max_tokens=1, top_logprobs=2))
    if isinstance(outcome, Failed):
        return None
    likely = sorted(outcome.logprobs.values(), reverse=True)
    return likely[0] - likely[1] if len(likely) == 2 else None

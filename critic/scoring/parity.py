"""Compare engines: the same edits, scored by transformers, by vLLM in process and by vLLM behind HTTP.

All decode greedily, so they should generate the same text. Kernels that add in a different order may break a tie
of two tokens differently, so each difference has a gap: the nats by which the reference engine preferred its own
token where the two texts diverge.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, cast

import torch
from tqdm import tqdm

from critic.edits import Edit
from critic.engines.base import Completion, Engine, Failed, Request, Sampling, request
from critic.engines.load import contract_of, open_engine
from critic.engines.server import vllm_server
from critic.engines.vllm import VllmEngine
from critic.prompts import Contract
from critic.scoring.inputs import read_pairs
from critic.scoring.scorer import read_response
from critic.tables import TableError

MIN_SAME_TEXT, MIN_SAME_SCORE = 0.99, 0.995
"""The shares of edits that must get the same text, and the same score, from two engines."""

Outcome = Completion | Failed
_SHARE = 0.4
"""The share of a GPU's memory for each vLLM; the model in transformers needs the rest."""
_PARTIAL_WORD = re.compile(r" ?[^\W\d_]*\Z")
"""If the texts diverge within a word, the tokens diverge at its start, with the space before it."""


@dataclass(frozen=True)
class Difference:
    """An edit for which two engines generated different texts; a response without a score (1..5) has None.

    `gap` is the nats by which the reference engine preferred its own token to the next likeliest one where the
    texts diverge; None if it is unknown.
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


def mixed_sizes(edits: Sequence[Edit], least: int) -> Iterator[Edit]:
    """The edits, with one picture squeezed in two of three, so that sizes differ within and between edits.

    No side is squeezed below `least` pixels.
    """
    for number, edit in enumerate(edits):
        if number % 3 == 1:
            source, _ = edit.pair
            yield replace(edit, source=source.resize((max(least, source.width * 2 // 3), source.height)))
        elif number % 3 == 2:
            width, height = edit.edited.size
            yield replace(edit, edited=edit.edited.resize((width, max(least, height * 3 // 4))))
        else:
            yield edit


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


def compare_engines(
    model: str,
    contract_name: str | None,
    pairs: Path,
    dtype: Literal["float32", "bfloat16"],
    limit: int,
    batch_size: int,
    max_tokens: int,
    log: Callable[[str], None],
) -> list[Parity]:
    """Compare each way of running a critic with its reference; `pairs` as in `critic score`, the first `limit`."""
    contract = contract_of(model, contract_name)
    table = replace(read_pairs(pairs), resize=contract.resize)
    whole = [pair for pair in islice(table, limit) if isinstance(pair, Edit)]
    if not whole:
        raise TableError(f"{pairs} has no edit that can be read: see its rows with `critic score`")
    edits = tqdm(mixed_sizes(whole, contract.pixel_unit), desc="reading pictures", unit=" edits", total=len(whole))
    requests = [request(contract, edit) for edit in edits]

    opened = partial(
        open_engine,
        contract=contract,
        max_tokens=max_tokens,
        dtype=dtype,
        batch_size=batch_size,
        gpu_memory_utilization=_SHARE if torch.cuda.is_available() else None,
    )
    local = opened("transformers", model)

    in_order = range(len(requests))
    shuffled = random.Random(0).sample(in_order, len(requests))

    def run(title: str, engine: Engine, size: int = batch_size, order: Sequence[int] = in_order) -> list[Outcome]:
        """The outcomes of the requests, which the engine gets in `order`, `size` at a time."""
        log(f"{title} ...")
        outcomes: dict[int, Outcome] = {}
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            outcomes |= zip(numbers, engine.complete([requests[number] for number in numbers]), strict=True)
        return [outcomes[number] for number in in_order]

    def against(name: str, reference: list[Outcome], others: list[Outcome]) -> Parity:
        differences = [
            Difference(
                edit.id,
                _text(one),
                _text(other),
                (_score(one, contract), _score(other, contract)),
                _gap(local, asked, one, other),
            )
            for edit, asked, one, other in zip(whole, requests, reference, others, strict=True)
            if _text(one) != _text(other)
        ]
        return Parity(name, len(whole), differences)

    by_local = run("transformers", local)
    results = [
        against("transformers, one at a time", by_local, run("one at a time", local, 1)),
        against("transformers, shuffled", by_local, run("shuffled", local, order=shuffled)),
    ]
    vllm = cast(VllmEngine, opened("vllm", model))
    by_vllm = run("vLLM", vllm)
    results += [
        against("vLLM against transformers", by_local, by_vllm),
        against("vLLM, one at a time", by_vllm, run("one at a time", vllm, 1)),
        against("vLLM, shuffled", by_vllm, run("shuffled", vllm, order=shuffled)),
    ]
    vllm.close()  # frees its memory for the server
    with vllm_server(
        model, dtype=dtype, batch_size=batch_size, gpu_memory_utilization=_SHARE, pixels=contract.pixels
    ) as address:
        by_server = run("vLLM behind HTTP", opened("http", address))
    results.append(against("HTTP against transformers", by_local, by_server))
    return results

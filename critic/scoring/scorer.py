r"""Scores of edits, by an engine, in one of four modes; every edit ends in a score or a named failure.

    scorer = Scorer(engine, contract, mode="expected")
    for verdict in scorer(edits):
        verdict.score, verdict.spread, verdict.status

greedy: the likeliest token at each place, so that the same edit scores the same each time.
direct: likewise, asked for a score without reasoning.
average: the mean of K samples at a temperature, and their standard deviation. A sample that fails counts for
    nothing; if half of them or more fail, the edit has no score, nor if one of them wasn't even answered. Samples
    of an edit are drawn by seeds made of `seed`, its id and their number, whatever else is scored with it.
expected: the greedy response, and then the mean of the answer that could stand in its place, see `Scorer.expect`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from math import exp, sqrt
from statistics import fmean, pstdev
from time import perf_counter

import pandas as pd
from tqdm import tqdm

from critic import prompts
from critic.answers import HIGHEST, LOWEST, Critique, Status, parse_critique
from critic.data.rationale_templates import AXES
from critic.edits import Edit
from critic.engines.base import GREEDY, Completion, Engine, Failed, Request, Sampling, request
from critic.prompts import Contract, ContractError
from critic.results import Failure, Mode, Result

_DIGITS = Sampling(max_tokens=1, top_logprobs=20)
_LEAST = 0.01
"""First digits less likely than this are left out of an expected score."""
_ANSWER = re.compile(r"<answer>\s*(?P<mark>[*_`]*)(?P<whole>[1-5])\.(?P<tenth>[0-9])?")
_SUB_SCORE = re.compile(
    rf"\b({'|'.join(AXES)})(?:\s+score)?(?:\s+is)?\s*[:=(]?\s*"
    r"([1-5]\.[0-9]+|[1-5](?=\s*(?:[.,;)]|$)))(?!\.?[0-9]|\s*(?:[/%]|of\b|out\b|to\b))",
    re.IGNORECASE | re.MULTILINE,
)
_FAILURES = {str(failure) for failure in Failure}


@dataclass(frozen=True)
class Scorer:
    """Scores edits, or generated pictures, with one engine under one contract.

    Attributes:
        samples, temperature: of mode "average".
        seed: of its samples.
        use_problem: take the data set's own prompt, see `Contract.messages`.
    """

    engine: Engine
    contract: Contract
    mode: Mode = "greedy"
    samples: int = 8
    temperature: float = 1.0
    seed: int = 0
    use_problem: bool = False

    def __call__(self, items: Sequence[Edit]) -> list[Result]:
        """One verdict an item, in order; the engine is given all of them at once.

        Raises:
            ContractError: the contract has no words for such items, or they lack the `problem` that is asked for.
        """
        begun = perf_counter()
        asked: dict[int, Request] = {}
        verdicts: dict[int, Result] = {}
        for number, item in enumerate(items):
            try:
                asked[number] = self._request(item)
            except _BadItem as error:
                verdicts[number] = Result(item.id, None, Failure.BAD_INPUT, str(error))
        scored = self._average if self.mode == "average" else self._greedy
        verdicts |= zip(asked, scored([items[n].id for n in asked], [*asked.values()]), strict=True)
        seconds = perf_counter() - begun
        return [
            replace(
                verdicts[number],
                mode=self.mode,
                model=self.engine.name,
                contract=self.contract.hash,
                latency=seconds,
            )
            for number in range(len(items))
        ]

    def _request(self, item: Edit) -> Request:
        what = "prompt" if item.source is None else "instruction"
        text: str = getattr(item, what)
        if not text.strip():
            raise _BadItem(f"the {what} is empty")
        try:
            text.encode()
            item = _resized(item, self.contract)
        except UnicodeEncodeError as error:
            raise _BadItem(f"the {what} is no text: {error}") from None
        except ContractError as error:
            raise _BadItem(str(error)) from None
        asked: prompts.Mode = "direct" if self.mode == "direct" else "reasoning"
        return request(self.contract, item, asked, use_problem=self.use_problem)

    def _greedy(self, ids: Sequence[str], requests: Sequence[Request]) -> list[Result]:
        outcomes = self.engine.complete(requests, GREEDY)
        verdicts = [self._read(id, outcome) for id, outcome in zip(ids, outcomes, strict=True)]
        return self.expect(requests, verdicts) if self.mode == "expected" else verdicts

    def _average(self, ids: Sequence[str], requests: Sequence[Request]) -> list[Result]:
        seeded = [
            replace(request, seed=_seed(self.seed, id, sample))
            for id, request in zip(ids, requests, strict=True)
            for sample in range(self.samples)
        ]
        outcomes = self.engine.complete(seeded, Sampling(temperature=self.temperature))
        return [
            _mean([self._read(id, outcome) for outcome in outcomes[number * self.samples :][: self.samples]])
            for number, id in enumerate(ids)
        ]

    def _read(self, id: str, outcome: Completion | Failed) -> Result:
        if isinstance(outcome, Failed):
            return Result(id, None, outcome.status, outcome.detail)
        critique = read_response(outcome, self.contract.prefill)
        return Result(
            id=id,
            score=critique.score,
            status=str(critique.status),
            detail="" if critique.status == Status.OK else explain(critique),
            argmax=critique.score,
            sub_scores=sub_scores(critique.reasoning),
            reasoning=critique.reasoning,
            raw=critique.raw,
            prompt_tokens=outcome.prompt_tokens,
            tokens=outcome.tokens,
        )

    def expect(self, requests: Sequence[Request], verdicts: Sequence[Result]) -> list[Result]:
        """The verdicts with the mean of the answer's distribution for a score, and its standard deviation.

        The reasoning stays the greedy one. A score like 3.75 is four tokens, so its distribution is a tree: at the
        place of its first digit the model gives a probability to each of 1 to 5, and after "3." to each tenth.
        With p the probabilities among digits alone (first digits under 0.01 left out), and h what the hundredths
        after the greedy answer's tenth come to (other tokens there count as 0), taken to be the same after all
        other tenths, which is off by 0.09 at most:

            E = p(5) 5 + sum over w in 1..4 of p(w) sum over t in 0..9 of p(t | w.) (w + t/10 + h)

        It takes up to six requests of one token an edit. A response with more than one answer, one that isn't
        written so ("4", "4/5"), or one in whose place no digit is among the 20 likeliest tokens keeps its greedy
        score and has no spread.
        """
        trees: dict[int, _Tree] = {}
        for number, verdict in enumerate(verdicts):
            answer = _ANSWER.search(verdict.raw)
            if verdict.ok and answer and answer["tenth"] and verdict.raw.count("<answer>") == 1:
                trees[number] = _Tree(verdict.raw, answer, requests[number], self.contract.prefill)
        for step in (_Tree.wholes, _Tree.tenths, _Tree.hundredths):
            asked = [(tree, text) for tree in trees.values() for text in step(tree)]
            outcomes = self.engine.complete([tree.request_after(text) for tree, text in asked], _DIGITS)
            for (tree, text), outcome in zip(asked, outcomes, strict=True):
                tree.learn(text, outcome)
        return [
            trees[number].judge(verdict) if number in trees else verdict for number, verdict in enumerate(verdicts)
        ]


class _BadItem(ValueError):
    """An item that can't be asked about, and why."""


def _resized(item: Edit, contract: Contract) -> Edit:
    source = None if item.source is None else contract.resize(item.source)
    return replace(item, source=source, edited=contract.resize(item.edited))


class _Tree:
    """The digits that could stand where a greedy response has its answer."""

    def __init__(self, raw: str, answer: re.Match[str], request: Request, prefill: str):
        self.begun, self.prefill = raw[len(prefill) : answer.start("whole")], prefill
        self.request, self.greedy = request, f"{answer['whole']}.{answer['tenth']}"
        self.after: dict[str, dict[int, float]] = {}
        self.failed: Failed | None = None
        self.read = self.written = 0

    def wholes(self) -> list[str]:
        return [""]

    def tenths(self) -> list[str]:
        return [f"{whole}." for whole in self.after.get("", {}) if whole < HIGHEST]

    def hundredths(self) -> list[str]:
        return [] if self.greedy.startswith("5") else [self.greedy]

    def request_after(self, text: str) -> Request:
        begun = self.begun + text
        turn = {"role": "assistant", "content": self.prefill + begun}
        return replace(self.request, prompt=self.request.prompt + begun, messages=[*self.request.messages, turn])

    def learn(self, text: str, outcome: Completion | Failed) -> None:
        """Keep what probabilities the digits have after a text: of whole numbers and tenths, 1 in all."""
        if isinstance(outcome, Failed):
            self.failed = outcome
            return
        self.read += outcome.prompt_tokens
        self.written += outcome.tokens
        digits = range(int(LOWEST), int(HIGHEST) + 1) if text == "" else range(10)
        likely = {digit: exp(outcome.logprobs[str(digit)]) for digit in digits if str(digit) in outcome.logprobs}
        if text == "":
            likely = {digit: p for digit, p in likely.items() if p >= _LEAST}
        total = sum(likely.values()) if text != self.greedy else 1.0
        self.after[text] = {digit: p / total for digit, p in likely.items()} if total > 0 else {}

    def judge(self, verdict: Result) -> Result:
        verdict = replace(
            verdict,
            prompt_tokens=verdict.prompt_tokens + self.read,
            tokens=verdict.tokens + self.written,
        )
        if self.failed is not None:
            return replace(verdict, score=None, status=self.failed.status, detail=self.failed.detail)
        h = sum(p * digit / 100 for digit, p in self.after.get(self.greedy, {}).items())
        scores: list[tuple[float, float]] = []
        for whole, p in self.after[""].items():
            if whole == HIGHEST:
                scores.append((p, HIGHEST))
            else:
                tenths = self.after[f"{whole}."]
                scores += [(p * q, whole + tenth / 10 + h) for tenth, q in tenths.items()]
        total = sum(p for p, _ in scores)
        if total == 0:
            return verdict
        mean = sum(p * score for p, score in scores) / total
        variance = sum(p * (score - mean) ** 2 for p, score in scores) / total
        return replace(verdict, score=min(HIGHEST, mean), spread=sqrt(variance))


def predict(
    scorer: Scorer, items: Iterable[Edit], *, total: int, batch_size: int, title: str = "scoring"
) -> pd.DataFrame:
    """Score `total` items, `batch_size` at a time, without having all their pictures in memory.

    Returns:
        One row an item: id, score (1..5, null if there is none), status, reasoning, response (the prefill
        included), tokens (of the completion).
    """
    names = {"id": "id", "score": "score", "status": "status", "reasoning": "reasoning", "raw": "response"}
    rows = []
    remaining = iter(items)
    with tqdm(total=total, desc=title, unit=" edits", mininterval=2) as bar:
        while batch := list(islice(remaining, batch_size)):
            for verdict in scorer(batch):
                row = {column: getattr(verdict, name) for name, column in names.items()}
                rows.append(row | {"tokens": verdict.tokens})
            bar.update(len(batch))
    table = pd.DataFrame(rows, columns=[*names.values(), "tokens"])
    return table.astype({"score": "Float64", "status": "str"})


def read_response(completion: Completion, prefill: str) -> Critique:
    """The critique in a completion, to which the prefill that the prompt ended in is put back.

    A server whose chat template has no prefill lets the model write `<think>` itself; then it is there already. If
    such a model doesn't reason at all, its answer can't be told from one inside reasoning, and doesn't count.
    """
    text = completion.text
    begun = bool(prefill) and text.lstrip().startswith(prefill)
    return parse_critique(text if begun else prefill + text, finished=completion.finished)


def explain(critique: Critique) -> str:
    """What is wrong with a response without a score, in words."""
    answer = f": {critique.answer!r:.80}" if critique.answer is not None else ""
    return {
        Status.EMPTY: "nothing was written",
        Status.NO_ANSWER: f"no complete <answer> outside the reasoning; it ends in {critique.raw[-60:]!r}",
        Status.TRUNCATED: "cut off at the token limit before an answer: allow more with --max-tokens",
        Status.NOT_A_NUMBER: f"the answer is no number{answer}",
        Status.OUT_OF_RANGE: f"the answer is outside {LOWEST:g} to {HIGHEST:g}{answer}",
        Status.AMBIGUOUS: "several answers that don't agree",
    }[critique.status]


def sub_scores(reasoning: str) -> dict[str, float]:
    """The scores that the reasoning states for alignment, fidelity and quality, 1..5: each axis' first.

    Only a number right after the axis counts ("alignment 4.5", "Fidelity: 4.", "quality score is 3.5"), and none
    that is a part of something else ("quality 4/10", "alignment 2 to 5").
    """
    found: dict[str, float] = {}
    for axis, number in _SUB_SCORE.findall(reasoning):
        if LOWEST <= float(number) <= HIGHEST:
            found.setdefault(axis.lower(), float(number))
    return found


def _mean(samples: Sequence[Result]) -> Result:
    """One verdict of several: it speaks with the words of the sample nearest to the mean."""
    scores = {number: sample.score for number, sample in enumerate(samples) if sample.score is not None}

    def all_in_one(sample: Result) -> Result:
        return replace(
            sample,
            samples=[sample.score for sample in samples],
            prompt_tokens=sum(sample.prompt_tokens for sample in samples),
            tokens=sum(sample.tokens for sample in samples),
            argmax=None,
        )

    if unanswered := [sample for sample in samples if sample.status in _FAILURES]:
        detail = f"{len(unanswered)} of {len(samples)} samples weren't answered: {unanswered[0].detail}"
        return replace(all_in_one(unanswered[0]), score=None, detail=detail)
    if 2 * len(scores) <= len(samples):
        failed = [sample for sample in samples if not sample.ok]
        ((commonest, _),) = Counter(sample.status for sample in failed).most_common(1)
        first = next(sample for sample in failed if sample.status == commonest)
        detail = f"{len(failed)} of {len(samples)} samples failed, most so: {first.detail}"
        return replace(all_in_one(first), detail=detail)
    mean = fmean(scores.values())
    nearest = min(scores, key=lambda number: abs(scores[number] - mean))
    return replace(all_in_one(samples[nearest]), score=mean, spread=pstdev(scores.values()))


def _seed(seed: int, id: str, sample: int) -> int:
    return int.from_bytes(sha256(f"{seed}/{id}/{sample}".encode()).digest()[:4])

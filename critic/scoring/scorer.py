r"""Score edits with an engine, in one of four modes; every edit ends in a score or a named failure.

    for result in Scorer(engine, contract, mode="expected")(edits): result.score, result.spread, result.status

greedy: greedy decoding, so that the same edit always gets the same score.
direct: the same, with a prompt that asks for no reasoning.
average: the mean and std of K samples at a temperature. A sample whose answer can't be read is left out. The edit
    has no score if half of the samples or more can't be read, or if the request of one fails. The seed of a sample
    depends on `seed`, the edit's id and the sample's number only, not on other edits.
expected: the greedy response, then the mean of the distribution of its answer, see `Scorer.expect`.
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
from critic.answers import AXES, HIGHEST, LOWEST, Critique, Status, parse_critique, sub_scores
from critic.edits import Edit
from critic.engines.base import GREEDY, Completion, Engine, Failed, Request, Sampling, request
from critic.prompts import Contract, ContractError
from critic.results import Failure, Mode, Result

_DIGITS = Sampling(max_tokens=1, top_logprobs=20)
_LEAST = 0.01
"""First digits with a lower probability are left out of an expected score."""
_ANSWER = re.compile(r"<answer>\s*(?P<mark>[*_`]*)(?P<whole>[1-5])\.(?P<tenth>[0-9])?")
_FAILURES = {str(failure) for failure in Failure}


@dataclass(frozen=True)
class Scorer:
    """Scores edits, or generated pictures, with one engine and one contract.

    `samples`, `temperature` and `seed` are for mode "average".
    """

    engine: Engine
    contract: Contract
    mode: Mode = "greedy"
    samples: int = 8
    temperature: float = 1.0
    seed: int = 0

    def __call__(self, items: Sequence[Edit]) -> list[Result]:
        """One result for each item, in order; the engine gets all requests at once.

        Raises:
            ContractError: the contract has no text for such items.
        """
        started = perf_counter()
        requests: dict[int, Request] = {}
        results: dict[int, Result] = {}
        for number, item in enumerate(items):
            try:
                requests[number] = self._request(item)
            except _BadItem as error:
                results[number] = Result(item.id, None, Failure.BAD_INPUT, str(error))
        score = self._average if self.mode == "average" else self._greedy
        results |= zip(requests, score([items[n].id for n in requests], [*requests.values()]), strict=True)
        seconds = perf_counter() - started
        return [
            replace(
                results[number],
                mode=self.mode,
                model=self.engine.name,
                contract=self.contract.hash,
                latency=seconds,
            )
            for number in range(len(items))
        ]

    def _request(self, item: Edit) -> Request:
        what = "prompt" if item.source is None else "instruction"
        if not item.instruction.strip():
            raise _BadItem(f"the {what} is empty")
        try:
            item.instruction.encode()
            source = None if item.source is None else self.contract.resize(item.source)
            item = replace(item, source=source, edited=self.contract.resize(item.edited))
        except UnicodeEncodeError as error:
            raise _BadItem(f"the {what} is not text: {error}") from None
        except ContractError as error:
            raise _BadItem(str(error)) from None
        prompt: prompts.Mode = "direct" if self.mode == "direct" else "reasoning"
        return request(self.contract, item, prompt)

    def _greedy(self, ids: Sequence[str], requests: Sequence[Request]) -> list[Result]:
        outcomes = self.engine.complete(requests, GREEDY)
        results = [self._read(id, outcome) for id, outcome in zip(ids, outcomes, strict=True)]
        return self.expect(requests, results) if self.mode == "expected" else results

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

    def expect(self, requests: Sequence[Request], results: Sequence[Result]) -> list[Result]:
        """Replace the scores of greedy results by the mean of the answer's distribution, and add its std.

        The reasoning stays the greedy one. A score like 3.75 is four tokens, so its distribution is a tree: the
        model gives a probability to each first digit, 1 to 5, and after "3." to each tenth. Let p be the
        probabilities, normalised over digits (first digits under 0.01 left out), and h the expected value of the
        hundredths after the greedy answer's tenth (tokens other than digits count as 0). h is used after all other
        tenths too, an error of at most 0.09:

            E = p(5) 5 + sum over w in 1..4 of p(w) sum over t in 0..9 of p(t | w.) (w + t/10 + h)

        This takes up to six requests of one token for each edit. A result keeps its greedy score and has no spread
        if the response has several answers, the answer isn't a decimal number ("4", "4/5"), or no digit is among
        the 20 likeliest tokens.
        """
        trees: dict[int, _Tree] = {}
        for number, result in enumerate(results):
            answer = _ANSWER.search(result.raw)
            if result.ok and answer and answer["tenth"] and result.raw.count("<answer>") == 1:
                trees[number] = _Tree(result.raw, answer, requests[number], self.contract.prefill)
        for step in (_Tree.wholes, _Tree.tenths, _Tree.hundredths):
            nodes = [(tree, text) for tree in trees.values() for text in step(tree)]
            outcomes = self.engine.complete([tree.request_after(text) for tree, text in nodes], _DIGITS)
            for (tree, text), outcome in zip(nodes, outcomes, strict=True):
                tree.add(text, outcome)
        return [
            trees[number].expect(result) if number in trees else result for number, result in enumerate(results)
        ]


class _BadItem(ValueError):
    """Why an item can't be scored."""


class _Tree:
    """The probabilities of the digits in the answer of a greedy response."""

    def __init__(self, raw: str, answer: re.Match[str], request: Request, prefill: str):
        self.before, self.prefill = raw[len(prefill) : answer.start("whole")], prefill
        self.request, self.greedy = request, f"{answer['whole']}.{answer['tenth']}"
        self.after: dict[str, dict[int, float]] = {}
        self.failed: Failed | None = None
        self.prompt_tokens = self.tokens = 0

    def wholes(self) -> list[str]:
        return [""]

    def tenths(self) -> list[str]:
        return [f"{whole}." for whole in self.after.get("", {}) if whole < HIGHEST]

    def hundredths(self) -> list[str]:
        return [] if self.greedy.startswith("5") else [self.greedy]

    def request_after(self, text: str) -> Request:
        written = self.before + text
        message = {"role": "assistant", "content": self.prefill + written}
        return replace(
            self.request, prompt=self.request.prompt + written, messages=[*self.request.messages, message]
        )

    def add(self, text: str, outcome: Completion | Failed) -> None:
        """Store the probabilities of the digits after a text; those of whole numbers and tenths sum to 1."""
        if isinstance(outcome, Failed):
            self.failed = outcome
            return
        self.prompt_tokens += outcome.prompt_tokens
        self.tokens += outcome.tokens
        digits = range(int(LOWEST), int(HIGHEST) + 1) if text == "" else range(10)
        likely = {digit: exp(outcome.logprobs[str(digit)]) for digit in digits if str(digit) in outcome.logprobs}
        if text == "":
            likely = {digit: p for digit, p in likely.items() if p >= _LEAST}
        total = sum(likely.values()) if text != self.greedy else 1.0
        self.after[text] = {digit: p / total for digit, p in likely.items()} if total > 0 else {}

    def expect(self, result: Result) -> Result:
        result = replace(
            result, prompt_tokens=result.prompt_tokens + self.prompt_tokens, tokens=result.tokens + self.tokens
        )
        if self.failed is not None:
            return replace(result, score=None, status=self.failed.status, detail=self.failed.detail)
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
            return result
        mean = sum(p * score for p, score in scores) / total
        variance = sum(p * (score - mean) ** 2 for p, score in scores) / total
        return replace(result, score=min(HIGHEST, mean), spread=sqrt(variance))


def predict(
    scorer: Scorer, items: Iterable[Edit], *, total: int, batch_size: int, title: str | None = "scoring"
) -> pd.DataFrame:
    """Score `total` items, `batch_size` at a time, so that not all pictures are in memory.

    Args:
        title: of the progress bar; None for none.

    Returns:
        One row for each item: id, score (1..5, null for a failure), status, reasoning, response (with the
        prefill), tokens (of the completion); and alignment, fidelity, quality: the sub-scores that the reasoning
        states, 1..5, null if it doesn't.
    """
    names = {name: name for name in ("id", "score", "status", "reasoning", "raw", "tokens")} | {"raw": "response"}
    rows = []
    remaining = iter(items)
    with tqdm(total=total, desc=title, unit=" edits", mininterval=2, disable=title is None) as bar:
        while batch := list(islice(remaining, batch_size)):
            for result in scorer(batch):
                row = {column: getattr(result, name) for name, column in names.items()}
                rows.append(row | {axis: result.sub_scores.get(axis) for axis in AXES})
            bar.update(len(batch))
    table = pd.DataFrame(rows, columns=[*names.values(), *AXES])
    return table.astype({"score": "Float64", "status": "str"} | dict.fromkeys(AXES, "Float64"))


def read_response(completion: Completion, prefill: str) -> Critique:
    """The critique in the prefill and the completion together.

    If the server's chat template has no prefill, the model writes `<think>` itself and the prefill isn't repeated.
    If such a model doesn't reason, its answer can't be distinguished from one inside reasoning, and doesn't count.
    """
    text = completion.text
    has_prefill = bool(prefill) and text.lstrip().startswith(prefill)
    return parse_critique(text if has_prefill else prefill + text, finished=completion.finished)


def explain(critique: Critique) -> str:
    """Why a response has no score, for people."""
    answer = f": {critique.answer!r:.80}" if critique.answer is not None else ""
    return {
        Status.EMPTY: "the response is empty",
        Status.NO_ANSWER: f"no complete <answer> outside the reasoning; it ends in {critique.raw[-60:]!r}",
        Status.TRUNCATED: "cut off at the token limit before the answer: raise --max-tokens",
        Status.NOT_A_NUMBER: f"the answer is not a number{answer}",
        Status.OUT_OF_RANGE: f"the answer is outside {LOWEST:g} to {HIGHEST:g}{answer}",
        Status.AMBIGUOUS: "the response has several different answers",
    }[critique.status]


def _mean(samples: Sequence[Result]) -> Result:
    """The samples' mean as one result, with the reasoning of the sample nearest to the mean."""
    scores = {number: sample.score for number, sample in enumerate(samples) if sample.score is not None}

    def combined(sample: Result) -> Result:
        return replace(
            sample,
            samples=[sample.score for sample in samples],
            prompt_tokens=sum(sample.prompt_tokens for sample in samples),
            tokens=sum(sample.tokens for sample in samples),
            argmax=None,
        )

    if unanswered := [sample for sample in samples if sample.status in _FAILURES]:
        detail = f"the requests of {len(unanswered)} of {len(samples)} samples failed: {unanswered[0].detail}"
        return replace(combined(unanswered[0]), score=None, detail=detail)
    if 2 * len(scores) <= len(samples):
        failed = [sample for sample in samples if not sample.ok]
        ((commonest, _),) = Counter(sample.status for sample in failed).most_common(1)
        first = next(sample for sample in failed if sample.status == commonest)
        detail = f"{len(failed)} of {len(samples)} samples can't be read, most often because: {first.detail}"
        return replace(combined(first), detail=detail)
    mean = fmean(scores.values())
    nearest = min(scores, key=lambda number: abs(scores[number] - mean))
    return replace(combined(samples[nearest]), score=mean, spread=pstdev(scores.values()))


def _seed(seed: int, id: str, sample: int) -> int:
    return int.from_bytes(sha256(f"{seed}/{id}/{sample}".encode()).digest()[:4])

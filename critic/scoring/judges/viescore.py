"""Any vision-language model behind an OpenAI-compatible server, prompted as in VIEScore (arXiv 2312.14867).

    judge = VieScore(HttpEngine("http://127.0.0.1:8000/v1", max_tokens=1024))

Two questions for each edit. Semantic consistency (SC), about both pictures and the instruction: was the edit made,
and nothing else? Perceptual quality (PQ), about the edited picture alone: is it natural and clean? Each answer has
two numbers in 0..10, and the score is sqrt(min(SC) min(PQ)). The prompts are this project's own, in viescore.yaml.
An answer that can't be read is a failure; no number replaces it.

Pictures are sent in the size that they have; `critic judge` applies `shrink` when it decodes them.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from math import sqrt
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import click
import yaml

from critic.answers import Status
from critic.results import Failure, Result
from critic.scoring.judges import Judge, Kind, Scale

if TYPE_CHECKING:
    from PIL import Image

    from critic.edits import Edit
    from critic.engines.base import Completion, Failed, Request
    from critic.engines.http import HttpEngine

_FILE = (Path(__file__).parent / "viescore.yaml").read_bytes()
PROMPTS = {name: Template(text) for name, text in yaml.safe_load(_FILE).items()}
ASKED = {"consistency": ("editing_success", "preservation"), "quality": ("naturalness", "cleanness")}
"""The numbers that the answer to each question must have."""
MAX_PIXELS = 1024 * 1024
_BATCHES_AT_ONCE = 4
"""Batches of requests that the server gets in one call."""


def shrink(picture: "Image.Image") -> "Image.Image":
    """Reduce a larger picture to `MAX_PIXELS` or a little less, with the same ratio up to rounding."""
    from PIL import Image

    ratio = sqrt(MAX_PIXELS / (picture.width * picture.height))
    if ratio >= 1:
        return picture
    width, height = (max(1, min(MAX_PIXELS, int(side * ratio))) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


class UnreadableError(ValueError):
    """An answer without the numbers that the question asks for; `status` and the message say why."""

    def __init__(self, status: Status | Failure, detail: str):
        super().__init__(detail)
        self.status = status


class VieScore(Judge):
    """The model behind a server, as a judge; it decodes greedily."""

    scale = Scale(0, 10)
    contract = sha256(_FILE).hexdigest()
    """SHA-256 of the prompts."""
    resize = staticmethod(shrink)

    def __init__(self, engine: "HttpEngine"):
        self.name, self._engine = f"viescore:{engine.name}", engine

    @classmethod
    def open(cls, model: str, key_variable: str | None, max_tokens: int, batch_size: int) -> "VieScore":
        """The judge with the options of `critic judge viescore`; raises as `HttpEngine`."""
        from critic.engines.http import HttpEngine

        address, _, name = model.partition("#")
        judge = cls(
            HttpEngine(
                address,
                model=name or None,
                max_tokens=max_tokens,
                api_key_variable=key_variable,
                concurrency=batch_size,
            )
        )
        judge.settings = {"contract": cls.contract, "max_tokens": max_tokens, "max_pixels": MAX_PIXELS}
        judge.batch_size = _BATCHES_AT_ONCE * batch_size
        return judge

    def __call__(self, edits: "Sequence[Edit]") -> list[Result]:
        """The engine gets all questions at once."""
        outcomes = iter(self._engine.complete([request for edit in edits for request in _requests(edit)]))
        return [self._combine(edit, next(outcomes), next(outcomes)) for edit in edits]

    def judge(self, edit: "Edit") -> Result:
        (result,) = self([edit])
        return result

    def _combine(self, edit: "Edit", *outcomes: "Completion | Failed") -> Result:
        from critic.engines.base import Completion

        written = [outcome for outcome in outcomes if isinstance(outcome, Completion)]
        responses = [completion.text for completion in written]
        fields: dict[str, Any] = {
            "contract": self.contract,
            "prompt_tokens": sum(completion.prompt_tokens for completion in written),
            "tokens": sum(completion.tokens for completion in written),
        }
        numbers: dict[str, float] = {}
        reasons = []
        for question, outcome in zip(ASKED, outcomes, strict=True):
            try:
                if not isinstance(outcome, Completion):
                    raise UnreadableError(outcome.status, outcome.detail)
                answer = parse_answer(outcome.text, ASKED[question], finished=outcome.finished)
            except UnreadableError as error:
                raw = json.dumps({"responses": responses}, ensure_ascii=False)
                return self.failure(edit.id, error.status, f"{question}: {error}", raw=raw, **fields)
            numbers |= {name: answer[name] for name in ASKED[question]}
            reasons.append(str(answer.get("reasoning", "")))
        consistency, quality = (min(numbers[name] for name in names) for names in ASKED.values())
        return self.result(
            edit.id,
            sqrt(consistency * quality),
            {"alignment": numbers["editing_success"], "fidelity": numbers["preservation"], "quality": quality},
            {**numbers, "responses": responses},
            reasoning="\n".join(reasons),
            **fields,
        )


def parse_answer(text: str, names: Sequence[str], *, finished: bool = True) -> dict[str, Any]:
    """The JSON object of an answer, in which each of `names` is a number in 0..10.

    Reasoning in `<think>` is ignored, closed or not. In the rest, everything from the first brace to the last must
    be one object without duplicate keys; text around it is ignored.

    Raises:
        UnreadableError: there is no such object (EMPTY, TRUNCATED if generation stopped at the token limit, else
            NO_ANSWER), or a value is not a number (NOT_A_NUMBER) or out of range (OUT_OF_RANGE).
    """
    answer = text.rpartition("</think>")[2].partition("<think>")[0].strip()
    if not finished:
        raise UnreadableError(Status.TRUNCATED, "cut off at the token limit: raise --max-tokens")
    if not answer:
        raise UnreadableError(Status.EMPTY, "the response is empty")
    try:
        found = json.loads(answer[answer.find("{") : answer.rfind("}") + 1], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(Status.NO_ANSWER, f"no single JSON object ({error}) in {answer!r:.80}") from None
    for name in names:
        if name not in found:
            raise UnreadableError(Status.NO_ANSWER, f"no {name} in {answer!r:.80}")
        if fault := VieScore.scale.fault(found[name], name):
            raise UnreadableError(*fault)
    return dict(found)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a key appears twice")
    return dict(pairs)


def _requests(edit: "Edit") -> "list[Request]":
    from critic.prompts import neutralise

    consistency = PROMPTS["consistency"].substitute(instruction=neutralise(edit.instruction).strip())
    return [_request(consistency, *edit.pair), _request(PROMPTS["quality"].substitute(), edit.edited)]


def _request(text: str, *pictures: "Image.Image") -> "Request":
    from critic.engines.base import Request

    content: list[dict[str, Any]] = [*({"type": "image"} for _ in pictures), {"type": "text", "text": text}]
    return Request("", [*pictures], [{"role": "user", "content": content}])


_COUNT = click.IntRange(min=1)
_OPTIONS = [
    click.Option(["-m", "--model"], required=True, help="The server's address up to /v1, and #NAME of its model."),
    click.Option(["--key-variable"], help="The environment variable with the API key.  [default: no key]"),
    click.Option(["--max-tokens"], default=1024, help="Completion tokens for one answer.", type=_COUNT),
    click.Option(["--batch-size"], default=16, help="Requests sent at a time.", type=_COUNT),
]
JUDGES = {
    "viescore": Kind(
        "Any model behind an OpenAI-compatible server, prompted as in VIEScore.",
        VieScore.scale,
        VieScore.open,
        _OPTIONS,
    )
}

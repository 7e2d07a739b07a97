"""Any vision-language model behind an OpenAI-compatible endpoint, asked as VIEScore does (arXiv 2312.14867).

    judge = VieScore(HttpEngine("http://127.0.0.1:8000/v1", max_tokens=1024))

Two questions an edit. Semantic consistency (SC), of both pictures and the instruction: was the edit made, and
nothing else? Perceptual quality (PQ), of the edited picture alone: is it natural, and clean? Each is answered by
two numbers in 0..10, and the score is sqrt(min(SC) min(PQ)). The words are this project's own, in viescore.yaml.
An answer that can't be read is a failure, and no number is put in its place.

Pictures are shown as they are given. `critic judge` brings them to `shrink`'s size as they are decoded.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from math import sqrt
from pathlib import Path
from string import Template
from typing import Any

import yaml
from PIL import Image

from critic.answers import Status
from critic.edits import Edit
from critic.engines.base import Completion, Failed, Request
from critic.engines.http import HttpEngine
from critic.prompts import neutralise
from critic.results import Failure, Result
from critic.scoring.judges import SCALES, judged, unjudged

_FILE = (Path(__file__).parent / "viescore.yaml").read_bytes()
PROMPTS = {name: Template(text) for name, text in yaml.safe_load(_FILE).items()}
ASKED = {"consistency": ("editing_success", "preservation"), "quality": ("naturalness", "cleanness")}
"""The numbers that the answer to each question must have."""
MAX_PIXELS = 1024 * 1024


def shrink(picture: Image.Image) -> Image.Image:
    """A picture of at most `MAX_PIXELS` with the same ratio, but for whole pixels; itself if it isn't larger."""
    ratio = sqrt(MAX_PIXELS / (picture.width * picture.height))
    if ratio >= 1:
        return picture
    width, height = (max(1, min(MAX_PIXELS, int(side * ratio))) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


class UnreadableError(ValueError):
    """No answer, or one without the numbers that were asked for; `status` and the message say why."""

    def __init__(self, status: Status | Failure, detail: str):
        super().__init__(detail)
        self.status = status


class VieScore:
    """The model behind an endpoint, as a judge; greedy."""

    scale = SCALES["viescore"]
    contract = sha256(_FILE).hexdigest()
    """SHA-256 of the prompts."""

    def __init__(self, engine: HttpEngine):
        self.name, self._engine = f"viescore:{engine.name}", engine

    def __call__(self, edits: Sequence[Edit]) -> list[Result]:
        """The engine is given all questions at once."""
        outcomes = iter(self._engine.complete([request for edit in edits for request in _requests(edit)]))
        return [self._judge(edit, next(outcomes), next(outcomes)) for edit in edits]

    def _judge(self, edit: Edit, *outcomes: Completion | Failed) -> Result:
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
                answer = _read(outcome, ASKED[question])
            except UnreadableError as error:
                raw = json.dumps({"responses": responses}, ensure_ascii=False)
                return unjudged(self, edit.id, error.status, f"{question}: {error}", raw=raw, **fields)
            numbers |= {name: answer[name] for name in ASKED[question]}
            reasons.append(str(answer.get("reasoning", "")))
        consistency, quality = (min(numbers[name] for name in names) for names in ASKED.values())
        return judged(
            self,
            edit.id,
            sqrt(consistency * quality),
            {"alignment": numbers["editing_success"], "fidelity": numbers["preservation"], "quality": quality},
            {**numbers, "responses": responses},
            reasoning="\n".join(reasons),
            **fields,
        )


def _read(outcome: Completion | Failed, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(outcome, Failed):
        raise UnreadableError(outcome.status, outcome.detail)
    return parse_answer(outcome.text, names, finished=outcome.finished)


def parse_answer(text: str, names: Sequence[str], *, finished: bool = True) -> dict[str, Any]:
    """The JSON object of an answer, in which each of `names` is a number in 0..10.

    Reasoning in `<think>` is left out, closed or not. Of the rest, all from the first brace to the last must be
    one object, without a key that is there twice; words around it don't matter.

    Raises:
        UnreadableError: there is no such object (EMPTY, TRUNCATED if generation stopped at the token limit, else
            NO_ANSWER), or a number isn't one (NOT_A_NUMBER) or is outside (OUT_OF_RANGE).
    """
    answer = text.rpartition("</think>")[2].partition("<think>")[0].strip()
    if not finished:
        raise UnreadableError(Status.TRUNCATED, "cut off at the token limit: allow more with --max-tokens")
    if not answer:
        raise UnreadableError(Status.EMPTY, "nothing was written")
    try:
        found = json.loads(answer[answer.find("{") : answer.rfind("}") + 1], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(Status.NO_ANSWER, f"no single JSON object ({error}) in {answer!r:.80}") from None
    for name in names:
        if name not in found:
            raise UnreadableError(Status.NO_ANSWER, f"no {name} in {answer!r:.80}")
        if fault := SCALES["viescore"].fault(found[name], name):
            raise UnreadableError(*fault)
    return dict(found)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def _requests(edit: Edit) -> list[Request]:
    asked = PROMPTS["consistency"].substitute(instruction=neutralise(edit.instruction).strip())
    return [_request(asked, *edit.pair), _request(PROMPTS["quality"].substitute(), edit.edited)]


def _request(text: str, *pictures: Image.Image) -> Request:
    content: list[dict[str, Any]] = [*({"type": "image"} for _ in pictures), {"type": "text", "text": text}]
    return Request("", [*pictures], [{"role": "user", "content": content}])

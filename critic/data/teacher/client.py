"""Send requests about edits to a teacher, and check its answers."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import openai
import pandas as pd
import yaml
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from critic.answers import AXES, Critique, parse_critique
from critic.data.teacher.checks import Rejection, add_opening_tag, review, review_pair
from critic.data.teacher.journal import Answer, Journal
from critic.data.teacher.tally import Tally
from critic.params import Teacher
from critic.pictures import decode, file_format, png
from critic.prompts import neutralise

PROMPT: dict[str, str] = yaml.safe_load((Path(__file__).parent / "prompt.yaml").read_text(encoding="utf-8"))


class TeacherError(RuntimeError):
    """A teacher that can't be asked or gives too few rationales; the message says why, and the fix."""


@dataclass(frozen=True)
class TeacherClient:
    """Asks about one edit, or one pair of preferences, at a time, and counts the answers in the tally."""

    client: openai.AsyncOpenAI
    section: Teacher
    journal: Journal
    tally: Tally

    async def critiques(self, row: Mapping[Any, Any]) -> dict[str, Critique]:
        """The first critiques that pass the checks, by edit id: of one edit, or of both edits of a pair.

        There are none if no answer passes, or a request fails after the client's retries.

        Args:
            row: of a validated table; or a pair: id, `edits` (the rows of both) and `order`, see `review_pair`.

        Raises:
            TeacherError: the server refuses the key or doesn't know the model.
        """
        section = self.section
        for attempt in range(section.attempts):
            try:
                answer = await self.answer(row["id"], make_request(row, section, attempt))
            except (openai.AuthenticationError, openai.NotFoundError) as error:
                raise TeacherError(
                    f"{section.base_url} doesn't serve {section.model}: {error}. Check base_url, model and "
                    "api_key_variable under teacher in params.yaml"
                ) from None
            except (openai.APIError, openai.ContentFilterFinishReasonError) as error:
                self.tally.add_cause(type(error).__name__, row["id"], f"{error} {error.__cause__ or ''}".strip())
                self.tally.failed += 1
                return {}
            found = _read(row, answer, section)
            if not isinstance(found, Rejection):
                self.tally.accepted += 1
                return found
            self.tally.add_cause(found, row["id"], answer.text)
        self.tally.rejected += 1
        return {}

    async def answer(self, edit: str, request: dict[str, Any]) -> Answer:
        """The journal's answer, or else the server's.

        Raises:
            openai.APIError: the request fails after the client's retries, or the reply isn't a chat completion.
            openai.ContentFilterFinishReasonError: the content filter withheld the answer or its rest.
        """
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        answer = self.journal.find(edit, digest)
        if requested := answer is None:
            raw = await self.client.chat.completions.with_raw_response.create(
                model=request["model"], messages=request["messages"], extra_body=request
            )
            try:
                reply = _Reply.model_validate_json(raw.content)
            except ValidationError as error:
                message = f"not a chat completion: {raw.text!r:.200}"
                raise openai.APIResponseValidationError(raw.http_response, None, message=message) from error
            choice = reply.choices[0]
            if choice.finish_reason == "content_filter":
                raise openai.ContentFilterFinishReasonError
            answer = Answer(
                id=edit,
                request=digest,
                text=choice.message.content or "",
                finished=choice.finish_reason != "length",
                input_tokens=reply.usage.prompt_tokens if reply.usage else 0,
                output_tokens=reply.usage.completion_tokens if reply.usage else 0,
            )
            self.journal.add(answer)
        self.tally.add_answer(answer, requested=requested)
        return answer


def make_request(row: Mapping[Any, Any], section: Teacher, attempt: int) -> dict[str, Any]:
    """The body of a chat completion request, see `TeacherClient.critiques`; `attempt` is its seed."""
    if "edits" in row:
        a, b = row["edits"]
        kind, instruction, images = "pair_", a["instruction"], [*a["images"], b["images"][1]]
        given = {"order": PROMPT[{1: "first_better", -1: "second_better", 0: "equal"}[row["order"]]]}
    else:
        kind, instruction, images = "", row["instruction"], row["images"]
        mos = {"overall": row["mos"], **{axis: row.get(f"mos_{axis}") for axis in AXES}}
        given = {"scores": ", ".join(f"{name} {one:.2f}" for name, one in mos.items() if not pd.isna(one))}
    text = PROMPT[f"{kind}user"].format(instruction=neutralise(instruction).strip(), **given)
    pictures = [{"type": "image_url", "image_url": {"url": _data_url(image["bytes"])}} for image in images]
    return {
        **section.sampling,
        "model": section.model,
        "messages": [
            {"role": "system", "content": PROMPT[f"{kind}system"]},
            {"role": "user", "content": [*pictures, {"type": "text", "text": text}]},
        ],
        "seed": attempt,
    }


def _read(row: Mapping[Any, Any], answer: Answer, section: Teacher) -> dict[str, Critique] | Rejection:
    """The critiques in an answer about a row or a pair, by edit id, or why they can't be used."""
    limits = section.model_dump(include={"tolerance", "min_chars", "max_chars"}) | {"finished": answer.finished}
    if "edits" in row:
        found = review_pair(answer.text, row["order"], **limits)
        if isinstance(found, Rejection):
            return found
        return {edit["id"]: critique for edit, critique in zip(row["edits"], found, strict=True)}
    response = add_opening_tag(answer.text)
    return review(response, row["mos"], **limits) or {row["id"]: parse_critique(response)}


def _data_url(file: bytes) -> str:
    """The file itself if a plain decoder sees the picture that the critic sees, else that picture as PNG."""
    picture = decode(file)
    with Image.open(BytesIO(file)) as plain:
        is_same = np.array_equal(np.asarray(plain.convert("RGBA")), np.asarray(picture.convert("RGBA")))
    sent = file if is_same else png(picture)
    return f"data:image/{file_format(sent).lower()};base64,{b64encode(sent).decode()}"


class _Message(BaseModel):
    content: str | None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Reply(BaseModel):
    """The parts of a chat completion that are read."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None

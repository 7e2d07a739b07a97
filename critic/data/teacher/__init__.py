"""Rationales by a teacher: a large model behind any OpenAI-compatible endpoint, told what people scored, says why.

    rationales = write_rationales(table, params.load(params.Teacher), Path("runs/teacher/journal.jsonl"))
    rationales["train-00007"]    # "The star is blue now, as the instruction wants, but its left arm is gone..."

The teacher sees both pictures, the instruction, the MOS and the sub-scores that there are. Its own score only
gates: an answer whose score is far from the MOS is not believed. What SFT learns is its reasoning, followed by the
exact MOS. docs/teacher.md tells how to use it.
"""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import openai
import pandas as pd
import yaml
from PIL import Image
from pydantic import BaseModel, Field, ValidationError
from tqdm import tqdm

from critic.answers import parse_critique
from critic.data.rationale_templates import AXES
from critic.data.teacher.checks import complete, review
from critic.data.teacher.journal import Answer, Journal
from critic.data.teacher.tally import Tally
from critic.params import Teacher
from critic.prompts import neutralise

PROMPT: dict[str, str] = yaml.safe_load((Path(__file__).parent / "prompt.yaml").read_text(encoding="utf-8"))


class TeacherError(RuntimeError):
    """A teacher that can't be asked or is of no use; the message says why and what to do."""


def write_rationales(
    table: pd.DataFrame, section: Teacher, journal: Path, *, title: str = "teacher"
) -> dict[str, str]:
    """Ask the teacher about each edit of a validated table, and keep what passes the checks.

    An edit is asked about until an answer passes, `section.attempts` times at most, each with its seed. A request
    that fails after the client's own retries is left to the next run. An answer in the journal is not asked for
    again. Counts, tokens and costs are printed.

    Returns:
        Reasoning by edit id, in the table's order; edits without an accepted answer are left out.

    Raises:
        TeacherError: there is no key, the server refuses it or doesn't know the model, or so many edits came out
            without a rationale that the others can't make up `section.min_kept` of all; asking stops there.
        JournalError: the journal can't be read.
    """
    if table.empty:
        return {}
    tally = Tally(title, len(table), section)
    with Journal(journal) as answers:
        kept = asyncio.run(_ask_about_all(table, section, answers, tally))
    if tally.too_few:
        raise TeacherError(
            f"{tally.describe(examples=True)}\n"
            f"Fewer than teacher.min_kept ({section.min_kept:.0%}) can have a rationale, so asking stopped. "
            f"Change the teacher, its prompt or its limits, or lower min_kept; {journal} keeps the answers so far."
        )
    print(tally.describe())
    return {edit: kept[edit] for edit in table["id"] if edit in kept}


def make_request(row: Mapping[Any, Any], section: Teacher, attempt: int) -> dict[str, Any]:
    """The body of a chat completion request about a row of a validated table; `attempt` is its seed."""
    given = {"overall": row["mos"], **{axis: row.get(f"mos_{axis}") for axis in AXES}}
    scores = ", ".join(f"{name} {score:.2f}" for name, score in given.items() if not pd.isna(score))
    text = PROMPT["user"].format(instruction=neutralise(row["instruction"]).strip(), scores=scores)
    pictures = [{"type": "image_url", "image_url": {"url": _data_url(image["bytes"])}} for image in row["images"]]
    return {
        **section.sampling,
        "model": section.model,
        "messages": [
            {"role": "system", "content": PROMPT["system"]},
            {"role": "user", "content": [*pictures, {"type": "text", "text": text}]},
        ],
        "seed": attempt,
    }


async def _ask_about_all(table: pd.DataFrame, section: Teacher, journal: Journal, tally: Tally) -> dict[str, str]:
    client = openai.AsyncOpenAI(
        base_url=section.base_url,
        api_key=_api_key(section),
        timeout=section.timeout,
        max_retries=section.max_retries,
    )
    lesson = TeacherClient(client, section, journal, tally)
    rows = iter(table.to_dict("records"))
    kept: dict[str, str] = {}

    async def work() -> None:
        for row in rows:
            if tally.too_few:
                return
            if rationale := await lesson.rationale(row):
                kept[row["id"]] = rationale
            bar.set_postfix_str(tally.brief(), refresh=False)
            bar.update()

    with tqdm(total=tally.edits, desc=f"{tally.title} rationales", unit=" edits", mininterval=2) as bar:
        try:
            async with client, asyncio.TaskGroup() as group:
                for _ in range(section.concurrency):
                    group.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
    return kept


@dataclass(frozen=True)
class TeacherClient:
    """Asks about one edit at a time, and counts what comes of it."""

    client: openai.AsyncOpenAI
    section: Teacher
    journal: Journal
    tally: Tally

    async def rationale(self, row: Mapping[Any, Any]) -> str | None:
        """The first reasoning that passes the checks.

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
            except openai.APIError as error:
                self.tally.blame(type(error).__name__, row["id"], str(error))
                self.tally.failed += 1
                return None
            response = complete(answer.text)
            rejection = review(
                response,
                row["mos"],
                tolerance=section.tolerance,
                min_chars=section.min_chars,
                max_chars=section.max_chars,
                finished=answer.finished,
            )
            if rejection is None:
                self.tally.kept += 1
                return parse_critique(response).reasoning
            self.tally.blame(rejection, row["id"], answer.text)
        self.tally.rejected += 1
        return None

    async def answer(self, edit: str, request: dict[str, Any]) -> Answer:
        """The journal's answer, or else the server's.

        Raises:
            openai.APIError: there is none, after the client's retries, or it is no chat completion.
        """
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        answer = self.journal.find(edit, digest)
        if asked_now := answer is None:
            raw = await self.client.chat.completions.with_raw_response.create(
                model=request["model"], messages=request["messages"], extra_body=request
            )
            try:
                reply = _Reply.model_validate_json(raw.content)
            except ValidationError as error:
                message = f"not a chat completion: {raw.text!r:.200}"
                raise openai.APIResponseValidationError(raw.http_response, None, message=message) from error
            answer = Answer(
                id=edit,
                request=digest,
                text=reply.choices[0].message.content or "",
                finished=reply.choices[0].finish_reason != "length",
                input_tokens=reply.usage.prompt_tokens if reply.usage else 0,
                output_tokens=reply.usage.completion_tokens if reply.usage else 0,
            )
            self.journal.add(answer)
        self.tally.count(answer, asked_now=asked_now)
        return answer


class _Message(BaseModel):
    content: str | None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Reply(BaseModel):
    """What is read of a chat completion."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


def _api_key(section: Teacher) -> str:
    if section.api_key_variable is None:
        return "none"  # the client wants some text
    key = os.environ.get(section.api_key_variable)
    if not key:
        raise TeacherError(
            f"no API key: put it into the environment variable {section.api_key_variable}, which "
            "teacher.api_key_variable names, or set that to null for a server without keys"
        )
    return key


def _data_url(file: bytes) -> str:
    with Image.open(BytesIO(file)) as image:
        kind = Image.MIME[str(image.format)]
    return f"data:{kind};base64,{base64.b64encode(file).decode()}"

"""Let a teacher write the rationales of a table's edits, or of preferences.

The teacher gets both pictures, the instruction, the MOS and the sub-scores, if there are any. Its own score is
used only as a check: an answer whose score is far from the MOS is rejected. SFT learns the teacher's reasoning,
followed by the exact MOS. Preferences have no MOS: there it learns the teacher's own score, if the two scores of a
pair are in people's order. See docs/teacher.md.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai
import pandas as pd
from tqdm import tqdm

from critic import loopback
from critic.answers import Critique
from critic.data.teacher.client import TeacherClient, TeacherError
from critic.data.teacher.journal import Journal
from critic.data.teacher.tally import Tally
from critic.params import Teacher


def write_rationales(
    table: pd.DataFrame, section: Teacher, journal: Path, *, title: str = "teacher"
) -> dict[str, str]:
    """Ask the teacher about each edit of a validated table, and keep the answers that pass the checks.

    An edit whose answer is rejected is asked about again with another seed, up to `section.attempts` times in all.
    A request that still fails after the client's retries is left to the next run. Answers in the journal are not
    requested again. Prints counts, tokens and costs. Returns reasoning by edit id, in the table's order; edits
    without an accepted answer are left out.

    Raises:
        TeacherError: the API key is missing or refused, the server doesn't know the model, or fewer than
            `section.min_acceptance_rate` of the edits can get a rationale; no more requests are sent then.
        JournalError: the journal can't be read.
    """
    accepted = _ask(table.to_dict("records"), section, journal, Tally(title, len(table), section))
    return {edit: accepted[edit].reasoning for edit in table["id"] if edit in accepted}


def write_pair_rationales(
    edits: pd.DataFrame, pairs: pd.DataFrame, section: Teacher, journal: Path
) -> dict[str, Critique]:
    """Ask the teacher about pairs of preferences, as `write_rationales` does about edits.

    A pair is asked about unless one of its edits is in an earlier one that is. Returns critiques by edit id, those
    of both edits of a pair or of neither.

    Args:
        edits, pairs: validated, see `critic.data.preference_sets`.
    """
    rows = {row["id"]: row for row in edits.to_dict("records")}
    questions, asked = [], set[str]()
    for a, b, order in zip(pairs["edited_a"], pairs["edited_b"], pairs["order"], strict=True):
        if not asked & {a, b}:
            asked |= {a, b}
            questions.append({"id": f"{a} {b}", "edits": (rows[a], rows[b]), "order": order})
    return _ask(questions, section, journal, Tally("preferences", len(questions), section, of="pairs"))


def _ask(
    questions: Sequence[Mapping[Any, Any]], section: Teacher, journal: Path, tally: Tally
) -> dict[str, Critique]:
    if not questions:
        return {}
    with Journal(journal) as answers:
        accepted = asyncio.run(_ask_about_all(questions, section, answers, tally))
    if tally.too_few:
        rate = f"{section.min_acceptance_rate:.0%}"
        raise TeacherError(
            f"{tally.describe(examples=True)}\n"
            f"Fewer than teacher.min_acceptance_rate ({rate}) can get a rationale, so the run stopped. "
            "Change the teacher, its prompt or its limits, or lower min_acceptance_rate. "
            f"{journal} keeps the answers so far."
        )
    print(tally.describe())
    return accepted


async def _ask_about_all(
    questions: Iterable[Mapping[Any, Any]], section: Teacher, journal: Journal, tally: Tally
) -> dict[str, Critique]:
    client = openai.AsyncOpenAI(
        base_url=section.base_url,
        api_key=_api_key(section),
        timeout=section.timeout,
        max_retries=section.max_retries,
        http_client=openai.DefaultAsyncHttpxClient(mounts=loopback.MOUNTS),
    )
    teacher = TeacherClient(client, section, journal, tally)
    rows = iter(questions)
    accepted: dict[str, Critique] = {}

    async def work() -> None:
        for row in rows:
            if tally.too_few:
                return
            accepted.update(await teacher.critiques(row))
            bar.set_postfix_str(tally.brief(), refresh=False)
            bar.update()

    with tqdm(total=tally.edits, desc=f"{tally.title} rationales", unit=f" {tally.of}", mininterval=2) as bar:
        try:
            async with client, asyncio.TaskGroup() as group:
                for _ in range(section.concurrency):
                    group.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
    return accepted


def _api_key(section: Teacher) -> str:
    if section.api_key_variable is None:
        return "none"  # the client requires a text
    key = os.environ.get(section.api_key_variable)
    if not key:
        raise TeacherError(
            f"no API key: set the environment variable {section.api_key_variable}, which teacher.api_key_variable "
            "names, or set teacher.api_key_variable to null for a server without keys"
        )
    return key

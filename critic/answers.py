r"""The one answer parser: what a critic wrote, read as a score or as the reason for having none.

Reward, evaluation and service all read responses through `parse_critique`, so a response that
trains as a 3.75 also evaluates and serves as a 3.75.

    parse_critique("<think>The sky is blue now.</think>\n<answer>3.75</answer>").score    # 3.75
"""

import re
from dataclasses import dataclass
from enum import StrEnum

LOWEST, HIGHEST = 1.0, 5.0
"""The ends of the opinion scale, both included."""

_BLOCK = re.compile(
    r"<think>(?P<reasoning>.*?)(?:</think>|\Z)|<answer>(?P<answer>.*?)(?P<end></answer>|\Z)",
    re.DOTALL,
)
_WELL_FORMED = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_SCORE = re.compile(
    r"(?P<open>[*_`]*)"
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?)"
    r"(?P<close>[*_`]*)(?:\s*(?:/|out\s+of)\s*5(?:\.0*)?(?P<close_after_scale>[*_`]*))?",
    re.IGNORECASE,
)


class Status(StrEnum):
    """How reading a response ended: `OK` with a score, anything else without one."""

    OK = "ok"
    EMPTY = "empty"
    """Nothing was written: blank, or no more than the opening `<think>`."""
    NO_ANSWER = "no_answer"
    """No complete `<answer>` outside the reasoning."""
    TRUNCATED = "truncated"
    """No complete `<answer>` outside the reasoning, and generation stopped at the token limit."""
    NOT_A_NUMBER = "not_a_number"
    """The answer is something else than a number: words, `nan`, `inf`, `8/10`, nothing."""
    OUT_OF_RANGE = "out_of_range"
    """The answer is a number outside 1..5."""
    AMBIGUOUS = "ambiguous"
    """Several answers that don't agree."""


@dataclass(frozen=True)
class Critique:
    """One response, read.

    Attributes:
        score: 1..5, or None unless `status` is `OK`.
        status: why there is, or is not, a score.
        reasoning: the text inside `<think>`, stripped ("" if none; several blocks a line apart).
        answer: the text inside the last complete `<answer>`, stripped, or None without one.
        raw: the response as it came.
        well_formed: see `is_well_formed`.
    """

    score: float | None
    status: Status
    reasoning: str
    answer: str | None
    raw: str
    well_formed: bool


def parse_critique(response: str, *, finished: bool = True) -> Critique:
    """Read the score out of a response: any string, in linear time, never raising, never guessing.

    Args:
        response: all that the assistant said, a prefilled `<think>` included.
        finished: False if generation stopped at the token limit.

    Which answer. From left to right, `<think>` begins reasoning up to the next `</think>`, and
    `<answer>` an answer up to the next `</answer>`; tags are lower case and exact. Reasoning that
    is never closed runs to the end of the response. So an `<answer>` inside `<think>` is reasoning,
    and an answer that is never closed does not count. Several answers count as one if all of them
    read the same (`4` and `4.0` do), else the response is `AMBIGUOUS`.

    Which text. An answer, without the whitespace (newlines too) around it, must be, as a whole:

    - a decimal number in ASCII, read as by Python's `float`: `3.75`, `4`, `4.`, `+3.75`, `3.75e0`;
    - then, if anything, the scale: `3.75/5`, `3.75 / 5.0`, `3.75 out of 5` in any case;
    - with Markdown marks (`*`, `_`, a backtick) around the number or around all of it, the same
      before and after: `**3.75**`, `**3.75**/5`, `**3.75/5**`.

    All else is `NOT_A_NUMBER`: `nan`, `inf`, `3,75`, `1_0`, digits of other scripts, other scales
    (`8/10`, `75%`), ranges (`3-4`), sentences. A number below 1 or above 5 is `OUT_OF_RANGE`.
    """
    blocks = list(_BLOCK.finditer(response))
    answers = [block["answer"].strip() for block in blocks if block["end"]]
    if answers:
        readings = {_read_score(answer) for answer in answers}
        score, status = readings.pop() if len(readings) == 1 else (None, Status.AMBIGUOUS)
    elif not finished:
        score, status = None, Status.TRUNCATED
    elif not response.strip().removeprefix("<think>").strip():
        score, status = None, Status.EMPTY
    else:
        score, status = None, Status.NO_ANSWER
    return Critique(
        score=score,
        status=status,
        reasoning="\n".join(block["reasoning"].strip() for block in blocks if block["reasoning"] is not None),
        answer=answers[-1] if answers else None,
        raw=response,
        well_formed=is_well_formed(response),
    )


def is_well_formed(response: str) -> bool:
    r"""Whether the response is one `<think>...</think>` and one `<answer>...</answer>`, no more.

    Each of the four tags is there exactly once, and nothing but whitespace between the two, nothing
    at all before or after. What they hold does not matter: `<think></think>\n<answer>3.50</answer>`
    is well formed, and so is an empty answer.
    """
    once = all(response.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    return once and _WELL_FORMED.fullmatch(response) is not None


def _read_score(answer: str) -> tuple[float | None, Status]:
    match = _SCORE.fullmatch(answer)
    if match is None or match["open"] != (match["close"] + (match["close_after_scale"] or ""))[::-1]:
        return None, Status.NOT_A_NUMBER
    score = float(match["number"])
    return (score, Status.OK) if LOWEST <= score <= HIGHEST else (None, Status.OUT_OF_RANGE)

r"""The one answer parser: from a response to its score, or to the reason for having none.

Rewards, evaluation and service all use `parse_critique` and `sub_scores`: a response has the same scores in each.

    parse_critique("<think>The sky is blue now.</think>\n<answer>3.75</answer>").score    # 3.75
    sub_scores("It is blue now, alignment 4.5.")                                          # {"alignment": 4.5}
"""

import re
from dataclasses import dataclass
from enum import StrEnum

LOWEST, HIGHEST = 1.0, 5.0
"""The ends of the opinion scale, both included."""

SAME_SCORE = 1e-5
"""Scores less far apart are the same, as in EditReward-Compass' eval.py."""

AXES = ("alignment", "fidelity", "quality")
"""What an edit is judged by: text alignment, fidelity to the source, perceptual quality (arXiv 2511.18055)."""

_BLOCK = re.compile(
    r"<think>(?P<reasoning>.*?)(?:</think>|\Z)|<answer>(?P<answer>.*?)(?P<end></answer>|\Z)", re.DOTALL
)
_WELL_FORMED = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_SCORE = re.compile(
    r"(?P<open>[*_`]*)"
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?)"
    r"(?P<close>[*_`]*)(?:\s*(?:/|out\s+of)\s*5(?:\.0*)?(?P<close_after_scale>[*_`]*))?",
    re.IGNORECASE,
)
_SUB_SCORE = re.compile(
    rf"\b({'|'.join(AXES)})(?:\s+score)?(?:\s+is)?\s*[:=(]?\s*"
    r"([1-5]\.[0-9]+|[1-5](?=\s*(?:[.,;)]|$)))(?!\.?[0-9]|\s*(?:[/%]|of\b|out\b|to\b))",
    re.IGNORECASE | re.MULTILINE,
)


class Status(StrEnum):
    """`OK` for a response with a score, else the reason for having none."""

    OK = "ok"
    EMPTY = "empty"
    """The response is blank, or only the opening `<think>`."""
    NO_ANSWER = "no_answer"
    """No complete `<answer>` outside the reasoning."""
    TRUNCATED = "truncated"
    """No complete `<answer>` outside the reasoning, and generation stopped at the token limit."""
    NOT_A_NUMBER = "not_a_number"
    """The answer isn't a number: words, `nan`, `inf`, `8/10`, nothing."""
    OUT_OF_RANGE = "out_of_range"
    """The answer is a number outside 1..5."""
    AMBIGUOUS = "ambiguous"
    """Several answers that don't agree."""


@dataclass(frozen=True)
class Critique:
    """A parsed response.

    Attributes:
        score: 1..5, or None unless `status` is `OK`.
        reasoning: the text inside `<think>`, stripped ("" if none; several blocks joined by line breaks).
        answer: the text inside the last complete `<answer>`, stripped, or None without one.
        raw: the response, unchanged.
    """

    score: float | None
    status: Status
    reasoning: str
    answer: str | None
    raw: str
    well_formed: bool


def parse_critique(response: str, *, finished: bool = True) -> Critique:
    """Parse any string, in linear time, without raising and without guessing.

    Args:
        response: the assistant's whole turn, with a prefilled `<think>`.
        finished: False if generation stopped at the token limit.

    Blocks. From left to right, `<think>` starts reasoning up to the next `</think>`, and `<answer>` starts an
    answer up to the next `</answer>`; tags are lower case and exact. Reasoning without an end runs to the end of
    the response. So an `<answer>` inside `<think>` is reasoning, and an answer without an end doesn't count.
    Several answers count as one if all have the same value (`4` and `4.0` do), else the response is `AMBIGUOUS`.

    Answers. An answer without surrounding whitespace must be, as a whole:

    - a decimal number in ASCII, in the syntax of Python's `float`: `3.75`, `4`, `4.`, `+3.75`, `3.75e0`;
    - optionally followed by the scale: `3.75/5`, `3.75 / 5.0`, `3.75 out of 5` in any case;
    - optionally with Markdown marks (`*`, `_`, a backtick) around the number or the whole, the same
      before and after: `**3.75**`, `**3.75**/5`, `**3.75/5**`.

    Anything else is `NOT_A_NUMBER`: `nan`, `inf`, `3,75`, `1_0`, digits of other scripts, other scales (`8/10`,
    `75%`), ranges (`3-4`), sentences. A number below 1 or above 5 is `OUT_OF_RANGE`.
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
    """Whether the response is one `<think>...</think>` and one `<answer>...</answer>`, and nothing else.

    Each of the four tags occurs exactly once. Only whitespace is allowed between the blocks, and nothing before or
    after them. Their content doesn't matter: an empty answer is well formed too.
    """
    once = all(response.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    return once and _WELL_FORMED.fullmatch(response) is not None


def sub_scores(reasoning: str) -> dict[str, float]:
    """The scores that the reasoning states for `AXES`, 1..5; the first of each axis.

    A number counts only right after the axis ("alignment 4.5", "Fidelity: 4.", "quality score is 3.5"), and not as
    part of another expression ("quality 4/10", "alignment 2 to 5").
    """
    found: dict[str, float] = {}
    for axis, number in _SUB_SCORE.findall(reasoning):
        if LOWEST <= float(number) <= HIGHEST:
            found.setdefault(axis.lower(), float(number))
    return found


def _read_score(answer: str) -> tuple[float | None, Status]:
    match = _SCORE.fullmatch(answer)
    if match is None or match["open"] != (match["close"] + (match["close_after_scale"] or ""))[::-1]:
        return None, Status.NOT_A_NUMBER
    score = float(match["number"])
    return (score, Status.OK) if LOWEST <= score <= HIGHEST else (None, Status.OUT_OF_RANGE)

"""Check whether a teacher's answer can be used as a rationale."""

import re
from enum import StrEnum

from critic.answers import Critique, Status, parse_critique
from critic.prompts import neutralise

OPENING, END = "<think>", "</answer>"
_NUMBER = re.compile(r"(?P<whole>\d+)(?:[.,](?P<decimals>\d+))?(?P<scale>\s*(?:/|out\s+of)\s*5\b)?", re.IGNORECASE)
_WORDS = re.compile(
    r"""\b(?: MOS | mean\s+opinion | ground[\s-]?truth | raters? | annotators?
    | (?:given|provided|assigned|target|reference|human)\s+(?:the\s+)?(?:overall\s+)?(?:scores?|ratings?)
    | (?:scores?|ratings?)\s+(?:(?:that\s+)?(?:was|were|is|are)\s+)?(?:given|provided|assigned)
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
_COMPARED = re.compile(
    r"""\b(?: prefer(?:s|red|ring|ences?)? | winner | loser | people\s+(?:liked|chose|picked|favou?r(?:ed)?)
    | (?:both|the\s+two)\s+(?:edits|edited|results|versions)
    | (?:first|second|third|other|another|alternative)\s+(?:edits?|edited|results?|versions?)
    | (?:second|third|other)\s+(?:pictures?|images?|photos?)
    | (?:first|second|third|other)\s+one(?!\s+of\b)
    | (?:edit|result|version|picture|image|photo)\s+(?:[123]|(?-i:[AB]))
    | (?:than|unlike|compared\s+(?:to|with))\s+the\s+(?:first|second|third|other|alternative)
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)


class Rejection(StrEnum):
    """Why an answer can't be used; if several apply, the first in this order."""

    CUT_SHORT = "cut_short"
    """Generation stopped at the token limit before the end of `<answer>`."""
    MALFORMED = "malformed"
    """Not one `<think>` and one `<answer>`, or with special tokens or tags in the reasoning."""
    NO_SCORE = "no_score"
    """The answer isn't a score from 1 to 5, see `critic.answers.parse_critique`."""
    OFF_SCORE = "off_score"
    """The score is further from the MOS than the tolerance."""
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    LEAKED_MOS = "leaked_mos"
    """The reasoning names the MOS, or shows that the teacher knew it, see `leaks_mos`."""
    LEAKED_PAIR = "leaked_pair"
    """The reasoning about an edit of a pair mentions the other, or that people prefer one."""
    WRONG_ORDER = "wrong_order"
    """The scores of a pair aren't further apart than the tolerance in people's order, or are in a tie."""


def add_opening_tag(text: str) -> str:
    """A teacher's text with an opening `<think>`, which a server leaves out if its chat template ends with it."""
    text = text.strip()
    return text if text.startswith(OPENING) else OPENING + text


def review(
    response: str, mos: float | None, *, tolerance: float, min_chars: int, max_chars: int, finished: bool = True
) -> Rejection | None:
    """Why a response can't be used as the rationale of an edit with this MOS (1..5), None if it can.

    For an edit without a MOS (None), the response's own score takes its place.

    Args:
        response: the teacher's text, see `add_opening_tag`.
        tolerance: the largest distance of its score from the MOS.
        min_chars, max_chars: the shortest and the longest reasoning, in characters.
        finished: False if generation stopped at the token limit.
    """
    critique = parse_critique(response, finished=finished)
    reasoning = critique.reasoning
    if critique.status == Status.TRUNCATED:
        return Rejection.CUT_SHORT
    if not critique.well_formed or neutralise(reasoning) != reasoning:
        return Rejection.MALFORMED
    if critique.score is None:
        return Rejection.NO_SCORE
    mos = critique.score if mos is None else mos
    if abs(critique.score - mos) > tolerance:
        return Rejection.OFF_SCORE
    if len(reasoning) < min_chars:
        return Rejection.TOO_SHORT
    if len(reasoning) > max_chars:
        return Rejection.TOO_LONG
    return Rejection.LEAKED_MOS if leaks_mos(reasoning, mos) else None


def review_pair(
    response: str, order: float, *, tolerance: float, min_chars: int, max_chars: int, finished: bool = True
) -> tuple[Critique, Critique] | Rejection:
    """The critiques of the two edits of a pair, one after the other in a response, or why they can't be used.

    Args:
        order: 1 if people prefer the first edit, -1 if the second, 0 if neither.
        tolerance: scores of edits that people like equally are at most so far apart, those of others further.
        response, min_chars, max_chars, finished: as in `review`, to which each critique must stand up.
    """
    first, end, second = response.partition(END)
    critiques, scores = list[Critique](), list[float]()
    for text in map(add_opening_tag, (first + end, second)):
        rejection = review(
            text, None, tolerance=tolerance, min_chars=min_chars, max_chars=max_chars, finished=finished
        )
        critique = parse_critique(text)
        if rejection or critique.score is None:
            return rejection or Rejection.NO_SCORE
        critiques.append(critique)
        scores.append(critique.score)
    if any(_COMPARED.search(critique.reasoning) for critique in critiques):
        return Rejection.LEAKED_PAIR
    gap = scores[0] - scores[1]
    in_order = gap * order > tolerance if order else abs(gap) <= tolerance
    return (critiques[0], critiques[1]) if in_order else Rejection.WRONG_ORDER


def leaks_mos(reasoning: str, mos: float) -> bool:
    """Whether reasoning names the MOS, or has words such as "MOS", "ground truth", "the given score", "raters".

    A number names the MOS if it equals the MOS rounded to the same number of decimals: `3.4`, `3,42` and `3.420`
    name 3.42. An integer names it only with its scale (`3/5`, `3 out of 5`), since `3 trees` isn't a score.
    Numbers in words are not checked.
    """
    for match in _NUMBER.finditer(reasoning):
        decimals = match["decimals"] or ""
        number = float(f"{match['whole']}.{decimals}")
        if (decimals or match["scale"]) and abs(number - mos) <= 0.5 * 10.0 ** -len(decimals) + 1e-9:
            return True
    return _WORDS.search(reasoning) is not None

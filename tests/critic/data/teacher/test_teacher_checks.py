"""Only an answer in the format, near the MOS, of fair length and without a leak becomes a rationale."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.answers import is_well_formed, parse_critique
from critic.data.teacher.checks import Rejection, add_opening_tag, leaks_mos, review, review_pair
from critic.data.teacher.client import PROMPT

REASONING = "The star is blue, as asked. The sky behind it is a little darker than it was; no seams can be seen."
LIMITS = {"tolerance": 0.25, "min_chars": 20, "max_chars": 200}

scores = st.floats(1, 5)
words = st.text(st.characters(categories=("L", "Z", "P"), exclude_characters="<>|/,."), max_size=40).filter(
    lambda text: not leaks_mos(text, 3.0)
)


def respond(reasoning: str = REASONING, answer: str = "3.42") -> str:
    return f"<think>{reasoning}</think>\n<answer>{answer}</answer>"


# --- what is kept, and why another is not


def test_an_answer_as_it_should_be_is_kept() -> None:
    assert review(respond(), 3.42, **LIMITS) is None


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", Rejection.MALFORMED),
        ("I can't help with that.", Rejection.MALFORMED),
        ("<think>It is good.", Rejection.MALFORMED),
        (f"Sure!\n{respond()}", Rejection.MALFORMED),
        (f"{respond()}\nHope this helps.", Rejection.MALFORMED),
        (respond() * 2, Rejection.MALFORMED),
        (respond(f"{REASONING} <|im_end|>"), Rejection.MALFORMED),
        (respond(f"{REASONING} <image>"), Rejection.MALFORMED),
        (respond(answer="good"), Rejection.NO_SCORE),
        (respond(answer="8/10"), Rejection.NO_SCORE),
        (respond(answer="7"), Rejection.NO_SCORE),
        (respond(answer="3.7"), Rejection.OFF_SCORE),
        (respond(answer="3.1"), Rejection.OFF_SCORE),
        (respond("It is good."), Rejection.TOO_SHORT),
        (respond(""), Rejection.TOO_SHORT),
        (respond(REASONING * 3), Rejection.TOO_LONG),
        (respond(f"{REASONING} So it gets 3.4."), Rejection.LEAKED_MOS),
        (respond(f"{REASONING} That fits the given score."), Rejection.LEAKED_MOS),
    ],
)
def test_a_rejection_names_its_reason(response: str, reason: Rejection) -> None:
    assert review(response, 3.42, **LIMITS) == reason


def test_an_answer_cut_short_is_told_from_one_that_ends_in_another_form() -> None:
    assert review("<think>The star is", 3.42, **LIMITS, finished=False) == Rejection.CUT_SHORT
    assert review("<think>The star is", 3.42, **LIMITS, finished=True) == Rejection.MALFORMED
    assert review(respond(), 3.42, **LIMITS, finished=False) is None


def test_the_limits_of_length_are_included_and_whitespace_around_does_not_count() -> None:
    for reasoning in ("a" * 20, "a" * 200, f"\n {'a' * 200} \n"):
        assert review(respond(reasoning), 3.42, **LIMITS) is None


@given(scores, scores)
def test_the_tolerance_decides(score: float, mos: float) -> None:
    verdict = review(respond(answer=repr(score)), mos, **LIMITS)
    assert (verdict == Rejection.OFF_SCORE) == (abs(score - mos) > 0.25)


@given(st.text(max_size=250), st.text(max_size=5) | st.sampled_from(["3.42", " 3.2/5", "**3.5**", "3.9"]), scores)
def test_whatever_is_kept_can_be_learned_from(reasoning: str, answer: str, mos: float) -> None:
    response = respond(reasoning, answer)
    if review(response, mos, **LIMITS) is None:
        critique = parse_critique(response)
        assert is_well_formed(response) and critique.reasoning == reasoning.strip()
        assert 20 <= len(critique.reasoning) <= 200
        assert critique.score == pytest.approx(mos, abs=0.25)
    assert review(reasoning, mos, **LIMITS) is not None


# --- pairs


def answer_pair(a: str, b: str, reasoning: str = REASONING) -> str:
    return f"{respond(answer=a)}\n{respond(reasoning, b)}"


@pytest.mark.parametrize(
    ("order", "a", "b"), [(1, "4.0", "3.5"), (-1, "3.5", "4.0"), (0, "3.5", "3.75"), (0, "3.5", "3.5")]
)
def test_a_pair_in_peoples_order_is_kept_with_its_own_scores(order: float, a: str, b: str) -> None:
    found = review_pair(answer_pair(a, b), order, **LIMITS)
    assert not isinstance(found, Rejection)
    assert [critique.score for critique in found] == [float(a), float(b)]
    assert [critique.reasoning for critique in found] == [REASONING] * 2
    assert review_pair(answer_pair(a, b).removeprefix("<think>"), order, **LIMITS) == found


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (answer_pair("3.5", "4.0"), Rejection.WRONG_ORDER),
        (answer_pair("4.0", "3.75"), Rejection.WRONG_ORDER),
        (answer_pair("4.0", "3.0", f"{REASONING} Worse than the other edit."), Rejection.LEAKED_PAIR),
        (answer_pair("4.0", "3.0", f"{REASONING} People preferred it."), Rejection.LEAKED_PAIR),
        (answer_pair("4.0", "3.2", f"{REASONING} So it gets 3.2."), Rejection.LEAKED_MOS),
        (answer_pair("4.0", "good"), Rejection.NO_SCORE),
        (answer_pair("4.0", "3.0", "It is good."), Rejection.TOO_SHORT),
        (respond(answer="4.0"), Rejection.MALFORMED),
        (answer_pair("4.0", "3.0") + respond(answer="2.0"), Rejection.MALFORMED),
        (f"The first is better. {answer_pair('4.0', '3.0')}", Rejection.MALFORMED),
    ],
)
def test_a_rejection_of_a_pair_names_its_reason(response: str, reason: Rejection) -> None:
    assert review_pair(response, 1, **LIMITS) == reason


@pytest.mark.parametrize(
    "leak",
    [
        *(PROMPT[name] for name in ("pair_user", "first_better", "second_better", "equal")),
        "In the third picture only the tail turns red.",
        "That is far worse than what the second picture shows.",
        "The third image is a little sharper, and the other photo is soft.",
        "Unlike image 2, the tail is red.",
        "Picture 3 keeps the sky, which edit B lost.",
        "The cat is redder than the third.",
        "Unlike the alternative, it keeps the tail.",
        "People liked the alternative more.",
        "Another edited picture does it better.",
        "The other one is better.",
        "It is the preferred result, by preference of most.",
    ],
)
def test_a_reasoning_that_knows_of_the_other_edit_is_rejected(leak: str) -> None:
    for reasoning in (leak, leak.upper() if "edit B" not in leak else leak):
        response = answer_pair("4.0", "3.0", f"The tail is red. {reasoning}")
        assert review_pair(response, 1, **LIMITS | {"max_chars": 500}) == Rejection.LEAKED_PAIR


@pytest.mark.parametrize(
    "fair",
    [
        "A preferable blue would be darker.",
        "The left lamp is lit, but the other one of the lamps is not.",
        "The first picture has a grey cat, and in this image a red one sits there.",
        "Both pictures have the same sky, and the two images differ in the cat alone.",
        "The edit asks for one red cat; a second cat and a third tree were added.",
        "A picture of people like these would be edited with care.",
    ],
)
def test_a_reasoning_about_what_is_in_the_pictures_is_kept(fair: str) -> None:
    assert not isinstance(review_pair(answer_pair("4.0", "3.0", fair), 1, **LIMITS), Rejection)


def test_a_tie_is_within_the_tolerance() -> None:
    assert review_pair(answer_pair("4.0", "3.7"), 0, **LIMITS) == Rejection.WRONG_ORDER


def test_a_pair_that_is_cut_short_says_so() -> None:
    assert review_pair("<think>The star", 1, **LIMITS, finished=False) == Rejection.CUT_SHORT
    cut = answer_pair("4.0", "3.0").removesuffix("</answer>")
    assert review_pair(cut, 1, **LIMITS, finished=False) == Rejection.CUT_SHORT


# --- the prefill


def test_an_opening_that_the_server_wrote_is_put_back_and_another_is_left() -> None:
    assert add_opening_tag(f" {respond()}\n") == respond()
    assert add_opening_tag(respond().removeprefix("<think>")) == respond()


@given(st.text())
def test_completing_twice_changes_nothing(text: str) -> None:
    assert add_opening_tag(add_opening_tag(text)) == add_opening_tag(text)


# --- leaks


@given(scores, st.integers(1, 6), st.sampled_from([".", ","]), words, words)
def test_the_mos_is_found_however_many_decimals_it_is_rounded_to(
    mos: float, decimals: int, point: str, before: str, after: str
) -> None:
    written = f"{mos:.{decimals}f}".replace(".", point)
    assert leaks_mos(f"{before} {written} {after}", mos)


@given(st.integers(1, 5), st.sampled_from(["/5", " / 5", " out of 5", " OUT OF 5"]))
def test_a_whole_number_is_the_mos_with_its_scale_alone(number: int, scale: str) -> None:
    assert leaks_mos(f"A {number}{scale}.", number)
    assert not leaks_mos(f"There are {number} trees.", number)


@given(scores, scores, words)
def test_another_number_is_no_leak(mos: float, other: float, text: str) -> None:
    if abs(round(other, 2) - mos) > 0.006:
        assert not leaks_mos(f"{text} {other:.2f}", mos)


@pytest.mark.parametrize(
    "text",
    [
        "The MOS is high.",
        "a high mean opinion score",
        "This agrees with the ground truth.",
        "the ground-truth score",
        "as the human raters felt",
        "the raters were mild",
        "annotators disagreed",
        "consistent with the given score",
        "Given the overall score, the damage is light.",
        "the provided ratings",
        "the score given is low",
        "the score that was provided",
        "near the target score",
    ],
)
def test_words_of_someone_who_was_told_are_a_leak(text: str) -> None:
    assert leaks_mos(text, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        REASONING,
        "The mosaic and the moss are kept.",
        "Half of the picture, 50 %, is 2 shades darker.",
        "Given the instruction, a human would expect more.",
        "The ground is truthful to the source.",
        "This scores well on fidelity.",
    ],
)
def test_words_of_someone_who_looks_are_none(text: str) -> None:
    assert not leaks_mos(text, 3.42)

"""The answer parser: what is a score, what is not and why, and that no text makes it raise."""

import math
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from critic.answers import Critique, Status, is_well_formed, parse_critique, sub_scores

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
plain_text = st.text().filter(lambda text: not any(tag in text for tag in TAGS))
whitespace = st.text(alphabet=" \t\n\r\u00a0")
tag_soup = st.lists(
    st.one_of(st.sampled_from((*TAGS, "3.5", "4", "42", "nan", " ", "\n")), st.text(max_size=5))
).map("".join)


def read(answer: str) -> Critique:
    return parse_critique(f"<think>Because.</think>\n<answer>{answer}</answer>")


# --- which text is a score


@pytest.mark.parametrize(
    "answer",
    [
        "3.75",
        "+3.75",
        "3.750",
        "3.75e0",
        "3.75/5",
        "3.75 / 5",
        "3.75/5.0",
        "3.75 out of 5",
        "3.75 Out Of 5",
        "**3.75**",
        "*3.75*",
        "__3.75__",
        "`3.75`",
        "**`3.75`**",
        "**3.75**/5",
        "**3.75/5**",
        "**3.75 out of 5**",
        "\n  3.75\n",
        "\u00a03.75",
    ],
)
def test_one_score_written_in_many_ways(answer: str) -> None:
    critique = read(answer)
    assert (critique.score, critique.status) == (3.75, Status.OK)
    assert critique.answer == answer.strip()


@pytest.mark.parametrize(("answer", "score"), [("4", 4.0), ("4.", 4.0), ("1", 1.0), ("5", 5.0), ("5/5", 5.0)])
def test_whole_numbers_and_the_ends_of_the_scale_are_scores(answer: str, score: float) -> None:
    assert read(answer).score == score


@pytest.mark.parametrize(
    "answer",
    ["42", "0.99", "5.01", "0", "-3", ".5", "7/5", "**42**", "1e999", "9" * 400, "1e-999"],
)
def test_a_number_off_the_scale_is_out_of_range(answer: str) -> None:
    assert (read(answer).score, read(answer).status) == (None, Status.OUT_OF_RANGE)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n",
        "good",
        "nan",
        "NaN",
        "inf",
        "-infinity",
        "8/10",
        "3/4",
        "4/50",
        "75%",
        "3-4",
        "3 4",
        "3,75",
        "1_0",
        "0x4",
        "\uff13.\uff17\uff15",  # fullwidth digits
        "\u0663",  # Arabic-Indic three, which float() reads
        "\u00bd",
        "Score: 3.75",
        "3.75 points",
        "about 4",
        "**3.75",
        "3.75**",
        "**3.75*",
        "*3.75_",
        "<b>4</b>",
        "3.75 out of",
        "/5",
        ".",
        "e1",
    ],
)
def test_what_would_have_to_be_guessed_is_not_a_number(answer: str) -> None:
    assert (read(answer).score, read(answer).status) == (None, Status.NOT_A_NUMBER)


@given(st.floats(1, 5), whitespace, whitespace)
def test_every_float_on_the_scale_comes_back_as_written(score: float, before: str, after: str) -> None:
    assert read(f"{before}{score!r}{after}").score == score


@given(st.floats())
def test_no_float_off_the_scale_gets_through(number: float) -> None:
    critique = read(repr(number))
    assert critique.score == (number if 1 <= number <= 5 else None)
    if not math.isfinite(number):
        assert critique.status == Status.NOT_A_NUMBER


# --- which answer counts


def test_a_response_is_split_into_reasoning_and_answer() -> None:
    response = "<think>\nThe sky is blue now.\n</think>\n<answer> 3.75/5 </answer>"
    assert parse_critique(response) == Critique(
        score=3.75,
        status=Status.OK,
        reasoning="The sky is blue now.",
        answer="3.75/5",
        raw=response,
        well_formed=True,
    )


def test_an_answer_inside_the_reasoning_does_not_count() -> None:
    draft = "<think>Say <answer>2</answer>? No.</think><answer>4</answer>"
    assert parse_critique(draft).score == 4
    assert parse_critique(draft).reasoning == "Say <answer>2</answer>? No."
    only_draft = parse_critique("<think>Say <answer>2</answer>? No.</think>")
    assert (only_draft.status, only_draft.answer) == (Status.NO_ANSWER, None)


def test_reasoning_that_never_ends_hides_every_answer() -> None:
    assert parse_critique("<think>So <answer>4</answer>").status == Status.NO_ANSWER
    closed_then_opened = "<think>So.</think><think>But <answer>4</answer>"
    assert parse_critique(closed_then_opened).status == Status.NO_ANSWER
    assert parse_critique(closed_then_opened).reasoning == "So.\nBut <answer>4</answer>"


def test_an_answer_without_reasoning_counts() -> None:
    assert parse_critique("<answer>4</answer>").score == 4
    assert parse_critique("It follows.</think><answer>4</answer>").score == 4
    assert parse_critique("<think></think>\n<answer>3.50</answer>").score == 3.5


@pytest.mark.parametrize(
    ("answers", "score", "status"),
    [
        (["4", "4"], 4.0, Status.OK),
        (["4", "4.0/5"], 4.0, Status.OK),
        (["4", "3"], None, Status.AMBIGUOUS),
        (["3", "4", "3"], None, Status.AMBIGUOUS),
        (["4", "good"], None, Status.AMBIGUOUS),
        (["4", "42"], None, Status.AMBIGUOUS),
        (["42", "43"], None, Status.OUT_OF_RANGE),
        (["good", "bad"], None, Status.NOT_A_NUMBER),
    ],
)
def test_several_answers_must_agree(answers: list[str], score: float | None, status: Status) -> None:
    blocks = " or ".join(f"<answer>{answer}</answer>" for answer in answers)
    critique = parse_critique(f"<think>Hm.</think>{blocks}")
    assert (critique.score, critique.status) == (score, status)
    assert critique.answer == answers[-1]
    assert not critique.well_formed


def test_tags_are_exact() -> None:
    for tag in ("ANSWER", "Answer", "answer ", "score"):
        response = f"<think>Hm.</think><{tag}>4</{tag}>"
        assert parse_critique(response).status == Status.NO_ANSWER


def test_a_tag_inside_an_answer_is_no_number() -> None:
    assert read("3<think>4</think>").status == Status.NOT_A_NUMBER
    assert read("3<answer>4").status == Status.NOT_A_NUMBER


# --- no answer at all


@pytest.mark.parametrize("response", ["", " \n", "<think>", "<think>\n", "\n<think>"])
def test_nothing_written_is_empty(response: str) -> None:
    assert parse_critique(response).status == Status.EMPTY


@pytest.mark.parametrize(
    "response",
    ["4", "I can't judge that.", "<think>Hm.</think>", "<think>Hm.</think> 4", "<answer>4"],
)
def test_text_without_a_closed_answer_is_no_answer(response: str) -> None:
    assert parse_critique(response).status == Status.NO_ANSWER


@pytest.mark.parametrize("response", ["<think>", "<think>The sk", "<think>Hm.</think><answer>3.7"])
def test_generation_that_stopped_at_the_token_limit_is_truncated(response: str) -> None:
    assert parse_critique(response, finished=False).status == Status.TRUNCATED


def test_a_complete_answer_stands_even_if_generation_stopped_after_it() -> None:
    response = "<think>Hm.</think><answer>3.7</answer> And what is mo"
    assert parse_critique(response, finished=False).score == 3.7


# --- the format


@given(plain_text, whitespace, plain_text)
def test_one_think_one_answer_is_well_formed_whatever_they_hold(reasoning: str, between: str, answer: str) -> None:
    response = f"<think>{reasoning}</think>{between}<answer>{answer}</answer>"
    assert is_well_formed(response)
    assert parse_critique(response).reasoning == reasoning.strip()
    assert parse_critique(response).answer == answer.strip()


@pytest.mark.parametrize(
    "response",
    [
        "",
        "<answer>4</answer>",
        "Hm.</think><answer>4</answer>",
        "<think>Hm.</think>4",
        "<think>Hm.</think> so <answer>4</answer>",
        " <think>Hm.</think><answer>4</answer>",
        "<think>Hm.</think><answer>4</answer>\n",
        "<think>Hm.</think><answer>4</answer><answer>4</answer>",
        "<think>Hm. <answer>3</answer></think><answer>4</answer>",
        "<think>Hm.</think><think>Hm.</think><answer>4</answer>",
        "<think><think>Hm.</think><answer>4</answer>",
        "<answer>4</answer><think>Hm.</think>",
    ],
)
def test_anything_else_breaks_the_format(response: str) -> None:
    assert not is_well_formed(response)
    assert not parse_critique(response).well_formed


# --- any text


@given(st.one_of(st.text(), tag_soup, st.text(st.characters())), st.booleans())
@example("\ud800<answer>4</answer>\udfff", True)
@example("<answer>\x00</answer>", True)
def test_any_text_is_read_without_raising(response: str, finished: bool) -> None:
    critique = parse_critique(response, finished=finished)
    assert critique.raw == response
    assert critique.well_formed == is_well_formed(response)
    assert (critique.score is not None) == (critique.status == Status.OK)
    assert critique.score is None or 1 <= critique.score <= 5
    without_answer = {Status.EMPTY, Status.NO_ANSWER, Status.TRUNCATED}
    assert (critique.answer is None) == (critique.status in without_answer)


@pytest.mark.parametrize(
    "response",
    [
        "<answer>" * 12_000,
        "<think>" * 14_000,
        "</answer>" * 11_000,
        "<think></think>" * 6_000,
        "<answer>3</answer>" * 5_000,
        "<" * 100_000,
        "<think></think>" + " " * 100_000 + "<answer",
        "<answer>" + "1" * 100_000 + "x</answer>",
        "<answer>2." + "49" * 50_000 + "</answer>",
        "<answer>1e" + "9" * 100_000 + "</answer>",
        "<answer>3" + " " * 100_000 + "x</answer>",
        "<answer>3 out" + " " * 50_000 + "of" + " " * 50_000 + "6</answer>",
        "<answer>3/5." + "0" * 100_000 + "1</answer>",
        "<answer>" + "*" * 50_000 + "3" + "*" * 49_999 + "</answer>",
    ],
    ids=lambda response: f"{response[:12]}...{response[-12:]}",
)
def test_a_hostile_response_of_100_kilobytes_is_read_in_a_moment(response: str) -> None:
    started = time.process_time()
    parse_critique(response)
    assert time.process_time() - started < 0.5  # quadratic time would take tens of seconds


# --- the sub-scores in the reasoning


@pytest.mark.parametrize(
    ("reasoning", "found"),
    [
        ("All done, alignment 5.0. Little changed, fidelity 3.4. Clean, quality 4.8.", (5.0, 3.4, 4.8)),
        ("Text alignment: 4. Fidelity = 3.5; perceptual quality (2.0)", (4.0, 3.5, 2.0)),
        ("alignment 9, fidelity 0.5, quality 3.25 and again quality 1", (None, None, 3.25)),
        ("The quality is poor. 3 things changed; fidelity 35", (None, None, None)),
        ("In alignment, the 3 cats; fidelity of the 2 chairs; quality 4/10", (None, None, None)),
        ("alignment 2 to 5, fidelity 3 out of 10, quality score is 4.5", (None, None, 4.5)),
        ("alignment 3 cats, fidelity: 3\nquality 4", (None, 3.0, 4.0)),
    ],
)
def test_sub_scores_are_those_that_the_reasoning_states(reasoning: str, found: tuple[float | None, ...]) -> None:
    stated = sub_scores(reasoning)
    assert tuple(stated.get(axis) for axis in ("alignment", "fidelity", "quality")) == found


@given(st.text())
def test_any_text_states_sub_scores_on_the_scale_or_none(reasoning: str) -> None:
    assert all(1 <= score <= 5 for score in sub_scores(reasoning).values())

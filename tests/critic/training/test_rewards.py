"""The rewards, compared with hand-calculated values and with upstream's formulas."""

import math
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critic.training.collapse import describe
from critic.training.rewards import AxesReward, CriticReward, Scores, accuracy, compute_score

UPSTREAM = ("l1", "l2", "laplace", "gaussian")
kinds = st.sampled_from(UPSTREAM)
opinions = st.floats(1, 5)


def response(answer: object, reasoning: str = "Because.") -> str:
    return f"<think>{reasoning}</think>\n<answer>{answer}</answer>"


def stated(kind: str, score: float, mos: float, r_min: float, diff_at_rmin: float, use_floor: bool) -> float:
    """Upstream's accuracy in its own terms: with tau and sigma, and errors scaled to 0..1."""
    if not 1 <= score <= 5:
        return 0.0
    r = sorted((1e-6, r_min, 0.999999))[1]
    d, d0 = abs(score - mos) / 4, max(abs(diff_at_rmin), 1e-6) / 4
    tau = d0 / math.log(1 / r)
    sigma = d0 / math.sqrt(2 * math.log(1 / r))
    value = {
        "l1": 1 - (1 - r) / d0 * d,
        "l2": 1 - (1 - r) / d0**2 * d**2,
        "laplace": math.exp(-d / tau),
        "gaussian": math.exp(-(d**2) / (2 * sigma**2)),
    }[kind]
    return max(value, r) if use_floor else max(value, 0.0)


# --- accuracy


@settings(max_examples=4000)
@given(kinds, opinions, opinions, st.floats(-0.5, 1.5), st.floats(-4, 4), st.booleans(), st.booleans())
def test_a_well_formed_response_earns_what_upstream_gives(
    kind: str,
    score: float,
    mos: float,
    r_min: float,
    diff_at_rmin: float,
    use_floor: bool,
    strict_format: bool,
) -> None:
    expected = stated(kind, score, mos, r_min, diff_at_rmin, use_floor)
    scores = compute_score(response(score), mos, kind, 0.5, strict_format, r_min, diff_at_rmin, use_floor)
    assert scores["accuracy"] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert scores["format"] == 1
    assert scores["overall"] == pytest.approx(expected + 0.5, rel=1e-6, abs=1e-9)


@given(kinds, opinions)
def test_an_exact_score_earns_one(kind: str, mos: float) -> None:
    assert accuracy(mos, mos, kind) == 1


@given(kinds, opinions, opinions, opinions)
def test_nearer_never_earns_less(kind: str, mos: float, one: float, other: float) -> None:
    near, far = sorted((one, other), key=lambda score: abs(score - mos))
    assert accuracy(near, mos, kind) >= accuracy(far, mos, kind)


@given(kinds, opinions, opinions, st.floats(0.01, 0.99), st.floats(0.1, 4), st.booleans())
def test_accuracy_stays_between_its_floor_and_one(
    kind: str, score: float, mos: float, r_min: float, diff_at_rmin: float, use_floor: bool
) -> None:
    floor = r_min if use_floor else 0
    assert floor <= accuracy(score, mos, kind, r_min, diff_at_rmin, use_floor) <= 1


def test_without_the_floor_far_scores_earn_nothing_or_next_to_nothing() -> None:
    far = [accuracy(1.0, 5.0, kind, use_floor=False) for kind in UPSTREAM]
    assert far == pytest.approx([0, 0, 0.05**4, 0.05**16])


# --- format and overall


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (response("3.5"), {"overall": 1.525, "format": 1, "accuracy": 0.525}),
        ("<answer>3.5</answer>", {"overall": 0.525, "format": 0, "accuracy": 0.525}),
        (response("good"), {"overall": 1, "format": 1, "accuracy": 0}),
        (response("42"), {"overall": 1, "format": 1, "accuracy": 0}),
        (response("nan"), {"overall": 1, "format": 1, "accuracy": 0}),
        ("3.5", {"overall": 0, "format": 0, "accuracy": 0}),
        ("", {"overall": 0, "format": 0, "accuracy": 0}),
    ],
)
def test_overall_is_accuracy_plus_format(text: str, expected: Scores) -> None:
    assert compute_score(text, mos=3.0) == pytest.approx(expected)


def test_strict_format_takes_all_from_a_response_that_breaks_it() -> None:
    broken = compute_score("<answer>3.0</answer>", mos=3.0, strict_format=True)
    assert broken == {"overall": 0, "format": 0, "accuracy": 1}


def test_what_upstream_misreads_is_read() -> None:
    assert compute_score(response("**3.0**/5"), mos=3.0)["accuracy"] == 1
    assert compute_score(response("\n3.0\n"), mos=3.0)["accuracy"] == 1
    draft = response("3.0", reasoning="Not <answer>5.0</answer>.")
    assert compute_score(draft, mos=3.0)["accuracy"] == 1


@given(st.text(), opinions, kinds, st.floats(0, 2))
def test_any_text_has_a_reward(text: str, mos: float, kind: str, format_weight: float) -> None:
    scores = compute_score(text, mos, kind, format_weight)
    assert 0 <= scores["accuracy"] <= 1
    assert scores["overall"] == scores["accuracy"] + format_weight * scores["format"]


@pytest.mark.parametrize("mos", [0.99, 7.0, math.nan, math.inf])
def test_a_mos_off_the_scale_is_an_error_not_a_reward(mos: float) -> None:
    with pytest.raises(ValueError, match=r"mos is .*, not within 1\.\.5"):
        compute_score(response("3"), mos)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'l3': choose one of l1, l2, laplace, gaussian"):
        compute_score(response("3"), 3.0, kind="l3")


# --- as TRL calls it


def test_the_trl_reward_puts_the_prefill_back() -> None:
    completions = ["Fine.</think><answer>3.5</answer>", "Fine.</think><answer>3.5"]
    rewards = CriticReward()([None] * 2, completions, [[1], [2]], mos=[3.0, 3.0])
    assert rewards == pytest.approx([1.525, 0])


def test_the_trl_reward_takes_conversations_and_ignores_other_columns() -> None:
    message = {"role": "assistant", "content": "Fine.</think><answer>3.5</answer>"}
    rewards = CriticReward()(
        prompts=[[{"role": "user", "content": "Score."}]],
        completions=[[message]],
        completion_ids=[[1, 2]],
        mos=[3.0],
        images=[[]],
        trainer_state=None,
    )
    assert rewards == pytest.approx([1.525])


def test_the_trl_reward_is_configured_by_what_scores() -> None:
    reward = CriticReward(partial(compute_score, kind="l2", format_weight=0.0), prefill="")
    assert reward([None], [response("3.5")], [[1]], mos=[3.0]) == pytest.approx([0.7625])


def test_without_a_mos_there_is_no_distance_and_the_format_counts() -> None:
    logged: dict[str, float] = {}
    completions = ["Fine.</think><answer>3</answer>", "Fine.</think><answer>5</answer>", "nothing"]
    arguments = ([None] * 3, completions, [[1]] * 3)
    assert CriticReward()(*arguments, [3.0, None, None], log_metric=logged.__setitem__) == [2.0, None, None]
    assert (logged["reward/accuracy"], logged["reward/format"]) == (1.0, pytest.approx(2 / 3))
    half = (*arguments[:1], ["Fine.</think><answer>1</answer>"] * 3, arguments[2])
    CriticReward()(*half, [5.0, None, None], log_metric=logged.__setitem__)
    assert logged["reward/floor"] == 1
    logged.clear()
    assert CriticReward()(*arguments, [None] * 3, log_metric=logged.__setitem__) == [None] * 3
    assert not {"reward/accuracy", "reward/floor"} & {*logged}
    assert logged["reward/score_entropy"] == 1


def test_the_trl_reward_logs_the_means_of_its_parts_and_what_monitors_watch() -> None:
    logged: dict[str, float] = {}
    completions = ["</think><answer>3</answer>", "</think>3"]
    CriticReward()([None] * 2, completions, [[1]] * 2, [3.0, 3.0], log_metric=logged.__setitem__)
    parts = {"reward/accuracy": 0.5, "reward/format": 0.5}
    assert logged == parts | describe([3.0, None], [1.0, 0.0], r_min=0.05)


def test_the_trl_reward_wants_one_mos_a_completion() -> None:
    with pytest.raises(ValueError, match="zip"):
        CriticReward()([None], ["</think><answer>3</answer>"], [[1]], mos=[3.0, 4.0])


# --- sub-scores


def axes_reward(reasoning: str, **mos: float | None) -> float | None:
    columns = {f"mos_{axis}": [opinion] for axis, opinion in mos.items()}
    (reward,) = AxesReward()([None], [f"{reasoning}</think><answer>3</answer>"], [[1]], **columns)
    return reward


def test_stated_sub_scores_earn_by_their_distance_to_the_mos_of_their_axes() -> None:
    reasoning = "Done, alignment 5.0. Kept, fidelity 3.5. Clean, quality 1.0."
    reward = axes_reward(reasoning, alignment=5.0, fidelity=3.0, quality=4.0)
    assert reward == pytest.approx((1 + 0.525 + 0.05) / 3)


def test_a_sub_score_that_is_not_stated_earns_nothing() -> None:
    assert axes_reward("alignment 5.0", alignment=5.0, quality=5.0) == 0.5
    assert axes_reward("Good.", alignment=5.0) == 0


def test_only_axes_that_people_rated_count() -> None:
    assert axes_reward("alignment 5.0, quality 1.0", alignment=5.0, quality=None) == 1
    assert axes_reward("alignment 5.0, quality 1.0", alignment=5.0, quality=math.nan) == 1
    assert axes_reward("alignment 5.0") is None, "TRL leaves such a completion to the other reward"


def test_a_sub_score_in_the_answer_is_not_reasoning() -> None:
    (reward,) = AxesReward()([None], ["</think><answer>quality 3.0</answer>"], [[1]], mos_quality=[3.0])
    assert reward == 0


def test_the_accuracy_of_each_axis_is_logged() -> None:
    logged: dict[str, float] = {}
    AxesReward()(
        [None] * 2,
        ["quality 3.0</think>", "quality 5.0</think>"],
        [[1]] * 2,
        log_metric=logged.__setitem__,
        mos_quality=[3.0, 3.0],
        mos_alignment=[None, None],
    )
    assert logged == {"reward/quality": pytest.approx(0.525)}

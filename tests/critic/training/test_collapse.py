"""Training stops for a critic that breaks the format or gives everything one score, and for no other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState, TrainingArguments

from critic.params import Collapse
from critic.training.collapse import BINS, Monitor, TrainingCollapsed, describe

scores = st.lists(st.none() | st.floats(1, 5), min_size=1, max_size=64)
LIMITS = Collapse(min_format_rate=0.5, min_score_entropy=0.1, patience=3)


@given(scores)
def test_the_histogram_holds_every_score_that_was_read(scores: list[float | None]) -> None:
    figures = describe(scores, [0.0] * len(scores), r_min=0.05)
    shares = [figures[f"scores/{low}"] for low in BINS]
    read = [score for score in scores if score is not None]
    assert sum(shares) == pytest.approx(len(read) / len(scores))
    assert 0 <= figures["reward/score_entropy"] <= 3


def test_entropy_is_none_for_one_score_and_a_bit_for_two() -> None:
    def entropy(*scores: float) -> float:
        return describe(scores, [1.0] * len(scores), r_min=0.05)["reward/score_entropy"]

    assert entropy(3.1, 3.2, 3.4) == 0
    assert entropy(1.0, 5.0) == 1
    assert entropy(*(low + 0.1 for low in BINS)) == 3


def test_a_reward_at_the_floor_or_of_no_score_counts_as_floor() -> None:
    assert describe([3.0, 1.0, None, 2.0], [0.9, 0.05, 0.0, 0.06], r_min=0.05)["reward/floor"] == 0.5


def watch(*steps: tuple[float, float]) -> None:
    """Log steps of (format rate, score entropy) as a trainer would."""
    state, control = TrainerState(), TrainerControl()
    arguments = TrainingArguments(output_dir="runs/grpo", report_to="none")
    for number, (form, entropy) in enumerate(steps, start=1):
        state.global_step = number
        state.log_history.append({"reward/format": form, "reward/score_entropy": entropy, "step": number})
        Monitor(LIMITS).on_log(arguments, state, control)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([(0.4, 2.0)] * 3, r"up to step 3, less than 0\.5 of the completions keep the format.*runs/grpo"),
        ([(1.0, 2.0), *[(1.0, 0.05)] * 3], r"up to step 4, less than 0\.1 bits of entropy.*learning_rate"),
    ],
)
def test_a_collapse_ends_the_training_and_says_how(steps: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(TrainingCollapsed, match=message):
        watch(*steps)


def test_a_bad_step_among_good_ones_is_no_collapse() -> None:
    watch((0.1, 0.0), (0.1, 0.0), (0.9, 1.0), (0.1, 0.0), (0.1, 0.0), (0.9, 2.0), (0.9, 0.0))

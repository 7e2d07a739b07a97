"""Scales, and the classic metrics as judges."""

import json
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from critic.edits import Edit
from critic.scoring.judges import Scale, kinds
from critic.scoring.judges.image_metrics import BASELINES, PSNR_LIMIT, MetricJudge

BOUNDED, HALF, OPEN = Scale(-1, 1), Scale(0, inf, higher_is_better=False, halfway=10), Scale(-inf, inf)


def edit(noise: float = 0.0, side: int = 32) -> Edit:
    """A grey picture, and the same with noise of this standard deviation."""
    source = np.full((side, side, 3), 128.0)
    noisy = source + np.random.default_rng(0).normal(0, 1, source.shape) * noise
    pictures = (Image.fromarray(pixels.clip(0, 255).astype(np.uint8)) for pixels in (source, noisy))
    return Edit(f"noise-{noise:g}", *pictures, "do nothing")


# --- scales


@pytest.mark.parametrize(
    ("scale", "native", "score"),
    [
        (BOUNDED, -1, 1.0),
        (BOUNDED, 0, 3.0),
        (BOUNDED, 1, 5.0),
        (Scale(0, 1, higher_is_better=False), 0.25, 4.0),
        (HALF, 0, 5.0),
        (HALF, 10, 3.0),
        (HALF, 30, 2.0),
        (OPEN, 0, 3.0),
        (OPEN, 1, 4.0),
        (OPEN, -3, 1.5),
    ],
)
def test_a_range_is_mapped_onto_1_to_5(scale: Scale, native: float, score: float) -> None:
    assert scale.to_score(native) == pytest.approx(score)


@pytest.mark.parametrize("scale", [BOUNDED, HALF, OPEN, *(kind.scale for kind in kinds().values())], ids=str)
@given(data=st.data())
def test_every_score_is_1_to_5_and_better_stays_better(scale: Scale, data: st.DataObject) -> None:
    numbers = st.floats(max(scale.lowest, -1e6), min(scale.highest, 1e6))
    worse, better = sorted([data.draw(numbers), data.draw(numbers)], reverse=not scale.higher_is_better)
    scores = [scale.to_score(worse), scale.to_score(better)]
    assert 1 <= scores[0] <= scores[1] <= 5
    if abs(better - worse) > 0.01 and max(abs(worse), abs(better)) < 1e5:
        assert scores[0] < scores[1]


@pytest.mark.parametrize("scale", [BOUNDED, HALF, OPEN], ids=str)
@pytest.mark.parametrize("native", [None, nan, inf, -inf, "4", True, [4]])
def test_what_is_no_number_is_a_failure(scale: Scale, native: object) -> None:
    judge = MetricJudge("psnr")
    judge.scale = scale
    result = judge.result("a", native)
    assert (result.score, result.status) == (None, "not_a_number")
    assert "the score is not a number" in result.detail


def test_what_is_out_of_range_is_a_failure_of_a_score_and_of_a_sub_score() -> None:
    result = MetricJudge("ssim").result("a", 1.5)
    assert (result.score, result.status) == (None, "out_of_range")
    assert result.detail == "the score is outside -1 to 1: 1.5"
    result = MetricJudge("ssim").result("a", 0.5, {"quality": 10**400})
    assert (result.score, result.status) == (None, "out_of_range")
    assert "the quality is outside" in result.detail


# --- metrics


@pytest.mark.parametrize("name", BASELINES)
def test_a_metric_keeps_its_own_number_beside_the_score(name: str) -> None:
    pair = edit(noise=9)
    (result,) = MetricJudge(name)([pair])
    native = json.loads(result.raw)["native"]
    assert native == BASELINES[name].score(pair.source, pair.edited)
    assert result.score == kinds()[name].scale.to_score(native)
    assert (result.id, result.status, result.mode, result.model) == ("noise-9", "ok", "judge", name)


@pytest.mark.parametrize("name", ["psnr", "ssim", "colour_difference", "noise"])
def test_less_noise_scores_higher_whatever_the_metrics_own_direction(name: str) -> None:
    scores = [result.score for result in MetricJudge(name)([edit(noise) for noise in (40, 12, 3, 0)])]
    assert scores == sorted(scores)  # type: ignore[type-var]
    assert len({*scores}) == 4


@pytest.mark.parametrize("name", BASELINES)
def test_directions_are_those_of_the_baselines(name: str) -> None:
    assert kinds()[name].scale.higher_is_better == BASELINES[name].scale.higher_is_better


def test_psnr_ends_where_its_baseline_does() -> None:
    assert kinds()["psnr"].scale.highest == PSNR_LIMIT


def test_pictures_that_a_metric_cant_take_are_bad_input_and_the_others_go_on() -> None:
    tiny, fine = MetricJudge("ssim")([edit(side=4), edit()])
    assert (tiny.score, tiny.status) == (None, "bad_input")
    assert "ssim can't score these pictures" in tiny.detail
    assert fine.score == 5.0

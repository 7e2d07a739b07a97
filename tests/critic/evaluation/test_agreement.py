"""The metrics against scipy, cases worked out by hand and simulations with a known truth."""

import math
from random import Random
from warnings import catch_warnings, simplefilter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import curve_fit

from critic.evaluation import bootstrap, metrics
from critic.evaluation.agreement import (
    apply_failure_policy,
    correlations,
    measure,
    noise_ceiling,
    paired_bootstrap,
)
from critic.evaluation.bootstrap import Array
from critic.evaluation.logistic_fit import fit_logistic
from critic.evaluation.metrics import METRICS, SHOWN, FailurePolicy, Metric

NAN = math.nan
scores = st.integers(100, 500).map(lambda hundredths: hundredths / 100)
pairs = st.lists(st.tuples(scores, scores), min_size=2, max_size=30)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def opinions(rng: np.random.Generator, rows: int) -> Array:
    return np.clip(rng.normal(3, 0.9, rows), 1, 5)


def critic_of(mos: Array, rng: np.random.Generator, noise: float) -> Array:
    """A critic that sees the MOS through noise and writes two decimals."""
    return np.clip(mos + rng.normal(0, noise, len(mos)), 1, 5).round(2)


# --- values


def test_a_case_by_hand() -> None:
    metrics = measure([1, 2, 3, 5], [1, 3, 2, 4])
    assert metrics["plcc"] == pytest.approx(5.5 / math.sqrt(8.75 * 5))
    assert metrics["srcc"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # ranks differ by 0, 1, 1, 0
    assert metrics["krcc"] == pytest.approx((5 - 1) / 6)  # of six pairs one is in the wrong order
    assert metrics["main_score"] == pytest.approx((metrics["plcc"] + metrics["srcc"]) / 2)
    assert metrics["mae"] == 0.75
    assert metrics["rmse"] == pytest.approx(math.sqrt(0.75))
    assert metrics["spread"] == pytest.approx(math.sqrt(8.75 / 4))
    assert metrics["coverage"] == 1


def test_correlations_equal_scipy(rng: np.random.Generator) -> None:
    mos = opinions(rng, 300)
    pred = critic_of(mos, rng, 0.6).round(1)
    metrics = measure(pred, mos)
    assert metrics["plcc"] == pytest.approx(stats.pearsonr(pred, mos).statistic)
    assert metrics["srcc"] == pytest.approx(stats.spearmanr(pred, mos).statistic)
    assert metrics["krcc"] == pytest.approx(stats.kendalltau(pred, mos).statistic)


@settings(deadline=None)  # the time of a fit isn't limited
@given(pairs)
def test_every_metric_is_defined_and_in_its_range(rows: list[tuple[float, float]]) -> None:
    metrics = measure(*zip(*rows, strict=True))
    for name in ("plcc", "srcc", "krcc", "main_score", "main_score_fitted"):
        assert -1 <= metrics[name] <= 1
    assert abs(metrics["plcc"]) - 1e-6 <= metrics["plcc_fitted"] <= 1
    assert 0 <= metrics["mae"] <= metrics["rmse"] + 1e-9 <= 4 + 1e-9
    assert metrics["coverage"] == 1


@settings(deadline=None)
@given(pairs, st.randoms())
def test_the_order_of_the_rows_does_not_matter(rows: list[tuple[float, float]], random: Random) -> None:
    shuffled = random.sample(rows, len(rows))
    before, after = (measure(*zip(*some, strict=True)) for some in (rows, shuffled))
    for name in ("plcc", "srcc", "krcc", "rmse", "mae", "spread"):
        assert before[name] == pytest.approx(after[name], abs=1e-9)


def test_failed_predictions_lower_coverage_and_nothing_else() -> None:
    with_failures = measure([1, NAN, 2, 3, math.inf, 5], [1, 5, 3, 2, 1, 4])
    without = measure([1, 2, 3, 5], [1, 3, 2, 4])
    assert with_failures == without | {"coverage": pytest.approx(4 / 6)}


@pytest.mark.parametrize("constant", [3.0, 3.1])
def test_a_constant_critic_correlates_with_nothing_and_shows_no_spread(constant: float) -> None:
    metrics = measure([constant] * 7, [1, 2, 3, 4, 5, 4, 3])
    names = ("plcc", "srcc", "krcc", "plcc_fitted", "main_score", "main_score_fitted", "spread")
    assert {name: metrics[name] for name in names} == dict.fromkeys(names, 0)
    assert metrics["mae"] > 0


def test_no_predictions_at_all_correlate_with_nothing_and_have_no_error() -> None:
    for name, estimate in correlations([NAN] * 4, [1, 2, 3, 4], n_boot=20).items():
        if name in ("rmse", "mae", "spread"):
            assert math.isnan(estimate.value) and math.isnan(estimate.low)
        else:
            assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)


def test_a_single_row_is_no_correlation() -> None:
    assert measure([3], [4])["main_score_fitted"] == 0
    assert measure([3], [4])["mae"] == 1


@pytest.mark.parametrize(
    ("pred", "mos", "message"),
    [
        ([], [], "must have one length, at least 1"),
        ([1, 2], [1], r"not \[2\] and \[1\]"),
        ([[1, 2]], [[1, 2]], r"not \[1, 2\]"),
        ([1, 2, 3], [1, NAN, 3], "row 1 has MOS nan"),
    ],
)
def test_broken_input_is_refused(pred: list[float], mos: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(pred, mos)


# --- the table


def test_every_metric_of_the_table_is_measured_and_no_other() -> None:
    measured = measure([1, 2, 3, 5], [1, 3, 2, 4])
    assert [*measured] == [*METRICS] and {*SHOWN} == {*METRICS} and next(iter(SHOWN)) == "main_score"


def test_a_new_metric_is_one_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "METRICS", METRICS.copy())

    class WithBias(metrics.Sample):
        @metrics.metric("bias", "score minus MOS, points", direction=0, in_points=True)
        def bias(self) -> Array:
            return self.statistics.mean(self.x - self.y, self.w)

    assert metrics.METRICS["bias"] == Metric("bias", "score minus MOS, points", direction=0, in_points=True)
    monkeypatch.setattr("critic.evaluation.agreement.Sample", WithBias)
    assert correlations([2, 3], [1, 3], metrics=("bias",), n_boot=5)["bias"].value == 0.5


def test_metrics_in_points_are_the_ones_that_a_change_of_scale_changes(rng: np.random.Generator) -> None:
    mos = opinions(rng, 60)
    pred = critic_of(mos, rng, 0.5)
    one, other = measure(pred, mos), measure(0.5 * pred + 1, mos)
    changed = {name for name in METRICS if one[name] != pytest.approx(other[name], abs=2e-3)}
    assert changed == {name for name, metric in METRICS.items() if metric.in_points}


# --- the fit


def upstream_curve(x: Array, b1: float, b2: float, b3: float, b4: float) -> Array:
    """The four-parameter logistic as the field notes state it."""
    curve: Array = b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / np.abs(b4)))
    return curve


def test_a_logistic_relation_is_recovered() -> None:
    pred = np.linspace(1, 5, 50)
    mos = upstream_curve(pred, 4.8, 1.2, 2.9, 0.4)
    assert fit_logistic(pred, mos)(pred) == pytest.approx(mos, abs=1e-6)
    assert measure(pred, mos)["plcc_fitted"] == pytest.approx(1)
    assert measure(pred, mos)["plcc"] < 0.99


def test_the_fit_equals_upstreams_where_upstreams_converges(rng: np.random.Generator) -> None:
    mos = opinions(rng, 400)
    pred = upstream_curve(mos, 4.5, 1.5, 3.0, 0.7) + rng.normal(0, 0.4, 400)
    start = [mos.max(), mos.min(), pred.mean(), 0.5]
    beta, _ = curve_fit(upstream_curve, pred, mos, p0=start, maxfev=100_000)
    expected = stats.pearsonr(upstream_curve(pred, *beta), mos).statistic
    assert measure(pred, mos)["plcc_fitted"] == pytest.approx(expected, abs=1e-6)
    assert measure(pred, mos)["main_score_fitted"] == pytest.approx(
        (expected + stats.spearmanr(pred, mos).statistic) / 2, abs=1e-6
    )


@pytest.mark.nightly
def test_on_a_thousand_random_critics_the_fit_is_upstreams_or_a_closer_one(rng: np.random.Generator) -> None:
    """Upstream's optimiser sometimes stops at a worse curve; ours never does."""
    same = 0
    for _ in range(1000):
        mos = opinions(rng, 60)
        pred = critic_of(mos, rng, rng.uniform(0.2, 1.5))
        start = [mos.max(), mos.min(), pred.mean(), 0.5]
        with catch_warnings():
            simplefilter("ignore")
            try:
                beta, _ = curve_fit(upstream_curve, pred, mos, p0=start, maxfev=5000)
            except RuntimeError:
                continue
            curve = upstream_curve(pred, *beta)
        ours, upstreams = (float(np.sum((fitted - mos) ** 2)) for fitted in (fit_logistic(pred, mos)(pred), curve))
        assert ours <= upstreams * (1 + 1e-4)
        if ours > upstreams * (1 - 1e-4):
            same += 1
            assert measure(pred, mos)["plcc_fitted"] == pytest.approx(stats.pearsonr(curve, mos)[0], abs=1e-3)
    assert same >= 900


def test_the_fit_takes_up_any_scale(rng: np.random.Generator) -> None:
    mos = opinions(rng, 300)
    pred = critic_of(mos, rng, 0.5)
    fitted = measure(pred, mos)["plcc_fitted"]
    for scale, shift in ((10.0, 20.0), (0.001, 0.9), (1000.0, 0.0), (-1.0, 6.0)):
        assert measure(scale * pred + shift, mos)["plcc_fitted"] == pytest.approx(fitted, abs=2e-3)


@pytest.mark.parametrize(
    ("pred", "mos"),
    [([1, 2, 3], [1, 3, 2]), ([1, 5], [4, 2]), ([1, 1, 1, 1, 1, 5], [1, 2, 1, 2, 1, 5])],
    ids=["three rows", "two rows", "two distinct predictions"],
)
def test_too_little_for_a_logistic_is_fitted_by_a_line(pred: list[float], mos: list[float]) -> None:
    line = np.polyfit(pred, mos, deg=1)
    assert fit_logistic(pred, mos)(pred) == pytest.approx(np.polyval(line, pred), abs=1e-6)
    metrics = measure(pred, mos)
    assert metrics["plcc_fitted"] == pytest.approx(abs(metrics["plcc"]))


def test_a_fit_that_does_not_converge_falls_back_to_a_line(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    def give_up(*_: object, **__: object) -> None:
        raise RuntimeError("Optimal parameters not found")

    monkeypatch.setattr("critic.evaluation.logistic_fit.curve_fit", give_up)
    mos = opinions(rng, 50)
    metrics = measure(critic_of(mos, rng, 0.5), mos)
    assert metrics["plcc_fitted"] == pytest.approx(metrics["plcc"])


def test_the_curve_of_a_constant_critic_is_level_at_the_mean() -> None:
    assert fit_logistic([3.1] * 4, [1, 2, 3, 4])([1.0, 5.0]) == pytest.approx([2.5, 2.5])


def test_a_curve_needs_a_prediction() -> None:
    with pytest.raises(ValueError, match="no score to fit a curve to"):
        fit_logistic([NAN, NAN], [1, 2])


# --- failure policies


def test_policies_fill_in_failures() -> None:
    pred, mos = [2.5, NAN, NAN, NAN], [2.0, 1.5, 3.0, 4.5]
    dropped = apply_failure_policy(pred, mos, "dropped")
    assert dropped == pytest.approx([2.5, NAN, NAN, NAN], nan_ok=True)
    assert apply_failure_policy(pred, mos, "worst") == pytest.approx([2.5, 5, 5, 1])
    assert apply_failure_policy(pred, mos, "train_mean", train_mean=3.2) == pytest.approx([2.5, *[3.2] * 3])


def test_dropping_failures_flatters_and_the_worst_case_does_not(rng: np.random.Generator) -> None:
    mos = opinions(rng, 500)
    pred = critic_of(mos, rng, 0.8)
    complete = measure(pred, mos)["srcc"]
    pred[np.argsort(-np.abs(pred - mos))[:50]] = NAN  # the tenth of it that is most wrong fails
    policies: list[FailurePolicy] = ["dropped", "train_mean", "worst"]
    srcc = [measure(apply_failure_policy(pred, mos, policy, 3.0), mos)["srcc"] for policy in policies]
    assert srcc[0] > complete > srcc[2]
    assert srcc[0] > srcc[1] > srcc[2]


def test_coverage_is_the_share_of_answers_under_every_policy() -> None:
    for policy in ("dropped", "worst", "train_mean"):
        counted = measure([2.5, NAN, NAN, 4], [2.0, 1.5, 3.0, 4.5], policy, 3.2)
        assert counted["coverage"] == 0.5
        filled = measure(
            apply_failure_policy([2.5, NAN, NAN, 4], [2.0, 1.5, 3.0, 4.5], policy, 3.2), [2, 1.5, 3, 4.5]
        )
        fitted = [name for name in METRICS if name.endswith("_fitted")]
        for name in fitted:  # two fits may differ in the last digits
            assert counted.pop(name) == pytest.approx(filled.pop(name))
        assert fitted and counted == filled | {"coverage": 0.5}


def test_policies_that_can_not_be_applied_are_refused() -> None:
    with pytest.raises(ValueError, match="needs train_mean"):
        apply_failure_policy([NAN], [3], "train_mean")
    with pytest.raises(ValueError, match="'best': choose one of dropped, worst, train_mean"):
        apply_failure_policy([NAN], [3], "best")  # type: ignore[arg-type]


# --- intervals


def test_intervals_hold_their_values_and_depend_on_the_seed_only(rng: np.random.Generator) -> None:
    mos = opinions(rng, 200)
    pred = critic_of(mos, rng, 0.6)
    pred[:5] = NAN
    estimates = correlations(pred, mos, n_boot=300)
    values = {name: estimate.value for name, estimate in estimates.items()}
    assert values == pytest.approx(measure(pred, mos))
    assert all(estimate.low < estimate.value < estimate.high for estimate in estimates.values())
    assert correlations(pred, mos, n_boot=300) == estimates
    assert correlations(pred, mos, n_boot=300, seed=1) != estimates
    samples = rng.normal(size=301)
    assert bootstrap.estimate(samples, confidence=0.5).low > bootstrap.estimate(samples).low


def test_copies_of_a_row_in_its_group_add_no_certainty(rng: np.random.Generator) -> None:
    mos = opinions(rng, 60)
    pred = critic_of(mos, rng, 0.6)
    once = correlations(pred, mos, np.arange(60), n_boot=100)
    copied = [np.repeat(values, 4) for values in (pred, mos, np.arange(60))]
    grouped = correlations(*copied, n_boot=100)
    for name in ("plcc", "srcc", "mae"):
        assert grouped[name].low == pytest.approx(once[name].low)
        assert grouped[name].high == pytest.approx(once[name].high)
    ungrouped = correlations(*copied[:2], n_boot=100)
    assert ungrouped["plcc"].low > once["plcc"].low


def test_without_resamples_there_is_no_interval() -> None:
    estimate = correlations([1, 2, 3], [1, 3, 2], n_boot=0)["srcc"]
    assert estimate.value == pytest.approx(0.5)
    assert math.isnan(estimate.low) and math.isnan(estimate.high)
    assert math.isnan(paired_bootstrap([1, 2, 3], [1, 3, 2], [1, 2, 3], n_boot=0).p)


def test_the_interval_covers_the_truth_as_often_as_it_says(rng: np.random.Generator) -> None:
    """60 source images of three edits, which share half of their quality and half of the error."""
    images, edits, trials = 60, 3, 120
    groups = np.repeat(np.arange(images), edits)

    def shared_and_own() -> Array:
        return (rng.normal(size=images)[groups] + rng.normal(size=len(groups))) / math.sqrt(2)

    truth = 0.8  # of quality and 0.8 quality + 0.6 error, both of unit variance
    srcc_truth = 6 / math.pi * math.asin(truth / 2)
    hits = {"plcc": 0, "srcc": 0}
    for _ in range(trials):
        mos = shared_and_own()
        pred = truth * mos + 0.6 * shared_and_own()
        clustered = correlations(pred, mos, groups, n_boot=200)
        hits["plcc"] += clustered["plcc"].low <= truth <= clustered["plcc"].high
        hits["srcc"] += clustered["srcc"].low <= srcc_truth <= clustered["srcc"].high
    assert 0.89 <= hits["plcc"] / trials <= 0.99
    assert 0.89 <= hits["srcc"] / trials <= 0.99


# --- comparison


def test_a_better_critic_is_seen_to_be_better(rng: np.random.Generator) -> None:
    mos = opinions(rng, 400)
    better, worse = critic_of(mos, rng, 0.4), critic_of(mos, rng, 0.7)
    groups = np.repeat(np.arange(100), 4)
    difference = paired_bootstrap(better, worse, mos, groups, n_boot=500)
    expected = measure(better, mos)["main_score"] - measure(worse, mos)["main_score"]
    assert difference.value == pytest.approx(expected)
    assert 0 < difference.low < difference.value < difference.high
    assert difference.p == pytest.approx(2 / 501)


def test_the_other_way_round_has_the_other_sign(rng: np.random.Generator) -> None:
    mos = opinions(rng, 60)
    a, b = critic_of(mos, rng, 0.5), critic_of(mos, rng, 0.6)
    ab = paired_bootstrap(a, b, mos, metric="mae", n_boot=200)
    ba = paired_bootstrap(b, a, mos, metric="mae", n_boot=200)
    assert (ab.value, ab.low, ab.high, ab.p) == pytest.approx((-ba.value, -ba.high, -ba.low, ba.p))


def test_a_critic_does_not_differ_from_itself(rng: np.random.Generator) -> None:
    mos = opinions(rng, 50)
    pred = critic_of(mos, rng, 0.5)
    same = paired_bootstrap(pred, pred, mos, n_boot=100)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_equal_critics_are_rarely_told_apart(rng: np.random.Generator) -> None:
    trials, found = 100, 0
    for _ in range(trials):
        mos = opinions(rng, 60)
        a, b = critic_of(mos, rng, 0.6), critic_of(mos, rng, 0.6)
        found += paired_bootstrap(a, b, mos, metric="plcc", n_boot=200).p < 0.05
    assert found / trials < 0.1


def test_only_rows_that_both_scored_are_compared(rng: np.random.Generator) -> None:
    mos = opinions(rng, 50)
    a, b = critic_of(mos, rng, 0.5), critic_of(mos, rng, 0.5)
    expected = measure(a[10:40], mos[10:40])["plcc"] - measure(b[10:40], mos[10:40])["plcc"]
    a[:10] = NAN
    b[40:] = NAN
    assert paired_bootstrap(a, b, mos, metric="plcc", n_boot=10).value == pytest.approx(expected)
    assert paired_bootstrap(a, b, mos, metric="coverage", n_boot=10).value == 0


def test_comparisons_that_can_not_be_made_are_refused() -> None:
    with pytest.raises(ValueError, match="no row has a score of both critics"):
        paired_bootstrap([1, NAN], [NAN, 2], [1, 2])
    with pytest.raises(ValueError, match="'r2': choose one of plcc, srcc"):
        paired_bootstrap([1, 2], [1, 2], [1, 2], metric="r2")


# --- the noise ceiling


def test_the_ceiling_of_a_simulated_panel(rng: np.random.Generator) -> None:
    """Raters who see a quality of unit variance through noise of variance 2, sixteen of them."""
    quality = rng.normal(size=3000)
    ratings = quality[:, None] + rng.normal(0, math.sqrt(2), (3000, 16))
    ceiling = noise_ceiling(ratings, n_splits=5, n_boot=50)
    panel = ceiling["panel"]["plcc"]
    assert panel.value == pytest.approx(1 / (1 + 2 / 16), abs=0.01)
    assert panel.low < panel.value < panel.high
    one_and_rest = 1 / math.sqrt((1 + 2) * (1 + 2 / 15))
    assert ceiling["rater"]["plcc"].value == pytest.approx(one_and_rest, abs=0.02)
    reachable = stats.pearsonr(quality, ratings.mean(axis=1)).statistic
    assert math.sqrt(panel.value) == pytest.approx(reachable, abs=0.01)


def test_the_ceiling_of_two_raters_by_hand() -> None:
    ratings = [[1, 1], [2, 3], [3, 2], [5, 4]]  # the case by hand, above
    ceiling = noise_ceiling(ratings, n_splits=3, n_boot=10)
    assert ceiling["rater"]["srcc"].value == pytest.approx(0.8)
    assert ceiling["panel"]["srcc"].value == pytest.approx(2 * 0.8 / 1.8)
    for kind in ceiling.values():
        mean = (kind["plcc"].value + kind["srcc"].value) / 2
        assert kind["main_score"].value == pytest.approx(mean)


def test_raters_who_agree_leave_nothing_to_noise_and_random_ones_nothing_else(
    rng: np.random.Generator,
) -> None:
    agreed = np.repeat(opinions(rng, 40)[:, None], 5, axis=1)
    assert noise_ceiling(agreed, n_boot=10)["panel"]["main_score"].value == pytest.approx(1)
    random = rng.integers(1, 6, (2000, 6))
    assert abs(noise_ceiling(random, n_splits=5, n_boot=2)["rater"]["plcc"].value) < 0.05


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ([1, 2, 3], r"not \[3\]"),
        ([[1], [2]], r"at least 2 raters\], not \[2, 1\]"),
        ([[1, 2], [3, NAN]], "row 1 lacks a rating"),
    ],
)
def test_ratings_that_are_no_panel_are_refused(ratings: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        noise_ceiling(ratings)  # type: ignore[arg-type]

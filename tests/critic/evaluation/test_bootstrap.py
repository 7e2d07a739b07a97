"""Weighted statistics equal those of scipy on repeated rows; and from resamples to an interval and JSON."""

import math
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from critic.evaluation import bootstrap
from critic.evaluation.agreement import correlations
from critic.evaluation.bootstrap import SMALLEST_GROUP, Array, Estimate, draw_counted, enough, estimate, jsonable
from critic.evaluation.rank_correlations import Buffers, Ranks


@st.composite
def samples(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    """x, y [rows], full of ties, and w [3, rows]."""
    rows = draw(st.integers(1, 12))
    tied = st.integers(-8, 8).map(lambda eighths: eighths / 8)
    x, y = (draw(hnp.arrays(np.float64, rows, elements=tied)) for _ in range(2))
    w = draw(hnp.arrays(np.float64, (3, rows), elements=st.integers(0, 4)))
    return x, y, w


def all_of(draws: Iterator[Array]) -> Array:
    return np.concatenate([*draws])


def written_out(values: Array, counts: Array) -> Array:
    return np.repeat(values, counts.astype(int))


@given(samples())
def test_correlations_equal_scipy_on_the_rows_written_out(
    sample: tuple[Array, Array, Array],
) -> None:
    x, y, w = sample
    ranks = Ranks(x, y)
    pearson, spearman, kendall = bootstrap.pearson(x, y, w), ranks.spearman(w), ranks.kendall(w)
    for i, counts in enumerate(w):
        a, b = written_out(x, counts), written_out(y, counts)
        if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
            assert pearson[i] == spearman[i] == kendall[i] == 0
        else:
            assert pearson[i] == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)
            assert spearman[i] == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
            assert kendall[i] == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)


@pytest.mark.parametrize("rows", [63, 64, 65, 129, 500, 1000])
@pytest.mark.parametrize("levels", [2, 30, 10**6])
def test_rank_correlations_of_many_rows_equal_scipy_on_the_rows_written_out(rows: int, levels: int) -> None:
    """So many that pairs are counted between halves of halves."""
    rng = np.random.default_rng(rows + levels)
    x, y = (rng.integers(0, levels, rows).astype(np.float64) for _ in range(2))
    w = rng.multinomial(rows, np.full(rows, 1 / rows), size=3).astype(np.float64)
    ranks = Ranks(x, y)
    for _ in range(2):  # the second time in used buffers
        spearman, kendall = ranks.spearman(w), ranks.kendall(w)
        for i, counts in enumerate(w):
            a, b = written_out(x, counts), written_out(y, counts)
            assert spearman[i] == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
            assert kendall[i] == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)
        w = w[::-1, :][:2]


def test_objects_that_share_buffers_do_not_change_each_other() -> None:
    rng = np.random.default_rng(0)
    large, small, both = rng.normal(size=(2, 300)), rng.normal(size=(2, 90)), Buffers()
    alone = [Ranks(*data).kendall(np.ones((2, data.shape[1]))) for data in (large, small)]
    shared = [Ranks(*data, both) for data in (large, small)]
    for _ in range(2):
        again = [ranks.kendall(np.ones((2, rows))) for ranks, rows in zip(shared, (300, 90), strict=True)]
        assert np.array_equal(again, alone)


def test_sums_of_rows_far_from_the_mean_of_all_keep_their_digits() -> None:
    """Of samples that have drawn only rows in a narrow band, or one value."""
    rng = np.random.default_rng(0)
    x = np.concatenate([1e6 + rng.normal(0, 1e-2, 20), [0.0, 5.0, 5.0]])
    y = np.concatenate([rng.normal(size=20), [3.0, 1.0, 4.0]])
    narrow, constant, no_rows = np.zeros((3, 23))
    narrow[:20] = rng.integers(0, 3, 20)
    constant[21:] = 2
    w = np.array([narrow, constant, no_rows])
    a, b = written_out(x, narrow), written_out(y, narrow)
    assert bootstrap.pearson(x, y, w) == pytest.approx([stats.pearsonr(a, b).statistic, 0, 0], abs=1e-7)
    spread = bootstrap.std(x, w)
    assert spread[0] == pytest.approx(a.std(), rel=1e-7) and spread[1] == 0 and np.isnan(spread[2])


@given(samples())
def test_mean_and_std_equal_numpy_on_the_rows_written_out(
    sample: tuple[Array, Array, Array],
) -> None:
    x, _, w = sample
    for counts, mean, std in zip(w, bootstrap.mean(x, w), bootstrap.std(x, w), strict=True):
        rows = written_out(x, counts)
        if len(rows):
            assert mean == pytest.approx(rows.mean(), abs=1e-12)
            assert std == pytest.approx(rows.std(), abs=1e-12)
        else:
            assert np.isnan(mean)
            assert np.isnan(std)


def test_a_constant_has_no_spread_at_all_though_its_mean_is_rounded() -> None:
    ramp = np.arange(7, dtype=np.float64)
    rounded = 3.1 + 1e-15 * ramp
    w = np.ones((1, 7))
    for constant in (np.full(7, 3.1), rounded.astype(np.float64)):
        assert bootstrap.std(constant, w) == 0
        assert bootstrap.pearson(constant, ramp, w) == 0


def test_a_draw_takes_whole_groups_as_many_as_there_are() -> None:
    groups = ["sky", "dog", "sky", "car", "sky"]
    w = all_of(bootstrap.draw(groups, rows=5, n_boot=200, seed=0))
    assert (w[0] == 1).all()
    assert (w[:, 0] == w[:, 2]).all() and (w[:, 0] == w[:, 4]).all()
    assert (w[:, 0] + w[:, 1] + w[:, 3] == 3).all()
    assert w[1:, :4].mean(axis=0) == pytest.approx(np.ones(4), abs=0.2)


def test_draws_depend_on_the_seed_and_on_nothing_else() -> None:
    one, same, other = (all_of(bootstrap.draw(None, 20, 10, seed)) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_draws_and_figures_do_not_depend_on_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores, mos, sources = rng.normal(size=60).round(1), rng.normal(size=60).round(1), np.arange(60) // 4
    whole, figures = all_of(bootstrap.draw(sources, 60, 50, seed=2)), correlations(scores, mos, sources, n_boot=50)
    assert len([*bootstrap.draw(sources, 60, 50, seed=2)]) == 2
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * 60)
    blocks = [*bootstrap.draw(sources, 60, 50, seed=2)]
    assert [len(block) for block in blocks] == [1, *[7] * 7, 1]
    assert np.array_equal(all_of(iter(blocks)), whole)
    again = correlations(scores, mos, sources, n_boot=50)
    assert {name: vars(found) for name, found in again.items()} == {
        name: pytest.approx(vars(found), abs=1e-12) for name, found in figures.items()
    }
    monkeypatch.setattr(bootstrap, "BLOCK", 1)
    assert [len(block) for block in bootstrap.draw(sources, 60, 3, seed=2)] == [1] * 4


def peak_mib(rows: int, n_boot: int) -> float:
    """Memory that all metrics take, at their peak."""
    rng = np.random.default_rng(0)
    mos = rng.normal(size=rows)
    scores = mos + rng.normal(size=rows)
    correlations(scores[:100], mos[:100], n_boot=1)  # imports
    tracemalloc.start()
    correlations(scores, mos, np.arange(rows) // 4, n_boot=n_boot)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 2**20


def test_memory_does_not_grow_with_resamples_and_is_no_table_of_all_pairs() -> None:
    """10 metrics of 900 resamples are 0.07 MiB, and a table of 20,000 x 20,000 pairs 3,052."""
    assert peak_mib(2_000, 1_000) < peak_mib(2_000, 100) + 1
    assert peak_mib(20_000, 10) < 20_000 * 1_000 / 2**20 + 20 * bootstrap.BLOCK * 8 / 2**20


def test_groups_must_have_one_label_a_row() -> None:
    with pytest.raises(ValueError, match=r"one label for each of 3 rows, not \[2\]"):
        bootstrap.draw(["a", "b"], rows=3, n_boot=1, seed=0)


# --- intervals


def test_the_first_is_the_value_and_the_others_are_the_interval() -> None:
    found = estimate(np.array([9.0, *range(101)]))
    assert (found.value, found.low, found.high) == pytest.approx((9, 2.5, 97.5))


def test_resamples_without_a_value_take_no_part() -> None:
    assert estimate(np.array([1.0, 1.0, np.nan])) == Estimate(1.0, 1.0, 1.0)
    assert math.isnan(estimate(np.array([1.0])).low)


def test_sources_are_counted_and_not_edits() -> None:
    assert enough(["a", *range(1, SMALLEST_GROUP)])
    assert not enough([*range(1, SMALLEST_GROUP)] * 5)


def test_resamples_are_of_the_counted_rows_and_none_of_those_of_few_sources() -> None:
    sources = np.repeat(np.arange(SMALLEST_GROUP), 2)
    counted = np.full(len(sources), True)
    counted[0] = False
    whole = all_of(bootstrap.draw(sources, len(sources), 5, seed=3))
    assert np.array_equal(all_of(draw_counted(sources, counted, 5, seed=3)), whole[:, 1:])
    counted[1] = False
    assert all_of(draw_counted(sources, counted, 5, seed=3)).tolist() == [[1.0] * (len(sources) - 2)]
    each = all_of(draw_counted(None, counted, 5, seed=3))
    assert each.shape == (6, len(sources) - 2)  # each edit is a source of its own


def test_json_gets_no_number_that_it_lacks() -> None:
    found = {"a": [Estimate(1.0, math.nan, math.inf)], "b": None, "c": "x", "d": 3}
    assert jsonable(found) == {"a": [{"value": 1.0, "low": None, "high": None}], "b": None, "c": "x", "d": 3}

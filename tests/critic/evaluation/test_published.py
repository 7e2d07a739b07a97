"""Published figures: what each must state, and which are shown beside ours."""

import numpy as np
import pytest

from critic.evaluation.ie_critic_r1 import upstream
from critic.evaluation.metrics import METRICS
from critic.evaluation.published import (
    AGIQA_SETTING,
    OF_PREFERENCES,
    OF_TRAINING,
    UPSTREAM,
    Setting,
    benchmark_of,
    compare_published,
    load_published,
    of_upstream,
)

OURS = Setting("ie-bench-4k", UPSTREAM, "official")


def test_every_entry_states_protocol_split_leak_checkpoint_and_source() -> None:
    catalogue = load_published()
    assert catalogue.figures
    for one in catalogue.figures:
        assert {*one.values} and {*one.values} <= {*METRICS, *OF_TRAINING, *OF_PREFERENCES}, one.critic
        assert one.protocol in catalogue.protocols and one.benchmark in catalogue.benchmarks, one.critic
        assert one.leaks in (True, False, None) and all((one.critic, one.checkpoint, one.checked, one.source))
        assert all(0 < value <= 1 for name, value in one.values.items() if name not in OF_TRAINING)
        assert one.source in one.note
        assert one.split != "official" or one.leaks  # the published split of IE-Bench-4k leaks
        assert one.by_eye == ("curve" in one.protocol)
    assert {name for of in catalogue.benchmarks.values() for name in of.related} <= {*catalogue.benchmarks}


def test_a_main_score_is_the_mean_that_its_own_figures_give() -> None:
    for one in load_published().figures:
        if one.by_eye:
            continue
        for main, linear in (("main_score", "plcc"), ("main_score_fitted", "plcc_fitted")):
            if main in one.values:
                assert one.values[main] == pytest.approx((one.values[linear] + one.values["srcc"]) / 2, abs=1e-9)


def test_the_benchmark_is_known_by_its_data_set() -> None:
    assert benchmark_of("Coobiw/IE-Bench-4k") == "ie-bench-4k"
    assert benchmark_of("someone/else") is None and benchmark_of(None) is None


def test_the_figure_of_the_same_benchmark_protocol_and_split_is_beside_ours() -> None:
    found = compare_published({"SFT": {"srcc": 0.6}, "GRPO": {"srcc": 0.7, "plcc_fitted": 0.75}}, OURS)
    labels = [row.label for row in found.rows]
    assert labels == ["SFT", "GRPO", "IE-Critic-R1, published"]
    assert found.rows[1].values["plcc_fitted"] == 0.75 and found.rows[0].values["plcc_fitted"] is None
    published = found.rows[2]
    assert published.values["plcc_fitted"] == pytest.approx(0.8693, abs=5e-5)
    assert published.values["main_score"] == pytest.approx(0.8656, abs=5e-5)
    assert "leaks source images; checkpoint: chosen on the test split" in published.note
    assert "temperature 0.3" in published.note and not found.rows[0].note
    assert {*found.metrics} <= {*METRICS}


def test_figures_of_another_protocol_or_benchmark_are_listed_with_the_reason_and_never_beside() -> None:
    found = compare_published({"GRPO": {"srcc": 0.7}}, OURS)
    listed = "\n".join(found.not_comparable)
    assert "IE-QA (SRCC 0.752, PLCC 0.75): not comparable, it is of another benchmark" in listed
    assert "at step 230" in listed and "read by eye" in listed and "completion length in tokens 402" in listed
    assert "OneAlign" not in listed
    assert not any("step 230" in row.label or "IE-QA" in row.label for row in found.rows)


@pytest.mark.parametrize(
    ("split", "why"),
    [
        ("by_source", "its split is official, and ours is by_source"),
        (None, "the split of ours isn't known"),
    ],
)
def test_figures_of_another_split_are_never_beside(split: str | None, why: str) -> None:
    found = compare_published({"GRPO": {"srcc": 0.7}}, Setting("ie-bench-4k", UPSTREAM, split))
    assert not found.rows and not found.metrics
    assert any("IE-Critic-R1 (fitted main score 0.8661" in line and why in line for line in found.not_comparable)


def test_on_agiqa_zero_shot_and_fine_tuned_critics_are_not_mixed() -> None:
    found = compare_published({"GRPO": {"srcc": 0.7, "plcc": 0.7}}, AGIQA_SETTING)
    assert [row.label for row in found.rows] == ["GRPO", "OneAlign, published"]
    assert found.rows[1].values == {"srcc": 0.802, "plcc": 0.838}
    assert any("OneAlign with LoRA" in line and "fine-tuned" in line for line in found.not_comparable)
    assert any("Q-Insight" in line and "its split isn't known" in line for line in found.not_comparable)


def test_figures_by_upstreams_rules_have_our_names() -> None:
    mos = np.linspace(1, 5, 20)
    figures = upstream(None, mos + np.tile([0.3, -0.3], 10), mos)
    ours = of_upstream(figures)
    assert ours["plcc_fitted"] == figures["plcc"] and ours["main_score"] == figures["main_score_unfitted"]
    assert {*ours} == {*compare_published({}, OURS).metrics}
    assert of_upstream(upstream(None, np.full(20, 3.0), mos)) == {}

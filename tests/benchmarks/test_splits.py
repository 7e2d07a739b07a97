"""A figure of several test splits."""

from math import isnan, sqrt
from typing import Any

import pytest

from benchmarks.splits import over_splits


def metrics(**values: Any) -> dict[str, Any]:
    return {"grpo": {name: {"value": value, "low": 0.0, "high": 1.0} for name, value in values.items()}}


def test_mean_and_sample_standard_deviation_over_splits() -> None:
    found = over_splits([metrics(srcc=value, plcc=0.5) for value in (0.70, 0.80, 0.84)])["grpo"]
    assert found["srcc"].mean == pytest.approx(0.78)
    assert found["srcc"].std == pytest.approx(sqrt((0.08**2 + 0.02**2 + 0.06**2) / 2))
    assert (found["srcc"].lowest, found["srcc"].highest, found["srcc"].splits) == (0.70, 0.84, 3)
    assert found["plcc"].std == 0


def test_one_split_has_no_spread_and_notes_are_no_metrics() -> None:
    one = metrics(srcc=0.7)
    one["grpo"]["split"] = {"name": "given", "note": "leaks prompts"}
    found = over_splits([one])["grpo"]
    assert {*found} == {"srcc"}
    assert found["srcc"].mean == 0.7 and isnan(found["srcc"].std)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([], "no split to average"),
        ([metrics(srcc=0.7), {"sft": {}}], "models grpo, another sft"),
        ([metrics(srcc=0.7), metrics(plcc=0.7)], "split 2 of 2 has no srcc"),
        ([metrics(srcc=0.7), metrics(srcc=None)], "split 2 of 2 has no srcc"),
    ],
)
def test_splits_that_cant_be_averaged_are_named(splits: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        over_splits(splits)

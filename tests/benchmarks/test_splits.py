"""The mean over test splits is printed with the leak of each split in its row."""

import json
import sys
from math import isnan, sqrt
from typing import Any

import pytest

from benchmarks import splits
from benchmarks.splits import over_splits
from critic.evaluation.leak import Split

BY_PICTURE = Split("given", 597, 500, 120, "prompts")


def metrics(score: float, split: Split) -> dict[str, Any]:
    return {
        model: split.mark({"main_score": {"value": score + gain}, "srcc": {"value": score}})
        for model, gain in (("sft", 0.0), ("grpo", 0.1))
    }


RUNS = {
    "agiqa-1": metrics(0.70, Split("given", 599)),
    "agiqa-6": metrics(0.80, BY_PICTURE),
    "agiqa-7": metrics(0.90, BY_PICTURE),
}


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *runs: str) -> list[str]:
    def read(path: str, rev: str) -> str:
        assert path == "reports/metrics.json"
        return json.dumps(RUNS[rev])

    monkeypatch.setattr("dvc.api.read", read)
    monkeypatch.setattr(sys, "argv", ["splits.py", *runs, "--metrics", "main_score"])
    splits.main()
    return capsys.readouterr().out.splitlines()


def test_a_row_has_the_mean_and_which_of_its_splits_leak(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, monkeypatch, *RUNS)
    leak = f"2 of 3: agiqa-6 {BY_PICTURE.leak}; agiqa-7 {BY_PICTURE.leak}"
    assert lines == [
        "| 3 splits | Main score | test splits |",
        "|---|---|---|",
        f"| sft | 0.800 ± 0.100 (0.700 to 0.900) | {leak} |",
        f"| grpo | 0.900 ± 0.100 (0.800 to 1.000) | {leak} |",
    ]


def test_splits_without_a_leak_need_no_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert printed(capsys, monkeypatch, "agiqa-1") == [
        "| 1 splits | Main score |",
        "|---|---|",
        "| sft | 0.700 ± nan (0.700 to 0.700) |",
        "| grpo | 0.800 ± nan (0.800 to 0.800) |",
    ]


def test_runs_without_the_same_models_are_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNS, "other", {"grpo": metrics(0.5, BY_PICTURE)["grpo"]})
    with pytest.raises(SystemExit):
        printed(capsys, monkeypatch, "agiqa-1", "other")
    assert "one split has the models sft, grpo, another grpo" in capsys.readouterr().err


# --- over_splits


def figures(**values: Any) -> dict[str, Any]:
    return {"grpo": {name: {"value": value, "low": 0.0, "high": 1.0} for name, value in values.items()}}


def test_mean_and_sample_standard_deviation_over_splits() -> None:
    found = over_splits([figures(srcc=value, plcc=0.5) for value in (0.70, 0.80, 0.84)])["grpo"]
    assert found["srcc"].mean == pytest.approx(0.78)
    assert found["srcc"].std == pytest.approx(sqrt((0.08**2 + 0.02**2 + 0.06**2) / 2))
    assert (found["srcc"].lowest, found["srcc"].highest, found["srcc"].splits) == (0.70, 0.84, 3)
    assert found["plcc"].std == 0


def test_one_split_has_no_spread_and_notes_are_no_figures() -> None:
    one = figures(srcc=0.7)
    one["grpo"]["split"] = {"name": "given", "note": "leaks prompts"}
    found = over_splits([one])["grpo"]
    assert {*found} == {"srcc"}
    assert found["srcc"].mean == 0.7 and isnan(found["srcc"].std)


@pytest.mark.parametrize(
    ("each", "message"),
    [
        ([], "no split to average"),
        ([figures(srcc=0.7), {"sft": {}}], "models grpo, another sft"),
        ([figures(srcc=0.7), figures(plcc=0.7)], "split 2 of 2 has no srcc"),
        ([figures(srcc=0.7), figures(srcc=None)], "split 2 of 2 has no srcc"),
    ],
)
def test_splits_that_cant_be_averaged_are_named(each: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        over_splits(each)

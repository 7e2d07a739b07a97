"""Seeds are quoted only beside the training that they are about."""

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from critic.evaluation.bootstrap import Estimate
from critic.evaluation.seeds import GAINS, METRICS, Gain, Run, Seeds, Spread, read_seeds

NONE = Gain(value=0.0, low=-0.01, high=0.01)


def run(seed: int, grpo: float) -> Run:
    models = {"sft": 0.7, "continued sft": 0.71, "grpo": grpo}
    gains = {
        title: {metric: NONE.model_copy(update={"value": models[new] - models[old]}) for metric in METRICS}
        for title, (new, old) in GAINS.items()
    }
    return Run(
        seed=seed, models={name: dict.fromkeys(METRICS, value) for name, value in models.items()}, gains=gains
    )


SEEDS = Seeds(runs=[run(7, 0.72), run(8, 0.78), run(9, 0.74)], epochs=0.5, rate=1e-4)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "seeds.json"
    path.write_text(SEEDS.model_dump_json())
    return path


def measured(grpo: float) -> dict[str, dict[str, Estimate]]:
    return {
        name: dict.fromkeys(METRICS, Estimate(value, value - 0.1, value + 0.1))
        for name, value in (("base", 0.0), ("sft", 0.7), ("grpo", grpo))
    }


def test_the_seeds_of_a_training_are_those_with_its_own_figures(file: Path) -> None:
    assert read_seeds(file) == SEEDS
    assert SEEDS.are_of(7, measured(0.72))


def test_another_training_has_no_seeds() -> None:
    assert not SEEDS.are_of(7, measured(0.73))
    assert not SEEDS.are_of(10, measured(0.72))


def test_a_figure_that_is_not_defined_survives_the_file(file: Path) -> None:
    gain = Gain(value=0.1, low=math.nan, high=math.nan)
    without = SEEDS.runs[0].model_copy(update={"gains": {title: dict.fromkeys(METRICS, gain) for title in GAINS}})
    file.write_text(Seeds(runs=[without], epochs=0.5, rate=1e-4).model_dump_json())
    (read,) = read_seeds(file).runs
    assert math.isnan(read.gains["grpo over sft"]["mae"].low)


def test_a_file_of_another_form_is_refused(file: Path) -> None:
    file.write_text('{"runs": [{"seed": 7}]}')
    with pytest.raises(ValidationError, match="models"):
        read_seeds(file)


def test_a_figure_over_the_seeds_is_its_median_lowest_and_highest() -> None:
    assert SEEDS.of("grpo", "mae") == Spread(0.74, 0.72, 0.78)
    over = SEEDS.over("grpo over sft", "main_score")
    assert (over.median, over.lowest, over.highest) == pytest.approx((0.04, 0.02, 0.08))

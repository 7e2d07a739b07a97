"""Judges that look and judges that don't are told apart, and failures never help."""

from collections.abc import Callable
from math import nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.evaluation.probing import Probing, measure_probes
from critic.scoring.probes import PROBES, UNCHANGED

SOURCES = 20
IDS = [f"{name}:{n}" for n in range(SOURCES) for name in (UNCHANGED, *PROBES)]


def probing(score: Callable[[str], float]) -> Probing:
    """What a judge gets whose score depends on the probe alone."""
    names = [id.partition(":")[0] for id in IDS]
    scores = {id: score(name) for id, name in zip(IDS, names, strict=True)}
    return measure_probes(scores, IDS, [id.partition(":")[2] for id in IDS], n_boot=100)


def looking(name: str) -> float:
    return 4.0 if name == UNCHANGED or PROBES[name].must != "fall" else 2.0


def test_a_critic_that_looks_passes_all() -> None:
    found = probing(looking)
    assert found.failed == [] and found.constant is None and found.verdict.endswith("under every probe.")
    (black,) = (one for one in found.probes if one.probe == "black")
    assert (black.n, black.rate.value, black.rate.low, black.change.value, black.same) == (20, 1, 1, -2, 0)


def test_a_constant_critic_fails_loudly() -> None:
    found = probing(lambda name: 3.0)
    assert found.constant == 3.0 and found.verdict.startswith("Every score is 3.00")
    assert found.failed == [name for name, probe in PROBES.items() if probe.must == "fall"]


def test_one_score_is_not_called_constant_and_rounding_is_no_fall() -> None:
    assert measure_probes({IDS[0]: 3.0}, IDS, IDS, n_boot=100).constant is None
    found = probing(lambda name: 3.0 if name == UNCHANGED else 2.999999)
    assert found.constant == 3.0 and "black" in found.failed and found.probes[0].same == 1


def test_a_critic_that_is_talked_into_a_5_fails() -> None:
    assert probing(lambda name: 5.0 if name == "asks_for_5" else looking(name)).failed == ["asks_for_5"]


def test_an_answer_without_a_score_counts_as_wrong() -> None:
    found = probing(lambda name: nan if name == "black" else looking(name))
    assert found.failed == ["black"]
    (black,) = (one for one in found.probes if one.probe == "black")
    assert black.failed == 20 and black.rate.value == 0 and np.isnan(black.change.value)


def test_few_sources_have_no_verdict() -> None:
    few = IDS[: 9 * (len(PROBES) + 1)]
    found = measure_probes({}, few, [id.partition(":")[2] for id in few])
    assert {one.passed for one in found.probes} == {None} and found.verdict.startswith("There are too few")


@given(st.floats(-4, 4))
def test_a_score_stays_within_the_tolerance(change: float) -> None:
    found = probing(lambda name: change if name == "mirrored" else 0.0)
    (mirrored,) = (one for one in found.probes if one.probe == "mirrored")
    assert mirrored.rate.value == (abs(change) <= 0.5)
    assert mirrored.change.value == pytest.approx(change)

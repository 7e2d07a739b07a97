"""Each kind of reward, compared with hand-calculated values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.reward_kinds import KINDS
from critic.training.rewards import accuracy

kinds = st.sampled_from([*KINDS])


@pytest.mark.parametrize(
    ("kind", "quarter", "half", "full"),
    [  # 0.25, 0.5 and 1 from the MOS; the last two kinds give roots of 0.05: 4th, 2nd and 16th, 4th
        ("l1", 0.7625, 0.525, 0.05),
        ("l2", 0.940625, 0.7625, 0.05),
        ("laplace", 0.47287080450158786, 0.22360679774997896, 0.05),
        ("gaussian", 0.8292502770175191, 0.47287080450158786, 0.05),
    ],
)
def test_worked_examples(kind: str, quarter: float, half: float, full: float) -> None:
    assert accuracy(3.25, 3.0, kind) == pytest.approx(quarter)
    assert accuracy(2.5, 3.0, kind) == pytest.approx(half)
    assert accuracy(4.0, 3.0, kind) == pytest.approx(full)


@given(kinds, st.floats(1e-6, 0.999999))
def test_a_kind_goes_from_one_at_the_mos_to_r(kind: str, r: float) -> None:
    assert KINDS[kind](0.0, r) == 1
    assert KINDS[kind](1.0, r) == pytest.approx(r)


@given(kinds, st.floats(1e-6, 0.999999), st.floats(0, 100), st.floats(0, 100))
def test_a_kind_never_rises(kind: str, r: float, one: float, other: float) -> None:
    near, far = sorted((one, other))
    assert KINDS[kind](near, r) >= KINDS[kind](far, r)

"""A verdict goes to a line of JSON and back, and a line that is none is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.results import Failure, Result

verdicts = st.builds(
    Result,
    id=st.text(),
    score=st.none() | st.floats(1, 5),
    status=st.sampled_from(["ok", "truncated", *Failure]),
    samples=st.lists(st.none() | st.floats(1, 5)),
    sub_scores=st.dictionaries(st.sampled_from(["alignment", "fidelity", "quality"]), st.floats(1, 5)),
    reasoning=st.text(),
    latency=st.none() | st.floats(0, 100),
)


@given(verdicts)
def test_a_line_of_json_gives_the_verdict_back_but_for_the_latency(verdict: Result) -> None:
    line = verdict.to_json()
    assert "\n" not in line
    assert "latency" not in json.loads(line)
    assert Result.from_json(line) == verdict


@pytest.mark.parametrize(
    "line", ["", '{"id": "a"', "[]", '{"id": "a"}', '{"id": "a", "score": 1, "status": "ok", "x": 2}']
)
def test_what_is_no_whole_verdict_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a verdict"):
        Result.from_json(line)

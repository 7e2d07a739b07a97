"""A result goes to a line of JSON and back, and any other line is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.results import Failure, Result

results = st.builds(
    Result,
    id=st.text(),
    score=st.none() | st.floats(1, 5),
    status=st.sampled_from(["ok", "truncated", *Failure]),
    samples=st.lists(st.none() | st.floats(1, 5)),
    sub_scores=st.dictionaries(st.sampled_from(["alignment", "fidelity", "quality"]), st.floats(1, 5)),
    reasoning=st.text(),
    latency=st.none() | st.floats(0, 100),
)


@given(results)
def test_a_line_of_json_gives_the_result_back_except_the_latency(result: Result) -> None:
    line = result.to_json()
    assert "\n" not in line
    assert "latency" not in json.loads(line)
    assert Result.from_json(line) == result


@pytest.mark.parametrize(
    "line", ["", '{"id": "a"', "[]", '{"id": "a"}', '{"id": "a", "score": 1, "status": "ok", "x": 2}']
)
def test_what_is_not_a_whole_result_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a result"):
        Result.from_json(line)

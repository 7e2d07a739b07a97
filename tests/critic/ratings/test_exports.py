"""Exports of Label Studio and Argilla are read as tables of ratings and of votes; malformed rows are named."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.ratings.importers import RatingBatch, read_study
from critic.tables import TableError


def annotation(*result: dict[str, Any], by: Any = 7, **more: Any) -> dict[str, Any]:
    """As Label Studio exports it."""
    whole = [{"id": "Dx_aB91ISN", "to_name": one["from_name"], "origin": "manual"} | one for one in result]
    return {"id": 1, "completed_by": by, "result": whole, "was_cancelled": False, "lead_time": 4.288} | more


def task(*annotations: dict[str, Any], **data: str) -> dict[str, Any]:
    given = {"source": "/data/local-files/?d=source.png", "instruction": "make it red"} | data
    return {"id": 1, "data": given, "annotations": [*annotations], "predictions": [], "meta": {}, "project": 83}


def record(responses: dict[str, list[tuple[str, Any]]], **fields: str) -> dict[str, Any]:
    """As Argilla's `dataset.records.to_json` writes it."""
    given = {"source": "source.png", "instruction": "make it red"} | fields
    answers = {
        name: [{"value": value, "user_id": user} for user, value in of_question]
        for name, of_question in responses.items()
    }
    return {"id": "1", "fields": given, "metadata": {}, "suggestions": {}, "responses": answers, "vectors": {}}


def rating(name: str, value: int) -> dict[str, Any]:
    return {"type": "rating", "from_name": name, "value": {"rating": value}}


def pairwise(side: str) -> dict[str, Any]:
    return {"type": "pairwise", "from_name": "pw", "value": {"selected": side}}


TIE = {"type": "choices", "from_name": "same", "value": {"choices": ["tie"]}}
PAIR = {"edited_a": "a.png", "edited_b": "b.png", "editor_a": "brush", "editor_b": "pen"}


@pytest.fixture
def load(tmp_path: Path, picture):
    for number, name in enumerate(("source", "a", "b")):
        (tmp_path / f"{name}.png").write_bytes(picture(number))

    def load(*rows: dict[str, Any]) -> RatingBatch:
        (tmp_path / "export.json").write_text(json.dumps(rows))
        return read_study(tmp_path / "export.json", tmp_path)

    return load


def test_label_studios_ratings(load) -> None:
    rows = [annotation(rating("score", 4), rating("fidelity", 5)), annotation(rating("score", 2), by={"id": 9})]
    batch = load(task(*rows, edited="a.png"), task(annotation(was_cancelled=True), edited="b.png"))
    assert batch.ratings[["rater", "score"]].to_numpy().tolist() == [["7", 4.0], ["9", 2.0]]
    assert batch.ratings["fidelity"].dropna().tolist() == [5.0] and batch.ratings["item"].nunique() == 1


def test_label_studios_votes(load) -> None:
    batch = load(
        task(annotation(pairwise("left")), annotation(pairwise("right"), by=8), annotation(TIE, by=9), **PAIR)
    )
    assert batch.votes[["rater", "choice"]].to_numpy().tolist() == [["7", "left"], ["8", "right"], ["9", "tie"]]
    assert batch.votes["seconds"].tolist() == [4.288] * 3 and batch.ratings.empty
    editors = batch.edits.set_index("id")["editor"]
    assert editors[batch.votes["left"]].tolist() == ["brush"] * 3
    assert editors[batch.votes["right"]].tolist() == ["pen"] * 3


def test_argillas_ratings_and_votes(load, picture) -> None:
    inline = f"data:image/png;base64,{base64.b64encode(picture(1)).decode()}"
    rated = load(
        record({"score": [("ann", 4), ("bob", 3)], "quality": [("ann", 5)], "note": [("bob", "?")]}, edited=inline)
    )
    assert rated.ratings[["rater", "score"]].to_numpy().tolist() == [["ann", 4.0], ["bob", 3.0]]
    assert rated.ratings["quality"].tolist()[0] == 5.0
    voted = load(record({"winner": [("ann", "a"), ("bob", "tie")]}, **PAIR))
    assert voted.votes["choice"].tolist() == ["left", "tie"]
    assert voted.votes["left"].iloc[0] == rated.ratings["item"].iloc[0]


GOOD = task(annotation(rating("score", 4)), edited="a.png")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (task(annotation(rating("score", 9)), edited="a.png"), "row 2 has the score 9, not a number from 1 to 5"),
        (task(annotation(rating("score", 4)), edited="c.png"), r"row 2: the edited picture c\.png can't be read"),
        (task(annotation(pairwise("none")), edited="a.png"), "row 2: rater '7' gave neither a score nor a winner"),
        (task(annotation(pairwise("left"), TIE), **PAIR), "row 2: rater '7' gave two answers for winner"),
        (task(annotation(rating("score", 4)), instruction=" ", edited="a.png"), "row 2 has no instruction"),
        ({"data": "?", "annotations": []}, r"row 2: data: Input should be a valid dict"),
        ({"data": {}, "annotations": [{"result": []}]}, r"row 2: annotations\.0\.completed_by"),
        ({}, r"row 2: data"),
    ],
)
def test_a_malformed_task_is_named(row: dict[str, Any], said: str, load) -> None:
    with pytest.raises(TableError, match=rf"export\.json {said}"):
        load(GOOD, row)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            record({"winner": [("ann", "a"), ("ann", "b")]}, **PAIR),
            "row 1: rater 'ann' gave two answers for winner",
        ),
        (record({"winner": [("ann", "c")]}, **PAIR), "row 1 has the winner 'c', not a, b or tie"),
        (record({"winner": [("ann", "a")]}, **PAIR | {"edited_b": "a.png"}), "row 1 compares an edit with itself"),
        (record({"score": [("ann", 4)]}, edited="data:image/png;base64,A"), "row 1: the edited picture data:"),
        ({"fields": {}, "responses": {"score": 4}}, r"row 1: responses\.score: Input should be a valid list"),
    ],
)
def test_a_malformed_record_is_named(row: dict[str, Any], said: str, load) -> None:
    with pytest.raises(TableError, match=rf"export\.json {said}"):
        load(row)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "value", "id"]), inner),
    max_leaves=4,
)


@given(
    st.fixed_dictionaries({"data": JSON, "annotations": JSON})
    | st.fixed_dictionaries({"fields": JSON, "responses": JSON})
)
def test_any_other_form_is_an_error_with_the_row(
    tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(TableError, match=r"any\.json"):
        read_study(path, path.parent)

"""Exports of annotation tools as tables of ratings or of votes, as `critic.ratings.importers.read_study` takes.

    table = read_export(read(Path("export.json")))    # None if it isn't an export

Label Studio's JSON (not JSON_MIN): a task's data has the columns of a table, such as source, edited, instruction.
A result of a Rating tag is the column of the tag's name; one of a Pairwise tag is the winner, of which the first
object that it compares must be `edited_a`: the export doesn't name the objects (the result's `to_name` is the tag
itself). The choice "tie" of a Choices tag is a tie. Skipped annotations are left out.

Argilla's `dataset.records.to_json`: a record's fields have the columns of a table, and its responses the rater's:
rating questions such as `score`, or the label question `winner` with the labels a, b and tie.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pandas as pd
from pydantic import BaseModel, ValidationError

from critic.answers import AXES
from critic.tables import TableError, place

_ANSWERS = ("score", *AXES, "winner")
_SIDES = {"left": "a", "right": "b"}
_Row = tuple[dict[str, Any], list[tuple[str, Any]]]
"""The columns of a person's row that aren't answers, and the answers: columns and values."""


class _Person(BaseModel):
    id: int


class _Result(BaseModel):
    type: str
    from_name: str
    value: dict[str, Any]


class _Annotation(BaseModel):
    completed_by: int | str | _Person
    result: list[_Result]
    was_cancelled: bool = False
    lead_time: float | None = None


class _Task(BaseModel):
    data: dict[str, Any]
    annotations: list[_Annotation]

    def rows(self) -> Iterator[_Row]:
        for annotation in self.annotations:
            by = annotation.completed_by
            rater = str(by.id if isinstance(by, _Person) else by)
            given = {"rater": rater, "seconds": annotation.lead_time}
            if not annotation.was_cancelled:
                yield given, [*filter(None, map(_answer, annotation.result))]


class _Response(BaseModel):
    value: Any
    user_id: str


class _Record(BaseModel):
    fields: dict[str, Any]
    responses: dict[str, list[_Response]]

    @property
    def data(self) -> dict[str, Any]:
        return self.fields

    def rows(self) -> Iterator[_Row]:
        by_rater: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for question, responses in self.responses.items():
            for response in responses:
                if question in _ANSWERS:
                    by_rater[response.user_id].append((question, response.value))
        for rater, answers in by_rater.items():
            yield {"rater": rater}, answers


_KINDS: dict[frozenset[str], type[_Task] | type[_Record]] = {
    frozenset(("data", "annotations")): _Task,
    frozenset(("fields", "responses")): _Record,
}


def read_export(table: pd.DataFrame) -> pd.DataFrame | None:
    """The ratings or votes of a tool's export, one per row, with the export's rows as index; None if it isn't one.

    Raises:
        TableError: a row isn't of the tool's form, or a person's answers have neither a score nor a winner, or two
            of a column.
    """
    kind = next((kind for columns, kind in _KINDS.items() if columns <= {*table.columns}), None)
    if kind is None:
        return None
    rows, numbers = [], []
    for position, (number, cells) in enumerate(zip(table.index, table.to_dict("records"), strict=True)):
        where = place(table, position)
        try:
            one = kind.model_validate(cells)
        except ValidationError as error:
            fault = error.errors()[0]
            at = ".".join(map(str, fault["loc"]))
            raise TableError(f"{where}: {at}: {fault['msg']}: export it again, as docs/ratings.md says") from None
        for given, answers in one.rows():
            names, who = [name for name, _ in answers], f"{where}: rater {given['rater']!r}"
            if "score" not in names and "winner" not in names:
                raise TableError(f"{who} gave neither a score nor a winner: remove that answer")
            if twice := [name for name in {*names} if names.count(name) > 1]:
                raise TableError(f"{who} gave two answers for {twice[0]}, such as a side and a tie: remove one")
            rows.append(one.data | given | dict(answers))
            numbers.append(number)
    return pd.DataFrame(rows, index=pd.Index(numbers, name=table.index.name, dtype=int), dtype=object)


def _answer(result: _Result) -> tuple[str, Any] | None:
    """A column and its value, None for a result that is neither a rating nor a vote."""
    match result.type:
        case "rating" if result.from_name in _ANSWERS:
            return result.from_name, result.value.get("rating")
        case "pairwise" if (side := result.value.get("selected")) in _SIDES:
            return "winner", _SIDES[side]
        case "choices" if result.value.get("choices") == ["tie"]:
            return "winner", "tie"
    return None

"""A table of one's own (CSV, JSONL, JSON, Parquet), whose pictures are paths relative to its folder.

    source,instruction,edited_a,edited_b,winner
    cat.png,make the cat red,elm/cat.png,oak/cat.png,oak/cat.png

`winner` is the edited_a or the edited_b of its row, or "a", "b" or "tie". The columns group, axis and
subtask are optional.
"""

from collections.abc import Iterator

from critic.data.preferences import OVERALL
from critic.data.preferences.pairs import Pair, Winner, file_row
from critic.data.readers.hub import Snapshot
from critic.tables import TableError, filled, place
from critic.tables import read as read_table

COLUMNS = ("source", "instruction", "edited_a", "edited_b", "winner")
OPTIONAL = ("group", "axis", "subtask")


def read(origin: Snapshot) -> Iterator[Pair]:
    """The pairs.

    Raises:
        TableError: a row has another winner, one of two identical pictures as the winner, an empty cell, or a
            picture that can't be read.
    """
    table = read_table(origin.folder, required=COLUMNS, optional=OPTIONAL)
    filled(table, [*table.columns])
    for number, cells in enumerate(table.to_dict("records")):
        row = file_row(place(table, number), cells, origin.folder.parent)
        names: dict[str, Winner]
        names = {"a": "a", "b": "b", row.text("edited_b"): "b", row.text("edited_a"): "a", "tie": "tie"}
        winner = names[row.text("winner", names)]
        source, a, b = map(row.picture, ("source", "edited_a", "edited_b"))
        if winner != "tie" and a["bytes"] == b["bytes"]:
            raise TableError(f"{row.where}: edited_a and edited_b are the same picture: make it a tie")
        group, axis = str(cells.get("group", f"{number:05}")), str(cells.get("axis", OVERALL))
        subtask = str(cells["subtask"]) if "subtask" in cells else None
        yield Pair(row.where, group, source, a, b, row.text("instruction"), winner, axis, subtask)

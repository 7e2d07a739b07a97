"""EditReward-Compass (arXiv 2605.13062), from the JSON file that its own eval.py reads.

The keys and labels are those of EditReward-Compass/eval.py in
github.com/bxhsort/Edit-Compass-and-EditReward-Compass (ff1cf281). The layout of its data set on the hub could not
be looked up, so it is read from the file alone. Paths are relative to the file's folder.
"""

from collections.abc import Iterator

from critic.data.preferences.pairs import Pair, Winner, file_row
from critic.data.readers.hub import Snapshot
from critic.tables import place
from critic.tables import read as read_table

AXES = ("IA", "VC", "VQ")
COLUMNS = ("dimension", "source_image", "prompt", "winner", "loser", "label")


def read(origin: Snapshot) -> Iterator[Pair]:
    """The pairs; a `TableError` for a row with another axis or label, or a picture that can't be read."""
    table = read_table(origin.folder, required=COLUMNS, optional=(), fix="give the JSON file of eval.py")
    for number, cells in enumerate(table.to_dict("records")):
        row = file_row(place(table, number), cells, origin.folder.parent)
        source, winner, loser = map(row.picture, ("source_image", "winner", "loser"))
        better: Winner = "tie" if row.text("label", ("preference", "tie")) == "tie" else "a"
        instruction, axis = row.text("prompt"), row.text("dimension", AXES)
        yield Pair(row.where, f"{number:05}", source, winner, loser, instruction, better, axis)

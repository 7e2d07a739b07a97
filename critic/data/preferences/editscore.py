"""EditScore's EditReward-Bench (hub: EditScore/EditReward-Bench; arXiv 2509.23909).

The columns are those of dataset_info.json there. The first of the two edits is the better one: that is what
calculate_statistics.py of github.com/VectorSpaceLab/EditScore (6e0f1b9a) counts as right. No pair is a tie.
"""

from collections.abc import Iterator

from critic.data.preferences.pairs import Pair, hub_rows
from critic.data.readers.hub import Snapshot
from critic.tables import TableError

AXES = ("overall", "prompt_following", "consistency")


def read(origin: Snapshot) -> Iterator[Pair]:
    """The pairs; a `TableError` for a row with another axis or without two edits."""
    columns, pictures = ("key", "instruction", "task_type", "dimension"), ("input_image", "output_images")
    for number, row in enumerate(hub_rows(origin, columns, pictures)):
        edited = row.pictures("output_images")
        if len(edited) != 2:
            raise TableError(f"{row.where}: column output_images has {len(edited)} pictures, not two: correct it")
        source, (a, b), instruction = row.picture("input_image"), edited, row.text("instruction")
        axis, subtask = row.text("dimension", AXES), row.text("task_type")
        yield Pair(row.where, f"{number:05}", source, a, b, instruction, "a", axis, subtask)

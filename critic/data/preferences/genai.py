"""The editing part of GenAI-Bench (hub: TIGER-Lab/GenAI-Bench, config image_edition; arXiv 2406.04485).

The columns are those of its card; the votes those of inference.py in github.com/TIGER-AI-Lab/GenAI-Bench
(32fff1f0). The split test_v1 has the 919 pairs that others report; "both bad" is a tie.
"""

from collections.abc import Iterator

from critic.data.preferences.pairs import Pair, Winner, hub_rows
from critic.data.readers.hub import Snapshot

VOTES: dict[str, Winner] = {
    "leftvote": "a",
    "rightvote": "b",
    "tievote": "tie",
    "bothbad_vote": "tie",
}


def read(origin: Snapshot) -> Iterator[Pair]:
    """The pairs; a `TableError` for a row with another vote."""
    pictures = ("source_image", "left_output_image", "right_output_image")
    rows = hub_rows(origin, ("instruct_prompt", "vote_type"), pictures, name="image_edition", split="test_v1")
    for number, row in enumerate(rows):
        source, left, right = map(row.picture, pictures)
        vote = VOTES[row.text("vote_type", VOTES)]
        yield Pair(row.where, f"{number:05}", source, left, right, row.text("instruct_prompt"), vote)

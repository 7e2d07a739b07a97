"""The editing part of Multimodal RewardBench 2 (hub: rl-research/multimodal-rewardbench-2; arXiv 2512.16899).

The columns are those that build_from_hf.py of github.com/facebookresearch/MMRB2 (2ef90c73) reads. `prompt_text`
has placeholders, such as <image_1>, for its images. A pair with several source images, or with several images in a
response, is left out. 822 of the 1,000 pairs have one image each (benchmark/edit.json there, 58ee39c0).
"""

import re
from collections.abc import Iterator

from critic.data.preferences.pairs import LeftOut, Pair, Winner, hub_rows
from critic.data.readers.hub import Snapshot

CHOSEN: dict[str, Winner] = {"A": "a", "B": "b"}
_PLACEHOLDER = re.compile(r"\s*<image_\d+>\s*")


def read(origin: Snapshot) -> Iterator[Pair | LeftOut]:
    """The pairs with one source image; a `TableError` for a row that chooses neither A nor B."""
    pictures = ("prompt_images", "response_a_images", "response_b_images")
    columns = ("pair_id", "prompt_text", "prompt_source", "chosen")
    for row in hub_rows(origin, columns, pictures, name="edit", split="test"):
        found = [row.pictures(column) for column in pictures]
        winner = CHOSEN[row.text("chosen", CHOSEN)]
        if len(found[0]) > 1:
            yield LeftOut("several source images")
        elif any(len(images) > 1 for images in found):
            yield LeftOut("several images in a response")
        else:
            source, a, b = map(row.picture, pictures)
            instruction = _PLACEHOLDER.sub(" ", row.text("prompt_text")).strip()
            subtask = row.text("prompt_source")
            yield Pair(row.where, row.text("pair_id"), source, a, b, instruction, winner, subtask=subtask)

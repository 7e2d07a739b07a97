"""The page's examples: six edits by minibench, from good to bad, as PNG files and one JSON list.

    python -m critic.service.examples      # makes critic/service/web/examples anew

The files are in git, so that a service has no need of minibench and its photographs. Their seed is not that of
params.yaml, so the tiny critic hasn't been trained on them.
"""

import json
import os
import shutil
from io import BytesIO
from pathlib import Path

from PIL import Image

from critic.data.minibench import make_table
from critic.service.page import WEB, Example

SEED, SOURCES, SIDE = 4, 40, 112
WANTED = {"colour": 4.8, "replace": 3.2, "remove": 1.6, "background": 3.6, "style": 4.4, "material": 2.6}
"""The type of each example, and the mean opinion score, 1 to 5, that its own is nearest to."""


def make_examples(folder: Path) -> None:
    """Write `folder` anew: examples.json, and for each example a folder of source.png and edited.png."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    table = make_table("test", SOURCES, SIDE, SEED)
    examples = []
    for kind, mos in WANTED.items():
        rows = table[table["edit_type"] == kind]
        row = rows.iloc[(rows["answer"] - mos).abs().argmin()]
        (partial / kind).mkdir(parents=True)
        for name, image in zip(("source", "edited"), row["images"], strict=True):
            Image.open(BytesIO(image["bytes"])).save(partial / kind / f"{name}.png", optimize=True)
        paths = {name: f"/examples/{kind}/{name}.png" for name in ("source", "edited")}
        examples.append(Example(id=kind, instruction=row["edit_inst"], **paths).model_dump())
    (partial / "examples.json").write_text(json.dumps(examples, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


if __name__ == "__main__":
    make_examples(WEB / "examples")

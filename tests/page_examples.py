"""The page's examples: six edits by minibench, from good to bad, as PNG files and a JSON list.

    python tests/page_examples.py      # makes critic/service/web/examples again

The files are committed, so that the service doesn't need minibench and its photographs. The seed isn't that of
params.yaml, so that the tiny critic hasn't been trained on these edits.
"""

from pathlib import Path

from critic.data.minibench import make_table
from critic.files import replacing_folder, write_json
from critic.pictures import decode_cell
from critic.service.page import WEB, Example

SEED, SOURCES, SIDE = 4, 40, 112
WANTED = {"colour": 4.8, "replace": 3.2, "remove": 1.6, "background": 3.6, "style": 4.4, "material": 2.6}
"""For each type of edit the mean opinion score, 1..5, that the example's should be nearest to."""


def make_examples(folder: Path) -> None:
    """Replace `folder`: examples.json, and for each example a folder with source.png and edited.png."""
    table = make_table("test", SOURCES, SIDE, SEED)
    examples = []
    with replacing_folder(folder) as partial:
        for kind, mos in WANTED.items():
            rows = table[table["edit_type"] == kind]
            row = rows.iloc[(rows["answer"] - mos).abs().argmin()]
            (partial / kind).mkdir()
            for name, cell in zip(("source", "edited"), row["images"], strict=True):
                decode_cell(cell).save(partial / kind / f"{name}.png", optimize=True)
            paths = {name: f"/examples/{kind}/{name}.png" for name in ("source", "edited")}
            examples.append(Example(id=kind, instruction=row["edit_inst"], **paths).model_dump())
        write_json(partial / "examples.json", examples)


if __name__ == "__main__":
    make_examples(WEB / "examples")

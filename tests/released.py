"""Data sets in the shapes in which the authors of IE-Critic-R1 released theirs. Pictures and words are our own.

    released = make(sources=6)
    released.push(hub)                         # on a hub of `local_hub`, under their names
    released.write(Path("sets"))               # the same files, in sets/Coobiw/IE-Bench-4k...
    released.leak                              # {"edits": 9, "sources": 5, "same_edits": 1}, of the published test
    user_text("make the cat red", "direct")    # what the SFT set says for an edit

What is like theirs: the columns; the files' names, `<random>_<editor>_IEB_<source>_prompt<n>.png`, equal for the
source and the edited picture; a split by row, so that test shares source images with train, and one edit; two SFT
samples for each edit of train, one of which answers with a number alone; literal `<image>` marks, a space before
the first word, and a line break at the end of the user's text that asks for a number alone. There is no validation
split.
"""

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Features, Image, Sequence, Value
from local_hub import Hub
from PIL.Image import Image as Picture

from critic.data.minibench import make_table
from critic.data.rationale_templates import AXES, write_rationale
from critic.pictures import decode_cell

BENCHMARK, SFT_SET = "Coobiw/IE-Bench-4k", "Coobiw/IE-Bench-CoT-mixed"
FEATURES = Features(
    {
        "images": Sequence(Image()),
        "edit_inst": Value("string"),
        "problem": Value("string"),
        "answer": Value("string"),
    }
)
SFT_FEATURES = Features(
    {"messages": [{"role": Value("string"), "content": Value("string")}], "images": Sequence(Image())}
)
PROBLEM = (
    "<image><image> Edit Instruction: {instruction}\n\n"
    "The first picture was edited to get the second one. Say how good the edit is as a whole.\n"
    "Look at three things:\n"
    "1. Request: is all done that was asked for?\n"
    "2. Rest: is everything else as it was?\n"
    "3. Looks: does the second picture look right?\n\n"
    "The score is a number with decimals from 1, very bad, to 5, very good.\n"
    "Give the score with two decimals{end}"
)
ENDS = {
    "problem": ".",
    "direct": " at once, and write nothing else.\n",
    "reasoning": ". The Assistant thinks before it answers: the thoughts are between <think> </think> tags and "
    "the score between <answer> </answer> tags, as in <think> thoughts </think><answer> score </answer>",
}


@dataclass(frozen=True)
class Released:
    """The columns of the benchmark's splits and of the SFT set, and the leak of the benchmark's test split."""

    splits: dict[str, dict[str, list[Any]]]
    sft: dict[str, list[Any]]
    leak: dict[str, int]

    def push(self, hub: Hub, benchmark: str = BENCHMARK, sft_set: str = SFT_SET) -> None:
        """Put both sets on a hub, as Parquet."""
        hub.push(benchmark, FEATURES, self.splits)
        hub.push(sft_set, SFT_FEATURES, {"train": self.sft})

    def push_json(self, hub: Hub, sft_set: str = SFT_SET) -> None:
        """Put the SFT set on a hub as the JSON of LLaMA-Factory, with the pictures in the folders src and dst."""
        files, rows = dict[str, bytes](), []
        for messages, images in zip(self.sft["messages"], self.sft["images"], strict=True):
            paths = [f"{folder}/{image['path']}" for folder, image in zip(("src", "dst"), images, strict=True)]
            files |= {path: image["bytes"] for path, image in zip(paths, images, strict=True)}
            rows.append({"messages": messages, "images": paths})
        card = "---\nconfigs:\n- config_name: default\n  data_files: train.json\n---\n"
        hub.files[sft_set] = {
            "README.md": card.encode(),
            "train.json": json.dumps(rows, indent=4).encode(),
            **files,
        }

    def write(self, folder: Path) -> None:
        """Write the files of both sets, each in a folder of its name on the hub."""
        hub = Hub()
        self.push(hub)
        for name, files in hub.files.items():
            for path, content in files.items():
                file = folder / name / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)


def user_text(instruction: str, mode: Literal["problem", "direct", "reasoning"]) -> str:
    """The benchmark's `problem` of an edit, or the user's turn of its SFT sample that answers in a mode."""
    return PROBLEM.replace("{end}", ENDS[mode]).replace("{instruction}", instruction)


def make(sources: int = 6, side: int = 56, seed: int = 7, test_share: float = 0.25) -> Released:
    """Make both sets; the same arguments give the same bytes.

    Args:
        sources: the number of source images, each with six edits; test has all edits of the last one, about
            `test_share` of the other edits, and one edit of train.
        side: width and height of the pictures, in pixels.
    """
    rng = np.random.default_rng(seed)
    table = make_table("train", sources, side, seed)
    number = table["source_id"].rank(method="dense").astype(int)
    prompt = table.groupby("source_id")["edit_inst"].transform(lambda given: given.factorize()[0] + 1)
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    rows = []
    for row, source, n in zip(table.to_dict("records"), number, prompt, strict=True):
        name = f"{''.join(rng.choice(letters, 5))}_{row['editor']}_IEB_{source:05d}_prompt{n}.png"
        source_image, edited = (decode_cell(image) for image in row["images"])
        edited.putpixel(
            (0, 0), (len(rows) % 256, len(rows) // 256, 0)
        )  # no two are equal, as editors fail alike here
        row["images"] = [{"bytes": _png(image), "path": name} for image in (source_image, edited)]
        rows.append({**row, "source": source})
    rows = [rows[place] for place in rng.permutation(len(rows))]
    apart, others = ([row for row in rows if (row["source"] == sources) is last] for last in (True, False))
    tests = round(test_share * len(others))
    parts = {"train": others[tests:], "test": [*others[:tests], *apart, _renamed(others[tests])]}
    leaked = [row["source"] for row in parts["test"] if row["source"] in {one["source"] for one in parts["train"]}]
    return Released(
        splits={
            split: {
                "images": [row["images"] for row in part],
                "edit_inst": [row["edit_inst"] for row in part],
                "problem": [user_text(row["edit_inst"], "problem") for row in part],
                "answer": [f"{row['answer']:.2f}" for row in part],
            }
            for split, part in parts.items()
        },
        sft=_sft_set(parts["train"], rng),
        leak={"edits": len(leaked), "sources": len({*leaked}), "same_edits": 1},
    )


def _renamed(row: dict[Any, Any]) -> dict[Any, Any]:
    """The same edit, with another random part in the names of its files."""
    images = [{**image, "path": image["path"][4::-1] + image["path"][5:]} for image in row["images"]]
    return {**row, "images": images}


def _sft_set(rows: list[dict[Any, Any]], rng: np.random.Generator) -> dict[str, list[Any]]:
    """Two samples of each edit, in a random order."""
    samples = []
    for row in rows:
        score = f"{row['answer']:.2f}"
        # Without the full stop: ".</" is a token that the tiny base has never seen, and adapters don't teach it.
        thoughts = write_rationale({axis: row[f"mos_{axis}"] for axis in AXES}, rng).rstrip(".")
        answers = {"direct": score, "reasoning": f"<think>{thoughts}</think>\n<answer>{score}</answer>"}
        for mode in ("direct", "reasoning"):
            user = {"role": "user", "content": user_text(row["edit_inst"], mode)}
            samples.append((row["images"], [user, {"role": "assistant", "content": answers[mode]}]))
    samples = [samples[place] for place in rng.permutation(len(samples))]
    return {"messages": [turns for _, turns in samples], "images": [images for images, _ in samples]}


def _png(image: Picture) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()

"""data/validated -> data/sft, data/rl: what the two trainings read, in TRL's conversational form.

    python -m stages.build

SFT samples are a prompt and the completion to learn: a rationale in `<think>` and the MOS in `<answer>`, or,
for a share of them, the MOS alone. RL samples are a prompt and the MOS to come near to.

With `build.rationales: teacher` the rationales are a large model's. Its answers are kept in runs/teacher, so that
none is paid for twice; an edit for which it wrote nothing that can be used gets samples without reasoning. With
`released` the SFT samples are those of a released set as they are.
"""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from critic import params
from critic.data.rationale_templates import write_rationale
from critic.data.teacher import TeacherError, write_rationales
from critic.data.teacher.journal import JournalError
from critic.data.trl_datasets import write_samples
from critic.edits import edits_from_table, read_table
from critic.prompts import Contract, Mode, load_contract

RELEASED = Path("data/validated/rationales.parquet")
JOURNAL = Path("runs/teacher/journal.jsonl")
Teach = Callable[[pd.DataFrame], Mapping[str, str]]
"""Rationales by edit id, for those edits of a table that there is one for."""


class NoRationales(ValueError):
    """A benchmark without rationales, or without what they are made of."""


def main() -> None:
    prompt, build = params.load(params.Prompt), params.load(params.Build)
    contract = load_contract(prompt.contract)
    use_problem = prompt.user_text == "dataset"
    rng = np.random.default_rng([params.seed(), 10])
    sft, rl = _Folder(Path("data/sft")), _Folder(Path("data/rl"))
    for split in ("train", "validation"):
        table = read_table(f"data/validated/{split}.parquet")
        each = build.samples_per_edit if split == "train" else 1
        teach = None
        if build.rationales == "teacher":
            teach = partial(write_rationales, section=params.load(params.Teacher), journal=JOURNAL, title=split)
        try:
            if build.rationales == "released":
                samples = released_samples(RELEASED, split, contract, use_problem=use_problem)
            else:
                samples = sft_samples(
                    table, contract, build.direct_fraction, rng, each=each, use_problem=use_problem, teach=teach
                )
        except (NoRationales, TeacherError, JournalError) as error:
            raise SystemExit(str(error)) from None
        sft.write(split, samples)
        rl.write(split, rl_samples(table, contract, use_problem=use_problem))
    sft.finish()
    rl.finish()


def sft_samples(
    table: pd.DataFrame,
    contract: Contract,
    direct_fraction: float,
    rng: np.random.Generator,
    *,
    each: int = 1,
    use_problem: bool = False,
    teach: Teach | None = None,
) -> list[dict[str, Any]]:
    """`each` samples an edit, with reasoning or, for a `direct_fraction` of all, without.

    Reasoning comes from `teach`, which is asked about the edits that need it; an edit that it leaves out gets its
    samples without reasoning. Without `teach` it is worded from the MOS of each axis; an edit that lacks one, as
    those that people have rated since may, gets its samples without reasoning too. Either way the answer to learn
    is the MOS itself.

    Raises:
        NoRationales: reasoning is to be worded and the table lacks the MOS of an axis.
    """
    axes = {axis: f"mos_{axis}" for axis in ("alignment", "fidelity", "quality")}
    if (
        teach is None
        and direct_fraction < 1
        and (missing := [name for name in axes.values() if name not in table])
    ):
        raise NoRationales(
            f"data/validated has no {', '.join(missing)}, from which rationales are worded: "
            "set build.direct_fraction to 1.0 or build.rationales to teacher, or give a benchmark that has them"
        )
    samples = []
    table = table.loc[table.index.repeat(each)]
    direct = rng.permutation(len(table)) < round(direct_fraction * len(table))
    taught = teach(table[~direct].drop_duplicates("id")) if teach else {}
    rows = tqdm(table.to_dict("records"), desc="SFT samples", mininterval=2)
    for row, edit, is_direct in zip(rows, edits_from_table(table), direct, strict=True):
        if is_direct:
            reasoning = ""
        elif teach:
            reasoning = taught.get(edit.id, "")
        elif any(pd.isna(row[column]) for column in axes.values()):
            reasoning = ""
        else:
            reasoning = write_rationale({a: row[c] for a, c in axes.items()}, rng)
        mode: Mode = "reasoning" if reasoning else "direct"
        response = f"<think>{reasoning}</think>\n<answer>{row['mos']:.2f}</answer>"
        samples.append(
            {
                "id": edit.id,
                "mode": mode,
                "prompt": contract.messages(edit, mode, use_problem=use_problem),
                "completion": [{"role": "assistant", "content": [{"type": "text", "text": response}]}],
                "images": list(row["images"]),
            }
        )
    return samples


def released_samples(
    path: Path, split: str, contract: Contract, *, use_problem: bool = False
) -> list[dict[str, Any]]:
    """The samples of a released set (`critic.data.rationale_sets`) for a split, each with the response that it has.

    Raises:
        NoRationales: there is no such set or it has none for the split, or the contract's text is asked for and
            nothing tells the instruction of an edit.
    """
    table = read_table(path) if path.exists() else pd.DataFrame(columns=["split"])
    table = table[table["split"] == split]
    if table.empty:
        raise NoRationales(
            f"no rationale of {path} is for the {split} split: set download.rationales to a set that has some, "
            "or build.rationales to `scores`"
        )
    unknown = table[table["instruction"].isna()]["id"]
    if len(unknown) and not use_problem:
        raise NoRationales(
            f"the instruction of {len(unknown)} rationales ({', '.join(unknown[:5])}...) is unknown, since no "
            "edit of the benchmark has the same two pictures: set prompt.user_text to `dataset`, or give the set "
            "a column edit_inst"
        )
    edits = edits_from_table(table)
    return [
        {
            "id": row["id"],
            "mode": row["mode"],
            "prompt": contract.messages(edit, row["mode"], use_problem=use_problem),
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": row["response"]}]}],
            "images": list(row["images"]),
        }
        for row, edit in zip(table.to_dict("records"), edits, strict=True)
    ]


def rl_samples(table: pd.DataFrame, contract: Contract, *, use_problem: bool = False) -> list[dict[str, Any]]:
    """One prompt an edit, always with reasoning, and its MOS."""
    return [
        {
            "id": edit.id,
            "prompt": contract.messages(edit, "reasoning", use_problem=use_problem),
            "images": list(images),
            "mos": edit.mos,
        }
        for edit, images in zip(edits_from_table(table), table["images"], strict=True)
    ]


class _Folder:
    """A folder of Parquet files that comes to be, whole, when it is finished."""

    def __init__(self, folder: Path):
        self.folder, self.partial = folder, folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)

    def write(self, split: str, samples: list[dict[str, Any]]) -> None:
        write_samples(samples, self.partial / f"{split}.parquet")

    def finish(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.partial.rename(self.folder)


if __name__ == "__main__":
    main()

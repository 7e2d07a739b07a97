"""Build data/sft, data/rl and data/pictures from data/validated, in TRL's conversational format.

    python -m stages.build

An SFT sample is a prompt and its completion: a rationale in `<think>` and the MOS in `<answer>`, or, for a
fraction of the samples, the MOS alone. An RL sample is a prompt and the MOS, which the reward needs. Both name
their pictures, which are in data/pictures, each once. Two RL samples of a pair of preferences have no MOS, but say
which of them people prefer; pairs that people like equally have none.

Rationales are dear and MOS are cheap: with `build.rationale_fraction` below 1, only that share of the train
split's edits has SFT samples, and GRPO alone learns from the others.

With `build.rationales: teacher` a large model writes the rationales. Its answers are kept in runs/teacher, so that
none is paid for twice; an edit without an accepted rationale gets samples without reasoning. With `released` the
SFT samples are the rows of a released set: with a contract that was learnt from the set, prompts are to the byte
those of the rows. Both are about edits: generated pictures get rationales from scores, or none. A teacher also
writes rationales of preferences, which end with its own scores, in people's order.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from critic import files, params
from critic.answers import AXES, Critique
from critic.data.generated import as_edits, is_generated
from critic.data.rationale_templates import write_rationale
from critic.data.teacher.client import TeacherError
from critic.data.teacher.journal import JournalError
from critic.data.teacher.rationales import write_pair_rationales, write_rationales
from critic.data.trl_datasets import PictureWriter, write_samples
from critic.edits import GENERATED_AXES, Edit, count_images
from critic.prompts import CONTRACT_FILE, LEARNT, Contract, ContractError, Mode, stage_contract
from critic.tables import read_parquet

RELEASED = Path("data/validated/rationales.parquet")
PREFERENCES, PAIRS = Path("data/validated/preferences.parquet"), Path("data/validated/pairs.parquet")
JOURNAL = Path("runs/teacher/journal.jsonl")
_BLANK = Image.new("RGB", (1, 1))
Teach = Callable[[pd.DataFrame], Mapping[str, str]]
"""Returns rationales by edit id; edits without an accepted rationale are left out."""


class NoRationales(ValueError):
    """A benchmark without rationales, or without the data to make them."""


def main() -> None:
    prompt, build = params.load(params.Prompt), params.load(params.Build)
    rng = np.random.default_rng([params.seed(), 10])
    try:
        contract = stage_contract(prompt.contract, "data/validated")
        with (
            files.replacing_folder("data/rl") as rl,
            files.replacing_folder("data/sft") as sft,
            files.replacing_folder("data/pictures") as folder,
        ):
            for split in ("train", "validation"):
                table = read_parquet(f"data/validated/{split}.parquet")
                if is_generated(table) and build.rationales != "scores":
                    raise NoRationales(
                        f"build.rationales: {build.rationales} is for edits, and data/validated has pictures "
                        "without a source image: set build.rationales to scores"
                    )
                if build.rationales == "released":
                    samples = released_samples(RELEASED, split, contract)
                else:
                    each = build.samples_per_edit if split == "train" else 1
                    told = table
                    if split == "train" and build.rationale_fraction < 1:
                        order = rng.permutation(len(table))
                        told = table[order < round(build.rationale_fraction * len(table))]
                    teach = None
                    if build.rationales == "teacher":
                        section = params.load(params.Teacher)
                        teach = partial(write_rationales, section=section, journal=JOURNAL, title=split)
                    samples = sft_samples(
                        told,
                        contract,
                        build.direct_fraction,
                        rng,
                        each=each,
                        teach=teach,
                    )
                if split == "train" and PAIRS.exists():
                    edits, pairs = read_parquet(PREFERENCES), read_parquet(PAIRS)
                    if build.rationales == "teacher":
                        judged = write_pair_rationales(edits, pairs, params.load(params.Teacher), JOURNAL)
                        samples = chain(samples, judged_samples(edits, judged, contract))
                    table = pd.concat([table, preferred(edits, pairs)], ignore_index=True)
                with PictureWriter(folder / f"{split}.arrow", f"../pictures/{split}.arrow") as pictures:
                    write_samples(samples, sft / f"{split}.parquet", pictures)
                    write_samples(rl_samples(table, contract), rl / f"{split}.parquet", pictures)
            if prompt.contract == LEARNT:
                files.write_text(sft / CONTRACT_FILE, contract.text)
    except (NoRationales, TeacherError, JournalError, ContractError, files.OutputError) as error:
        raise SystemExit(str(error)) from None


def sft_samples(
    table: pd.DataFrame,
    contract: Contract,
    direct_fraction: float,
    rng: np.random.Generator,
    *,
    each: int = 1,
    teach: Teach | None = None,
) -> Iterator[dict[str, Any]]:
    """`each` samples per edit, one edit after another; a `direct_fraction` of all samples has no reasoning.

    `teach` gives the reasoning; it gets the edits that need some. Without `teach` the reasoning is written from
    the MOS of each axis; a generated picture has no fidelity. A row without either gets samples without reasoning.
    The answer is always the MOS. Reasoning ends with the line of sub-scores that the contract asks for, if any and
    if people rated its axes.

    Raises:
        NoRationales: reasoning is needed, there is no `teach`, and the table lacks a column with the MOS of an
            axis.
    """
    axes = {axis: f"mos_{axis}" for axis in AXES if axis in GENERATED_AXES or not is_generated(table)}
    missing = [name for name in axes.values() if name not in table]
    if missing and teach is None and direct_fraction < 1:
        raise NoRationales(
            f"data/validated has no {', '.join(missing)}, so rationales can't be written from scores: "
            "set build.direct_fraction to 1.0 or build.rationales to teacher, or give a benchmark that has them"
        )
    number = each * len(table)
    direct = (rng.permutation(number) < round(direct_fraction * number)).reshape(-1, each)
    taught = teach(table.iloc[np.flatnonzero(~direct.all(axis=1))].drop_duplicates("id")) if teach else None
    return _worded(as_edits(table), contract, direct, axes, taught, rng)


def _worded(
    table: pd.DataFrame,
    contract: Contract,
    direct: NDArray[np.bool_],
    axes: Mapping[str, str],
    taught: Mapping[str, str] | None,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """The samples; `direct` says of each row and sample, [rows, each], whether it has no reasoning."""
    rows = tqdm(table.to_dict("records"), desc="SFT samples", unit=" edits", mininterval=2)
    for row, without in zip(rows, direct, strict=True):
        for is_direct in without:
            reasoning = ""
            if taught is not None and not is_direct:
                reasoning = taught.get(row["id"], "")
            elif not is_direct and not any(pd.isna(row[column]) for column in axes.values()):
                reasoning = write_rationale({axis: row[column] for axis, column in axes.items()}, rng)
            if reasoning:
                rated = {axis: row[name] for axis, name in axes.items() if name in row and not pd.isna(row[name])}
                reasoning = contract.with_sub_scores(reasoning, rated)
            response = contract.answer(reasoning, row["mos"])
            yield _sft_sample(row, "reasoning" if reasoning else "direct", response, contract)


def released_samples(path: Path, split: str, contract: Contract) -> Iterator[dict[str, Any]]:
    """The samples of a released set (`critic.data.rationale_sets`) for a split, with its own responses.

    The instruction is the one that the contract reads in the row's own text (`Contract.read_instruction`), so that
    the prompt is that text, or else the one in the column `instruction`.

    Raises:
        NoRationales: the set is missing or has no row for the split, or the instruction of a row is unknown.
    """
    table = read_parquet(path) if path.exists() else pd.DataFrame(columns=["split"])
    table = table[table["split"] == split]
    if table.empty:
        raise NoRationales(
            f"no rationale in {path} is for the {split} split: set download.rationales to a set that has some, "
            "or build.rationales to `scores`"
        )
    texts = zip(table["problem"], table["mode"], strict=True)
    read = pd.Series([contract.read_instruction(*text) for text in texts], table.index, "str")
    table = table.assign(instruction=read.fillna(table["instruction"]))
    unknown = table[table["instruction"].isna()]["id"]
    if len(unknown):
        raise NoRationales(
            f"the instruction of {len(unknown)} rationales ({', '.join(unknown[:5])}...) is unknown: the prompt "
            f"contract {contract.name} doesn't render their text, and no edit of the benchmark has the same two "
            "pictures. Learn a contract from the set with `critic contract learn` and name it in prompt.contract, "
            "or add a column edit_inst to the set"
        )
    rows = table.to_dict("records")
    return (_sft_sample(row, row["mode"], row["response"], contract) for row in rows)


def judged_samples(
    edits: pd.DataFrame, judged: Mapping[str, Critique], contract: Contract
) -> Iterator[dict[str, Any]]:
    """A sample with reasoning for each edit that has a teacher's critique, by id, with the teacher's score."""
    for row in edits.to_dict("records"):
        critique = judged.get(row["id"])
        if critique is not None and critique.score is not None:
            yield _sft_sample(row, "reasoning", contract.answer(critique.reasoning, critique.score), contract)


def preferred(edits: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Two rows for each pair in which people prefer one edit, without a MOS, with `pair` and `wins`."""
    decided = pairs[pairs["order"] != 0]
    rows = edits.set_index("id", drop=False).loc[decided[["edited_a", "edited_b"]].to_numpy().ravel()]
    order = decided["order"].to_numpy()
    wins = np.stack([order > 0, order < 0], axis=1).ravel().astype(float)
    return rows.assign(mos=np.nan, pair=np.arange(len(rows)) // 2, wins=wins).astype({"pair": "str"})


def rl_samples(table: pd.DataFrame, contract: Contract) -> Iterator[dict[str, Any]]:
    """One sample per row: a prompt that asks for reasoning, and the columns that rewards need: the MOS, those of
    axes, and those of `preferred`, if the table has them; None where a row has no value."""
    numbers = [name for name in ("mos", *(f"mos_{axis}" for axis in AXES), "wins") if name in table]
    for row in as_edits(table).to_dict("records"):
        sample = {"id": row["id"], "prompt": contract.messages(_edit(row), "reasoning"), "images": row["images"]}
        sample |= {name: None if pd.isna(row[name]) else float(row[name]) for name in numbers}
        if "pair" in row:
            sample["pair"] = None if pd.isna(row["pair"]) else row["pair"]
        yield sample


def _sft_sample(row: Mapping[Hashable, Any], mode: Mode, response: str, contract: Contract) -> dict[str, Any]:
    if not response.startswith(contract.prefill):
        raise NoRationales(
            f"the answer of rationale {row['id']} begins with {response[:20]!r}, and prompts of contract "
            f"{contract.name} end with {contract.prefill!r}, which it must begin with: change the prefill"
        )
    return {
        "id": row["id"],
        "mode": mode,
        "prompt": contract.messages(_edit(row), mode),
        "completion": [{"role": "assistant", "content": [{"type": "text", "text": response}]}],
        "images": row["images"],
    }


def _edit(row: Mapping[Hashable, Any]) -> Edit:
    """The edit of a row with blank pictures: its prompt has their places, not what they show."""
    source = _BLANK if count_images(row["images"]) == 2 else None
    return Edit(row["id"], source, _BLANK, row["instruction"])


if __name__ == "__main__":
    main()

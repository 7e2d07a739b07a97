"""Check a released SFT set, which has rationales for edits of a benchmark, and convert it to samples' columns.

    table = read_parquet("data/validated/rationales.parquet")    # the columns of COLUMNS

`critic.data.readers.rationales` gives the raw table. A validated row has the user's and the assistant's turn
in separate columns, and a split: validation if its source image is in the validation split, else train.
"""

import pandas as pd
import pyarrow as pa

from critic.answers import is_well_formed, parse_critique
from critic.data.features import Resize, edit_facts
from critic.data.near_duplicates import find_shared, group_sources
from critic.edits import COLUMNS as EDIT_COLUMNS
from critic.edits import normalise

TURNS = "user, assistant"
NO_REASONING = "<think></think>\n"

COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "source_id": pa.string(),
    "split": pa.string(),
    "mode": pa.string(),
    "images": EDIT_COLUMNS["images"],
    "instruction": pa.string(),
    "problem": pa.string(),
    "response": pa.string(),
}
"""The columns of a validated table, in order. `mode` is "direct" for a response without reasoning, `problem` is
the set's own user text, `instruction` is missing if neither the set nor the benchmark has it."""


def rationale_facts(raw: pd.DataFrame, edits: pd.DataFrame, phash_distance: int, resize: Resize) -> pd.DataFrame:
    """The facts about each row of a raw table, in its order.

    Args:
        raw: the set as read.
        edits: the facts about the benchmark's edits (`critic.data.features.edit_facts`).
        phash_distance: source images are the same if their perceptual hashes differ in at most this many bits.
        resize: the prompt contract's.

    Returns:
        The columns of `edit_facts`, with the split "rationales", and three that are missing in a valid row:
        turns: the roles of the turns, if not user and assistant.
        fault: why the assistant's turn can't be used for training.
        in_test: a row of the test split with the same source image.
    """
    facts = edit_facts({"rationales": normalise(raw.assign(instruction=""), "rationales")}, resize)
    turns = [", ".join(message["role"] for message in messages) for messages in raw["messages"]]
    test = edits[edits["split"] == "test"]
    shared = find_shared(pd.concat([test, facts], ignore_index=True), phash_distance)
    shared = shared[shared["split"] == "rationales"].reset_index(drop=True)
    last = [messages[-1]["content"] for messages in raw["messages"]]
    return facts.assign(
        turns=pd.Series([None if who == TURNS else who for who in turns], dtype="str"),
        fault=pd.Series(
            [fault(a) if who == TURNS else None for who, a in zip(turns, last, strict=True)], dtype="str"
        ),
        in_test=shared["same_pixels"].fillna(shared["looks_like"]),
    )


def add_empty_think(response: str) -> str:
    """The response, with an empty `<think>` block first if it has none, since every prompt ends with that tag."""
    response = response.strip()
    return response if response.startswith("<think>") else NO_REASONING + response


def fault(response: str) -> str | None:
    """Why a response can't be used for training: not only a `<think>` (optional) and an `<answer>` of 1..5.

    Returns:
        None for a response that can be used.
    """
    critique = parse_critique(add_empty_think(response))
    if critique.score is None:
        return f"{critique.status.replace('_', ' ')}: {critique.answer if critique.answer else response}"
    return None if is_well_formed(critique.raw) else f"more than reasoning and an answer: {response}"


def finish(
    raw: pd.DataFrame, facts: pd.DataFrame, edits: pd.DataFrame, held_out: pd.DataFrame, phash_distance: int
) -> pd.DataFrame:
    """The validated table of a raw one whose rows are valid.

    A row without an instruction gets that of the benchmark's edit with the same two pictures.

    Args:
        raw: the set as read.
        facts: its `rationale_facts`.
        edits: the facts about the benchmark's edits (`critic.data.features.edit_facts`).
        held_out: the validation split.
        phash_distance: source images are the same if their perceptual hashes differ in at most this many bits.
    """
    pair = ["pixels", "edited_pixels"]
    unique = edits.drop_duplicates([*pair, "instruction"]).drop_duplicates(pair, keep=False)
    known = facts[pair].merge(unique[[*pair, "instruction"]], on=pair, how="left")["instruction"]
    given = raw["instruction"].reset_index(drop=True) if "instruction" in raw else known
    validation = edits[edits["source_id"].isin(held_out["source_id"])]
    groups = group_sources(pd.concat([validation, facts], ignore_index=True), phash_distance)
    in_validation, own = {*groups[: len(validation)]}, groups[len(validation) :]
    turns = [[message["content"] for message in messages] for messages in raw["messages"]]
    responses = [add_empty_think(assistant) for _, assistant in turns]
    return pd.DataFrame(
        {
            "id": facts["id"].to_numpy(),
            "source_id": facts["source_id"].to_numpy(),
            "split": ["validation" if group in in_validation else "train" for group in own],
            "mode": ["reasoning" if parse_critique(text).reasoning else "direct" for text in responses],
            "images": raw["images"].to_numpy(),
            "instruction": given.fillna(known).to_numpy(),
            "problem": [user for user, _ in turns],
            "response": responses,
        }
    )

"""Check a released SFT set, which has rationales for edits of a benchmark, and convert it to samples' columns.

`critic.data.readers.rationales` gives the raw table. A validated row has the user's and the assistant's turn
in separate columns, and a split: validation if its source image is in the validation split, else train. An
instruction of the raw table comes before that of the benchmark.
"""

import re
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa

from critic.answers import is_well_formed, parse_critique
from critic.data.features import Resize, edit_facts
from critic.data.near_duplicates import find_shared, group_sources
from critic.edits import COLUMNS as EDIT_COLUMNS
from critic.edits import normalise

TURNS = "user, assistant"
NO_REASONING = "<think></think>\n"
_BARE_NUMBER = re.compile(r"\s*(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*")

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
the set's own user text to the letter, `instruction` is missing if neither the set nor the benchmark has it."""


def rationale_facts(
    raw: pd.DataFrame, edits: pd.DataFrame, phash_distance: int, resize: Resize, system: str | None = None
) -> pd.DataFrame:
    """The facts about each row of a raw table, in its order.

    Args:
        edits: the facts about the benchmark's edits (`critic.data.features.edit_facts`).
        phash_distance: source images are the same if their perceptual hashes differ in at most this many bits.
        resize: the prompt contract's.
        system: the prompt contract's, with which a row may begin.

    Returns:
        The columns of `edit_facts`, with the split "rationales", and
        is_bare: whether the assistant's turn is a number and nothing else.
        turns: the roles of the turns after `system`, if not user and assistant; missing in a valid row, as the
            columns below.
        fault: why the assistant's turn can't be used for training.
        in_test: a row of the test split with the same source image.
        same_edit: a row of the test split with the same two pictures.
    """
    facts = edit_facts({"rationales": normalise(raw.assign(instruction=""), "rationales")}, resize)
    turns = [
        ", ".join(message["role"] for message in messages[_begins_with(messages, system) :])
        for messages in raw["messages"]
    ]
    test = edits[edits["split"] == "test"]
    shared = find_shared(pd.concat([test, facts], ignore_index=True), phash_distance)
    shared = shared[shared["split"] == "rationales"].reset_index(drop=True)
    last = [messages[-1]["content"] for messages in raw["messages"]]
    pair = ["pixels", "edited_pixels"]
    names = [f"test row {row.row}, id {row.id!r}" for row in test.itertuples()]
    tests = test.assign(same_edit=names).dropna(subset=pair).drop_duplicates(pair)
    return facts.assign(
        is_bare=[_BARE_NUMBER.fullmatch(text) is not None for text in last],
        turns=pd.Series([None if who == TURNS else who for who in turns], dtype="str"),
        fault=pd.Series(
            [fault(a) if who == TURNS else None for who, a in zip(turns, last, strict=True)], dtype="str"
        ),
        in_test=shared["same_pixels"].fillna(shared["looks_like"]),
        same_edit=facts[pair].merge(tests[[*pair, "same_edit"]], on=pair, how="left")["same_edit"],
    )


def _begins_with(messages: Sequence[dict[str, str]], system: str | None) -> bool:
    return messages[0]["role"] == "system" and messages[0]["content"] == system


def to_answer_form(response: str) -> str:
    """The response in this project's form, without the whitespace around it.

    A bare number such as `2.71` gets its `<answer>` tags. A response without a `<think>` block gets an empty one,
    since every prompt ends with that tag.
    """
    response = response.strip()
    if _BARE_NUMBER.fullmatch(response):
        response = f"<answer>{response}</answer>"
    return response if response.startswith("<think>") else NO_REASONING + response


def fault(response: str) -> str | None:
    """Why a response can't be used for training: neither a score of 1..5 alone, nor only a `<think>` (optional)
    and an `<answer>` of 1..5.

    Returns:
        None for a response that can be used.
    """
    critique = parse_critique(to_answer_form(response))
    if critique.score is None:
        return f"{critique.status.replace('_', ' ')}: {critique.answer if critique.answer else response}"
    return None if is_well_formed(critique.raw) else f"more than reasoning and an answer: {response}"


def finish(
    raw: pd.DataFrame, facts: pd.DataFrame, edits: pd.DataFrame, held_out: pd.DataFrame, phash_distance: int
) -> pd.DataFrame:
    """The validated table of a raw one whose rows are valid.

    A row without an instruction gets that of the benchmark's edit with the same two pictures.

    Args:
        facts: `rationale_facts` of the rows to keep; the index has their places in `raw`.
        edits, phash_distance: as in `rationale_facts`.
        held_out: the validation split.
    """
    raw, facts = raw.iloc[facts.index].reset_index(drop=True), facts.reset_index(drop=True)
    pair = ["pixels", "edited_pixels"]
    unique = edits.drop_duplicates([*pair, "instruction"]).drop_duplicates(pair, keep=False)
    known = facts[pair].merge(unique[[*pair, "instruction"]], on=pair, how="left")["instruction"]
    given = raw.get("instruction", known)
    validation = edits[edits["source_id"].isin(held_out["source_id"])]
    groups = group_sources(pd.concat([validation, facts], ignore_index=True), phash_distance)
    in_validation, own = {*groups[: len(validation)]}, groups[len(validation) :]
    turns = [[message["content"] for message in messages[-2:]] for messages in raw["messages"]]
    responses = [to_answer_form(assistant) for _, assistant in turns]
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

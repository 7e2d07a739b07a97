"""A released SFT set: the faults of an invalid one, and the table made from a valid one."""

from decimal import Decimal
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from critic.answers import is_well_formed, parse_critique
from critic.data.features import edit_facts
from critic.data.rationale_sets import COLUMNS, fault, finish, rationale_facts, to_answer_form
from critic.prompts import load_contract

DISTANCE = 24
RESIZE = load_contract("tiny").resize
REASONED = "<think>Half done.</think>\n<answer>3.25</answer>"


def encode(seed: int, kind: str = "PNG") -> dict[str, Any]:
    coarse = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(coarse).resize((80, 80), Image.Resampling.BICUBIC).save(file, kind)
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture
def edits() -> dict[str, pd.DataFrame]:
    """A benchmark: sources 0 and 1 in train, 10 in validation, 20 in test."""
    splits = {"train": (0, 1), "validation": (10,), "test": (20,)}
    return {
        split: pd.DataFrame(
            {
                "id": [f"{split}-{seed}" for seed in seeds],
                "source_id": [f"s{seed}" for seed in seeds],
                "images": [[encode(seed), encode(100 + seed)] for seed in seeds],
                "instruction": [f"edit {seed}" for seed in seeds],
                "mos": 3.0,
            }
        )
        for split, seeds in splits.items()
    }


def raw(*sources: int, response: str = REASONED, kind: str = "PNG") -> pd.DataFrame:
    """A set of one row a source image, edited as the benchmark's."""
    turns = [{"role": "user", "content": "Rate it."}, {"role": "assistant", "content": response}]
    return pd.DataFrame(
        {
            "id": [f"r{seed}" for seed in sources],
            "images": [[encode(seed, kind), encode(100 + seed)] for seed in sources],
            "messages": [turns] * len(sources),
        }
    )


def finished(table: pd.DataFrame, edits: dict[str, pd.DataFrame]) -> pd.DataFrame:
    benchmark = edit_facts(edits, RESIZE)
    facts = rationale_facts(table, benchmark, DISTANCE, RESIZE)
    return finish(table, facts, benchmark, edits["validation"], DISTANCE)


# --- what is wrong


def test_a_good_set_has_no_fault(edits: dict[str, pd.DataFrame]) -> None:
    facts = rationale_facts(raw(0, 10, 30), edit_facts(edits, RESIZE), DISTANCE, RESIZE)
    assert [*facts["id"]] == ["r0", "r10", "r30"]
    assert {*facts["split"]} == {"rationales"}
    assert facts[["turns", "fault", "in_test", "source_error", "edited_error"]].isna().all(axis=None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_source_image_of_the_test_split_is_found_even_in_another_file(
    edits: dict[str, pd.DataFrame], kind: str
) -> None:
    facts = rationale_facts(raw(0, 20, kind=kind), edit_facts(edits, RESIZE), DISTANCE, RESIZE)
    assert pd.isna(facts["in_test"][0])
    assert facts["in_test"][1].startswith("test row 1, id 'test-20'")


@pytest.mark.parametrize("roles", ["user", "assistant, user", "system, user, assistant", "user, assistant, user"])
def test_other_turns_than_one_of_each_are_told(edits: dict[str, pd.DataFrame], roles: str) -> None:
    table = raw(0)
    table.at[0, "messages"] = [{"role": role, "content": REASONED} for role in roles.split(", ")]
    facts = rationale_facts(table, edit_facts(edits, RESIZE), DISTANCE, RESIZE)
    assert [*facts["turns"]] == [roles]


def test_only_the_contracts_own_system_message_may_come_first(edits: dict[str, pd.DataFrame]) -> None:
    table = raw(0, 10)
    for row, system in enumerate(("Be strict.", "Be kind.")):
        table.at[row, "messages"] = [{"role": "system", "content": system}, *table["messages"][row]]
    benchmark = edit_facts(edits, RESIZE)
    facts = rationale_facts(table, benchmark, DISTANCE, RESIZE, "Be strict.")
    assert pd.isna(facts["turns"][0]) and facts["turns"][1] == "system, user, assistant"
    (kept,) = finish(table, facts[:1], benchmark, edits["validation"], DISTANCE).itertuples()
    assert (kept.problem, kept.response) == ("Rate it.", REASONED)


@pytest.mark.parametrize(
    "response",
    [
        REASONED,
        "2.71",
        " 5\n",
        "<answer>4</answer>",
        "<think></think><answer>**1.00**/5</answer>",
        f"\n {REASONED} \n",
    ],
)
def test_a_response_to_learn_from_has_no_fault(response: str) -> None:
    assert fault(response) is None


@pytest.mark.parametrize(
    ("response", "told"),
    [
        ("", "no answer"),
        ("7.75", "out of range: 7.75"),
        ("3.75 of 5", "no answer: 3.75 of 5"),
        ("nan", "no answer: nan"),
        ("<think>Half done.<answer>3</answer>", "no answer"),
        ("<answer>good</answer>", "not a number: good"),
        ("<answer>7.5</answer>", "out of range: 7.5"),
        ("<answer>3</answer><answer>4</answer>", "ambiguous: 4"),
        ("It is fair. <answer>3</answer>", "more than reasoning and an answer: It is fair."),
        (f"{REASONED} I am sure.", "more than reasoning and an answer"),
    ],
)
def test_a_response_that_cannot_be_learnt_from_is_told(response: str, told: str) -> None:
    assert (fault(response) or "").startswith(told)


@given(st.text())
def test_a_response_without_fault_is_well_formed_and_has_a_score(response: str) -> None:
    for text in (response, f"<answer>{response}</answer>", f"<think>{response}</think><answer>3</answer>"):
        if fault(text) is None:
            assert is_well_formed(to_answer_form(text))
            assert parse_critique(to_answer_form(text)).score is not None


@given(st.decimals(1, 5, places=2), st.text(" \t\r\n", max_size=3))
def test_a_bare_number_is_a_direct_answer_with_that_score(score: Decimal, blanks: str) -> None:
    assert fault(f"{blanks}{score}{blanks}") is None
    assert to_answer_form(f"{blanks}{score}{blanks}") == f"<think></think>\n<answer>{score}</answer>"


# --- its table


def test_a_row_goes_where_its_source_image_is(edits: dict[str, pd.DataFrame]) -> None:
    """Else SFT would learn from edits that its validation loss, and GRPO's curve, are measured on."""
    table = finished(raw(0, 10, 30), edits)
    assert [*table] == [*COLUMNS]
    assert [*table["split"]] == ["train", "validation", "train"]
    assert [*finished(raw(0, 10, kind="JPEG"), edits)["split"]] == ["train", "validation"]


def test_the_turns_and_the_mode_are_told_apart(edits: dict[str, pd.DataFrame]) -> None:
    table = pd.concat([raw(0), raw(1, response="<answer>4</answer>\n")], ignore_index=True)
    first, second = finished(table, edits).to_dict("records")
    assert (first["mode"], first["problem"], first["response"]) == ("reasoning", "Rate it.", REASONED)
    assert (second["mode"], second["response"]) == ("direct", "<think></think>\n<answer>4</answer>")


def test_the_instruction_is_the_sets_own_or_that_of_the_edit_with_the_same_pictures(
    edits: dict[str, pd.DataFrame],
) -> None:
    assert [*finished(raw(0, 1), edits)["instruction"]] == ["edit 0", "edit 1"]
    given = raw(0, 1).assign(instruction=["its own", None])
    assert [*finished(given, edits)["instruction"]] == ["its own", "edit 1"]
    assert finished(raw(0, kind="JPEG"), edits)["instruction"].isna().all()


def test_two_instructions_for_the_same_pictures_are_none(edits: dict[str, pd.DataFrame]) -> None:
    train = edits["train"]
    edits["train"] = pd.concat([train, train[:1].assign(id="again", instruction="another")], ignore_index=True)
    assert pd.isna(finished(raw(0), edits)["instruction"][0])


def test_a_bare_number_becomes_a_direct_sample_and_is_counted(edits: dict[str, pd.DataFrame]) -> None:
    table = pd.concat([raw(0), raw(1, response=" 2.71\n")], ignore_index=True)
    assert [*rationale_facts(table, edit_facts(edits, RESIZE), DISTANCE, RESIZE)["is_bare"]] == [False, True]
    row = finished(table, edits).iloc[1]
    assert (row["mode"], row["response"]) == ("direct", "<think></think>\n<answer>2.71</answer>")


def test_the_users_text_is_kept_to_the_letter(edits: dict[str, pd.DataFrame]) -> None:
    text = "<image><image> Edit Instruction: a\r\n{b}\u2028 \n"
    table = raw(0)
    table.at[0, "messages"] = [{"role": "user", "content": text}, {"role": "assistant", "content": "3"}]
    assert [*finished(table, edits)["problem"]] == [text]


def test_the_edits_of_the_test_split_are_told_from_others_of_its_sources(edits: dict[str, pd.DataFrame]) -> None:
    table = raw(0, 20, 20).assign(id=["r0", "same", "other"])
    table.at[2, "images"] = [encode(20), encode(121)]
    facts = rationale_facts(table, edit_facts(edits, RESIZE), DISTANCE, RESIZE)
    assert [*facts["same_edit"].notna()] == [False, True, False]
    assert [*facts["in_test"].notna()] == [False, True, True]
    assert facts["same_edit"][1] == "test row 1, id 'test-20'"


def test_rows_that_are_left_out_of_the_facts_are_left_out_of_the_table(edits: dict[str, pd.DataFrame]) -> None:
    table, benchmark = raw(0, 20, 10, 1), edit_facts(edits, RESIZE)
    facts = rationale_facts(table, benchmark, DISTANCE, RESIZE)
    kept = finish(table, facts[facts["in_test"].isna()], benchmark, edits["validation"], DISTANCE)
    assert [*kept["id"]] == ["r0", "r10", "r1"]
    assert [*kept["instruction"]] == ["edit 0", "edit 10", "edit 1"]
    assert [*kept["split"]] == ["train", "validation", "train"]

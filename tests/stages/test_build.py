"""The build stage turns a table of edits into what the two trainings read, and into nothing else."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from critic import params
from critic.answers import parse_critique
from critic.data.minibench import make_table
from critic.data.preference_sets import PAIR_COLUMNS
from critic.data.rationale_sets import COLUMNS
from critic.data.teacher.client import TeacherError
from critic.data.trl_datasets import load_samples
from critic.edits import TYPES, edits_from_table, normalise
from critic.prompts import Contract, Message, load_contract, parse_contract
from critic.tables import read_parquet, write_parquet
from stages.build import NoRationales, main, released_samples, rl_samples, sft_samples
from stages.grpo import train_dataset

AXES = ("alignment", "fidelity", "quality")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """48 edits, validated in their form."""
    return normalise(make_table("train", sources=8, side=56, seed=7), "train")


@pytest.fixture
def contract() -> Contract:
    return load_contract("tiny")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def text(messages: list[Message]) -> str:
    """What a conversation of one message says."""
    (message,) = messages
    return str(message["content"][-1]["text"])


# --- SFT


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_direct_share_asks_for_a_score_alone(share: float, table: pd.DataFrame, contract: Contract) -> None:
    samples = [*sft_samples(table, contract, share, rng())]
    direct = [sample for sample in samples if sample["mode"] == "direct"]
    assert len(direct) == share * len(table)
    for sample in samples:
        critique = parse_critique(text(sample["completion"]))
        asks_directly = text(sample["prompt"]).endswith(contract.requests["direct"])
        assert (sample["mode"] == "direct") == asks_directly == (critique.reasoning == "")
        assert critique.raw.startswith("<think></think>") == asks_directly


def test_direct_samples_are_spread_over_the_table(table: pd.DataFrame, contract: Contract) -> None:
    direct = [sample["mode"] == "direct" for sample in sft_samples(table, contract, 0.5, rng())]
    assert 6 <= sum(direct[: len(direct) // 2]) <= 18


def test_a_completion_parses_to_the_mos_with_two_decimals(table: pd.DataFrame, contract: Contract) -> None:
    samples = [*sft_samples(table, contract, 0.5, rng())]
    for sample, mos in zip(samples, table["mos"], strict=True):
        critique = parse_critique(text(sample["completion"]))
        assert critique.well_formed
        assert critique.raw.startswith(contract.prefill)
        assert critique.answer == f"{mos:.2f}"
        assert critique.score == pytest.approx(mos, abs=0.00501)
        assert [message["role"] for message in sample["completion"]] == ["assistant"]


def test_reasoning_is_worded_from_the_edits_own_axes(table: pd.DataFrame, contract: Contract) -> None:
    for sample, row in zip(sft_samples(table, contract, 0.0, rng()), table.to_dict("records"), strict=True):
        reasoning = parse_critique(text(sample["completion"])).reasoning
        values = dict(re.findall(r"(\w+) (\d\.\d)\.", reasoning))
        assert values == {axis: f"{row[f'mos_{axis}']:.1f}" for axis in AXES}


def test_samples_keep_the_order_the_ids_and_the_image_files(table: pd.DataFrame, contract: Contract) -> None:
    for samples in ([*sft_samples(table, contract, 0.5, rng())], [*rl_samples(table, contract)]):
        assert [sample["id"] for sample in samples] == [*table["id"]]
        assert [sample["images"] for sample in samples] == [[*images] for images in table["images"]]


def test_each_edit_is_worded_anew_as_often_as_asked(table: pd.DataFrame, contract: Contract) -> None:
    samples = [*sft_samples(table[:1], contract, 0.0, rng(), each=4)]
    assert {sample["id"] for sample in samples} == {table["id"][0]}
    responses = [text(sample["completion"]) for sample in samples]
    assert len(responses) == 4
    assert len(set(responses)) > 1
    assert {parse_critique(response).answer for response in responses} == {f"{table['mos'][0]:.2f}"}


def test_the_same_generator_gives_the_same_samples_and_another_others(
    table: pd.DataFrame, contract: Contract
) -> None:
    once, again = ([*sft_samples(table, contract, 0.5, rng())] for _ in range(2))
    assert once == again
    assert [*sft_samples(table, contract, 0.5, np.random.default_rng(1))] != once


@pytest.mark.parametrize("axis", AXES)
def test_a_table_without_an_axis_is_named_with_what_to_do(
    axis: str, table: pd.DataFrame, contract: Contract
) -> None:
    lacking = table.drop(columns=f"mos_{axis}")
    with pytest.raises(NoRationales, match=rf"no mos_{axis}, .*build\.direct_fraction to 1\.0"):
        sft_samples(lacking, contract, 0.25, rng())
    samples = [*sft_samples(lacking, contract, 1.0, rng())]
    assert {sample["mode"] for sample in samples} == {"direct"}


# --- a released set


@pytest.fixture
def released(table: pd.DataFrame, tmp_path: Path) -> Path:
    """A validated set of three rationales, one of a validation edit; the last one has no known instruction."""
    rows = pd.DataFrame(
        {
            "id": ["r0", "r1", "r2"],
            "source_id": ["s0", "s1", "s2"],
            "split": ["train", "validation", "train"],
            "mode": ["reasoning", "direct", "direct"],
            "images": [*table["images"][:3]],
            "instruction": [*table["instruction"][:2], None],
            "problem": ["<image><image>Rate this."] * 3,
            "response": ["<think>Good.</think><answer>4</answer>", *["<think></think>\n<answer>2</answer>"] * 2],
        }
    )
    write_parquet(rows, tmp_path / "rationales.parquet", COLUMNS)
    return tmp_path / "rationales.parquet"


def test_released_responses_are_learnt_as_they_are_under_the_contracts_prompt(
    released: Path, table: pd.DataFrame, contract: Contract
) -> None:
    (sample,) = released_samples(released, "validation", contract)
    assert (sample["id"], sample["mode"]) == ("r1", "direct")
    assert text(sample["completion"]) == "<think></think>\n<answer>2</answer>"
    assert text(sample["prompt"]) == f"Edit: {table['instruction'][1]}. {contract.requests['direct']}"
    assert [*sample["images"]] == [*table["images"][1]]


def test_with_the_contract_of_the_set_prompts_are_the_rows_to_the_byte(released: Path) -> None:
    """So no column of instructions is needed, and the column's own wording doesn't count."""
    fields = yaml.safe_load(load_contract("tiny").text)
    asked = "<image><image> Rate: {instruction}\n"
    fields["user_text"] = {"reasoning": asked + "Reason.", "direct": asked + "{{1..5}}\n"}
    fields["strip_instruction"] = False
    own = parse_contract(yaml.safe_dump(fields), "the set's own")
    rows = read_parquet(released)
    rows["problem"] = [own.marked_text(f" {n}\n", mode) for n, mode in enumerate(rows["mode"])]
    write_parquet(rows, released, COLUMNS)
    samples = [*released_samples(released, "train", own)]
    assert [sample["id"] for sample in samples] == ["r0", "r2"]
    assert [text(sample["prompt"]) for sample in samples] == [" Rate:  0\n\nReason.", " Rate:  2\n\n{1..5}\n"]
    for sample, problem in zip(samples, rows["problem"][[0, 2]], strict=True):
        (message,) = sample["prompt"]
        assert "".join(part.get("text", "<image>") for part in message["content"]) == problem


def test_a_rationale_of_an_unknown_instruction_is_named(released: Path, contract: Contract) -> None:
    with pytest.raises(NoRationales, match=r"of 1 rationales \(r2.*tiny doesn't render .*contract learn"):
        released_samples(released, "train", contract)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_without_rationales_is_named(split: str, released: Path, contract: Contract) -> None:
    rows = read_parquet(released)
    write_parquet(rows[rows["split"] != split], released, COLUMNS)
    with pytest.raises(NoRationales, match=rf"no rationale in .* is for the {split} split: set down"):
        released_samples(released, split, contract)
    released.unlink()
    with pytest.raises(NoRationales, match=r"or build\.rationales to `scores`"):
        released_samples(released, split, contract)


def test_a_teachers_reasoning_takes_the_place_of_words_and_the_answer_stays_the_mos(
    table: pd.DataFrame, contract: Contract
) -> None:
    asked = list[str]()

    def teach(edits: pd.DataFrame) -> dict[str, str]:
        asked.extend(edits["id"])
        return {edit: f"As for {edit}." for edit in edits["id"]}

    bare = table[["id", "images", "instruction", "mos"]]
    samples = [*sft_samples(bare, contract, 0.5, rng(), each=2, teach=teach)]
    worded = [*sft_samples(table, contract, 0.5, rng(), each=2)]
    assert [sample["mode"] for sample in samples] == [sample["mode"] for sample in worded]
    assert len(asked) == len({*asked})
    assert {*asked} == {sample["id"] for sample in samples if sample["mode"] == "reasoning"}
    for sample, mos in zip(samples, table["mos"].repeat(2), strict=True):
        critique = parse_critique(text(sample["completion"]))
        assert critique.answer == f"{mos:.2f}"
        assert critique.reasoning == (f"As for {sample['id']}." if sample["mode"] == "reasoning" else "")


def test_an_edit_that_the_teacher_leaves_out_asks_for_a_score_alone(
    table: pd.DataFrame, contract: Contract
) -> None:
    left_out = {*table["id"][:5]}
    samples = [
        *sft_samples(
            table, contract, 0.0, rng(), teach=lambda edits: {e: "So." for e in edits["id"] if e not in left_out}
        )
    ]
    assert [sample["id"] for sample in samples] == [*table["id"]]
    assert {sample["id"] for sample in samples if sample["mode"] == "direct"} == left_out
    for sample in samples[:5]:
        assert text(sample["prompt"]).endswith(contract.requests["direct"])
        assert text(sample["completion"]).startswith("<think></think>")


def test_reasoning_ends_with_the_line_that_the_contract_asks_for(table: pd.DataFrame, contract: Contract) -> None:
    form = "alignment {alignment}, fidelity {fidelity}, quality {quality}."
    asking = replace(contract, sub_scores=form)
    first, *_ = table["id"]
    partly = table.assign(mos_quality=[None, *table["mos_quality"][1:]])
    samples = sft_samples(partly, asking, 0.5, rng(), teach=lambda edits: dict.fromkeys(edits["id"], "It glows."))
    for sample, row in zip(samples, table.to_dict("records"), strict=True):
        line = form.format(**{axis: f"{row[f'mos_{axis}']:.1f}" for axis in AXES})
        expected = "It glows." if row["id"] == first else f"It glows.\n{line}"
        reasoning = parse_critique(text(sample["completion"])).reasoning
        assert reasoning == ("" if sample["mode"] == "direct" else expected)


# --- RL


def test_rl_samples_ask_for_reasoning_and_carry_the_mos_and_never_the_answer(
    table: pd.DataFrame, contract: Contract
) -> None:
    samples = [*rl_samples(table, contract)]
    assert [sample["mos"] for sample in samples] == [*table["mos"]]
    for sample, edit in zip(samples, edits_from_table(table), strict=True):
        assert {*sample} == {"id", "prompt", "images", "mos", *(f"mos_{axis}" for axis in AXES)}
        assert sample["prompt"] == contract.messages(edit, "reasoning")
        assert [message["role"] for message in sample["prompt"]] == ["user"]
        assert not re.search(r"\d", text(sample["prompt"]))


def test_rl_samples_have_the_mos_of_the_axes_that_people_rated(table: pd.DataFrame, contract: Contract) -> None:
    partly = table.assign(mos_quality=[None, *table["mos_quality"][1:]]).drop(columns="mos_fidelity")
    first, second, *_ = rl_samples(partly, contract)
    assert "mos_fidelity" not in first
    assert (first["mos_alignment"], first["mos_quality"]) == (table["mos_alignment"][0], None)
    assert second["mos_quality"] == table["mos_quality"][1]


def test_rl_samples_need_no_axes(table: pd.DataFrame, contract: Contract) -> None:
    bare = table[["id", "images", "instruction", "mos"]]
    for sample, full in zip(rl_samples(bare, contract), rl_samples(table, contract), strict=True):
        assert sample == {name: full[name] for name in ("id", "prompt", "images", "mos")}


# --- preferences

ARGS: Any = SimpleNamespace(
    **{"per_device_train_batch_size": 16, "generation_batch_size": 16, "num_generations": 4, "max_steps": 8},
    **{"gradient_accumulation_steps": 1, "steps_per_generation": 1, "seed": 7, "process_index": 0},
)
"""What `train_dataset` reads of TRL's arguments: 32 rows are trained on."""


@pytest.fixture
def preferences(project: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Three validated pairs of six more edits, the last one a tie."""
    edits = table[["id", "source_id", "images", "instruction"]][18:24]
    ids = edits["id"].to_numpy().reshape(3, 2)
    pairs = pd.DataFrame(ids, columns=["edited_a", "edited_b"]).assign(order=[-1.0, 1.0, 0.0])
    write_parquet(edits, "data/validated/preferences.parquet", TYPES)
    write_parquet(pairs, "data/validated/pairs.parquet", PAIR_COLUMNS)
    return pairs


def test_pairs_become_rl_samples_with_an_order_and_no_mos(
    project: Path, preferences: pd.DataFrame, table: pd.DataFrame, contract: Contract
) -> None:
    main()
    rows = load_samples("data/rl/train.parquet", contract).with_format("pandas")[:]
    rated, ordered = rows[:12], rows[12:]
    assert [*rated["mos"]] == [*table["mos"][:12]] and rated[["pair", "wins"]].isna().all(axis=None)
    assert ordered[["mos", "mos_quality"]].isna().all(axis=None)
    assert [*ordered["id"]] == [*preferences[["edited_a", "edited_b"]][:2].to_numpy().ravel()]
    assert [*ordered["pair"]] == ["0", "0", "1", "1"] and [*ordered["wins"]] == [0, 1, 1, 0]
    assert len(load_samples("data/rl/train.parquet", contract)[13]["images"]) == 2
    assert "pair" not in load_samples("data/rl/validation.parquet", contract).column_names
    assert {*load_samples("data/sft/train.parquet", contract)["id"][:]} <= {*table["id"][:12]}


def test_grpo_has_both_edits_of_a_pair_beside_each_other_or_none(
    project: Path, preferences: pd.DataFrame, contract: Contract, capsys: pytest.CaptureFixture[str]
) -> None:
    main()
    reward = params.load(params.Reward)
    assert len(train_dataset(reward, contract, ARGS)) == 12
    assert "reward.pairs is 0, so GRPO leaves out the 4 samples of preferences" in capsys.readouterr().out
    ordered = train_dataset(reward.model_copy(update={"pairs": 1.0}), contract, ARGS).with_format(None)
    rows = [*zip(ordered["pair"], ordered["wins"], ordered["images"], strict=True)]
    assert len(rows) == 32 and {pair for pair, *_ in rows} == {None, "0", "1"}
    for (pair, wins, images), (other, loses, others) in zip(rows[::2], rows[1::2], strict=True):
        assert (pair, images[0]) == (other, others[0])
        assert {wins, loses} == ({None} if pair is None else {0.0, 1.0})


def test_grpo_says_which_edits_have_no_partner_and_ends_if_none_with_a_mos_has_one(
    project: Path, preferences: pd.DataFrame, contract: Contract, capsys: pytest.CaptureFixture[str]
) -> None:
    main()
    reward = params.load(params.Reward).model_copy(update={"pairs": 1.0})
    train_dataset(reward, contract, ARGS)
    assert not capsys.readouterr().out
    file = Path("data/rl/train.parquet")
    samples = pq.read_table(file)
    pq.write_table(samples.take([0, 1, 6, *range(12, 16)]), file)
    rows = train_dataset(reward, contract, ARGS).with_format(None)
    assert {*rows["id"]} == {*samples.take([0, 1, *range(12, 16)])["id"].to_pylist()}
    left_out = "GRPO leaves out {} edits with a MOS: their source image has no second one"
    assert left_out.format("1 of 3") in capsys.readouterr().out
    pq.write_table(samples.take([0, 6, *range(12, 16)]), file)
    with pytest.raises(SystemExit, match="no edit with a MOS is left"):
        train_dataset(reward, contract, ARGS)
    assert left_out.format("2 of 2") in capsys.readouterr().out
    alone = reward.model_copy(update={"distance": 0.0, "axes": 0.0})
    assert {None} == {*train_dataset(alone, contract, ARGS).with_format(None)["mos"]}


def test_a_teachers_critiques_of_pairs_are_learnt_with_its_own_scores(
    project: Path, preferences: pd.DataFrame, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(own.replace("rationales: scores", "rationales: teacher"))
    monkeypatch.setattr("stages.build.write_rationales", lambda table, **_: {})
    ids = [*preferences.iloc[1][["edited_a", "edited_b"]]]
    judged = {
        id: parse_critique(f"<think>It is {word}.</think><answer>{score}</answer>")
        for id, word, score in zip(ids, ("red", "blue"), ("4.5", "2.25"), strict=True)
    }
    monkeypatch.setattr("stages.build.write_pair_rationales", lambda *_: judged)
    main()
    samples = load_samples("data/sft/train.parquet", contract)
    assert [*samples["id"]][-2:] == ids and not {*ids} & {*samples["id"][:-2]}
    for number, (reasoning, answer) in ((-2, ("It is red.", "4.50")), (-1, ("It is blue.", "2.25"))):
        critique = parse_critique(text(samples[number]["completion"]))
        assert (critique.reasoning, critique.answer) == (reasoning, answer)


# --- both


def samples_folders() -> dict[str, bytes]:
    """What the stage wrote: path to bytes."""
    folders = ("data/sft", "data/rl", "data/pictures")
    paths = [path for folder in folders for path in Path(folder).iterdir()]
    return {str(path.relative_to("data")): path.read_bytes() for path in paths}


@pytest.fixture
def project(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the project's own params and 12 edits to train on and 6 to validate."""
    own = (Path(__file__).parents[2] / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(own)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for split, rows in (("train", table[:12]), ("validation", table[12:18])):
        write_parquet(rows, f"data/validated/{split}.parquet", TYPES)
    return tmp_path


def test_run_as_a_stage_it_writes_both_folders_the_same_each_time(project: Path, contract: Contract) -> None:
    main()
    made = samples_folders()
    assert {*made} == {
        f"{name}.{suffix}"
        for split in ("train", "validation")
        for name, suffix in (
            (f"sft/{split}", "parquet"),
            (f"rl/{split}", "parquet"),
            (f"pictures/{split}", "arrow"),
        )
    }
    Path("data/sft/left-over.parquet").touch()
    main()
    assert samples_folders() == made
    assert {path.name for path in Path("data").iterdir()} == {"validated", "sft", "rl", "pictures"}
    train = load_samples("data/sft/train.parquet", contract)
    build = params.load(params.Build)
    assert len(train) == round(12 * build.rationale_fraction) * build.samples_per_edit
    assert train["mode"][:].count("direct") == round(build.direct_fraction * len(train))


def test_edits_without_a_rationale_are_for_grpo_alone(project: Path, contract: Contract) -> None:
    content = yaml.safe_load((project / "params.yaml").read_text())
    content["profiles"]["tiny"]["build"]["rationale_fraction"] = 0.5
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    main()
    sft, rl = (load_samples(f"data/{name}/train.parquet", contract)["id"][:] for name in ("sft", "rl"))
    assert len(rl) == 12 and len({*sft}) == 6 and {*sft} < {*rl}
    for name in ("sft", "rl"):
        assert len(load_samples(f"data/{name}/validation.parquet", contract)) == 6


def test_run_as_a_stage_with_a_teacher_it_keeps_the_answers_and_ends_in_a_message_without_one(
    project: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(own.replace("rationales: scores", "rationales: teacher"))
    calls = []

    def ask(table: pd.DataFrame, section: params.Teacher, journal: Path, title: str) -> dict[str, str]:
        calls.append((title, section, journal))
        if title == "validation" and len(calls) == 4:
            raise TeacherError("nobody is there")
        return dict.fromkeys(table["id"], "Because.")

    monkeypatch.setattr("stages.build.write_rationales", ask)
    main()
    section = params.load(params.Teacher)
    assert calls == [(split, section, Path("runs/teacher/journal.jsonl")) for split in ("train", "validation")]
    made = samples_folders()
    for sample in load_samples("data/sft/train.parquet", contract).select_columns(["mode", "completion"]):
        reasoning = parse_critique(text(sample["completion"])).reasoning
        assert reasoning == ("Because." if sample["mode"] == "reasoning" else "")
    with pytest.raises(SystemExit, match="nobody is there"):
        main()
    assert samples_folders() == made

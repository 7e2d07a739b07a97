"""Benchmarks of pictures without a source image, from their source to the trainings' samples."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from critic import params
from critic.data.generated import as_edits, is_generated, words
from critic.data.trl_datasets import load_samples
from critic.edits import SPLITS, edits_from_table
from critic.evaluation.leak import read_split
from critic.prompts import load_contract
from critic.service.smoke import SmokeError, smoke_edits
from critic.tables import read_parquet
from stages import build, download, evaluate, validate

pytestmark = pytest.mark.usefixtures("compiled_templates")
ROOT = Path(__file__).parents[2]
CONTRACT = str(ROOT / "assets/tiny-generated.yaml")
HEAD = "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align"
MODELS, PROMPTS = ("AttnGAN_normal", "sd1.5_lowstep"), 30
MINIBENCH = {"train_sources": 3, "validation_sources": 1, "test_sources": 2, "side": 56, "generated": True}


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """AGIQA-3k's folder with a picture of two models for each of 30 prompts, and the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "AGIQA-3K"
    (folder / "images").mkdir(parents=True)
    lines = [HEAD]
    for number, model in enumerate(MODELS):
        for prompt in range(PROMPTS):
            name, seed = f"{model}_{prompt:03d}.png", number * PROMPTS + prompt
            (folder / "images" / name).write_bytes(picture(seed))
            lines.append(f'{name},"prompt {prompt}, oil",,,,{seed / 15},0.1,{4.5 - seed / 20},0.1')
    (folder / "data.csv").write_text("\n".join(lines))
    return folder


def run_stages(
    part: dict[str, Any], *, fraction: float = 0.25, rationales: str = "scores", contract: str = CONTRACT
) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["profiles"]["tiny"] |= {
        "prompt": {"contract": contract},
        "download": part,
        "build": {"rationales": rationales, "samples_per_edit": 1, "direct_fraction": fraction},
    }
    Path("params.yaml").write_text(yaml.safe_dump(content))
    for stage in (download, validate, build):
        stage.main()


def agiqa(split: int, **more: Any) -> dict[str, Any]:
    return {"source": "agiqa", "agiqa": {"folder": "AGIQA-3K", "split": split, **more}}


def splits() -> dict[str, pd.DataFrame]:
    return {split: read_parquet(f"data/validated/{split}.parquet") for split in SPLITS}


def text(sample: dict[str, Any]) -> str:
    return sample["prompt"][0]["content"][-1]["text"]


def test_agiqa_goes_as_far_as_the_samples(folder: Path) -> None:
    run_stages(agiqa(7))
    tables = splits()
    assert [len(table) for table in tables.values()] == [
        48 - len(tables["validation"]),
        len(tables["validation"]),
        12,
    ]
    everything = pd.concat([*tables.values()])
    assert (everything["mos"].min(), everything["mos"].max()) == (1, 5)
    assert (everything["mos"] == everything["mos_quality"]).all()
    assert everything["mos_alignment"].between(1, 5).all()
    assert {*tables["train"]["source_id"]}.isdisjoint(tables["validation"]["source_id"])

    contract = load_contract(CONTRACT)
    train = load_samples("data/sft/train.parquet", contract)
    assert {*train["mode"]} == {"reasoning", "direct"}
    by_id = tables["train"].set_index("id")
    for sample in train:
        row, answer = by_id.loc[sample["id"]], sample["completion"][0]["content"][0]["text"]
        assert [part["type"] for part in sample["prompt"][0]["content"]] == ["image", "text"]
        assert len(sample["images"]) == 1
        assert answer.endswith(f"<answer>{row['mos']:.2f}</answer>")
        if sample["mode"] == "reasoning":
            assert f"alignment {row['mos_alignment']:.1f}." in answer
            assert f"quality {row['mos_quality']:.1f}." in answer
            assert "fidelity" not in answer
    rl = load_samples("data/rl/train.parquet", contract)
    assert rl["mos"][:] == [*tables["train"]["mos"]]
    assert text(rl[0]) == f"Picture: {tables['train']['prompt'][0]}. Think, then score."
    assert len(rl[0]["images"]) == 1


@pytest.mark.parametrize(("split", "leaks"), [(0, False), (9, True)])
def test_shared_prompts_are_counted_and_said(folder: Path, split: int, leaks: bool) -> None:
    run_stages(agiqa(split))
    tables = splits()
    others = {*tables["train"]["prompt"], *tables["validation"]["prompt"]}
    shared = tables["test"][tables["test"]["prompt"].isin(others)]
    report = json.loads(Path("data/validation.json").read_text())["split"]
    found = {"edits": len(shared), "sources": shared["prompt"].nunique()}
    assert report == {"name": "given", "leak": found, "of": "prompts"}
    said = f"leaks prompts: {len(shared)} of {len(tables['test'])} test pictures share one of "
    assert (said in read_split().leak) == leaks == bool(len(shared))


def test_alignment_can_be_the_score(folder: Path) -> None:
    run_stages(agiqa(5, mos="alignment"), fraction=1.0)
    test = splits()["test"]
    assert (test["mos"] == test["mos_alignment"]).all()
    assert {*load_samples("data/sft/train.parquet", load_contract(CONTRACT))["mode"]} == {"direct"}


def test_minibench_without_sources_has_its_splits_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reader = import_module("critic.data.readers.minibench")
    plain = dict(reader.read(reader.Settings(**(MINIBENCH | {"generated": False})), 7, {}))
    run_stages({"source": "minibench", "minibench": MINIBENCH})
    for split, table in splits().items():
        assert is_generated(table) and "images" not in table
        assert [*table["id"]] == [*plain[split]["id"]]
        assert [*table["mos"]] == [*plain[split]["answer"]]
        assert [*table["prompt"]] == [*plain[split]["edit_inst"]]
        assert [image["bytes"] for image in table["image"]] == [
            pair[1]["bytes"] for pair in plain[split]["images"]
        ]
        assert words(table).sources == "source images"
        edits = [*edits_from_table(table)]
        assert all(edit.source is None for edit in edits)
        assert [len(images) for images in as_edits(table)["images"]] == [1] * len(table)
    assert read_split().leak == ""


NO_TEXT = "contract tiny has no `generated_text`, and the pictures of"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            agiqa(5),
            rf"{NO_TEXT} the benchmark have no source image: add it .*, or choose another prompt\.contract$",
        ),
        ({"source": "minibench", "minibench": MINIBENCH}, rf"{NO_TEXT} the benchmark .* prompt\.contract$"),
        (
            {"source": "minibench", "minibench": MINIBENCH | {"generated": False}, "agiqa": "AGIQA-3K"},
            rf"{NO_TEXT} AGIQA-3k .* choose another prompt\.contract, or set download\.agiqa to null$",
        ),
    ],
)
def test_a_contract_without_a_text_for_them_stops_at_validation(
    folder: Path, part: dict[str, Any], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        run_stages(part, contract="tiny")
    assert Path("data/raw").exists() and not Path("data/validated").exists()


@pytest.mark.parametrize("rationales", ["released", "teacher"])
def test_rationales_about_edits_are_refused(folder: Path, rationales: str) -> None:
    with pytest.raises(SystemExit, match=rf"build\.rationales: {rationales} is for edits.*set .* to scores"):
        run_stages(agiqa(5), rationales=rationales)


def test_an_sft_set_about_edits_is_refused(folder: Path) -> None:
    with pytest.raises(SystemExit, match=r"params\.yaml: download\.rationales is a set about edits.* to null"):
        run_stages(agiqa(5) | {"rationales": {"path": "set.jsonl"}})
    assert not Path("data/raw").exists()


def test_a_bad_picture_is_named(folder: Path) -> None:
    (folder / "images/AttnGAN_normal_000.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"image can be decoded(.|\n)* row 1, id 'AttnGAN_normal_000\.png'"):
        run_stages(agiqa(5))


def test_figures_of_a_test_split_are_in_domain(folder: Path) -> None:
    run_stages(agiqa(7))
    test = read_parquet("data/validated/test.parquet")
    scores = pd.Series(np.linspace(1, 5, len(test)), dtype="Float64")
    predictions = {"grpo": pd.DataFrame({"id": test["id"], "score": scores, "response": ""})}
    (found,) = evaluate.beside_published(predictions, test, read_split(), {})
    assert found.title == "AGIQA-3k, of a critic that was fine-tuned on a part of this data set"
    said = {line.partition(" (")[0]: line for line in found.not_comparable}
    assert "its split is its split 1, and ours is 7 of IE-Critic-R1's ten" in said["OneAlign with LoRA"]
    assert "with no training on this one" in said["OneAlign"]
    run_stages(agiqa(7, mos="alignment"))
    assert evaluate.beside_published(predictions, test, read_split(), {}) == []


def test_the_service_that_judges_edits_refuses_such_a_critic(folder: Path) -> None:
    run_stages(agiqa(7))
    test = read_parquet("data/validated/test.parquet", ["id"])
    Path("reports/predictions").mkdir(parents=True)
    test.assign(score=3.0, status="ok").to_parquet("reports/predictions/grpo.parquet")
    with pytest.raises(SmokeError, match="pictures without a source image, and the service judges edits alone"):
        smoke_edits(Path.cwd(), 2)


def test_a_score_column_without_spread_is_named(folder: Path) -> None:
    table = pd.read_csv(folder / "data.csv").assign(mos_align=2.0)
    table.to_csv(folder / "data.csv", index=False)
    with pytest.raises(SystemExit, match=r"all mos_alignment in data\.csv are 2\.0, so they can't be scaled"):
        run_stages(agiqa(5))


def test_agiqa_needs_no_other_benchmark_but_can_be_a_second_one(folder: Path) -> None:
    run_stages({"source": "minibench", "minibench": MINIBENCH, "agiqa": "AGIQA-3K"})
    assert len(read_parquet("data/validated/agiqa.parquet")) == len(MODELS) * PROMPTS
    assert params.load(params.Download).agiqa == params.Agiqa(folder="AGIQA-3K")
    run_stages(agiqa(5))
    assert not Path("data/raw/agiqa.parquet").exists()

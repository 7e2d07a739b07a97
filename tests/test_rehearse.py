"""The rehearsal's settings fit the profiles that it rehearses; `make rehearse` itself takes minutes."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
import pytest
import rehearse
import yaml
from local_hub import Hub
from PIL import Image
from rehearse import OVERRIDES, PROFILES, USUAL, Failed, Rehearsal, Row, shrunk, small, table
from transformers.utils.chat_template_utils import render_jinja_template

from critic import params
from critic.data.learnt_contract import read_template
from critic.data.trl_datasets import write_samples
from critic.edits import Edit
from critic.evaluation.leak import Split
from critic.files import write_json, write_text
from critic.prompts import MODES, load_contract, parse_contract

ROOT = Path(__file__).parents[1]


@pytest.fixture
def content() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.mark.parametrize("profile", PROFILES)
def test_a_small_profile_is_the_profile_but_for_the_overrides(
    profile: str, content: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(small(content, profile)))
    expected = {one.key: one.value for one in OVERRIDES if profile in one.profiles} | {"evaluate.n_boot": 100}
    changed = {}
    for section in params.SECTIONS:
        before = flat(params.load(section, ROOT / "params.yaml", profile=profile).model_dump(), section.name)
        after = flat(params.load(section, file).model_dump(), section.name)
        changed |= {key: value for key, value in after.items() if value != before[key]}
    assert changed.items() <= expected.items()
    contract = "download.learn_contract.min_pixels" if profile == "paper" else "prompt.contract"
    assert {*changed} >= {"grpo.max_steps", "model.dtype", contract}


def flat(values: Any, place: str) -> dict[str, Any]:
    """Nested values by dotted keys."""
    if not isinstance(values, dict):
        return {place: values}
    return {key: leaf for name, value in values.items() for key, leaf in flat(value, f"{place}.{name}").items()}


def test_an_override_of_a_key_that_is_gone_is_named(content: dict[str, Any]) -> None:
    del content["profiles"]["full"]["launch"]["nproc_per_node"]
    with pytest.raises(KeyError, match=r"profile full has no launch\.nproc_per_node"):
        small(content, "full")


@pytest.mark.parametrize(("contract", "side"), [("ie-critic", 112), ("ie-critic-32", 128)])
def test_the_contract_is_the_profiles_own_but_for_its_pixels(contract: str, side: int, tmp_path: Path) -> None:
    (tmp_path / "contract.yaml").write_text(shrunk(contract))
    own, small = load_contract(contract), load_contract(str(tmp_path / "contract.yaml"))
    assert (small.min_pixels, small.max_pixels, small.pixel_unit) == (side * side, side * side, own.pixel_unit)
    assert (small.name, small.chat_template, small.prefill) == (own.name, own.chat_template, own.prefill)


def test_a_step_that_fails_ends_its_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail() -> str:
        raise Failed("it ended with code 1:\nTraceback")

    steps = {"download": lambda: "54 edits", "validate": fail, "build": lambda: "108 samples"}

    class Rehearsal:
        def __init__(self, *given: Any) -> None:
            self.steps = lambda: iter(steps.items())

    monkeypatch.setattr(rehearse, "Rehearsal", Rehearsal)
    rows = [*rehearse.rehearse("full", tmp_path, Hub())]
    assert [(row.step, row.passed, row.seconds is None) for row in rows] == [
        ("download", True, False), ("validate", False, False), ("build", False, True)
    ]  # fmt: skip
    assert "| full | validate | FAILED | 0 | it ended with code 1: |" in table(rows)
    assert "| full | build | FAILED |  | not reached |" in table(rows)


@pytest.fixture
def rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    """One whose commands do nothing, in an empty folder."""
    monkeypatch.setattr(Rehearsal, "__init__", lambda self: None)
    monkeypatch.setattr(Rehearsal, "run", lambda self, *command: "")
    made = Rehearsal()
    made.folder = tmp_path
    return made


def test_figures_without_the_leak_of_the_split_fail_the_evaluation(rehearsal: Rehearsal) -> None:
    split = Split("official", 23, 17, 5, same_edits=1)
    leak = {"edits": 17, "sources": 5, "same_edits": 1}
    scores = {"main_score": {"value": 0.5}, "coverage": {"value": 1.0}}
    metrics = {name: split.mark(scores) for name in ("base", "sft", "grpo")}
    write_json(rehearsal.folder / "data/validation.json", {"split": {"name": "official", "leak": leak}})
    write_json(rehearsal.folder / "reports/metrics.json", metrics)
    assert rehearsal.evaluate().endswith("grpo 0.50 (100%), beside a leak of 17 edits")
    write_json(rehearsal.folder / "reports/metrics.json", metrics | {"grpo": scores})
    with pytest.raises(Failed, match=r"beside the figures in metrics\.json stand"):
        rehearsal.evaluate()


def test_a_prompt_that_is_not_the_rows_own_fails_the_check_of_the_contract(rehearsal: Rehearsal) -> None:
    template = (ROOT / "assets/tiny-base/chat_template.jinja").read_text()
    fields = {
        "name": "learnt",
        "version": 1,
        "images": ["source", "edited"],
        "user_text": dict.fromkeys(MODES, "<image><image> Edit: {instruction}."),
        "prefill": "<think>",
        "pixels": {"min": 12544, "max": 12544},
        "chat_template": rehearse.thinking(template),
    }
    contract = parse_contract(yaml.safe_dump(fields), "here")
    for folder in ("data/raw", "models/sft", "models/grpo"):
        write_text(rehearsal.folder / folder / "contract.yaml", contract.text)
    user = {"role": "user", "content": "<image><image> Edit: make it red."}
    raw = pd.DataFrame({"id": ["r0"], "messages": [[user, {"role": "assistant", "content": "2.71"}]]})
    (rehearsal.folder / "data/sft").mkdir()
    raw.to_parquet(rehearsal.folder / "data/raw/rationales.parquet")
    picture = Image.new("RGB", (112, 112))

    def write(instruction: str) -> None:
        prompt = contract.messages(Edit("r0", picture, picture, instruction))
        sample = {"id": "r0", "mode": "direct", "prompt": prompt}
        write_samples([sample], rehearsal.folder / "data/sft/train.parquet")

    write("make it red")
    assert rehearsal.check_contract() == "models/sft and models/grpo render 1 rows of the SFT set byte for byte"
    write("make it  red")
    with pytest.raises(Failed, match=r"row r0 is rendered as"):
        rehearsal.check_contract()
    write("make it red")
    write_text(rehearsal.folder / "models/grpo/contract.yaml", load_contract("tiny").text)
    with pytest.raises(Failed, match=r"models/grpo has another contract"):
        rehearsal.check_contract()


def test_the_table_has_a_line_for_each_step() -> None:
    lines = table([Row("full", "download", True, 12.4, "two sets")]).splitlines()
    assert lines[2:] == ["| full | download | ok | 12 | two sets |"]


def test_a_run_over_its_budget_is_named_only_if_all_its_profiles_ran() -> None:
    full, single, paper = (
        Row(name, "sft", True, 60.0 * n, "") for name, n in zip(USUAL, (14, 10, 5), strict=True)
    )
    assert rehearse.minutes([full, full, single]) == {"full": 28, "single-gpu": 10}
    assert rehearse.over_budget([full, single, paper]) == []
    longer = full._replace(seconds=60 * 16)
    assert rehearse.over_budget([longer, single, paper]) == [
        "full, single-gpu took 26.0 minutes, more than 25",
        "full, single-gpu, paper took 31.0 minutes, more than 30",
    ]
    assert rehearse.over_budget([longer, longer, paper]) == []


def test_the_learnt_contracts_model_has_a_template_that_begins_the_answer(
    hub: Hub, content: dict[str, Any]
) -> None:
    rehearse.fill(hub, content)
    given = content["profiles"]["paper"]["download"]["learn_contract"]
    template = read_template(given["model"], given["revision"])
    assert template.prefill == "<think>"
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " {a}\n"}]}]
    rendered, _ = render_jinja_template(
        conversations=[messages], chat_template=template.chat_template, add_generation_prompt=True
    )
    assert rendered == [rehearse.rendering("<image> {a}\n")]


@pytest.mark.parametrize(
    ("profile", "architecture"),
    [("full", "Qwen2_5_VLForConditionalGeneration"), ("qwen3-vl-8b", "Qwen3VLForConditionalGeneration")],
)
def test_the_hub_serves_the_base_model_as_the_real_one_does(
    profile: str, architecture: str, hub: Hub, content: dict[str, Any]
) -> None:
    rehearse.fill(hub, content)
    name = content["profiles"][profile]["model"]["base"]
    folder = Path(huggingface_hub.snapshot_download(name))
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [architecture]
    api = huggingface_hub.HfApi(endpoint=hub.url)
    assert api.get_safetensors_metadata(name).parameter_count  # reads a part of the file
    assert not api.file_exists(name, "adapter_config.json")

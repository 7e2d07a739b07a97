"""The rehearsal's settings fit the profiles that it rehearses; `make rehearse` itself takes minutes."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import rehearse
import yaml
from local_hub import Hub
from rehearse import OVERRIDES, PROFILES, Failed, Row, shrunk, small, table

from critic import params
from critic.prompts import load_contract

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
    expected = {(one.key, repr(one.value)) for one in OVERRIDES if profile in one.profiles}
    changed = set()
    for section in params.SECTIONS:
        before = params.load(section, ROOT / "params.yaml", profile=profile).model_dump()
        after = params.load(section, file).model_dump()
        changed |= {(f"{section.name}.{key}", repr(after[key])) for key in after if after[key] != before[key]}
    assert changed <= expected | {("evaluate.n_boot", "100")}
    assert {key for key, _ in changed} >= {"grpo.max_steps", "model.dtype", "prompt.contract"}


def test_an_override_of_a_key_that_is_gone_is_named(content: dict[str, Any]) -> None:
    del content["profiles"]["full"]["launch"]["nproc_per_node"]
    with pytest.raises(KeyError, match=r"profile full has no launch\.nproc_per_node"):
        small(content, "full")


def test_the_contract_is_the_profiles_own_but_for_its_pixels(tmp_path: Path) -> None:
    (tmp_path / "contract.yaml").write_text(shrunk("ie-critic"))
    own, small = load_contract("ie-critic"), load_contract(str(tmp_path / "contract.yaml"))
    assert (small.min_pixels, small.max_pixels) == (112 * 112, 112 * 112)
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


def test_the_table_has_a_line_for_each_step() -> None:
    lines = table([Row("full", "download", True, 12.4, "two sets")]).splitlines()
    assert lines[2:] == ["| full | download | ok | 12 | two sets |"]


def test_the_hub_serves_the_base_model_as_the_real_one_does(hub: Hub, content: dict[str, Any]) -> None:
    rehearse.fill(hub, content)
    name = content["profiles"]["full"]["model"]["base"]
    folder = Path(huggingface_hub.snapshot_download(name))
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    api = huggingface_hub.HfApi(endpoint=hub.url)
    assert api.get_safetensors_metadata(name).parameter_count  # reads a part of the file
    assert not api.file_exists(name, "adapter_config.json")

"""The download stage: from each source to data/raw, and on from there as far as the trainings' samples."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from datasets import Features, Image, Sequence, Value
from released import BENCHMARK, SFT_SET, make, user_text

from critic import params
from critic.data.trl_datasets import load_samples
from critic.prompts import load_contract, stage_contract
from critic.tables import read_parquet
from stages import build, validate
from stages.download import download, main

pytestmark = pytest.mark.usefixtures("compiled_templates")
ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MINIBENCH = {"train_sources": 2, "validation_sources": 1, "test_sources": 1, "side": 56}
GENERATED = str(ROOT / "assets/tiny-generated.yaml")
ANSWER = "<think>Half done.</think><answer>3.5</answer>"


def checksums(raw: Path) -> dict[str, Any]:
    return json.loads((raw / "checksums.json").read_text())


def section(**parts: Any) -> params.Download:
    return params.Download(**parts)


def test_minibench_makes_itself_the_same_each_time(tmp_path: Path) -> None:
    one = section(source="minibench", minibench=MINIBENCH)
    for folder in ("a", "b"):
        download(one, 7, tmp_path / folder, tmp_path / "ratings", 24)
    found = checksums(tmp_path / "a")
    assert found == checksums(tmp_path / "b")
    assert (found["hub"], "split" in found) == ({}, False)
    assert {*found["sha256"]} == {f"{split}.parquet" for split in ("train", "validation", "test")}
    for name, digest in found["sha256"].items():
        assert digest == sha256((tmp_path / "a" / name).read_bytes()).hexdigest()


def test_a_source_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    download(section(source="minibench", minibench=MINIBENCH), 7, raw, raw.parent / "ratings", 24)
    before = {path.name: path.read_bytes() for path in raw.iterdir()}
    with pytest.raises(ValueError, match="nowhere doesn't exist"):
        download(section(source="local", local={"path": "nowhere"}), 7, raw, raw.parent / "ratings", 24)
    with pytest.raises(ValueError, match=r"nowhere\.json doesn't exist"):
        download(
            section(source="minibench", minibench=MINIBENCH, rationales={"path": "nowhere.json"}),
            7,
            raw,
            raw.parent / "ratings",
            24,
        )
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == before


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({**MINIBENCH, "side": "x"}, r"minibench\.side: .* integer, not 'x'"),
        ({**MINIBENCH, "sides": 112}, r"minibench\.sides: unknown key \(known: .*side, generated\)"),
        ({"train_sources": 2, "validation_sources": 1, "test_sources": 1}, r"minibench\.side: Field required"),
    ],
)
def test_a_slip_in_the_settings_of_a_source_is_named(part: dict[str, Any], message: str, tmp_path: Path) -> None:
    one = section(source="minibench", minibench=part)
    with pytest.raises(params.ParamsError, match=rf"^params\.yaml: download\.{message}"):
        download(one, 7, tmp_path / "raw", tmp_path / "ratings", 24)
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("profile", ["tiny", "full", "paper", "single-gpu", "agiqa"])
def test_the_sources_of_the_projects_own_params_load(profile: str) -> None:
    own = params.load(params.Download, ROOT / "params.yaml", profile=profile)
    reader = import_module(f"critic.data.readers.{own.source}")
    assert isinstance(own.settings(reader.Settings), reader.Settings)


# --- a lab's own data, all the way


@pytest.fixture
def lab(tmp_path: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A folder with a study of 12 edits, rationales for four of them, and two of AGIQA-3k's pictures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for seed in range(24):
        (tmp_path / f"images/{seed}.png").write_bytes(picture(seed))
    rows = [f"images/{2 * n}.png,images/{2 * n + 1}.png,make it red,{1 + n / 4}" for n in range(12)]
    for split, kept in {"train": rows[:6], "validation": rows[6:8], "test": rows[8:]}.items():
        (tmp_path / f"{split}.csv").write_text("\n".join(["source,edited,instruction,mos", *kept]))
    turns = [{"from": "human", "value": "Rate it."}, {"from": "gpt", "value": ANSWER}]
    lines = [
        json.dumps({"conversations": turns, "images": [f"images/{2 * n}.png", f"images/{2 * n + 1}.png"]})
        for n in (0, 1, 2, 6)
    ]
    (tmp_path / "set.jsonl").write_text("\n".join(lines))
    head = "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align"
    (tmp_path / "data.csv").write_text(f"{head}\n0.png,a cat,,,,1.5,0,2,0\n1.png,a dog,,,,4.5,0,0,0\n")
    return {
        "source": "local",
        "local": {"path": str(tmp_path)},
        "rationales": {"path": "set.jsonl"},
        "agiqa": str(tmp_path),
    }


def run_stages(download: dict[str, Any], monkeypatch: pytest.MonkeyPatch, contract: str = "tiny") -> None:
    """Download, validate and build, as the pipeline runs them."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["profiles"]["tiny"] |= {
        "prompt": {"contract": contract},
        "download": download,
        "build": {"rationales": "released", "samples_per_edit": 1},
    }
    Path("params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", Path("cache").absolute())
    for stage in (main, validate.main, build.main):
        stage()


def test_a_labs_own_data_go_as_far_as_the_samples(lab: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run_stages(lab, monkeypatch, contract=GENERATED)
    assert {*checksums(Path("data/raw"))["sha256"]} == {
        f"{name}.parquet" for name in ("train", "validation", "test", "rationales", "agiqa")
    }
    report = json.loads(Path("data/validation.json").read_text())
    dropped = {"test_sources": 0, "test_edits": 0}
    assert report["rationales"] == {"train": 3, "validation": 1, "bare_numbers": 0, "dropped": dropped}
    assert report["agiqa"] == {"pictures": 2}
    assert [*read_parquet("data/validated/agiqa.parquet")["mos_alignment"]] == [2.0, 0.0]
    contract = load_contract(GENERATED)
    train = load_samples("data/sft/train.parquet", contract)
    assert train["id"][:] == ["rationale-00000", "rationale-00001", "rationale-00002"]
    assert train[0]["prompt"][0]["content"][-1]["text"] == "Edit: make it red. Think, then score."
    assert train[0]["completion"][0]["content"][0]["text"] == ANSWER
    assert len(load_samples("data/sft/validation.parquet", contract)) == 1
    assert len(load_samples("data/rl/train.parquet", contract)) == 6


def test_rationales_of_a_test_image_stop_at_validation(
    lab: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path("set.jsonl").read_text()
    Path("set.jsonl").write_text(text.replace("images/12.png", "images/20.png"))
    with pytest.raises(SystemExit, match=r"(?s)rationales row 4, .*test row 3.*download\.rationales\.path"):
        run_stages(lab, monkeypatch, contract=GENERATED)
    assert not Path("data/validated").exists()


def test_a_contract_learnt_from_the_released_set_renders_it_in_all_stages(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    released = make(sources=9)
    released.push(hub)
    section = {
        "source": "hub",
        "hub": {"dataset": BENCHMARK, "revision": "main"},
        "rationales": {"dataset": SFT_SET, "revision": "main"},
        "learn_contract": {
            "model": str(ROOT / "assets/tiny-base"), "revision": "main", "min_pixels": 3136, "max_pixels": 6272
        },
    }  # fmt: skip
    run_stages(section, monkeypatch, contract="learnt")
    contract = stage_contract("learnt", "data/raw")
    assert (contract.min_pixels, contract.max_pixels, contract.prefill) == (3136, 6272, "")
    assert "contract.yaml" in checksums(Path("data/raw"))["sha256"]
    assert all(stage_contract("learnt", folder) == contract for folder in ("data/validated", "data/sft"))
    said = {messages[0]["content"] for messages in released.sft["messages"]}
    train = load_samples("data/sft/train.parquet", contract).select_columns(["mode", "prompt"])
    assert {*train["mode"][:]} == {"reasoning", "direct"}
    for sample in train:
        (message,) = sample["prompt"]
        assert [part["type"] for part in message["content"]] == ["image", "image", "text"]
        assert f"<image><image>{message['content'][-1]['text']}" in said
    rl = load_samples("data/rl/train.parquet", contract).select_columns(["prompt"])
    asked = read_parquet("data/validated/train.parquet", ["instruction"])["instruction"]
    for sample, instruction in zip(rl, asked, strict=True):
        (message,) = sample["prompt"]
        assert f"<image><image>{message['content'][-1]['text']}" == user_text(instruction, "reasoning")


def learning(lab: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """The lab's settings, with a contract learnt from its set, which holds both modes and a system message."""
    rows = []
    for n, line in enumerate(Path("set.jsonl").read_text().splitlines()):
        row = json.loads(line)
        turns = [{"from": "system", "value": "Be strict."}, *row["conversations"]]
        turns[1]["value"] = f"Edit: change {n} of {'abcd'[n]}.\nRate it."
        turns[2]["value"] = ANSWER if n % 2 else "3.5"
        rows.append(json.dumps({**row, "conversations": turns}))
    Path("set.jsonl").write_text("\n".join(rows))
    model = {"model": str(ROOT / "assets/tiny-base"), "revision": "main", "min_pixels": 3136, "max_pixels": 6272}
    return {**lab, "agiqa": None, "learn_contract": model | changed}


def test_a_system_message_of_the_set_is_the_contracts(
    lab: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages(learning(lab), monkeypatch, contract="learnt")
    contract = stage_contract("learnt", "data/validated")
    assert contract.system == "Be strict."
    problems = read_parquet("data/validated/rationales.parquet")["problem"]
    assert problems[0] == "Edit: change 0 of a.\nRate it."
    system, user = load_samples("data/sft/train.parquet", contract)[0]["prompt"]
    assert (system["role"], system["content"][0]["text"]) == ("system", "Be strict.")
    assert user["content"][-1]["text"] == problems[0]


def test_a_system_message_that_is_not_the_contracts_stops_at_validation(
    lab: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"no system message but the prompt's own, which fails in\n.* row 1, "):
        run_stages(learning(lab), monkeypatch)


def test_a_learnt_contract_asks_nothing_about_generated_pictures(
    lab: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    part = learning(lab) | {"agiqa": lab["agiqa"]}
    with pytest.raises(
        SystemExit, match=r"contract learnt has no .* add it, and `requests`, to a copy of data/raw/"
    ):
        run_stages(part, monkeypatch, contract="learnt")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"source": "local", "local": {"path": "nowhere"}}, "download.local: nowhere doesn't exist: give"),
        ({"rationales": {"path": "no.json"}}, "download.rationales: no.json doesn't exist: give a file of"),
        (
            {"learn_contract": {"model": "nowhere/", "revision": "main"}},
            "download.learn_contract: the chat template of nowhere/ can't be read: give the folder",
        ),
    ],
)
def test_the_stage_names_the_key_of_what_cannot_be_read(
    lab: dict[str, Any], monkeypatch: pytest.MonkeyPatch, part: dict[str, Any], message: str
) -> None:
    with pytest.raises(SystemExit, match=f"^params.yaml: {message}"):
        run_stages(lab | part, monkeypatch)


def test_a_model_that_the_hub_cannot_send_now_is_a_temporary_failure(
    hub: Any, lab: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.stop()
    with pytest.raises(SystemExit) as stopped:
        run_stages(learning(lab, model="org/critic"), monkeypatch)
    assert stopped.value.code == os.EX_TEMPFAIL
    assert "params.yaml: download.learn_contract: org/critic at revision main" in capsys.readouterr().err


# --- the hub, as a process of its own


def test_run_as_a_stage_it_reads_the_hub_that_the_environment_names(
    hub: Any, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    images = [[{"bytes": picture(2 * n + k), "path": None} for k in (0, 1)] for n in range(3)]
    text = {"edit_inst": ["make it red"] * 3, "problem": ["Rate it."] * 3, "answer": ["1.5", "2", "5"]}
    bench = Features({"images": Sequence(Image())} | {name: Value("string") for name in text})
    columns = {"images": images, **text}
    hub.push("Coobiw/IE-Bench-4k", bench, {"train": columns, "test": columns})
    turn = {"role": Value("string"), "content": Value("string")}
    turns = [[{"role": "user", "content": "Rate it."}, {"role": "assistant", "content": ANSWER}]] * 3
    sft = Features({"images": Sequence(Image()), "messages": [turn]})
    hub.push("Coobiw/IE-Bench-CoT-mixed", sft, {"train": {"images": images, "messages": turns}})

    own = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(own.replace("profile: tiny", "profile: full"))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "stages.download"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=120, check=False
        )

    done = run()
    assert done.returncode == 0, done.stderr
    found = checksums(tmp_path / "data/raw")
    assert found["split"] == "by_source"
    assert found["hub"] == {
        "benchmark": {"dataset": "Coobiw/IE-Bench-4k", "revision": "main", "commit": COMMIT},
        "rationales": {"dataset": "Coobiw/IE-Bench-CoT-mixed", "revision": "main", "commit": COMMIT},
    }
    assert len(read_parquet(tmp_path / "data/raw/rationales.parquet")) == 3
    assert pd.api.types.is_float_dtype(read_parquet(tmp_path / "data/raw/test.parquet")["answer"])

    del hub.files["Coobiw/IE-Bench-CoT-mixed"]
    failed = run()
    assert failed.returncode == 1
    assert (
        "Coobiw/IE-Bench-CoT-mixed at revision main can't be downloaded: the hub has no such data set"
    ) in failed.stderr
    assert "Traceback" not in failed.stderr
    assert checksums(tmp_path / "data/raw") == found

"""`critic audit verify` finds every kind of tampering, and nothing in an unchanged checkout."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from audited import commit, dvc
from click.testing import CliRunner

from critic.audit import manifests
from critic.audit.verify import Finding, check_metrics, verify
from critic.cli import main
from critic.evaluation.agreement import measure
from critic.evaluation.leak import read_split
from critic.release.git import git

Tampering = Callable[[Path], None]


def test_an_unchanged_checkout_has_no_findings_and_takes_seconds(checkout: Path) -> None:
    began = time.monotonic()
    assert verify(checkout) == []
    assert time.monotonic() - began < 30


def test_it_changes_nothing(checkout: Path) -> None:
    verify(checkout)
    assert git(checkout, "status", "--porcelain") == ""


# --- kinds of tampering


def edit(path: str, change: Callable[[str], str]) -> Tampering:
    """Change the text of a file."""

    def tamper(folder: Path) -> None:
        before = (folder / path).read_text()
        after = change(before)
        assert after != before, f"{path} has nothing to change"
        (folder / path).write_text(after)

    return tamper


def rows(path: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Tampering:
    """Change the rows of a table."""

    def tamper(folder: Path) -> None:
        schema = pq.read_schema(folder / path)
        table = pd.read_parquet(folder / path)
        pq.write_table(pa.Table.from_pandas(change(table.copy()), schema, preserve_index=False), folder / path)

    return tamper


def one_mos(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[3, "mos"] = 5.0
    return table


def one_byte_of_an_image(table: pd.DataFrame) -> pd.DataFrame:
    images = [dict(image) for image in table.loc[2, "images"]]
    images[1]["bytes"] = images[1]["bytes"][:-1] + bytes([images[1]["bytes"][-1] ^ 1])
    table.at[2, "images"] = images
    return table


def swapped_rows(folder: Path) -> None:
    """A row of train goes to test, and one of test to train."""
    paths = [folder / f"data/validated/{split}.parquet" for split in ("train", "test")]
    schema = pq.read_schema(paths[0])
    train, test = (pd.read_parquet(path) for path in paths)
    mine, yours = train.iloc[[0]], test.iloc[[0]]
    swapped = [pd.concat([yours, train.iloc[1:]]), pd.concat([mine, test.iloc[1:]])]
    for path, table in zip(paths, swapped, strict=True):
        pq.write_table(pa.Table.from_pandas(table, schema, preserve_index=False), path)


def in_lock(stage: str, change: Callable[[dict], object]) -> Tampering:
    """Change a stage of dvc.lock."""

    def tamper(folder: Path) -> None:
        lock = yaml.safe_load((folder / "dvc.lock").read_text())
        change(lock["stages"][stage])
        (folder / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))

    return tamper


def in_manifest(stage: str, change: Callable[[dict], object], *, lock_too: bool = False) -> Tampering:
    """Change a manifest; with `lock_too`, its hash in dvc.lock as well."""

    def tamper(folder: Path) -> None:
        path = folder / manifests.path_of(stage)
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        if lock_too:
            dvc(folder, "commit", "--force", stage)

    return tamper


def unnoticed(path: str) -> Tampering:
    """Change a byte and keep size and time, which DVC itself relies on."""

    def tamper(folder: Path) -> None:
        times = (folder / path).stat()
        content = bytearray((folder / path).read_bytes())
        content[-1] ^= 1
        (folder / path).chmod(0o644)
        with (folder / path).open("r+b") as file:
            file.write(content)
        os.utime(folder / path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return tamper


def in_cache(folder: Path) -> None:
    """Damage the cache's copy of the critic's weights."""
    lock = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]["grpo"]["outs"]
    listed = next(out["md5"] for out in lock if out["path"] == "models/grpo")
    files = json.loads((folder / f".dvc/cache/files/md5/{listed[:2]}/{listed[2:]}").read_text())
    oid = next(file["md5"] for file in files if file["relpath"] == "model.safetensors")
    path = folder / f".dvc/cache/files/md5/{oid[:2]}/{oid[2:]}"
    path.chmod(0o644)
    path.write_text("other weights")


def retrained_alone(folder: Path) -> None:
    """Train SFT again with another seed, and keep the GRPO of the old one."""
    edit("params.yaml", lambda text: text.replace("seed: 7", "seed: 8"))(folder)
    dvc(folder, "repro", "--single-item", "sft")
    edit("params.yaml", lambda text: text.replace("seed: 8", "seed: 7"))(folder)


def first_digit(text: str) -> str:
    """Another hash."""
    return ("1" if text[0] == "0" else "0") + text[1:]


def set_param(entry: dict, key: str, name: str, value: object) -> None:
    entry["params"]["params.yaml"][key][name] = value


def other_output(entry: dict) -> None:
    out = next(out for out in entry["outs"] if out["path"] == "models/grpo")
    out["md5"] = first_digit(out["md5"])


def other_weights(output: dict) -> None:
    """Change the hash of a file in an output of a manifest, and the folder's hash."""
    output["files"]["model.safetensors"] = "0" * 64
    output["sha256"] = manifests.folder_digest(output["files"])


def in_pipeline(stage: str, change: Callable[[dict], object]) -> Tampering:
    """Change a stage of dvc.yaml."""

    def tamper(folder: Path) -> None:
        pipeline = yaml.safe_load((folder / "dvc.yaml").read_text())
        change(pipeline["stages"][stage])
        (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))

    return tamper


def without(part: str, path: str) -> Callable[[dict], object]:
    """Remove a dependency or an output from a stage of dvc.yaml or dvc.lock."""
    return lambda stage: stage[part].remove(
        next(item for item in stage[part] if item == path or (isinstance(item, dict) and item.get("path") == path))
    )


def other_reward_unwatched(folder: Path) -> None:
    """Edit the reward and remove it from GRPO's dependencies; keep the manifest."""
    in_pipeline("grpo", without("deps", "critic/training/rewards.py"))(folder)
    in_lock("grpo", without("deps", "critic/training/rewards.py"))(folder)
    edit("critic/training/rewards.py", lambda text: f"{text}\n")(folder)


def predictions_dropped(folder: Path) -> None:
    in_pipeline("evaluate", without("outs", "reports/predictions"))(folder)
    in_lock("evaluate", without("outs", "reports/predictions"))(folder)


def unread_reward(folder: Path) -> None:
    """Remove params of GRPO from dvc.lock and from its manifest."""
    key = "profiles.tiny.reward"
    in_lock("grpo", lambda entry: entry["params"]["params.yaml"].pop(key))(folder)
    in_manifest("grpo", lambda manifest: manifest["params"]["profiles"]["tiny"].pop("reward"))(folder)
    in_lock("grpo", lambda entry: relock(folder, entry, "reports/provenance/grpo.json"))(folder)


def relock(folder: Path, entry: dict, path: str) -> None:
    """Update the hash of a file in dvc.lock."""
    found = md5((folder / path).read_bytes()).hexdigest()
    next(out for out in entry["outs"] if out["path"] == path).update(md5=found)


def easiest_edits(folder: Path) -> None:
    """Keep only the predictions of the edits that the critic scored best, and their metrics."""
    path = folder / "reports/predictions/grpo.parquet"
    table = pd.read_parquet(path).merge(pd.read_parquet(folder / "data/validated/test.parquet")[["id", "mos"]])
    table = table.assign(off=(table["score"] - table["mos"]).abs()).nsmallest(10, "off")
    table[["id", "score"]].to_parquet(path)
    metrics = json.loads((folder / "reports/metrics.json").read_text())
    measured = measure(table["score"].to_numpy(), table["mos"].to_numpy())
    metrics["grpo"] |= {name: {"value": float(value)} for name, value in measured.items()}
    (folder / "reports/metrics.json").write_text(json.dumps(metrics))


KINDS: dict[str, tuple[Tampering, str, str]] = {
    "a module removed from the dependencies": (
        other_reward_unwatched,
        "record",
        "reports/provenance/grpo.json critic/training/rewards.py",
    ),
    "an output removed from the pipeline": (
        predictions_dropped,
        "record",
        "reports/provenance/evaluate.json reports/predictions",
    ),
    "params removed from the record": (
        unread_reward,
        "params",
        "dvc.lock, grpo: profiles.tiny.reward",
    ),
    "params added to the pipeline": (
        in_pipeline("grpo", lambda stage: stage["params"].append("gate")),
        "params",
        "dvc.lock, grpo: gate",
    ),
    # the data
    "a byte of an image": (
        rows("data/validated/train.parquet", one_byte_of_an_image),
        "data",
        "data/validated/train.parquet",
    ),
    "one MOS": (rows("data/validated/test.parquet", one_mos), "data", "data/validated/test.parquet"),
    "a swapped split row": (swapped_rows, "data", "data/validated/test.parquet, data/validated/train.parquet"),
    "a row added to the SFT data": (
        rows("data/sft/train.parquet", lambda t: pd.concat([t, t.iloc[:1]])),
        "data",
        "data/sft/train.parquet",
    ),
    "the raw table, with its old time": (
        unnoticed("data/raw/train.parquet"),
        "data",
        "data/raw/train.parquet",
    ),
    "a file added to the data": (
        lambda f: shutil.copy(f / "dvc.lock", f / "data/rl/more.parquet"),
        "data",
        "data/rl/more.parquet",
    ),
    "a rating": (
        lambda f: (f / "data/ratings/0001.csv").write_text("rater,item,score\n"),
        "data",
        "data/ratings/0001.csv",
    ),
    # the critic
    "a weight": (edit("models/grpo/model.safetensors", first_digit), "data", "models/grpo/model.safetensors"),
    "a weight, with its old time": (
        unnoticed("models/grpo/model.safetensors"),
        "data",
        "models/grpo/model.safetensors",
    ),
    "a tokenizer file": (
        edit("models/grpo/tokenizer.json", lambda t: t.replace("2048", "2049")),
        "data",
        "models/grpo/tokenizer.json",
    ),
    "the critic's prompt contract": (
        edit("models/grpo/contract.yaml", lambda t: t + "\n"),
        "data",
        "models/grpo/contract.yaml",
    ),
    "the base model": (
        edit("assets/tiny-base/config.json", lambda t: t.replace("}", " }", 1)),
        "data",
        "assets/tiny-base/config.json",
    ),
    "a removed critic": (lambda f: shutil.rmtree(f / "models/grpo"), "data", "models/grpo"),
    "the cache's copy of a weight": (in_cache, "cache", "models/grpo/model.safetensors"),
    # dvc.lock
    "a param in dvc.lock": (
        in_lock("grpo", lambda e: set_param(e, "grpo", "delta", 30.0)),
        "params",
        "params.yaml grpo.delta",
    ),
    "an output in dvc.lock": (in_lock("grpo", other_output), "record", "dvc.lock, grpo: models/grpo"),
    "a dependency in dvc.lock": (
        in_lock("sft", lambda e: e["deps"][0].update(md5="0" * 32)),
        "record",
        "dvc.lock, sft: ",
    ),
    "a command in dvc.lock": (in_lock("sft", lambda e: e.update(cmd="python train.py")), "record", "dvc.lock"),
    "a dependency missing in dvc.lock": (
        in_lock("sft", lambda e: e["deps"].pop(0)),
        "record",
        "dvc.lock, sft: ",
    ),
    "a stage that never ran": (
        lambda f: edit("dvc.lock", lambda t: t[: t.index("  cards:")])(f),
        "record",
        "dvc.lock",
    ),
    # the manifests
    "a manifest": (
        in_manifest("sft", lambda m: m["params"].update(seed=8)),
        "record",
        "reports/provenance/sft.json",
    ),
    "a reformatted manifest": (
        edit("reports/provenance/grpo.json", lambda t: t + " "),
        "record",
        "reports/provenance/grpo.json",
    ),
    "a removed manifest": (
        lambda f: (f / "reports/provenance/grpo.json").unlink(),
        "record",
        "reports/provenance/grpo.json",
    ),
    "a manifest's seed, and dvc.lock's hash of it": (
        in_manifest("sft", lambda m: m["params"].update(seed=8), lock_too=True),
        "params",
        "reports/provenance/sft.json seed",
    ),
    "a manifest's output, and dvc.lock's hash of it": (
        in_manifest("grpo", lambda m: other_weights(m["outputs"]["models/grpo"]), lock_too=True),
        "record",
        "reports/provenance/grpo.json: models/grpo",
    ),
    "a manifest's list of files, and dvc.lock's hash of it": (
        in_manifest("sft", lambda m: m["outputs"]["models/sft"]["files"].update(more="0" * 64), lock_too=True),
        "record",
        "reports/provenance/sft.json",
    ),
    "a manifest's parent, and dvc.lock's hash of it": (
        in_manifest("grpo", lambda m: m["inputs"]["models/sft"].update(stage="build"), lock_too=True),
        "chain",
        "reports/provenance/grpo.json models/sft",
    ),
    "an input that ends the chain": (
        in_manifest("grpo", lambda m: m["inputs"]["models/sft"].update(stage=None, manifest=None), lock_too=True),
        "chain",
        "reports/provenance/grpo.json models/sft",
    ),
    "a parent that was trained again": (retrained_alone, "chain", "reports/provenance/grpo.json models/sft"),
    "a library version in a manifest, and dvc.lock's hash of it": (
        in_manifest("sft", lambda m: m["environment"]["packages"].update(sha256="0" * 64), lock_too=True),
        "environment",
        "requirements/cpu.txt",
    ),
    # lock file, params and code
    "a library version": (
        edit("requirements/cpu.txt", lambda t: t.replace("trl==1.16.0", "trl==1.15.0")),
        "environment",
        "requirements/cpu.txt",
    ),
    "a seed": (edit("params.yaml", lambda t: t.replace("seed: 7", "seed: 8")), "params", "params.yaml seed"),
    "a param": (
        edit("params.yaml", lambda t: t.replace("num_generations: 8", "num_generations: 4")),
        "params",
        "params.yaml grpo.num_generations",
    ),
    "the profile": (
        edit("params.yaml", lambda t: t.replace("profile: tiny", "profile: full")),
        "params",
        "params.yaml profile",
    ),
    "a prompt template": (
        edit("critic/contracts/tiny.yaml", lambda t: t.replace("version: 1", "version: 2")),
        "code",
        "critic/contracts/tiny.yaml",
    ),
    "edited code with an old lock": (
        edit("critic/training/rewards.py", lambda t: t + "\n# harmless\n"),
        "code",
        "critic/training/rewards.py",
    ),
    "an added module": (
        lambda f: (f / "critic/data/readers/extra.py").write_text("x = 1\n"),
        "code",
        "critic/data/readers/extra.py",
    ),
    "the pipeline": (
        edit("dvc.yaml", lambda t: t.replace("      - critic/training/rewards.py\n", "")),
        "record",
        "dvc.lock, grpo: critic/training/rewards.py",
    ),
    # metrics, predictions and cards
    "a metric": (
        edit("reports/metrics.json", lambda t: t.replace('"value": 0.9', '"value": 0.99', 1)),
        "data",
        "reports/metrics.json",
    ),
    "a prediction": (
        rows("reports/predictions/grpo.parquet", lambda t: t.assign(score=t["score"].clip(1.5))),
        "data",
        "reports/predictions/grpo.parquet",
    ),
    "the model's card": (
        edit("reports/cards/model.md", lambda t: t.replace("GRPO", "DPO")),
        "data",
        "reports/cards/model.md",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tampering_is_named(kind: str, checkout: Path) -> None:
    tamper, check, where = KINDS[kind]
    tamper(checkout)
    found = [finding for finding in verify(checkout) if finding.is_problem]
    named = [f"{finding.check}: {finding.where}" for finding in found]
    assert any(name.startswith(f"{check}: ") and where in name for name in named), named


def test_a_metric_is_computed_again_when_all_hashes_match(checkout: Path) -> None:
    """The file, the manifest, dvc.lock and the commit all agree."""
    path = checkout / "reports/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["grpo"]["main_score"]["value"] = 0.999
    path.write_text(json.dumps(metrics))
    found = manifests.fingerprint(path).model_dump()
    in_manifest("evaluate", lambda m: m["outputs"].update({"reports/metrics.json": found}), lock_too=True)(
        checkout
    )
    in_manifest("cards", lambda m: m["inputs"]["reports/metrics.json"].update(found), lock_too=True)(checkout)
    manifest = manifests.fingerprint(checkout / manifests.path_of("evaluate"))
    in_manifest(
        "cards",
        lambda m: [
            m["inputs"]["reports/metrics.json"].update(manifest=manifest.sha256, stage="evaluate", files={}),
            m["inputs"]["reports/provenance/evaluate.json"].update(
                sha256=manifest.sha256, manifest=manifest.sha256, bytes=manifest.bytes
            ),
        ],
        lock_too=True,
    )(checkout)
    commit(checkout, "Nothing to see here")
    problems = [finding for finding in verify(checkout) if finding.is_problem]
    assert [(p.check, p.where) for p in problems] == [("metrics", "reports/metrics.json grpo.main_score")]


def test_figures_without_the_leak_of_their_test_split_are_a_problem(checkout: Path) -> None:
    path = checkout / "data/validation.json"
    report = json.loads(path.read_text())
    report["split"] = {"name": "official", "leak": {"edits": 3, "sources": 1}}
    path.write_text(json.dumps(report))
    found = [finding.where for finding in check_metrics(checkout)]
    assert found == [f"reports/metrics.json {model}.split" for model in ("base", "grpo", "sft")]
    metrics_path = checkout / "reports/metrics.json"
    metrics = {name: read_split(path).mark(of) for name, of in json.loads(metrics_path.read_text()).items()}
    metrics_path.write_text(json.dumps(metrics))
    assert [*check_metrics(checkout)] == []


def test_an_evaluation_of_the_easiest_edits_is_a_problem(checkout: Path) -> None:
    easiest_edits(checkout)
    (found,) = [finding for finding in check_metrics(checkout) if finding.where.endswith("grpo.parquet")]
    assert found.what == "its ids aren't exactly those of the test split"


def test_a_model_missing_in_the_metrics_is_a_problem(checkout: Path) -> None:
    metrics = json.loads((checkout / "reports/metrics.json").read_text())
    del metrics["base"]
    (checkout / "reports/metrics.json").write_text(json.dumps(metrics))
    (found,) = check_metrics(checkout)
    assert found.where == "reports/predictions/base.parquet"


@pytest.mark.parametrize("text", ["[]", '{"grpo": []}', '{"grpo": {"plcc": 0.99}}', "{"])
def test_malformed_metrics_are_a_problem(text: str, checkout: Path) -> None:
    (checkout / "reports/metrics.json").write_text(text)
    assert [*check_metrics(checkout)]


Wrong = Callable[[Path], object]
WRONG: dict[str, tuple[Wrong, str]] = {
    "a command missing in dvc.lock": (in_lock("sft", lambda e: e.pop("cmd")), "is malformed"),
    "a path missing in dvc.lock": (
        in_lock("sft", lambda e: e["deps"][0].pop("path")),
        "is malformed at sft",
    ),
    "no stages": (lambda f: (f / "dvc.yaml").write_text("stages:\n"), "has no stages"),
    "no profile": (edit("params.yaml", lambda text: text.replace("profile: tiny", "")), "DVC can't read"),
    "a broken link": (
        lambda f: (f / "critic/audit/cards/.#model.md").symlink_to("ann@host"),
        "check it for broken links",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_malformed_record_is_an_error_in_one_line(
    kind: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper, message = WRONG[kind]
    tamper(checkout)
    code, output = run(checkout, monkeypatch)
    assert code == 1 and message in output.replace("\n", " "), output


# --- notes


def test_a_stage_that_ran_again_with_identical_outputs_is_a_note(checkout: Path) -> None:
    edit("stages/build.py", lambda text: f"{text}\n# another comment\n")(checkout)
    dvc(checkout, "repro")
    commit(checkout, "Change a comment")
    found = verify(checkout)
    assert not [finding for finding in found if finding.is_problem]
    assert {finding.where for finding in found if finding.check == "chain"} >= {
        "reports/provenance/sft.json data/sft"
    }


def test_an_uncommitted_record_is_a_note(checkout: Path) -> None:
    edit("params.yaml", lambda text: text.replace("learning_rate: 0.0005", "learning_rate: 0.0006"))(checkout)
    dvc(checkout, "repro")
    found = verify(checkout)
    assert found and not [finding for finding in found if finding.is_problem]
    assert {finding.check for finding in found} == {"git"}


def test_a_cache_that_lacks_a_file_is_a_note(checkout: Path) -> None:
    shutil.rmtree(checkout / ".dvc/cache")
    found = verify(checkout)
    assert found and {(finding.check, finding.is_problem) for finding in found} == {("cache", False)}


# --- the command


def run(checkout: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.chdir(checkout)
    result = CliRunner().invoke(main, ["audit", "verify", *arguments])
    return result.exit_code, result.output


def test_it_refuses_to_run_during_a_repro(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    notes = {"read": {}, "write": {str(checkout / "models/sft"): {"pid": process.pid, "cmd": "dvc repro"}}}
    (checkout / ".dvc/tmp").mkdir(exist_ok=True)
    (checkout / ".dvc/tmp/rwlock").write_text(json.dumps(notes))
    code, output = run(checkout, monkeypatch)
    assert code == 1 and f"{checkout} is in use by DVC (process {process.pid})" in output
    process.communicate(b"\n")
    assert run(checkout, monkeypatch)[0] == 0


def test_the_command_says_that_the_record_is_consistent(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(checkout, monkeypatch) == (0, "The record is consistent: it matches all files, params and tags.\n")


def test_the_command_prints_each_problem_and_its_meaning(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit("critic/training/rewards.py", lambda text: f"{text}\n")(checkout)
    code, output = run(checkout, monkeypatch)
    assert code == 1
    assert "problem code critic/training/rewards.py: edited after grpo read it" in output
    assert "`dvc repro` would run grpo again" in output and "1 problem: the record is inconsistent." in output


def test_findings_can_be_printed_as_json(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit("models/sft/config.json", lambda text: f"{text} ")(checkout)
    code, output = run(checkout, monkeypatch, "--json")
    assert code == 1
    assert [Finding(**entry).where for entry in json.loads(output)] == ["models/sft/config.json"] * 3


def test_a_folder_without_a_pipeline_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run(tmp_path, monkeypatch)
    assert code == 1 and "has no dvc.yaml" in output

"""The command of each stage is a pure function of its params and the environment, and can be printed first."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import psutil
import pytest
import yaml

from critic import params
from critic.audit import manifests
from critic.audit.environment import describe
from critic.params import Launch
from critic.training import trackers
from stages import launch
from stages.launch import STAGES, TRAININGS, LaunchError, stage_command, stage_environment

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SECOND = {"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
"""What the second machine's environment holds."""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command line, from the top folder."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["launch", *arguments])
    launch.main()


# --- the command


@pytest.mark.parametrize("stage", STAGES)
def test_one_process_runs_the_module_itself(stage: str) -> None:
    alone = Launch(nnodes=1, nproc_per_node=1, zero_stage=None)
    assert stage_command(stage, alone, {}) == [sys.executable, "-m", f"stages.{stage}"]


@pytest.mark.parametrize("stage", TRAININGS)
def test_several_processes_run_under_torchrun_which_finds_a_port_itself(stage: str) -> None:
    command = stage_command(stage, Launch(nnodes=1, nproc_per_node=8, zero_stage=3), {})
    assert command == [*TORCHRUN, "--nproc-per-node", "8", "--standalone", "-m", f"stages.{stage}"]


def test_one_process_with_deepspeed_is_under_torchrun_too_since_deepspeed_asks_for_its_environment() -> None:
    command = stage_command("sft", Launch(nnodes=1, nproc_per_node=1, zero_stage=2), {})
    assert command == [*TORCHRUN, "--nproc-per-node", "1", "--standalone", "-m", "stages.sft"]


def test_on_several_machines_each_says_which_it_is_and_where_the_first_one_listens() -> None:
    command = stage_command("grpo", Launch(nnodes=2, nproc_per_node=8, zero_stage=3), SECOND)
    assert command == [
        *TORCHRUN, "--nproc-per-node", "8", "--nnodes", "2", "--node-rank", "1",
        "--master-addr", "10.0.0.1", "--master-port", "29500", "-m", "stages.grpo",
    ]  # fmt: skip


@pytest.mark.parametrize("stage", sorted(set(STAGES) - set(TRAININGS)))
def test_other_stages_are_one_process_however_many_the_trainings_have(stage: str) -> None:
    everywhere = Launch(nnodes=2, nproc_per_node=8, zero_stage=3)
    assert stage_command(stage, everywhere, {}) == [sys.executable, "-m", f"stages.{stage}"]


@pytest.mark.parametrize("lacking", [[*SECOND], ["MASTER_PORT"], ["NODE_RANK", "MASTER_ADDR"]])
def test_what_a_machine_doesnt_say_is_named(lacking: list[str]) -> None:
    environment = {name: value for name, value in SECOND.items() if name not in lacking}
    with pytest.raises(LaunchError, match=rf"launch\.nnodes is 2: set {', '.join(lacking)} in each machine's"):
        stage_command("sft", Launch(nnodes=2, nproc_per_node=1, zero_stage=None), environment)


# --- the command line


@pytest.mark.parametrize("profile", ["tiny", "full", "paper", "single-gpu"])
def test_a_dry_run_prints_the_commands_of_all_stages_and_runs_none(
    profile: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "run", lambda *command: pytest.fail("it ran"))
    run(monkeypatch, "--dry-run", "--profile", profile)
    section = params.load(Launch, ROOT / "params.yaml", profile=profile)
    printed = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [stage_command(stage, section, {}) for stage in STAGES]
    assert [command[-1] for command in printed] == [f"stages.{stage}" for stage in STAGES]
    assert [command[:3] == TORCHRUN for command in printed].count(True) == (0 if profile == "single-gpu" else 2)


@pytest.mark.parametrize(("processes", "threads"), [(1, None), (2, "8"), (5, "3"), (32, "1")])
def test_the_processes_of_a_training_share_the_cores_and_the_record_names_their_threads(
    processes: int, threads: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorded: list[str | None] = []
    monkeypatch.setattr(
        launch, "run", lambda *given: recorded.append(describe(tmp_path).variables.get("OMP_NUM_THREADS"))
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(16))
    monkeypatch.setattr(os, "environ", {name: v for name, v in os.environ.items() if name != "OMP_NUM_THREADS"})
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["profiles"]["tiny"]["launch"]["nproc_per_node"] = processes
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["launch", "sft"])
    launch.main()
    assert recorded == [threads]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("wandb, mlflow", r"CRITIC_REPORT_TO=wandb needs wandb: pip install 'edit-critic\[trackers\]'"),
        ("notebook", r"CRITIC_REPORT_TO names notebook: choose from mlflow, swanlab, tensorboard, wandb"),
    ],
)
def test_a_tracker_that_cannot_be_used_is_named_in_one_line_before_the_training(
    chosen: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRITIC_REPORT_TO", chosen)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    monkeypatch.setattr(launch, "run", lambda *command: pytest.fail("it ran"))
    with pytest.raises(SystemExit, match=f"^{message}$"):
        run(monkeypatch, "sft")


def test_a_dry_run_of_one_stage_prints_one_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "build", "--dry-run")
    assert capsys.readouterr().out == f"{shlex.join([sys.executable, '-m', 'stages.build'])}\n"


def test_on_machines_after_the_first_the_command_takes_the_place_of_the_launcher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first one keeps the record, and its `dvc repro` waits for all."""
    ran: list[str] = []
    monkeypatch.setattr(os, "execvp", lambda file, command: ran.extend(command))
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["profiles"]["tiny"]["launch"].update(nnodes=2, nproc_per_node=8)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["launch", "sft"])
    for name, value in SECOND.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    launch.main()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert ran[:3] == TORCHRUN and ran[-1] == "stages.sft"


@pytest.mark.parametrize(
    ("visible", "seen"),
    [({}, "0"), ({"CUDA_VISIBLE_DEVICES": "3,5"}, "3"), ({"CUDA_VISIBLE_DEVICES": ""}, "")],
)
def test_a_training_on_one_process_sees_the_first_gpu_alone(visible: dict[str, str], seen: str) -> None:
    environment = {"HOME": "/root", **visible}
    alone = Launch(nnodes=1, nproc_per_node=1, zero_stage=None)
    command = stage_command("grpo", alone, environment)
    assert stage_environment("grpo", command, environment) == {"HOME": "/root", "CUDA_VISIBLE_DEVICES": seen}
    several = stage_command("grpo", alone.model_copy(update={"nproc_per_node": 8}), environment)
    assert stage_environment("grpo", several, environment) == environment
    assert stage_environment("evaluate", stage_command("evaluate", alone, environment), environment) == environment


# --- a run


STAGE = """\
import pathlib, sys
from critic import params
pathlib.Path("data/raw").mkdir(parents=True)
pathlib.Path("data/raw/train.parquet").write_text(f"{params.seed()} rows")
pathlib.Path("data/raw/checksums.json").write_text('{"hub": {"edits": {"dataset": "a/b", "commit": "c0ffee"}}}')
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project with a first stage that writes two files, and DVC."""
    for name in ("critic", "stages", "data/ratings"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "stages/download.py").write_text(STAGE)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def launched(checkout: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "stages.launch", "download"], cwd=checkout, capture_output=True, text=True
    )


def test_a_stage_that_ends_well_leaves_its_manifest(checkout: Path) -> None:
    assert launched(checkout).returncode == 0
    manifest = manifests.read(checkout, "download")
    assert manifest.params["seed"] == 7
    assert manifest.outputs["data/raw"] == manifests.fingerprint(checkout / "data/raw")
    assert manifest.code["stages/download.py"] == sha256(STAGE.encode()).hexdigest()
    assert manifest.revisions == {"a/b": "c0ffee"}


def test_the_same_again_leaves_the_same_bytes_and_another_line_in_the_history(checkout: Path) -> None:
    texts = []
    for _ in range(2):
        shutil.rmtree(checkout / "data/raw", ignore_errors=True)
        assert launched(checkout).returncode == 0
        texts.append((checkout / "reports/provenance/download.json").read_bytes())
    assert texts[0] == texts[1]
    history = [json.loads(line) for line in (checkout / "runs/history.jsonl").read_text().splitlines()]
    assert [line["manifest"] for line in history] == [sha256(texts[0]).hexdigest()] * 2


def test_code_that_is_edited_while_it_runs_is_noted_as_it_was_before(checkout: Path) -> None:
    (checkout / "stages/download.py").write_text(
        f"{STAGE}pathlib.Path('critic/data/features.py').write_text('')\n"
    )
    assert launched(checkout).returncode == 0
    facts = (ROOT / "critic/data/features.py").read_bytes()
    assert manifests.read(checkout, "download").code["critic/data/features.py"] == sha256(facts).hexdigest()


@pytest.mark.parametrize("code", [1, 75])
def test_a_stage_that_fails_leaves_no_manifest_and_its_own_exit_code(checkout: Path, code: int) -> None:
    (checkout / "stages/download.py").write_text(f"raise SystemExit({code})")
    assert launched(checkout).returncode == code
    assert not (checkout / "reports").exists()


def test_an_input_that_isnt_there_is_named(checkout: Path) -> None:
    shutil.rmtree(checkout / "data/ratings")
    done = launched(checkout)
    assert (
        done.returncode == 1 and "data/ratings, an input of download, is missing: run `dvc repro`" in done.stderr
    )


def test_nothing_of_a_stage_outlives_its_launcher(checkout: Path) -> None:
    (checkout / "stages/download.py").write_text(
        "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(99)"
    )
    process = subprocess.Popen([sys.executable, "-m", "stages.launch", "download"], cwd=checkout)
    deadline = time.monotonic() + 60
    while not ((checkout / "pid").exists() and (checkout / "pid").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.wait()
    stage = int((checkout / "pid").read_text())
    while psutil.pid_exists(stage) and psutil.Process(stage).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.1)


# --- what it refuses


@pytest.mark.parametrize("arguments", [[], ["sft", "--profile", "full"], ["--profile", "full"]])
def test_a_run_needs_a_stage_and_takes_no_other_profile(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, *arguments)
    assert "name a stage to run; --profile needs --dry-run: else set `profile` in" in capsys.readouterr().err


def test_an_unknown_stage_is_refused_with_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "pretrain")
    error = capsys.readouterr().err
    assert all(stage in error for stage in ("pretrain", *STAGES))


def test_an_unknown_profile_is_refused_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        params.ParamsError, match="profiles has no 'huge', only tiny, tiny-qwen3-vl, full, paper, single-gpu"
    ):
        run(monkeypatch, "--dry-run", "--profile", "huge")


def test_help_shows_how_to_run_it_look_first_and_use_several_machines() -> None:
    command = [sys.executable, "-m", "stages.launch", "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for words in ("stages.launch sft", "--dry-run", "--profile", "torchrun", *SECOND):
        assert words in said


def test_each_module_of_stages_is_a_stage() -> None:
    files = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__", "launch"}
    assert {*STAGES} == files


def test_what_the_environment_lacks_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["profiles"]["tiny"]["launch"]["nnodes"] = 2
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    for name in SECOND:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["launch", "sft"])
    with pytest.raises(SystemExit, match=r"launch\.nnodes is 2: set NODE_RANK, MASTER_ADDR, MASTER_PORT"):
        launch.main()

"""What `make` does without a trained critic, and which critic it serves."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Set by a `make test` that runs these tests, or by the user for this checkout.
OURS = ("CRITIC_MODEL", "LOCK", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "OMP_NUM_THREADS", "PYTHON", "VENV")


def make(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    shutil.copy(ROOT / "Makefile", folder)
    given = {name: value for name, value in os.environ.items() if name not in OURS} | environment
    return subprocess.run(["make", *arguments], cwd=folder, env=given, capture_output=True, text=True)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder whose environment is ready, with a `bentoml` that prints the model."""
    bentoml = tmp_path / ".venv/bin/bentoml"
    bentoml.parent.mkdir(parents=True)
    bentoml.write_text('#!/bin/sh\necho "$@: $CRITIC_MODEL"\n')
    bentoml.chmod(0o755)
    (bentoml.parent / "uv").touch()
    (tmp_path / "requirements").mkdir()
    for name in ("requirements/cpu.txt", "requirements/torchvision_cpu.py", "pyproject.toml", ".venv/.ready-cpu"):
        (tmp_path / name).touch()
    return tmp_path


def test_without_a_critic_there_is_no_bento_of_it(tmp_path: Path) -> None:
    made = make(tmp_path, "bento")
    assert made.returncode == 2
    assert "no critic in models/grpo" in made.stdout and "make repro" in made.stdout
    assert "critic package FOLDER" in made.stdout and "dvc pull" not in made.stdout
    assert not (tmp_path / ".venv").exists()


def test_before_the_pipeline_has_run_serve_takes_the_critic_of_the_repository(installed: Path) -> None:
    assert make(installed, "serve").stdout.endswith(": assets/tiny-critic\n")


@pytest.mark.parametrize("name", ["../other/critic", "Coobiw/IE-Critic-R1-7B"])
def test_serve_takes_another_critic(name: str, installed: Path) -> None:
    served = f"serve critic.service.bento:Critic: {name}\n"
    assert make(installed, "serve", CRITIC_MODEL=name).stdout.endswith(served)
    assert make(installed, "serve", f"CRITIC_MODEL={name}").stdout.endswith(served)


def test_serve_takes_the_critic_of_the_pipeline_otherwise(installed: Path) -> None:
    (installed / "models/grpo").mkdir(parents=True)
    assert make(installed, "serve").stdout.endswith(": models/grpo\n")
    assert make(installed, "serve", CRITIC_MODEL="").stdout.endswith(": models/grpo\n")


@pytest.mark.parametrize(
    ("lock", "given", "threads"), [("cpu", {}, "1"), ("gpu", {}, ""), ("gpu", {"N": "4"}, "4")]
)
def test_one_thread_is_for_the_cpu_lock_alone(
    lock: str, given: dict[str, str], threads: str, installed: Path
) -> None:
    for name in (f"requirements/{lock}.txt", f".venv/.ready-{lock}"):
        (installed / name).touch()
    dvc = installed / ".venv/bin/dvc"
    dvc.write_text('#!/bin/sh\necho "threads: $OMP_NUM_THREADS"\n')
    dvc.chmod(0o755)
    environment = {"OMP_NUM_THREADS": given["N"]} if given else {}
    assert f"threads: {threads}\n" in make(installed, "repro", f"LOCK={lock}", **environment).stdout


def test_without_python_3_11_uv_provides_one_and_make_says_so(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").write_text(
        '#!/bin/sh\necho "uv $@"\nmkdir -p .venv/bin\nprintf "#!/bin/sh\\necho pip" > .venv/bin/python\n'
        "chmod +x .venv/bin/python\n"
    )
    (tools / "uv").chmod(0o755)
    made = make(tmp_path, ".venv/bin/uv", "PYTHON=python3.99", PATH=f"{tools}:{os.environ['PATH']}")
    assert "There is no python3.99: uv looks for a Python 3.11" in made.stdout, made.stdout + made.stderr
    assert "uv venv --seed --allow-existing --python 3.11 .venv" in made.stdout


def test_help_lists_each_target(tmp_path: Path) -> None:
    lines = make(tmp_path).stdout.splitlines()
    targets = [
        "help",
        "setup",
        "repro",
        "seeds",
        "serve",
        "bento",
        "flows",
        "audit",
        "test",
        "nightly",
        "rehearse",
        "gpu-check",
        "docs",
        "lint",
    ]
    assert [line.split()[0] for line in lines] == [*targets, "lock"]

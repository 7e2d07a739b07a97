"""Each extra in an environment of its own: what a person wants to do works, and nothing more is installed."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from critic.extras import MissingExtra, needs

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv", path=f"{sys.prefix}/bin") or "uv"
PYTHONS = ("3.11", *(pytest.param(version, marks=pytest.mark.nightly) for version in ("3.12", "3.13")))
MIB = 2**20


def run(*command: str | Path, **given: Any) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **given)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def has_index() -> bool:
    probe = subprocess.run([UV, "pip", "compile", "-q", "-"], input="packaging", capture_output=True, text=True)
    return probe.returncode == 0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not has_index():
        pytest.skip("no package index")
    folder = tmp_path_factory.mktemp("wheel")
    run(UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
    (file,) = folder.glob("*.whl")
    return file


class Environment:
    """A new environment with an extra alone; "" for none."""

    def __init__(self, wheel: Path, extra: str, version: str, folder: Path):
        found = subprocess.run([UV, "python", "find", version], capture_output=True, text=True)
        if found.returncode != 0:
            pytest.skip(f"no Python {version}")
        self.bin, self.folder = folder / "venv/bin", folder
        run(UV, "venv", "--quiet", "--python", found.stdout.strip(), folder / "venv")
        wanted = f"{wheel}[{extra}]" if extra else str(wheel)
        run(UV, "pip", "install", "--quiet", "--python", self.bin / "python", wanted)

    def python(self, script: str, *arguments: str) -> str:
        return run(self.bin / "python", "-c", script, *arguments, cwd=self.folder, env=self.clean())

    def critic(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [self.bin / "critic", *arguments], cwd=self.folder, env=self.clean(), capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    def clean(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def packages(self) -> set[str]:
        listed = run(UV, "pip", "list", "--quiet", "--format", "json", "--python", self.bin / "python")
        return {package["name"] for package in json.loads(listed)}

    def mebibytes(self) -> float:
        files = (self.folder / "venv").rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink()) / MIB


SCORE = """
import sys
from critic import Critic
from critic.client.reward_functions import TRLReward
from PIL import Image

red = Image.new("RGB", (8, 6), (120, 9, 9))
with Critic.load(sys.argv[1]) as critic:
    print(critic.score(red, red, "make it red").score)
"""
IMPORTED = "import sys, critic.client; print(*sys.modules)"


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_without_an_extra_it_is_the_client(wheel: Path, version: str, tmp_path: Path, service: Any) -> None:
    client = Environment(wheel, "", version, tmp_path)
    assert client.mebibytes() < 100
    assert not client.packages() & {"torch", "scipy", "pandas", "vllm", "deepspeed"}
    assert "numpy" not in client.python(IMPORTED).split(), "critic.client takes longer to import"
    assert client.python(SCORE, service.url) == "3.0\n"
    assert client.critic("--version").startswith("critic, version ")
    said = client.critic("eval", "a.jsonl", "--against", "b.csv", status=1)
    assert said == "Error: `critic eval` needs rich: pip install 'edit-critic[eval]'\n"
    loaded = "from critic import Critic; Critic.load('models/grpo')"
    failed = subprocess.run([client.bin / "python", "-c", loaded], cwd=tmp_path, capture_output=True, text=True)
    assert failed.stderr.splitlines()[-1].endswith("pip install 'edit-critic[score]'")


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_the_extra_eval_measures_files_of_scores(wheel: Path, version: str, tmp_path: Path, picture: Any) -> None:
    measuring = Environment(wheel, "eval", version, tmp_path)
    assert measuring.mebibytes() < 650
    assert not measuring.packages() & {"torch", "vllm", "deepspeed", "transformers"}
    rows = [(f"e{number:02}", 1 + number % 5, f"s{number // 2}") for number in range(40)]
    lines = [json.dumps({"id": id, "score": mos, "status": "ok"}) + "\n" for id, mos, _ in rows]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    (tmp_path / "b.jsonl").write_text("".join(line.replace("5,", "1,") for line in lines))
    table = ["id,mos,source_id,editor", *(f"{id},{mos},{source},x{mos % 2}" for id, mos, source in rows)]
    (tmp_path / "people.csv").write_text("\n".join(table))
    images = [{"bytes": picture(place), "path": None} for place in range(2)]
    edits = pd.DataFrame(rows, columns=["id", "mos", "source_id"])
    edits.assign(images=[images] * len(rows), instruction="make it red").to_parquet(tmp_path / "edits.parquet")
    page = ("--html", "report.html", "--train-mean", "3")
    assert "PLCC" in measuring.critic("eval", "a.jsonl", "--against", "edits.parquet", *page)
    assert "<html" in (tmp_path / "report.html").read_text()
    assert "closer" in measuring.critic("compare", "a.jsonl", "b.jsonl", "--against", "people.csv")
    assert "x1" in measuring.critic("rank", "a.jsonl", "--pairs", "people.csv", "--by", "editor")
    said = measuring.critic("score", "-m", "models/grpo", "people.csv", "--out", "c.jsonl", status=1)
    assert said.endswith("pip install 'edit-critic[score]'\n")


def test_a_missing_package_is_named_with_its_extra() -> None:
    fix = r"^This needs nothing_at_all: pip install 'edit-critic\[score\]'$"
    with pytest.raises(MissingExtra, match=fix), needs("score", "This"):
        import nothing_at_all  # noqa: F401


@pytest.mark.parametrize(("package", "fix"), [("vllm", "'edit-critic[gpu]'"), ("ray", "'edit-critic[ray]'")])
def test_an_engine_is_an_extra_of_its_own(package: str, fix: str) -> None:
    with pytest.raises(MissingExtra) as raised, needs("score", "This"):
        raise ModuleNotFoundError(name=f"{package}.engine")
    assert f"pip install {fix}" in str(raised.value)


def test_a_module_of_this_project_that_is_missing_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"critic\.nothing"), needs("score", "This"):
        import critic.nothing  # noqa: F401

"""What `make` says when a target can't be made."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("target", ["serve", "bento"])
def test_without_a_critic_it_says_how_to_get_one(target: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = subprocess.run(["make", target], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 2
    assert "no critic in models/grpo" in made.stdout and "make repro" in made.stdout and "dvc pull" in made.stdout
    assert not (tmp_path / ".venv").exists()

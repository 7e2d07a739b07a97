"""`critic releases` and `critic rollback` in a real git repository."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from critic.cli import main
from critic.release import registry
from critic.release.git import git

ROOT = Path(__file__).parents[3]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    git(tmp_path, "config", "user.name", "Ann")
    git(tmp_path, "config", "user.email", "ann@example.org")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/metrics.json").write_text(json.dumps({"grpo": {"main_score": {"value": 0.75}}}))
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "Begin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("critic.release.promotion.built_versions", set)
    return tmp_path


def release(repository: Path) -> None:
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "Train")
    version = registry.next_version(repository)
    registry.register(repository, version, git(repository, "rev-parse", "HEAD"), "Better")
    registry.assign(repository, version, "Better")


def test_the_releases_are_listed_with_the_champion(repository: Path) -> None:
    assert "no release yet" in CliRunner().invoke(main, ["releases"]).output
    release(repository)
    release(repository)
    rows = json.loads(CliRunner().invoke(main, ["releases", "--json"]).output)
    assert [(row["version"], row["main_score"], row["champion"]) for row in rows] == [
        ("v1.0.0", 0.75, False),
        ("v1.1.0", 0.75, True),
    ]
    table = CliRunner().invoke(main, ["releases"]).output
    assert "v1.0.0" in table and "champion" in table and "0.750" in table


def test_a_bento_that_is_missing_is_an_error_with_the_command_to_build_it(repository: Path) -> None:
    none = CliRunner().invoke(main, ["releases", "--bento"])
    assert none.exit_code == 1 and "there is no champion yet" in none.output
    release(repository)
    missing = CliRunner().invoke(main, ["releases", "--bento"])
    assert missing.exit_code == 1 and "critic package --rev critic@v1.0.0 --variant" in missing.output


def test_mlflow_needs_an_address(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    result = CliRunner().invoke(main, ["releases", "--mlflow"])
    assert result.exit_code == 1
    assert result.output == "Error: set MLFLOW_TRACKING_URI, for example to sqlite:///runs/trackers/mlflow.db\n"


def test_without_a_previous_champion_there_is_no_rollback(repository: Path) -> None:
    release(repository)
    result = CliRunner().invoke(main, ["rollback"])
    assert result.exit_code == 1 and "there is no previous champion to roll back to" in result.output

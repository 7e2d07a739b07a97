"""Releases and the champion are git tags that GTO writes, in a real repository."""

from pathlib import Path

import pytest

from critic.release import registry
from critic.release.git import CheckoutError, git
from critic.release.registry import Release


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    git(tmp_path, "config", "user.name", "Ann")
    git(tmp_path, "config", "user.email", "ann@example.org")
    (tmp_path / "dvc.yaml").write_text("artifacts:\n  critic:\n    path: models/grpo\n    type: model\n")
    git(tmp_path, "add", "dvc.yaml")
    git(tmp_path, "commit", "--quiet", "-m", "Begin")
    return tmp_path


def release(repository: Path) -> Release:
    """Release the next version, on its own commit."""
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "Train")
    version = registry.next_version(repository)
    made = registry.register(repository, version, git(repository, "rev-parse", "HEAD"), "Better")
    registry.assign(repository, version, "Better")
    return made


def test_there_is_no_champion_before_the_first_release(repository: Path) -> None:
    assert registry.champion(repository) is None
    assert registry.releases(repository) == []
    assert registry.next_version(repository) == "v1.0.0"


def test_the_newest_assignment_is_the_champion(repository: Path) -> None:
    first, second = release(repository), release(repository)
    assert (first.version, second.version) == ("v1.0.0", "v1.1.0")
    assert registry.releases(repository) == [first, second]
    assert registry.champion(repository) == second


def test_versions_are_ordered_as_numbers(repository: Path) -> None:
    for version in ("v1.9.0", "v1.10.0", "v1.2.0"):
        registry.register(repository, version, git(repository, "rev-parse", "HEAD"), "x")
        git(repository, "commit", "--quiet", "--allow-empty", "-m", "Train")
    assert [found.version for found in registry.releases(repository)] == ["v1.2.0", "v1.9.0", "v1.10.0"]
    assert registry.next_version(repository) == "v1.11.0"


def test_a_rollback_goes_back_further_each_time(repository: Path) -> None:
    first, second, third = (release(repository) for _ in range(3))
    assert registry.champions(repository) == [first, second, third]
    registry.assign(repository, second.version, "Worse in use")
    assert registry.champions(repository) == [first, second]
    registry.assign(repository, first.version, "So was this")
    assert registry.champions(repository) == [first]
    fourth = release(repository)
    assert registry.champions(repository) == [first, fourth]


def test_tags_can_be_told_and_are_annotated(repository: Path) -> None:
    release(repository)
    second = release(repository)
    both = ["critic@v1.0.0", "critic@v1.1.0", "critic#champion#1", "critic#champion#2"]
    assert registry.tags(repository) == both
    assert (
        registry.message(repository, f"critic@{second.version}")
        and registry.message(repository, "critic@v9.0.0") == ""
    )
    assert "Better" in git(repository, "tag", "--list", "-n9", "critic@v1.1.0")


def test_other_tags_are_left_alone(repository: Path) -> None:
    release(repository)
    for tag in ("v3.0.0", "critic-sft@v2.0.0", "critic@latest", "critic#shadow#1"):
        git(repository, "tag", tag)
    assert [found.version for found in registry.releases(repository)] == ["v1.0.0"]


def test_a_version_that_is_taken_and_one_that_is_unknown_are_errors(repository: Path) -> None:
    release(repository)
    with pytest.raises(CheckoutError, match=r"v1\.0\.0"):
        registry.register(repository, "v1.0.0", git(repository, "rev-parse", "HEAD"), "again")
    with pytest.raises(CheckoutError, match=r"v7\.0\.0"):
        registry.assign(repository, "v7.0.0", "?")


def test_a_champion_without_a_version_is_an_error(repository: Path) -> None:
    git(repository, "tag", "critic#champion#1")
    with pytest.raises(CheckoutError, match="has no version"):
        registry.champion(repository)


def test_outside_of_git_the_error_is_gits(tmp_path: Path) -> None:
    with pytest.raises(CheckoutError, match="not a git repository"):
        registry.releases(tmp_path)

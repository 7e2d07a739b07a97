"""A branch of the hub with a new commit is reported; pinned revisions and data that weren't read are skipped."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from datasets import Features, Value

from critic.data.hub_revisions import moved
from critic.params import Download

if TYPE_CHECKING:
    from local_hub import Hub

NAME = "Coobiw/IE-Bench-4k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def record(folder: Path, commit: str, revision: str = "main") -> Path:
    path = folder / "checksums.json"
    path.write_text(
        json.dumps({"hub": {"benchmark": {"dataset": NAME, "revision": revision, "commit": commit}}, "sha256": {}})
    )
    return path


def section(revision: str = "main", **more: Any) -> Download:
    return Download(**{"source": "hub", "hub": {"dataset": NAME, "revision": revision}, **more})


@pytest.fixture
def served(hub: "Hub") -> "Hub":
    hub.push(NAME, Features({"x": Value("int64")}), {"train": {"x": [1]}})
    return hub


def test_a_branch_that_moved_is_named_with_both_commits(served: "Hub", tmp_path: Path) -> None:
    (news,) = moved(section(), record(tmp_path, "f" * 40))
    assert news == f"{NAME} at main is now {COMMIT}, and data/raw has {'f' * 40}"


def test_a_branch_that_stayed_is_no_news(served: "Hub", tmp_path: Path) -> None:
    assert moved(section(), record(tmp_path, COMMIT)) == []


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        pytest.param(section(revision="f" * 40), "f" * 40, id="pinned to a commit"),
        pytest.param(section(revision="v2"), "main", id="params.yaml names another revision now"),
        pytest.param(Download(source="local", local={"path": "study"}), "main", id="no data set of the hub"),
    ],
)
def test_the_hub_is_not_asked_without_need(served: "Hub", tmp_path: Path, asked: Download, read: str) -> None:
    assert moved(asked, record(tmp_path, "f" * 40, revision=read)) == []
    assert served.requests == []


def test_what_was_never_downloaded_has_not_moved(served: "Hub", tmp_path: Path) -> None:
    assert moved(section(), tmp_path / "none.json") == []

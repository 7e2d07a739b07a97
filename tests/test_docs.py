"""The documentation site builds, and its tutorials do what they show.

A tutorial's blocks run in order, in one clone: `bash` and `python` run, `sh` is for the reader, and `text` is
what the block before it prints, where `...` stands for anything, and a decimal number for any: processors differ.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
DECIMAL = re.compile(r"[+-]?\d+\.\d+")
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    return tmp_path / "clone"


@pytest.mark.nightly
@pytest.mark.e2e
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_shows(page: Path, clone: Path) -> None:
    port = str(free_port())
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
        "VENV": sys.prefix,
        "MAKEFLAGS": f"--old-file={sys.prefix}/.ready-cpu",  # the packages are there
        "BENTOML_PORT": port,
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "BENTOML_HOME": str(clone / "runs/bentoml"),
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    printed = None
    try:
        for language, text in BLOCK.findall(page.read_text().replace(":3000", f":{port}")):
            if language == "text":
                assert printed is not None
                shown, found = (DECIMAL.sub("#", one) for one in (text, printed))
                assert OutputChecker().check_output(shown, found, ELLIPSIS | NORMALIZE_WHITESPACE), printed
            elif language in ("bash", "python"):
                command = ["bash", "-euo", "pipefail"] if language == "bash" else [sys.executable]
                done = subprocess.run(
                    [*command, "-c", text],
                    cwd=clone,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=3600,
                )
                if "No matching distribution found" in done.stderr:
                    pytest.skip(f"no package index: {done.stderr}")
                assert done.returncode == 0, done.stderr
                printed = done.stdout
    finally:
        for started in [*clone.glob("*.pid"), *clone.glob("runs/*.pid")]:
            with suppress(ProcessLookupError):
                os.kill(int(started.read_text()), signal.SIGTERM)


def test_each_page_is_in_the_menu_and_each_tutorial_shows_what_it_prints() -> None:
    def pages(entry: object) -> list[str]:
        match entry:
            case str():
                return [entry]
            case dict():
                return [page for part in entry.values() for page in pages(part)]
            case list():
                return [page for part in entry for page in pages(part)]
        raise TypeError(entry)

    nav = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))
    for page in TUTORIALS:
        assert "text" in [language for language, _ in BLOCK.findall(page.read_text())]
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        assert not {"OUTPUT", "RESULTS"} & {*page.read_text().splitlines()}, f"{page.name} lacks what is printed"


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link(clone: Path) -> None:
    for name in ("docs", "critic", "requirements"):  # as they are, committed or not
        shutil.copytree(ROOT / name, clone / name, dirs_exist_ok=True)
    for name in ("mkdocs.yml", "Makefile"):
        shutil.copy(ROOT / name, clone)
    made = subprocess.run(["make", "docs", f"VENV={sys.prefix}"], cwd=clone, capture_output=True, text=True)
    if "No solution found" in made.stderr or "error sending request" in made.stderr:
        pytest.skip(f"no package index: {made.stderr}")
    assert made.returncode == 0, made.stderr
    assert "WARNING" not in made.stderr
    assert (clone / "runs/site/tutorials/score/index.html").exists()

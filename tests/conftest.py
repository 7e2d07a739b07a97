"""Fixtures for all folders: the pipeline at a smoke size, a hub on the loopback, and pictures."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from hypothesis import settings
from jinja2 import FileSystemBytecodeCache
from local_hub import Hub, serve
from PIL import Image
from smoke import Project
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("tests", deadline=None)  # a busy machine isn't a failure
settings.register_profile("nightly", settings.get_profile("tests"), max_examples=1000)
settings.load_profile("tests")

TRAINED, AUDITED, PREFECT = "trained", "audited", "prefect"
GROUPS = {
    "tests/test_flows.py": TRAINED,
    "tests/test_pipeline.py": TRAINED,
    "tests/test_service.py": TRAINED,
    "tests/critic/audit/": AUDITED,
    "tests/flows/": PREFECT,
}
"""Files and folders whose tests share a fixture of the session. Other files are groups of their own."""
FIRST = [TRAINED, "tests/stages/test_trainings.py", AUDITED, "tests/critic/training/test_setup.py"]
"""The longest groups, which begin first: two workers of pytest-xdist then end at about the same time."""
LAST = [
    PREFECT,
    "tests/critic/service/test_app.py",
    "tests/critic/ratings/test_screening.py",
    "tests/critic/evaluation/test_ranking.py",
    "tests/critic/evaluation/test_report.py",
]
"""Prefect's tests, and those that the other worker runs meanwhile.

The threads of Prefect's server fail in processes that are forked later, and it remains a child of the worker. So
only tests that start no process come after it.
"""


def group_of(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return next((group for path, group in GROUPS.items() if file.startswith(path)), file)


class Groups(LoadScopeScheduling):
    """Keeps the tests of a group in one worker. pytest-xdist's own `loadgroup` has no effect with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin and end with the groups of `FIRST` and `LAST`; mark what needs the audited checkout as slow."""
    for item in items:
        if "audited" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    order = {name: place for place, name in enumerate([*FIRST, "all others", *LAST])}
    items.sort(key=lambda item: order.get(group_of(item.nodeid), order["all others"]))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of the flows train a critic, in `checkout`, with DVC's cache, `cache`; empty before them."""
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Project:
    """Run the stages that you need in it: those that have run already, also in `trained`, don't run again."""
    return Project(tmp_path_factory.mktemp("smoke"), trained)


@pytest.fixture(scope="session")
def trackers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of the extra `trackers`, for PYTHONPATH; those of the lock have its versions."""
    root, folder = Path(__file__).parents[1], tmp_path_factory.mktemp("trackers")
    wanted = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["trackers"]
    lock = (root / "requirements/cpu.txt").read_text().splitlines()
    (folder / "lock.txt").write_text("\n".join(pin for pin in lock if not pin.startswith(("torch", "vllm"))))
    uv = shutil.which("uv", path=f"{sys.prefix}/bin") or "uv"
    install = [uv, "pip", "install", "-q", "--python", sys.executable, "--target", folder]
    done = subprocess.run([*install, "-c", folder / "lock.txt", *wanted], capture_output=True, text=True)
    if done.returncode and "Failed to fetch" in done.stderr:
        pytest.skip("no package index")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def compiled_templates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Great Expectations makes a Jinja environment for each page of its data docs: compile its templates once."""
    from great_expectations.render.view import view

    cache = FileSystemBytecodeCache(str(tmp_path_factory.mktemp("templates")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "Environment", partial(view.Environment, bytecode_cache=cache))
        yield


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub without any data set, and caches of the test's own."""
    with serve() as hub:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
        monkeypatch.setattr("critic.data.readers.hub.WAITS", (0,))
        huggingface_hub.close_session()
        yield hub
    huggingface_hub.close_session()


def picture(seed: int, side: int = 72) -> bytes:
    """A PNG file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(name="picture")
def _picture() -> Callable[..., bytes]:
    return picture

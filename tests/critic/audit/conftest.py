import shutil
from pathlib import Path

import pytest
from audited import make_checkout


@pytest.fixture(scope="session")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose pipeline has run, its record committed. Tests work in copies."""
    folder = tmp_path_factory.mktemp("audited") / "checkout"
    make_checkout(folder)
    return folder


@pytest.fixture
def checkout(audited: Path, tmp_path: Path) -> Path:
    """A copy of it to tamper with."""
    folder = tmp_path / "checkout"
    shutil.copytree(audited, folder, symlinks=True)
    return folder

"""Critics are imported into BentoML's store unchanged, and a Bento always serves its own critic."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bentoml
import pytest
from bentoml._internal.bento import BentoStore
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.container import construct_containerfile
from bentoml._internal.models import ModelStore
from click.testing import CliRunner
from dvc.repo import Repo
from pydantic import ValidationError

from critic.checkpoints import CONTRACT_FILE, CheckpointError
from critic.cli import main
from critic.prompts import CONTRACTS, ContractError, load_contract
from critic.service.image import ROOT
from critic.service.packaging import PackageError, build_bento, dvc_hash, fetch, import_critic, version_of

LARGEST = 3 * 2**20
"""Bytes of a Bento without its critic."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of BentoML's that is empty, for this process and those that it starts."""
    home = tmp_path_factory.mktemp("bentoml")
    for folder in ("bentos", "models"):
        (home / folder).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        patch.setenv("BENTOML_DO_NOT_TRACK", "True")
        BentoMLContainer.bento_store.set(BentoStore(home / "bentos"))
        BentoMLContainer.model_store.set(ModelStore(home / "models"))
        yield home
    BentoMLContainer.bento_store.reset()
    BentoMLContainer.model_store.reset()


@pytest.fixture(scope="module")
def critic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A critic that hasn't learnt yet."""
    folder = tmp_path_factory.mktemp("critic") / "grpo"
    shutil.copytree(ROOT / "assets/tiny-base", folder, ignore=shutil.ignore_patterns("pretrain*"))
    shutil.copy(CONTRACTS / "tiny.yaml", folder / CONTRACT_FILE)
    return folder


@pytest.fixture(scope="module")
def another(critic: Path) -> Path:
    """The same with one weight changed."""
    folder = critic.with_name("another")
    shutil.copytree(critic, folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.mark.parametrize(
    ("revision", "version"),
    [
        ("grpo@v1.2.0", "v1.2.0"),
        ("models:grpo@v1.2.0", "v1.2.0"),
        ("v1.2.0", "v1.2.0"),
        ("1.2.0-RC.1", "1.2.0-rc.1"),
        ("grpo#prod", None),
        ("grpo@v1.2.0!", None),
        ("HEAD~3", None),
        ("main", None),
        ("9d76f32", None),
    ],
)
def test_the_version_is_that_of_the_tag(revision: str, version: str | None) -> None:
    assert version_of(revision) == version


def test_a_critic_is_imported_once_and_as_it_is(store: Path, critic: Path) -> None:
    model = import_critic(critic)
    assert import_critic(critic).creation_time == model.creation_time
    assert model.tag.name == "edit_critic" and model.info.metadata["weights"].startswith(
        f"sha256:{model.tag.version}"
    )
    assert model.info.metadata["contract_hash"] == load_contract("tiny").hash
    for file in critic.iterdir():
        assert Path(model.path_of(file.name)).read_bytes() == file.read_bytes()


def test_a_version_never_becomes_another_critic(store: Path, critic: Path, another: Path) -> None:
    import_critic(critic, "v0.1.0")
    with pytest.raises(PackageError, match=r"another critic as edit_critic:v0\.1\.0"):
        import_critic(another, "v0.1.0")
    assert import_critic(another).tag != import_critic(critic).tag


def test_what_is_no_critic_is_not_imported(store: Path, critic: Path, tmp_path: Path) -> None:
    there = len(bentoml.models.list())
    for missing, error in ((CONTRACT_FILE, ContractError), ("model.safetensors", CheckpointError)):
        folder = tmp_path / missing
        shutil.copytree(critic, folder, ignore=shutil.ignore_patterns(missing))
        with pytest.raises(error):
            import_critic(folder)
    assert len(bentoml.models.list()) == there


@pytest.fixture
def repository(critic: Path, another: Path, tmp_path: Path) -> Path:
    """One whose DVC cache has two critics: the tag grpo@v1.0.0, and what was committed after it."""
    root = tmp_path / "repository"
    root.mkdir()

    def git(*command: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *command], cwd=root, check=True)

    git("init", "--quiet")
    with Repo.init(str(root)) as dvc:
        (root / "dvc.yaml").write_text("stages:\n  grpo:\n    cmd: 'true'\n    outs: [models/grpo]\n")
        (root / "models").mkdir()
        for folder, tags in ((critic, ["grpo@v1.0.0"]), (another, [])):
            shutil.rmtree(root / "models/grpo", ignore_errors=True)
            shutil.copytree(folder, root / "models/grpo")
            dvc.commit(force=True)
            git("add", "dvc.yaml", "dvc.lock", ".dvc")
            git("commit", "--quiet", "-m", folder.name)
            for tag in tags:
                git("tag", tag)
    return root


def test_a_revision_gives_the_critic_of_its_dvc_lock(
    repository: Path, critic: Path, another: Path, tmp_path: Path
) -> None:
    commits = [fetch("grpo@v1.0.0", "models/grpo", tmp_path / "old", repository)]
    assert dvc_hash(tmp_path / "old") == dvc_hash(critic)
    commits.append(fetch("HEAD", "models/grpo", tmp_path / "new", repository))
    assert dvc_hash(tmp_path / "new") == dvc_hash(another) != dvc_hash(critic)
    history = subprocess.run(["git", "log", "--format=%H"], cwd=repository, capture_output=True, text=True)
    assert commits == history.stdout.split()[::-1]


@pytest.mark.parametrize(
    ("revision", "path", "why"),
    [
        ("grpo@v9.0.0", "models/grpo", "grpo@v9.0.0"),
        ("HEAD", "models/sft", "models/sft"),
        ("HEAD", "models", "isn't a folder in the dvc.lock"),
        ("HEAD", "dvc.yaml", "isn't a folder in the dvc.lock"),
    ],
)
def test_what_a_revision_does_not_have_is_named(
    repository: Path, tmp_path: Path, revision: str, path: str, why: str
) -> None:
    with pytest.raises(PackageError, match=why):
        fetch(revision, path, tmp_path / "out", repository)


def _cached(repository: Path) -> list[Path]:
    return [*(repository / ".dvc/cache/files/md5").glob("*/*")]


def test_a_cache_whose_weights_changed_is_not_believed(repository: Path, tmp_path: Path) -> None:
    for file in _cached(repository):
        if file.stat().st_size > 2**20:
            file.unlink()
            file.write_bytes(b"something else")
    with pytest.raises(PackageError, match="damaged"):
        fetch("HEAD", "models/grpo", tmp_path / "out", repository)


@pytest.mark.parametrize("lost", ["weights", "list of files", "all"])
def test_what_is_in_no_cache_is_said(repository: Path, tmp_path: Path, lost: str) -> None:
    for file in _cached(repository):
        what = "weights" if file.stat().st_size > 2**20 else "list of files" if file.suffix == ".dir" else "rest"
        if lost in (what, "all"):
            file.unlink()
    with pytest.raises(PackageError, match="neither in DVC's cache nor in its remote"):
        fetch("HEAD", "models/grpo", tmp_path / "out", repository)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"model": "models/grpo"}, PackageError),
        ({"keys": "ops:0123456789abcdef"}, PackageError),
        ({"receipt_key": "0123456789abcdef"}, PackageError),
        ({"feedback_url": "postgresql://ratings:secret@db/ratings"}, PackageError),
        ({"quue": "7"}, ValidationError),
        ({"queue": "none"}, ValidationError),
    ],
)
def test_a_bento_carries_settings_but_no_secrets(arguments: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        build_bento(bentoml.Tag("edit_critic", "v1.0.0"), "cpu", arguments)


def test_the_command_asks_for_one_critic_and_imports_it(store: Path, critic: Path) -> None:
    for both_or_none in ([], [str(critic), "--rev", "HEAD"]):
        assert CliRunner().invoke(main, ["package", *both_or_none]).exit_code == 2
    imported = CliRunner().invoke(main, ["package", str(critic), "--no-build"])
    assert imported.exit_code == 0, imported.output
    assert str(import_critic(critic).tag) in imported.output and "tiny version" in imported.output
    empty = CliRunner().invoke(main, ["package", str(store), "--no-build"])
    assert empty.exit_code == 1 and "has no contract of the prompts" in empty.output


@pytest.fixture(scope="module")
def bento(store: Path, critic: Path, another: Path) -> bentoml.Bento:
    """Of the first of two releases, built when the store had both."""
    first, _ = import_critic(critic, "v1.0.0"), import_critic(another, "v2.0.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRITIC_MODEL", "nobody's business of the Bento")
        return bentoml.get(build_bento(first.tag, "cpu", {"queue": "7", "timeout": "8"}))


def test_a_bento_has_the_service_and_nothing_else_of_the_project(bento: bentoml.Bento) -> None:
    source = Path(bento.path_of("src"))
    files = {str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()}
    of_the_package = {file for file in files if file.startswith("critic/")}
    assert files - of_the_package == {
        "bentofile.yaml",  # BentoML's own copy
        "LICENSE",
        "pyproject.toml",
        "requirements/serve-cpu.txt",
        "requirements/serve-gpu.txt",
        "requirements/torchvision_cpu.py",
    }
    ours = {str(file.relative_to(ROOT)) for file in (ROOT / "critic").rglob("*") if file.is_file()}
    assert of_the_package == {file for file in ours if "__pycache__" not in file}
    assert {"critic/contracts/tiny.yaml", "critic/service/web/index.html"} <= of_the_package
    assert sum(file.stat().st_size for file in Path(bento.path).rglob("*") if file.is_file()) < LARGEST


def test_its_container_gets_that_critic_alone_and_listens_to_others(bento: bentoml.Bento) -> None:
    assert str(bento.tag) == "edit_critic:v1.0.0-cpu-1"
    assert [str(model.tag) for model in bento.info.all_models] == ["edit_critic:v1.0.0"]
    with construct_containerfile(bento) as (context, dockerfile):
        assert [file.name for file in Path(context, "models/edit_critic").iterdir() if file.is_dir()] == ["v1.0.0"]
        text = Path(dockerfile).read_text()
    assert "\nARG BENTOML_HOST=0.0.0.0\n" in text and "CRITIC_" not in text
    assert Path(bento.path_of("env/python/requirements.txt")).read_text().count("torch==2.13.0+cpu\n") == 1


def test_it_serves_its_own_critic_when_a_newer_one_is_there(bento: bentoml.Bento, tmp_path: Path) -> None:
    ask = f"""
import json, bentoml
bentoml.load({str(bento.tag)!r})
from critic.service import bento
folder, version = bento.find_critic()
settings = bento.settings
print(json.dumps([bento.__file__, str(folder), version, settings.model, settings.queue, settings.timeout]))
"""
    assert str(bentoml.models.get("edit_critic:latest").tag) == "edit_critic:v2.0.0"
    environment = {**os.environ, "CRITIC_TIMEOUT": "9"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    code, folder, version, model, queue, timeout = json.loads(done.stdout.splitlines()[-1])
    assert Path(code).is_relative_to(bento.path)
    assert (folder, version) == (bentoml.models.get("edit_critic:v1.0.0").path, "edit_critic:v1.0.0")
    assert (model, queue) == (None, 7)  # what it was built with
    assert timeout == 9  # the environment overrides it

"""From a trained critic to a Bento: the service, the exact critic and what they need, to be served anywhere.

    commit = fetch("critic@v1.2.0", "models/grpo", Path("fetched"))
    model = import_critic(Path("fetched"), version_of("critic@v1.2.0"), commit)
    bento = build_bento(model.tag, "cpu", {"queue": "512"})

BentoML's store (`BENTOML_HOME`) has each critic as edit_critic:VERSION, and each Bento as
edit_critic:VERSION-VARIANT-NUMBER. Neither is ever changed: what was served once can be served again.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.fs import LocalFileSystem
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB
from dvc_data.index.index import DataIndexDirError

from critic.service.image import ROOT, Variant
from critic.service.settings import Settings

NAME = "edit_critic"
_VERSION = re.compile(r"(?:.+@)?(v?[0-9]+\.[0-9]+\.[0-9]+(?:-[0-9a-z.-]*[0-9a-z])?)", re.IGNORECASE)
_SECRET = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}


class PackageError(ValueError):
    """What can't be packaged; the message says what to do."""


def version_of(revision: str) -> str | None:
    """The version that a git tag names, as `critic@v1.2.0` (GTO's) and `v1.2.0` do: v1.2.0. None of all else."""
    named = _VERSION.fullmatch(revision)
    return named[1].lower() if named else None


def fetch(revision: str, path: str, out: Path, repository: Path = ROOT) -> str:
    """Put `path`, as dvc.lock has it in a git revision, into the new folder `out`.

    Returns:
        The commit.

    Raises:
        PackageError: there is no such revision, DVC doesn't keep the folder there, or neither DVC's cache nor its
            remote has it as it was.
    """
    try:
        files = DVCFileSystem(str(repository), rev=revision)
        recorded = files.info(path).get("md5")
    except (DvcException, FileNotFoundError) as error:
        raise PackageError(f"{path} of {revision}: {error}") from None
    if recorded is None or not recorded.endswith(".dir"):
        raise PackageError(
            f"{path} is no folder that DVC keeps in {revision}: name one of its dvc.lock with --path"
        )
    try:
        files.get(path, str(out), recursive=True)
    except (DvcException, DataIndexDirError, OSError) as error:
        raise PackageError(
            f"{path} of {revision} is neither in DVC's cache nor in its remote: `dvc push` it from where it is, "
            f"or name the remote in .dvc/config. ({error})"
        ) from error
    if (got := dvc_hash(out)) != recorded:
        raise PackageError(
            f"DVC gives {got} as {path} of {revision}, whose dvc.lock says {recorded}: its cache or remote is "
            "damaged. Delete what it has of it, and fetch it again"
        )
    return str(files.repo.get_rev())


def dvc_hash(folder: Path) -> str:
    """What dvc.lock would say of a folder: of all its files and their names."""
    files = LocalFileSystem()
    *_, tree = build(HashFileDB(files, os.devnull), str(folder), files, "md5", dry_run=True)
    return str(tree.hash_info.value)


def import_critic(folder: Path, version: str | None = None, commit: str | None = None) -> bentoml.Model:
    """Copy a critic into BentoML's store; it stays as it is if it is there already.

    Args:
        folder: of the critic, as `save_checkpoint` writes it.
        version: its name in the store; None is the start of the hash of its weights.
        commit: whose dvc.lock has it.

    Raises:
        CheckpointError, ContractError: the folder holds no critic.
        PackageError: the store has another critic as this version.
    """
    from critic.engines.load import contract_of, identify  # takes seconds, and the flows import this module

    contract, weights, files = contract_of(str(folder)), identify(str(folder)), dvc_hash(folder)
    tag = f"{NAME}:{version or weights.removeprefix('sha256:')[:12]}"
    try:
        there = bentoml.models.get(tag)
    except NotFound:
        pass
    else:
        if there.info.metadata.get("dvc") != files:
            raise PackageError(
                f"BentoML's store has another critic as {tag}: give this one a version of its own, or "
                f"`bentoml models delete {tag}`"
            )
        return there
    metadata = {
        "weights": weights,
        "contract": f"{contract.name} version {contract.version}",
        "contract_hash": contract.hash,
        "dvc": files,
        **({"commit": commit} if commit else {}),
    }
    with bentoml.models.create(tag, metadata=metadata) as model:
        shutil.copytree(folder, model.path, dirs_exist_ok=True)
    return bentoml.models.get(tag)


def built_versions() -> set[str]:
    """The versions of all Bentos of critics in BentoML's store."""
    return {str(bento.tag.version) for bento in bentoml.list() if bento.tag.name == NAME}


def build_bento(critic: bentoml.Tag, variant: Variant, arguments: Mapping[str, str], root: Path = ROOT) -> str:
    """Build a Bento of a critic in BentoML's store, in a process of its own, free of this one's settings.

    Args:
        critic: what it serves, whatever else the store gets later.
        variant: which of requirements/serve-*.txt its container has.
        arguments: settings (critic/service/settings.py) for it to carry.

    Returns:
        Its tag.

    Raises:
        PackageError: a setting isn't for a Bento, or BentoML can't build it.
        pydantic.ValidationError: there is no such setting, or it can't have that value.
    """
    if "model" in arguments:
        raise PackageError("a Bento has a critic of its own, so `model` can't be set")
    for name in arguments.keys() & _SECRET:
        raise PackageError(
            f"whoever gets a Bento can read what it carries: leave {name} out, and set CRITIC_{name.upper()} "
            "where it is served"
        )
    Settings.model_validate(dict(arguments))
    if not (root / "bentofile.yaml").exists():
        raise PackageError(f"{root} has no bentofile.yaml: build from a checkout of the project")
    built = built_versions()
    versions = (f"{critic.version}-{variant}-{number}" for number in count(1))
    version = next(version for version in versions if version not in built)
    command = [sys.executable, "-m", "bentoml", "build", str(root), "--version", version, "--output", "tag"]
    for name, value in {"critic": str(critic), "variant": variant, **arguments}.items():
        command += ["--arg", f"{name}={value}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRITIC_")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise PackageError(f"BentoML can't build {NAME}:{version}:\n{done.stderr[-3000:]}{done.stdout[-3000:]}")
    return f"{NAME}:{version}"

"""Packaging of a trained critic as a Bento: the service, exactly this critic, and their dependencies.

    commit = fetch("critic@v1.2.0", "models/grpo", Path("fetched"))
    model = import_critic(Path("fetched"), version_of("critic@v1.2.0"), commit)
    bento = build_bento(model.tag, "cpu", {"queue": "512"})

BentoML's store (`BENTOML_HOME`) has each critic as edit_critic:VERSION, and each Bento as
edit_critic:VERSION-VARIANT-NUMBER. Neither ever changes, so that an old release can be served again.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
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
    """A critic can't be packaged; the message says what to do."""


def version_of(revision: str) -> str | None:
    """The version in a git tag, v1.2.0 of `critic@v1.2.0` (GTO's) or `v1.2.0`; None for any other revision."""
    named = _VERSION.fullmatch(revision)
    return named[1].lower() if named else None


def fetch(revision: str, path: str, out: Path, repository: Path = ROOT) -> str:
    """Copy a folder, in the version of a git revision's dvc.lock, from DVC to a new folder; returns the commit.

    Raises a `PackageError` if the files can't be found or aren't those of the dvc.lock.
    """
    try:
        files = DVCFileSystem(str(repository), rev=revision)
        recorded = files.info(path).get("md5")
    except (DvcException, FileNotFoundError) as error:
        raise PackageError(f"{path} of {revision}: {error}") from None
    if recorded is None or not recorded.endswith(".dir"):
        raise PackageError(f"{path} isn't a folder in the dvc.lock of {revision}: name one with --path")
    try:
        files.get(path, str(out), recursive=True)
    except (DvcException, DataIndexDirError, OSError) as error:
        fix = "run `dvc push` in the checkout that has it, or set the remote in .dvc/config"
        message = f"{path} of {revision} is neither in DVC's cache nor in its remote: {fix}. ({error})"
        raise PackageError(message) from error
    if (got := dvc_hash(out)) != recorded:
        raise PackageError(
            f"{path} of {revision} has the hash {got}, but dvc.lock has {recorded}: DVC's cache or remote is "
            "damaged. Delete the folder's files there and fetch them again"
        )
    return str(files.repo.get_rev())


def dvc_hash(folder: Path) -> str:
    """The hash that dvc.lock has for such a folder, over all files and their names."""
    files = LocalFileSystem()
    *_, tree = build(HashFileDB(files, os.devnull), str(folder), files, "md5", dry_run=True)
    return str(tree.hash_info.value)


def import_critic(folder: Path, version: str | None = None, commit: str | None = None) -> bentoml.Model:
    """Copy a critic's folder into BentoML's store, unless it is there already.

    Args:
        version: in the store; None is the start of the hash of the weights.
        commit: the commit whose dvc.lock has the critic.

    Raises:
        CheckpointError, ContractError: the folder isn't a critic's.
        PackageError: the store has another critic with this version.
    """
    from critic.engines.load import contract_of, identify  # takes seconds, and the flows import this module

    contract, weights, files = contract_of(str(folder)), identify(str(folder)), dvc_hash(folder)
    tag = f"{NAME}:{version or weights.removeprefix('sha256:')[:12]}"
    with suppress(NotFound):
        there = bentoml.models.get(tag)
        if there.info.metadata.get("dvc") != files:
            fix = f"give this one another version, or run `bentoml models delete {tag}`"
            raise PackageError(f"BentoML's store has another critic as {tag}: {fix}")
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
    """The versions of all critics' Bentos in BentoML's store."""
    return {str(bento.tag.version) for bento in bentoml.list() if bento.tag.name == NAME}


def build_bento(critic: bentoml.Tag, variant: Variant, arguments: Mapping[str, str], root: Path = ROOT) -> str:
    """Build a Bento that always serves this critic, without this process' settings; returns its tag.

    Args:
        variant: selects the packages of its container, requirements/serve-VARIANT.txt.
        arguments: settings (critic/service/settings.py) that it carries.

    Raises:
        PackageError: a Bento may not carry a setting, or BentoML can't build it.
        pydantic.ValidationError: an unknown setting or an invalid value.
    """
    if "model" in arguments:
        raise PackageError("a Bento serves its own critic: remove the argument `model`")
    for name in arguments.keys() & _SECRET:
        fix = f"remove the argument, and set CRITIC_{name.upper()} where the Bento is served"
        raise PackageError(f"everybody who gets the Bento could read {name}: {fix}")
    Settings.model_validate(dict(arguments))
    if not (root / "bentofile.yaml").exists():
        raise PackageError(f"{root} has no bentofile.yaml: build in a checkout of the project")
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

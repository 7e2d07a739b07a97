"""The record of a critic: the manifests of all stages and the files that they name, in a checkout or a commit.

    record = Record.of(repository, "critic@v1.2.0")    # the files in the commit of that tag
    for step in record.lineage("models/grpo"): print(step.path, step.material.sha256)

Everything is read from the commit itself, so commits whose modules have other paths stay readable.
"""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.utils.serialize import parse_yaml

from critic.audit import manifests
from critic.audit.manifests import Manifest, ManifestError, Material
from critic.release.git import CheckoutError, git


class RecordError(ValueError):
    """A record that can't be read; the message says what is missing and what to do."""


@dataclass(frozen=True)
class Step:
    """A material of a lineage, and the manifest of the stage that made it (None if no stage did)."""

    path: str
    material: Material
    maker: Manifest | None

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of each file in a folder, by path; the manifests of its readers don't repeat them."""
        made = self.maker.outputs.get(self.path) if self.maker else None
        return (made or self.material).files


@dataclass(frozen=True)
class Record:
    """Use `Record.of`. `commit` is None for the files on disk.

    Everything raises `RecordError` if what it needs is missing or malformed.
    """

    repository: Path
    commit: str | None

    @classmethod
    def of(cls, repository: Path, revision: str | None = None) -> "Record":
        """The record of a git revision, or of the files on disk."""
        if revision is None:
            return cls(repository, None)
        try:
            return cls(repository, git(repository, "rev-parse", "--verify", f"{revision}^{{commit}}"))
        except CheckoutError as error:
            raise RecordError(f"{repository} has no revision {revision}: {error}") from None

    @property
    def name(self) -> str:
        return "this checkout" if self.commit is None else f"commit {self.commit[:12]}"

    def read(self, path: str) -> bytes:
        """The content of a file in git."""
        if self.commit is None:
            try:
                return (self.repository / path).read_bytes()
            except OSError:
                raise RecordError(f"{self.repository} has no {path}") from None
        done = subprocess.run(["git", "show", f"{self.commit}:{path}"], cwd=self.repository, capture_output=True)
        if done.returncode:
            raise RecordError(f"{self.name} has no {path}")
        return done.stdout

    @cached_property
    def stages(self) -> dict[str, Any]:
        """The stages as written in dvc.yaml."""
        stages = self._yaml("dvc.yaml").get("stages") or {}
        if not isinstance(stages, dict) or any("cmd" not in stage for stage in stages.values()):
            raise RecordError(f"dvc.yaml of {self.name} has no stages, or a stage without a command")
        return dict(stages)

    @cached_property
    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock."""
        stages = self._yaml("dvc.lock").get("stages") or {}
        entries = stages if isinstance(stages, dict) else {}
        for stage, entry in entries.items():
            is_stage = isinstance(entry, dict) and "cmd" in entry
            items = [item for part in ("deps", "outs") for item in entry.get(part) or []] if is_stage else [None]
            if not all(isinstance(item, dict) and "path" in item for item in items):
                raise RecordError(f"dvc.lock of {self.name} is malformed at {stage}: it was edited by hand")
        return entries

    @cached_property
    def params(self) -> dict[str, Any]:
        return self._yaml("params.yaml")

    def manifest(self, stage: str) -> Manifest:
        path = str(manifests.path_of(stage))
        try:
            return manifests.parse(self.read(path), path)
        except RecordError:
            reason = "run `dvc repro`" if self.commit is None else "the commit is older than manifests"
            raise RecordError(f"{self.name} has no {path}: {reason}") from None
        except ManifestError as error:
            raise RecordError(str(error)) from None

    def maker(self, path: str) -> Manifest | None:
        """The manifest of the stage with this output, or with an output folder that contains it."""
        for stage, declared in self.stages.items():
            if any(is_within(path, out) for out in output_paths(declared)):
                manifest = self.manifest(stage)
                if any(is_within(path, out) for out in manifest.outputs):
                    return manifest
        return None

    def lineage(self, path: str) -> Iterator[Step]:
        """An output and everything that it was made of, each once, inputs after outputs.

        Raises a `RecordError` also if the hash of an input differs from the one in the manifest of its stage.
        """
        maker = self.maker(path)
        if maker is None:
            raise RecordError(f"{path} is not an output of a stage of {self.name}: see `outs` in its dvc.yaml")
        seen: set[str] = set()
        out = next(out for out in maker.outputs if is_within(path, out))
        waiting = [Step(out, maker.outputs[out], maker)]
        while waiting:
            step = waiting.pop(0)
            if step.path in seen:
                continue
            seen.add(step.path)
            yield step
            for name, material in step.maker.inputs.items() if step.maker else ():
                made = self.manifest(material.stage) if material.stage else None
                if step.maker and made and made.output_sha256(name) != material.sha256:
                    raise RecordError(
                        f"the chain of {self.name} breaks at {name}: {step.maker.stage} read a version that isn't "
                        f"in {material.stage}'s manifest. `critic audit verify` shows the details"
                    )
                waiting.append(Step(name, material, made))

    def file_system(self) -> DVCFileSystem:
        """All files of the record, including those in DVC's cache or remote."""
        try:
            return DVCFileSystem(str(self.repository), rev=self.commit)
        except DvcException as error:
            raise RecordError(f"{self.name}: {error}") from None

    def _yaml(self, path: str) -> dict[str, Any]:
        try:
            content = parse_yaml(self.read(path), path)  # DVC writes 5e-05, which PyYAML reads as text
        except DvcException as error:
            raise RecordError(f"{path} of {self.name} is not YAML: {error}") from None
        if not isinstance(content, dict):
            raise RecordError(f"{path} of {self.name} is not a mapping")
        return content


def is_within(path: str, folder: str, separator: str = "/") -> bool:
    """Whether a path is this file or folder, or in this folder; with ".", whether a key is in this section."""
    return path == folder or path.startswith(f"{folder}{separator}")


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys of different values, sorted; a missing value is None."""
    return [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


def item_path(item: str | dict[str, Any]) -> str:
    """The path of a dependency or an output in dvc.yaml."""
    return item if isinstance(item, str) else next(iter(item))


def output_paths(declared: dict[str, Any]) -> set[str]:
    """The paths of all outputs and metrics of a stage in dvc.yaml."""
    return {item_path(item) for part in ("outs", "metrics") for item in declared.get(part, [])}


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested params by dotted keys: {"sft.num_train_epochs": 1.0}. An empty mapping is a value."""
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {
        key: value
        for name, part in values.items()
        for key, value in flatten(part, f"{prefix}.{name}" if prefix else str(name)).items()
    }

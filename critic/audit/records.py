"""The record of a critic: the manifests of all stages and what they name, in a checkout or as a commit has it.

record = Record.of(repository)                     # the files as they are
record = Record.of(repository, "critic@v1.2.0")    # as that tag has them
for step in record.lineage("models/grpo"): print(step.path, step.material.sha256)
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import md5
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.utils.serialize import parse_yaml

from critic.audit import manifests
from critic.audit.manifests import Manifest, Material, ProvenanceError
from critic.release.checkout import CheckoutError, git


class RecordError(ValueError):
    """A record that can't be read; the message says what is missing, and what to do."""


@dataclass(frozen=True)
class Step:
    """A material of a lineage, and the manifest of the stage that made it; None of what no stage made."""

    path: str
    material: Material
    maker: Manifest | None


@dataclass(frozen=True)
class Record:
    """Use `Record.of`. `commit` is None for the checkout's files as they are."""

    repository: Path
    commit: str | None

    @classmethod
    def of(cls, repository: Path, revision: str | None = None) -> "Record":
        """
        Raises:
            RecordError: there is no such revision.
        """
        if revision is None:
            return cls(repository, None)
        try:
            return cls(repository, git(repository, "rev-parse", "--verify", f"{revision}^{{commit}}"))
        except CheckoutError as error:
            raise RecordError(f"{repository} has no revision {revision}: {error}") from None

    @property
    def name(self) -> str:
        """For people."""
        return "this checkout" if self.commit is None else f"commit {self.commit[:12]}"

    def read(self, path: str) -> bytes:
        """A file that git keeps.

        Raises:
            RecordError: it isn't there.
        """
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
        """The stages of dvc.yaml, as they are written there.

        Raises:
            RecordError: there is no dvc.yaml, or it isn't YAML.
        """
        stages = self._yaml("dvc.yaml").get("stages") or {}
        if not isinstance(stages, dict) or any("cmd" not in stage for stage in stages.values()):
            raise RecordError(f"dvc.yaml of {self.name} has no stages, or one without a command")
        return dict(stages)

    @cached_property
    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock.

        Raises:
            RecordError: there is no dvc.lock, or it isn't as DVC writes it.
        """
        stages = self._yaml("dvc.lock").get("stages") or {}
        entries = stages.items() if isinstance(stages, dict) else ()
        for stage, entry in entries:
            if not isinstance(entry, dict) or "cmd" not in entry or not all(map(_is_item, _items(entry))):
                raise RecordError(f"dvc.lock of {self.name} isn't as DVC writes it, at {stage}: changed by hand")
        return dict(entries)

    @cached_property
    def params(self) -> dict[str, Any]:
        """params.yaml.

        Raises:
            RecordError: there is none, or it isn't YAML.
        """
        return self._yaml("params.yaml")

    def manifest(self, stage: str) -> Manifest:
        """That of one stage.

        Raises:
            RecordError: it is missing or isn't what a stage writes.
        """
        path = str(manifests.path_of(stage))
        try:
            return manifests.parse(self.read(path), path)
        except RecordError:
            why = "`dvc repro` writes it" if self.commit is None else "it is older than manifests"
            raise RecordError(f"{self.name} has no {path}: {why}") from None
        except ProvenanceError as error:
            raise RecordError(str(error)) from None

    def maker(self, path: str) -> Manifest | None:
        """The manifest of the stage that has a path among its outputs, or a folder that it is in.

        Raises:
            RecordError: as `manifest`.
        """
        for stage, declared in self.stages.items():
            if any(path == out or path.startswith(f"{out}/") for out in outputs(declared)):
                manifest = self.manifest(stage)
                if any(path == out or path.startswith(f"{out}/") for out in manifest.outputs):
                    return manifest
        return None

    def lineage(self, path: str) -> Iterator[Step]:
        """An output and all that it came from, each once, what it was made of after it.

        Raises:
            RecordError: no stage makes it, or the chain is broken: what a stage read isn't what its maker left.
        """
        maker = self.maker(path)
        if maker is None:
            raise RecordError(f"{path} is no output of a stage of {self.name}: see `outs` in its dvc.yaml")
        seen: set[str] = set()
        out = next(out for out in maker.outputs if path == out or path.startswith(f"{out}/"))
        waiting = [Step(out, maker.outputs[out], maker)]
        while waiting:
            step = waiting.pop(0)
            if step.path in seen:
                continue
            seen.add(step.path)
            yield step
            if step.maker is not None:
                for name, material in step.maker.inputs.items():
                    made = self.manifest(material.stage) if material.stage else None
                    if made is not None and made.left(name) != material.sha256:
                        raise RecordError(
                            f"the chain of {self.name} breaks at {name}: {step.maker.stage} read another than "
                            f"{material.stage}'s manifest says that it left. `critic audit verify` tells more"
                        )
                    waiting.append(Step(name, material, made))

    def open_files(self) -> DVCFileSystem:
        """All files, those that DVC keeps among them."""
        try:
            return DVCFileSystem(str(self.repository), rev=self.commit)
        except DvcException as error:
            raise RecordError(f"{self.name}: {error}") from None

    def locked_md5(self, stage: str, path: str) -> str | None:
        """What dvc.lock says of a dependency or an output."""
        entry = self.lock.get(stage, {})
        for part in ("deps", "outs"):
            for item in entry.get(part, []):
                if item["path"] == path:
                    return str(item.get("md5"))
        return None

    def md5(self, path: str) -> str:
        """Of a file that git keeps."""
        return md5(self.read(path), usedforsecurity=False).hexdigest()

    def _yaml(self, path: str) -> dict[str, Any]:
        try:
            # As DVC does: PyYAML takes 5e-05, which DVC writes, for a string.
            content = parse_yaml(self.read(path), path)
        except DvcException as error:
            raise RecordError(f"{path} of {self.name} is no YAML: {error}") from None
        if not isinstance(content, dict):
            raise RecordError(f"{path} of {self.name} is no mapping")
        return content


def named(item: str | dict[str, Any]) -> str:
    """The path of a dependency or an output in dvc.yaml."""
    return item if isinstance(item, str) else next(iter(item))


def outputs(declared: dict[str, Any]) -> set[str]:
    """The paths of all that a stage of dvc.yaml leaves."""
    return {named(item) for part in ("outs", "metrics") for item in declared.get(part, [])}


def _items(entry: dict[str, Any]) -> list[Any]:
    return [item for part in ("deps", "outs") for item in entry.get(part) or []]


def _is_item(item: Any) -> bool:
    return isinstance(item, dict) and "path" in item


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested params by their whole keys: {"sft.epochs": 1.0}. An empty mapping is a value."""
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {
        key: value
        for name, part in values.items()
        for key, value in flat(part, f"{prefix}.{name}" if prefix else str(name)).items()
    }

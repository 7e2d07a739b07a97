"""Manifests: what made each output of the pipeline, one per stage in reports/provenance, chained to raw data.

    run = manifests.begin("sft", Path.cwd())     # before the stage runs
    run.finish()                                 # after it: reports/provenance/sft.json

    manifest = manifests.read(Path.cwd(), "sft")
    manifest.outputs["models/sft"].sha256, manifest.inputs["data/sft"].manifest

`stages.launch` writes them. A manifest holds no times and no host names, so the same stage on the same inputs in
the same environment writes the same bytes; runs/history.jsonl holds when and where it ran.

The SHA-256 of a folder is that of its list of files, as coreutils make it:

    cd models/sft && find . -type f -printf '%P\n' | LC_ALL=C sort | xargs sha256sum | sha256sum
"""

import json
import os
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import yaml
from dvc.output import Output
from dvc.repo import Repo
from pydantic import Field, ValidationError, model_validator

from critic import files, params
from critic.audit.environment import Closed, Environment, describe

FOLDER = Path("reports/provenance")
HISTORY = Path("runs/history.jsonl")
CODE = ("critic/", "stages/")
"""The folders of the modules that dvc.yaml names."""
PARAMS_MODULE = "critic/params.py"
"""The module that all stages use and dvc.yaml doesn't name: DVC tracks params.yaml key by key."""
BASE = "assets/tiny-base"
"""The base model that dvc.yaml names for the stages that read one."""
UNKNOWN = "unknown"


class ManifestError(ValueError):
    """A manifest that is missing or can't be read or written; the message names the file and what to do."""


class Material(Closed):
    """A file or folder, as a stage read or wrote it.

    Attributes:
        sha256: of the file, or of the folder's list of files (see above), in hexadecimal.
        bytes: the size of all its files.
        files: for a folder, the SHA-256 of each file by its path in it.
        stage, manifest: for an output of an earlier stage, that stage and the SHA-256 of its manifest.
    """

    sha256: str
    bytes: int
    files: dict[str, str] = Field(default_factory=dict)
    stage: str | None = None
    manifest: str | None = None

    @model_validator(mode="after")
    def _is_of_its_files(self) -> Self:
        if self.files and folder_digest(self.files) != self.sha256:
            raise ValueError("its SHA-256 doesn't match its list of files")
        return self


class Contract(Closed):
    """The prompt contract that a stage used: its name or path, and its file's SHA-256."""

    name: str
    sha256: str


class Manifest(Closed):
    """What made the outputs of a stage.

    Attributes:
        stage, command: as in dvc.yaml.
        profile: of params.yaml.
        params: each key of params.yaml that the stage reads, with its value.
        contract: None for a stage that renders no prompts.
        revisions: the commit of each data set and model that was read from the hub, by name; `UNKNOWN` for a model
            that isn't in the hub's cache.
        code: the SHA-256 of each module that the stage uses, before it ran.
        inputs: everything else that it read, before it ran.
    """

    format: int = 1
    stage: str
    command: str
    profile: str
    params: dict[str, Any]
    contract: Contract | None
    revisions: dict[str, str]
    code: dict[str, str]
    inputs: dict[str, Material]
    outputs: dict[str, Material]
    environment: Environment

    def text(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"

    @property
    def sha256(self) -> str:
        return sha256(self.text().encode()).hexdigest()

    def output_sha256(self, path: str) -> str | None:
        """The SHA-256 of an output or of this manifest, by its path; None if the stage didn't write there."""
        if path == str(path_of(self.stage)):
            return self.sha256
        return self.outputs[path].sha256 if path in self.outputs else None


@dataclass(frozen=True)
class StageRun:
    """A stage about to run in a checkout; `started` is in seconds since the epoch.

    `base` is the base model that it reads from the hub, with its revision; its commit is known after the fetch.
    """

    folder: Path
    manifest: Manifest
    outputs: tuple[str, ...]
    base: tuple[str, str] | None
    started: float

    def finish(self) -> Path:
        """Write the manifest after the stage ran, and a line of the history; returns the manifest's path."""
        outputs = {path: fingerprint(self.folder / path) for path in self.outputs}
        manifest = self.manifest.model_copy(update={"outputs": outputs, "revisions": self._revisions()})
        path = self.folder / path_of(manifest.stage)
        files.write_text(path, manifest.text())
        line = {
            "stage": manifest.stage,
            "manifest": manifest.sha256,
            "began": datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.started, 1),
            "host": socket.gethostname(),
        }
        (self.folder / HISTORY).parent.mkdir(exist_ok=True)
        with (self.folder / HISTORY).open("a") as file:
            file.write(json.dumps(line) + "\n")
        return path

    def _revisions(self) -> dict[str, str]:
        if "data/raw" in self.outputs:
            hub = json.loads((self.folder / "data/raw/checksums.json").read_text())["hub"]
            return {part["dataset"]: part["commit"] for part in hub.values()}
        return {} if self.base is None else {self.base[0]: _commit(*self.base)}


def path_of(stage: str) -> Path:
    """The path of a stage's manifest in a checkout."""
    return FOLDER / f"{stage}.json"


def read(folder: Path, stage: str) -> Manifest:
    path = folder / path_of(stage)
    try:
        return parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ManifestError(f"{path} is missing: run `dvc repro {stage}`") from None


def parse(text: bytes, where: str) -> Manifest:
    """The manifest in a file's content, which must be exactly what `Manifest.text` gives; errors name `where`."""
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ManifestError(f"{where} is not a manifest: {error}") from None
    if manifest.text().encode() != text:
        raise ManifestError(f"{where} was edited: a stage formats it differently")
    return manifest


def begin(stage: str, folder: Path) -> StageRun:
    """Record what a stage of a checkout's dvc.yaml is about to run with.

    Raises:
        ManifestError: an input or the manifest of the stage that made it is missing, or the base model is a
            folder that isn't among the stage's dependencies, so that no manifest would record it.
    """
    started = time.time()
    with Repo(str(folder)) as repo:
        declared = repo.stage.load_one(str(folder.resolve() / "dvc.yaml"), stage)
        makers = {path_in(folder, out): made.name for made in repo.index.stages for out in made.outs if made.cmd}
    read = {key: value for dep in declared.params for key, value in dep.read_params(flatten=False).items()}
    paths = sorted({path_in(folder, dep) for dep in declared.deps} - {"params.yaml"})
    outputs = sorted({path_in(folder, out) for out in declared.outs} - {str(path_of(stage))})
    code, inputs = {PARAMS_MODULE: files.sha256(folder / PARAMS_MODULE)}, {}
    for path in paths:
        if not (folder / path).exists():
            raise ManifestError(f"{path}, an input of {stage}, is missing: run `dvc repro`")
        if path.startswith(CODE):
            found = fingerprint(folder / path)
            code |= {f"{path}/{name}": digest for name, digest in found.files.items()} or {path: found.sha256}
        else:
            inputs[path] = _with_maker(fingerprint(folder / path), makers.get(path), folder)
    values = yaml.safe_load((folder / "params.yaml").read_text())
    manifest = Manifest(
        stage=stage,
        command=str(declared.cmd),
        profile=values["profile"],
        params=json.loads(json.dumps(read, sort_keys=True)),  # plain dictionaries, instead of DVC's own kinds
        contract=_contract(values, read, folder),
        revisions={},
        code=code,
        inputs=inputs,
        outputs={},
        environment=describe(folder),
    )
    return StageRun(folder, manifest, tuple(outputs), _base(values, read, paths, folder), started)


def fingerprint(path: Path) -> Material:
    """The hashes of a file or folder, without Python's caches."""
    if path.is_file():
        return Material(sha256=files.sha256(path), bytes=path.stat().st_size)
    found = [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    found.sort(key=Path.as_posix)
    digests = {file.relative_to(path).as_posix(): files.sha256(file) for file in found}
    size = sum(file.stat().st_size for file in found)
    return Material(sha256=folder_digest(digests), bytes=size, files=digests)


def folder_digest(digests: dict[str, str]) -> str:
    """The SHA-256 of a folder, from those of its files by path."""
    lines = (f"{digest}  {name}\n" for name, digest in sorted(digests.items(), key=lambda item: item[0].encode()))
    return sha256("".join(lines).encode()).hexdigest()


def path_in(folder: Path, item: Output) -> str:
    """The path of a DVC dependency or output in the checkout."""
    return os.path.relpath(item.fs_path, folder.resolve())


def _with_maker(found: Material, stage: str | None, folder: Path) -> Material:
    """An input, without its list of files if an earlier stage's manifest has that."""
    if stage is None:
        return found
    path = folder / path_of(stage)
    if not path.exists():
        raise ManifestError(f"{path} is missing: run `dvc repro {stage}`")
    return found.model_copy(update={"files": {}, "stage": stage, "manifest": files.sha256(path)})


def _contract(values: dict[str, Any], read: dict[str, Any], folder: Path) -> Contract | None:
    if "prompt" not in read.get("profiles", {}).get(values["profile"], {}):
        return None
    name = params.merged(values, values["profile"])["prompt"]["contract"]
    if name == "learnt":  # `download` makes it, and each later stage has a copy among its inputs
        inputs = ("data/raw", "data/validated", "data/sft", "models/sft")
        paths = [folder / path / "contract.yaml" for path in inputs]
    else:
        paths = [folder / "critic/contracts" / f"{name}.yaml", folder / name]
    return Contract(name=name, sha256=files.sha256(next((path for path in paths if path.exists()), paths[-1])))


def _base(values: dict[str, Any], read: dict[str, Any], deps: list[str], folder: Path) -> tuple[str, str] | None:
    """The base model and its revision, if the stage reads one from the hub."""
    if "model" not in read.get("profiles", {}).get(values["profile"], {}):
        return None
    model = params.merged(values, values["profile"])["model"]
    if (folder / model["base"]).exists():
        if BASE in deps and model["base"] not in deps:
            raise ManifestError(
                f"the base model {model['base']} is a folder that isn't among the `deps` in dvc.yaml: add it "
                f"below {BASE}, so that DVC notices when it changes"
            )
        return None
    return model["base"], model["revision"] or "main"


def _commit(name: str, revision: str) -> str:
    """The commit of a model's revision when it was last fetched, from the hub's cache."""
    from huggingface_hub import try_to_load_from_cache  # slow to import, and few stages need it

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else UNKNOWN

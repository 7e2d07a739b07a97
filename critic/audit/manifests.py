"""What made each output of the pipeline: a manifest a stage, in reports/provenance, chained back to raw data.

    begun = provenance.begin("sft", Path.cwd())       # before the stage runs
    begun.finish()                                    # after it: reports/provenance/sft.json

    manifest = provenance.read(Path.cwd(), "sft")
    manifest.outputs["models/sft"].sha256, manifest.inputs["data/sft"].manifest

`stages.launch` writes them. A manifest has no clock and no names of machines in it, so the same stage on the same
inputs in the same environment leaves the same bytes; when and where it ran is in runs/history.jsonl, apart.

The SHA-256 of a folder is that of its list of files, as coreutils make it:

    cd models/sft && find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum
"""

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Self

import yaml
from dvc.repo import Repo
from dvc.stage import PipelineStage
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

FOLDER = Path("reports/provenance")
HISTORY = Path("runs/history.jsonl")
CODE = ("critic/", "stages/")
"""Where the modules are that dvc.yaml names."""
BESIDE = "critic/params.py"
"""The module that all stages use and dvc.yaml doesn't name, since its values are tracked one by one."""
BASE = "assets/tiny-base"
"""The base model that dvc.yaml names, of the stages that read one."""
UNKNOWN = "unknown"
LOCKS = ("requirements/cpu.txt", "requirements/gpu.txt")
VARIABLES = (
    *("CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "MKL_CBWR", "MKL_NUM_THREADS", "NCCL_ALGO", "NCCL_PROTO"),
    *("NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "PYTHONHASHSEED"),
    *("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "VLLM_ATTENTION_BACKEND", "VLLM_BATCH_INVARIANT"),
    *("VLLM_CPU_OMP_THREADS_BIND", "VLLM_ENABLE_V1_MULTIPROCESSING"),
)
"""Of the process's environment, what can change a sum's order, and so its last bits (docs/audit.md)."""
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


class ProvenanceError(ValueError):
    """A record that is missing or can't be read; the message names the file and what to do."""


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Material(_Closed):
    """A file or folder, as a stage read or left it.

    Attributes:
        sha256: of the file, or of the folder's list of files (see above), in hexadecimal.
        bytes: of all files together.
        files: of a folder, the SHA-256 of each file by its path within.
        stage, manifest: of what an earlier stage made, that stage and the SHA-256 of its manifest then.
    """

    sha256: str
    bytes: int
    files: dict[str, str] = {}
    stage: str | None = None
    manifest: str | None = None

    @model_validator(mode="after")
    def _is_of_its_files(self) -> Self:
        if self.files and folder_digest(self.files) != self.sha256:
            raise ValueError("its SHA-256 isn't that of its list of files")
        return self

    def differing(self, other: "Material") -> list[str]:
        """The files that aren't the same in both, those of one alone among them; none of two equal ones."""
        names = sorted(self.files.keys() | other.files.keys())
        return [name for name in names if self.files.get(name) != other.files.get(name)]


class Contract(_Closed):
    """The prompt contract that a stage rendered with: its name or path, and its file's SHA-256."""

    name: str
    sha256: str


class Packages(_Closed):
    """The installed packages: those of a lock file of requirements/, and what was otherwise.

    Attributes:
        lock: the lock file that fits best, None where there is none.
        sha256: of that file.
        otherwise: a package's version where it isn't the lock's, None for one that isn't installed.
    """

    lock: str | None
    sha256: str | None
    otherwise: dict[str, str | None]


class Environment(_Closed):
    """Where a stage ran.

    Attributes:
        python: its version.
        system: the operating system and the kind of processor.
        processor: its model, which decides the kernels that are taken.
        threads: processors that this process may use.
        gpus: the name and the driver's version of each.
        variables: those of `VARIABLES` that are set.
    """

    python: str
    system: str
    processor: str
    threads: int
    gpus: list[str]
    variables: dict[str, str]
    packages: Packages


class Manifest(_Closed):
    """What made the outputs of a stage.

    Attributes:
        stage, command: as in dvc.yaml.
        profile: of params.yaml.
        params: each key of params.yaml that the stage reads, with its value (the seed is one).
        contract: None of a stage that renders no prompts.
        revisions: the commit of each data set and model of the hub that was read, by its name; `UNKNOWN` of a
            model that the hub's own cache hasn't.
        code: the SHA-256 of each module that it uses, before it ran.
        inputs: all else that it read, before it ran.
        outputs: what it left.
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
        """The manifest as its file has it."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"

    @property
    def sha256(self) -> str:
        """Of the file."""
        return sha256(self.text().encode()).hexdigest()

    def left(self, path: str) -> str | None:
        """The SHA-256 of what the stage left at a path, this manifest among it; None if it left nothing there."""
        if path == str(path_of(self.stage)):
            return self.sha256
        return self.outputs[path].sha256 if path in self.outputs else None


@dataclass(frozen=True)
class StageRun:
    """A stage that is about to run in a checkout, which will leave `outputs`, and when it began.

    `base` is the model of the hub that it reads, with its revision; its commit is known once that is fetched.
    """

    folder: Path
    manifest: Manifest
    outputs: tuple[str, ...]
    base: tuple[str, str] | None
    since: float

    def finish(self) -> Path:
        """Write the manifest, now that the outputs are there, and a line to the history; gives its path."""
        outputs = {path: fingerprint(self.folder / path) for path in self.outputs}
        manifest = self.manifest.model_copy(update={"outputs": outputs, "revisions": self._revisions()})
        path = self.folder / path_of(manifest.stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(manifest.text())
        partial.rename(path)
        seconds = time.time() - self.since
        line = {
            "stage": manifest.stage,
            "manifest": manifest.sha256,
            "began": datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "host": socket.gethostname(),
        }
        history = self.folder / HISTORY
        history.parent.mkdir(exist_ok=True)
        with history.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return path

    def _revisions(self) -> dict[str, str]:
        if "data/raw" in self.outputs:
            hub = json.loads((self.folder / "data/raw/checksums.json").read_text())["hub"]
            return {part["dataset"]: part["commit"] for part in hub.values()}
        return {} if self.base is None else {self.base[0]: _commit(*self.base)}


def path_of(stage: str) -> Path:
    """Where a stage's manifest is, from the top of the checkout."""
    return FOLDER / f"{stage}.json"


def read(folder: Path, stage: str) -> Manifest:
    """A stage's manifest in a checkout.

    Raises:
        ProvenanceError: there is none, or it isn't one.
    """
    path = folder / path_of(stage)
    try:
        return parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ProvenanceError(f"there is no {path}: `dvc repro {stage}` writes it") from None


def parse(text: bytes, where: str) -> Manifest:
    """A manifest's file.

    Raises:
        ProvenanceError: it isn't exactly what `Manifest.text` writes; `where` is named.
    """
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ProvenanceError(f"{where} is no manifest: {error}") from None
    if manifest.text().encode() != text:
        raise ProvenanceError(f"{where} isn't as a stage writes it: it was changed by hand")
    return manifest


def begin(stage: str, folder: Path) -> StageRun:
    """Note what a stage is about to run with.

    Args:
        stage: its name in dvc.yaml.
        folder: the checkout.

    Raises:
        ProvenanceError: an input isn't there, or the manifest of the stage that made it; or the base model is in
            a folder that isn't among the stage's dependencies, so that no record would have it.
    """
    since = time.time()
    with Repo(str(folder)) as repo:
        declared = repo.stage.load_one(str(folder.resolve() / "dvc.yaml"), stage)
        makers = {_path(out, folder): made.name for made in repo.index.stages for out in made.outs if made.cmd}
    params = {key: value for dep in declared.params for key, value in dep.read_params(flatten=False).items()}
    paths = sorted({_path(dep, folder) for dep in declared.deps} - {"params.yaml"})
    code, inputs = {BESIDE: _sha256(folder / BESIDE)}, {}
    for path in paths:
        if not (folder / path).exists():
            raise ProvenanceError(f"{stage} needs {path}, which isn't there: `dvc repro` makes it")
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
        params=_plain(params),
        contract=_contract(values, params, folder),
        revisions={},
        code=code,
        inputs=inputs,
        outputs={},
        environment=environment(folder),
    )
    return StageRun(folder, manifest, _outputs(declared, folder), _base(values, params, paths, folder), since)


def fingerprint(path: Path) -> Material:
    """The hashes of a file or folder as it is; Python's caches in it don't count."""
    if path.is_file():
        return Material(sha256=_sha256(path), bytes=path.stat().st_size)
    found = {
        file.relative_to(path).as_posix(): file
        for file in path.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    files = {name: _sha256(found[name]) for name in sorted(found)}
    return Material(
        sha256=folder_digest(files), bytes=sum(file.stat().st_size for file in found.values()), files=files
    )


def folder_digest(files: dict[str, str]) -> str:
    """The SHA-256 of a folder from those of its files."""
    lines = (f"{digest}  {name}\n" for name, digest in sorted(files.items(), key=lambda item: item[0].encode()))
    return sha256("".join(lines).encode()).hexdigest()


def environment(folder: Path) -> Environment:
    """What this process runs in; `folder` is the checkout, for its lock files."""
    return Environment(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        threads=len(os.sched_getaffinity(0)),
        gpus=_gpus(),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        packages=packages(folder),
    )


def packages(folder: Path) -> Packages:
    """The packages that are installed here, against the lock file that they fit best."""
    installed = {_normal(found.name): found.version for found in distributions()}
    fits = []
    for lock in LOCKS:
        if (folder / lock).exists():
            pinned = locked(folder / lock)
            names = pinned.keys() | installed.keys()
            otherwise = {n: installed.get(n) for n in sorted(names) if installed.get(n) != pinned.get(n)}
            fits.append(Packages(lock=lock, sha256=_sha256(folder / lock), otherwise=otherwise))
    none = Packages(lock=None, sha256=None, otherwise=dict(sorted(installed.items())))
    return min(fits, key=lambda fit: len(fit.otherwise), default=none)


def locked(lock: Path) -> dict[str, str]:
    """The version of each package that a lock file pins."""
    return {_normal(name): version for name, version in _PINNED.findall(lock.read_text())}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _path(item: Any, folder: Path) -> str:
    """Of a dependency or an output of DVC's, from the top of the checkout."""
    return os.path.relpath(item.fs_path, folder.resolve())


def _outputs(declared: PipelineStage, folder: Path) -> tuple[str, ...]:
    return tuple(sorted({_path(out, folder) for out in declared.outs} - {str(path_of(declared.name))}))


def _with_maker(found: Material, stage: str | None, folder: Path) -> Material:
    """An input without its list of files, if an earlier stage's manifest has that."""
    if stage is None:
        return found
    path = folder / path_of(stage)
    if not path.exists():
        raise ProvenanceError(f"there is no {path}: `dvc repro {stage}` writes it")
    return found.model_copy(update={"files": {}, "stage": stage, "manifest": _sha256(path)})


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    """Plain JSON, sorted: DVC gives its own kinds of dictionary."""
    plain: dict[str, Any] = json.loads(json.dumps(params, sort_keys=True))
    return plain


def _merged(values: dict[str, Any], section: str) -> dict[str, Any]:
    scaled = values["profiles"][values["profile"]].get(section, {})
    return {**values.get(section, {}), **scaled}


def _contract(values: dict[str, Any], read: dict[str, Any], folder: Path) -> Contract | None:
    if "prompt" not in read:
        return None
    name = _merged(values, "prompt")["contract"]
    path = folder / "critic/contracts" / f"{name}.yaml"
    return Contract(name=name, sha256=_sha256(path if path.exists() else folder / name))


def _base(
    values: dict[str, Any], read: dict[str, Any], dependencies: list[str], folder: Path
) -> tuple[str, str] | None:
    """The base model and its revision, if the stage reads one of the hub."""
    model = _merged(values, "model")
    reads_it = "model" in read.get("profiles", {}).get(values["profile"], {})
    if not reads_it:
        return None
    if (folder / model["base"]).exists():
        if BASE in dependencies and model["base"] != BASE:
            raise ProvenanceError(
                f"the base model {model['base']} is a folder that dvc.yaml doesn't have among `deps`: put it "
                f"there in place of {BASE}, so that a change of it is seen and recorded"
            )
        return None
    return model["base"], model["revision"] or "main"


def _commit(name: str, revision: str) -> str:
    """The commit that a revision of a model stood for when it was last fetched, by the hub's own cache."""
    from huggingface_hub import try_to_load_from_cache  # few stages need it, and each would wait for it

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else UNKNOWN


def _normal(name: str) -> str:
    """A package's name as package indices compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True
    )
    return done.stdout.splitlines() if done.returncode == 0 else [f"nvidia-smi fails: {done.stdout.strip()}"]

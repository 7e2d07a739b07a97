"""The environment that a stage ran in: Python, machine, packages and the variables that change results."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from critic.files import sha256

LOCKS = ("requirements/cpu.txt", "requirements/gpu.txt")
VARIABLES = (
    *("CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "MKL_CBWR", "MKL_NUM_THREADS", "NCCL_ALGO", "NCCL_PROTO"),
    *("NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "PYTHONHASHSEED"),
    *("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "VLLM_ATTENTION_BACKEND", "VLLM_BATCH_INVARIANT"),
    *("VLLM_CPU_OMP_THREADS_BIND", "VLLM_ENABLE_V1_MULTIPROCESSING"),
)
"""The environment variables that can change the order of a sum, and so its last bits (docs/audit.md)."""
_CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
"""The instruction sets by which oneDNN and PyTorch choose their kernels."""
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


class Closed(BaseModel):
    """A part of a manifest: it has no other fields, and doesn't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Packages(Closed):
    """The installed packages, as differences from the lock file with the fewest, None if there is none.

    `otherwise` is the installed version of each package that differs from the lock file, None if not installed.
    """

    lock: str | None
    sha256: str | None
    otherwise: dict[str, str | None]


class Environment(Closed):
    """Where a stage ran.

    Attributes:
        system: the operating system and the machine type.
        processor: the processor's model and its instruction sets, which decide which kernels run.
        threads: processors that the process may use.
        gpus: the name and the driver version of each GPU.
        variables: the variables in `VARIABLES` that are set.
    """

    python: str
    system: str
    processor: str
    threads: int
    gpus: list[str]
    variables: dict[str, str]
    packages: Packages


def describe(folder: Path) -> Environment:
    """The environment of this process; `folder` is the checkout that holds the lock files."""
    return Environment(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        threads=len(os.sched_getaffinity(0)),
        gpus=_gpus(),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        packages=_packages(folder),
    )


def _packages(folder: Path) -> Packages:
    installed = {_normal(found.name): found.version for found in distributions()}
    candidates = [Packages(lock=None, sha256=None, otherwise=dict(sorted(installed.items())))]
    for lock in LOCKS:
        if (folder / lock).exists():
            pinned = {_normal(name): version for name, version in _PINNED.findall((folder / lock).read_text())}
            names = sorted(pinned.keys() | installed.keys())
            otherwise = {n: installed.get(n) for n in names if installed.get(n) != pinned.get(n)}
            candidates.append(Packages(lock=lock, sha256=sha256(folder / lock), otherwise=otherwise))
    return min(candidates[1:] or candidates, key=lambda packages: len(packages.otherwise))


def _normal(name: str) -> str:
    """A package's name as package indices compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _processor() -> str:
    """The model, of which a virtual machine often tells only the brand, and the kernels' instructions."""
    fields = dict(re.findall(r"^(model name|flags)\s*: *(.*)$", _CPUINFO.read_text(), re.MULTILINE))
    sets = [name for name in _INSTRUCTIONS if name in fields.get("flags", "").split()]
    name = fields.get("model name") or platform.processor() or "unknown"
    return f"{name}, {' '.join(sets)}" if sets else name


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else [f"nvidia-smi fails: {done.stdout.strip()}"]

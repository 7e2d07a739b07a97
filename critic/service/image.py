"""The container image of a Bento: exactly the locked packages of its variant.

`bentoml containerize` writes a Dockerfile from it. BentoML calls `uv pip install` without options, so a settings
file in the image tells uv not to resolve anything, and where to find PyTorch's CPU build.
"""

from pathlib import Path
from typing import Literal

from bentoml.images import Image

Variant = Literal["cpu", "gpu"]
ROOT = Path(__file__).parents[2]
BASE = "python:3.11-slim-bookworm"
SYSTEM = ("ca-certificates", "g++", "libnuma1")
"""Triton compiles with g++, and vLLM on a CPU links libnuma."""
PYTORCH_CPU = "https://download.pytorch.org/whl/cpu"


def make_image(variant: Variant) -> Image | None:
    """Make the image, or return None if the locks aren't there, as in an installed package."""
    lock = ROOT / f"requirements/serve-{variant}.txt"
    if not lock.exists():
        return None
    uv = ["[pip]", "no-deps = true"]
    if variant == "cpu":
        uv += [f'extra-index-url = ["{PYTORCH_CPU}"]', 'index-strategy = "unsafe-best-match"']
    lines = " ".join(f"'{line}'" for line in uv)
    apt = f"apt-get update && apt-get install -qy --no-install-recommends {' '.join(SYSTEM)}"
    image = (
        Image(base_image=BASE, distro="", python_version="3.11", lock_python_packages=False)
        .run(f"{apt} && rm -rf /var/lib/apt/lists/*")
        .run(f"mkdir -p /etc/uv && printf '%s\\n' {lines} > /etc/uv/uv.toml")
        .python_packages(*lock.read_text().splitlines())
    )
    if variant == "cpu":
        fix = "requirements/torchvision_cpu.py"
        image.build_include(fix).run(f"python src/{fix}")
    return image

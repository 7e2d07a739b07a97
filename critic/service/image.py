"""The container image of a Bento: the locked packages of its variant and nothing that isn't locked.

`bentoml containerize` writes a Dockerfile from it. BentoML gives `uv pip install` no options, so uv's settings in
the image say that nothing is resolved, and where PyTorch's CPU build comes from.
"""

from pathlib import Path
from typing import Literal

from bentoml.images import Image

Variant = Literal["cpu", "gpu"]
ROOT = Path(__file__).parents[2]
BASE = "python:3.11-slim-bookworm"
SYSTEM = ("ca-certificates", "g++", "libnuma1", "util-linux")
"""Triton compiles with g++, vLLM on a CPU links libnuma, and the service starts it by setpriv, of util-linux."""
PYTORCH_CPU = "https://download.pytorch.org/whl/cpu"


def make_image(variant: Variant) -> Image | None:
    """The image; None where critic is installed without its locks, and so isn't built from."""
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

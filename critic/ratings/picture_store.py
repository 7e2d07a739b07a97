"""Pictures kept for retraining, where the operator has turned it on: their files, as they were sent.

    Keeper(Path("pictures")).keep(file, "PNG")    # pictures/3a/3a7bd3e2….png

A rating names its pictures by SHA-256, as their files here are named.
"""

import os
from contextlib import suppress
from hashlib import sha256
from logging import getLogger
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
"""By the names that Pillow has for formats."""

_log = getLogger(__name__)


class KeepingError(ValueError):
    """A folder where nothing can be kept; the message names it."""


class Keeper:
    """Keeps pictures in a folder, which is made if need be; their owner alone can read them.

    Raises:
        KeepingError: the folder can't be made or written to.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=folder).close()
        except OSError as error:
            raise KeepingError(
                f"CRITIC_KEEP_IMAGES {folder} can't be written to ({error.strerror}): choose another folder"
            ) from None

    def keep(self, file: bytes, format: str) -> None:
        """Put a picture on the disk, whole or not at all, if it isn't there.

        A disk that is full or fails costs the picture and not the critique: it is logged as a warning.

        Args:
            file: the picture's bytes, as they were sent.
            format: one of `SUFFIXES`.
        """
        name = sha256(file).hexdigest() + SUFFIXES[format]
        path = self._folder / name[:2] / name
        try:
            if not path.exists():
                _write(path, file)
        except OSError as error:
            _log.warning("%s wasn't kept: %s", path, error.strerror)


def _write(path: Path, file: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".partial", delete=False) as partial:
        try:
            partial.write(file)
            partial.flush()
            os.fsync(partial.fileno())
            os.rename(partial.name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial.name)
            raise
    for folder in (path.parent, path.parent.parent):
        _sync(folder)


def _sync(folder: Path) -> None:
    """Have the disk know the folder's names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

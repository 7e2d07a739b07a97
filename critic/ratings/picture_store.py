"""Picture files that the service keeps for retraining, if the operator turns it on, named by their SHA-256."""

from hashlib import sha256
from logging import getLogger
from pathlib import Path
from tempfile import TemporaryFile

from critic.files import replacing

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
"""File name suffixes, by Pillow's name of the format."""

_log = getLogger(__name__)


class PictureStoreError(ValueError):
    """A folder in which no pictures can be stored."""


class PictureStore:
    """Pictures in a folder, which is made if it is missing; only the owner can read the files.

    Raises:
        PictureStoreError: the folder can't be made or written to.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=folder).close()
        except OSError as error:
            raise PictureStoreError(
                f"CRITIC_KEEP_IMAGES {folder} can't be written to ({error.strerror}): choose another folder"
            ) from None

    def add(self, file: bytes, format: str) -> None:
        """Store a received file completely or not at all, if it isn't there already; `format` is in `SUFFIXES`.

        An error of the disk is logged as a warning and not raised, so that the score is still sent.
        """
        name = sha256(file).hexdigest() + SUFFIXES[format]
        path = self._folder / name[:2] / name
        try:
            if not path.exists():
                with replacing(path) as partial:
                    partial.chmod(0o600)
                    partial.write_bytes(file)
        except OSError as error:
            _log.warning("A picture wasn't stored: %s", error)

"""Files and folders that are written whole or not at all.

    write_text(Path("report.html"), page)
    with replacing_folder(Path("data/validated")) as partial:
        write_text(partial / "README.md", text)

A link is followed and its target replaced. A FIFO, a device or an open descriptor (/dev/stdout, /dev/fd/3) is
written to, once its content is complete.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

_DESCRIPTOR = re.compile(r"/proc/(\d+)(?:/task/\d+)?/fd/(\d{1,9})")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK = (*_NO_SPACE, errno.EROFS, errno.EIO)
_FIXES = {
    **dict.fromkeys(_NO_SPACE, "Free some space or choose another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a folder that you may write to"),
    errno.EISDIR: "Give the path of a file",
    errno.ENOTDIR: "A file stands where a folder is needed: choose another path",
    errno.ENAMETOOLONG: "Choose a shorter name",
}


class OutputError(OSError):
    """A file or folder that can't be written; the message names it, the cause and the fix."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A partial file to write, which then replaces the file at `path`; parent folders are made.

    If the block raises, the partial file is removed and the old file stays. The content is on the disk
    (fsync) before the old file is replaced.

    Yields:
        The path to write: `.NAME.ID.partial` beside the file, with an ID of its own so that two writers don't mix,
            or a temporary file if `path` is a FIFO, a device or an open descriptor.

    Raises:
        OutputError: the file can't be written.
    """
    path = Path(path)
    with output_errors(path):
        descriptor = _descriptor(path)
        special = descriptor is not None or _is_special(path)
    if special:
        with TemporaryDirectory() as folder:
            partial = Path(folder, path.name)
            with output_errors(path, partial):
                yield partial
            with output_errors(path), partial.open("rb") as source:
                opened = os.open(path, os.O_WRONLY) if descriptor is None else os.dup(descriptor)
                with open(opened, "wb") as target:
                    shutil.copyfileobj(source, target)
        return
    file = Path(os.path.realpath(path))
    partial = file.with_name(f".{file.name}.{uuid4().hex[:8]}.partial")
    try:
        with output_errors(path):
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.touch()
        with output_errors(path, partial):
            yield partial
        with output_errors(path):
            with partial.open("rb") as written:
                os.fsync(written)
            os.replace(partial, file)
    except BaseException:
        _remove(partial)
        raise


@contextmanager
def replacing_folder(path: str | os.PathLike[str], *, only: Collection[str] | None = None) -> Iterator[Path]:
    """An empty folder to fill, which then replaces the folder at `path`; parent folders are made.

    If the block raises, the partial folder (`.NAME.partial`) is removed and the old folder stays.

    Args:
        only: names of what the old folder may hold, since it is lost; None: anything.

    Raises:
        OutputError: the folder can't be written, or holds something else than `only`.
    """
    path = Path(path)
    folder = Path(os.path.realpath(path))
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        with output_errors(path):
            _restore(folder)
            others = [] if only is None else sorted({entry.name for entry in folder.glob("*")} - {*only})
            if others:
                raise OutputError(f"{path} has {others[0]}, which would be lost: choose another folder")
            _remove(partial)
            partial.mkdir(parents=True)
        with output_errors(path, partial):
            yield partial
        move_folder(partial, path)
    except BaseException:
        _remove(partial)
        raise


def move_folder(made: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Move a folder to `path`, in place of the folder that is there; both must be on one file system.

    If the move fails, the old folder stays. After a kill between the two renames, the next call restores it.

    Raises:
        OutputError: the folder can't be moved there.
    """
    path = Path(path)
    folder = Path(os.path.realpath(path))
    old = _old(folder)
    with output_errors(path):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _restore(folder)
        if folder.exists():
            if not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(folder))
            _remove(old)
            folder.rename(old)
        try:
            os.rename(made, folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
    _remove(old)


@contextmanager
def output_errors(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Turn errors into an `OutputError`; with `partial`, only errors of that path and of the disk."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        if partial is not None and not named.startswith(os.fspath(partial)) and error.errno not in _DISK:
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)
        fix = _FIXES.get(error.errno or 0, "Choose another path")
        raise OutputError(f"{path} can't be written: {reason}. {fix}.") from error


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old.partial")


def _restore(folder: Path) -> None:
    """Put the old folder back that a kill between the two renames of `move_folder` left aside."""
    if _old(folder).exists() and not folder.exists():
        _old(folder).rename(folder)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, see `replacing`."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file of UTF-8 text, see `replacing`."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any, *, ensure_ascii: bool = True) -> None:
    r"""Write a JSON file, see `replacing`: two spaces a level, a line break at the end.

    Args:
        ensure_ascii: write other characters than ASCII as `\uXXXX`.

    Raises:
        ValueError: a number is NaN or infinite, which JSON doesn't have.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=ensure_ascii, allow_nan=False) + "\n")


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _descriptor(path: Path) -> int | None:
    """The descriptor of this process behind a path such as /dev/stdout."""
    for _ in range(40):  # links that Linux follows
        path = Path(os.path.realpath(path.parent), path.name)
        match = _DESCRIPTOR.fullmatch(os.fspath(path))
        if match and int(match[1]) == os.getpid():
            return int(match[2])
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    return not S_ISREG(mode)


def _remove(path: Path) -> None:
    """Remove a file or a folder if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()

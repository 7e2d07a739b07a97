"""Pictures are stored once and completely; a full disk loses only the picture."""

import errno
import os
from hashlib import sha256
from pathlib import Path

import pytest

from critic.ratings.picture_store import SUFFIXES, PictureStore, PictureStoreError

FILE = b"a picture's file"
NAME = sha256(FILE).hexdigest()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("format", "suffix"), SUFFIXES.items())
def test_a_picture_is_kept_under_its_hash(format: str, suffix: str, tmp_path: Path) -> None:
    store = PictureStore(tmp_path / "new/pictures")
    store.add(FILE, format)
    assert files(tmp_path) == {f"new/pictures/{NAME[:2]}/{NAME}{suffix}"}
    path = tmp_path / f"new/pictures/{NAME[:2]}/{NAME}{suffix}"
    assert path.read_bytes() == FILE
    assert path.stat().st_mode & 0o077 == 0


def test_one_that_is_there_is_left_alone(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    store.add(FILE, "PNG")
    (path,) = tmp_path.rglob("*.png")
    before = path.stat()
    store.add(FILE, "PNG")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_a_warning_and_leaves_no_part(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = PictureStore(tmp_path)
    with monkeypatch.context() as disk:
        disk.setattr(os, step, full)
        store.add(FILE, "PNG")
    assert files(tmp_path) == set()
    assert [record.message for record in caplog.records] == [
        f"A picture wasn't stored: {tmp_path}/{NAME[:2]}/{NAME}.png can't be written: No space left on device. "
        "Free some space or choose another disk."
    ]
    store.add(FILE, "PNG")
    assert len(files(tmp_path)) == 1


def test_a_folder_that_cant_be_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/pictures"):
        with pytest.raises(PictureStoreError, match=f"CRITIC_KEEP_IMAGES {folder} can't be written to"):
            PictureStore(folder)

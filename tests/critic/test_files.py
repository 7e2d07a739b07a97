"""Files and folders that are written whole or not at all, and what happens where they can't be."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from critic import files
from critic.files import OutputError, move_folder, replacing, replacing_folder, sha256, write_bytes, write_json


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fail(code: int) -> Callable[..., None]:
    def raising(*args: Any, **kwargs: Any) -> None:
        raise OSError(code, os.strerror(code))

    return raising


def break_off(file: Path, error: BaseException) -> None:
    file.write_text("half")
    raise error


# --- files


def test_a_folder_with_something_else_is_not_replaced(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        write_bytes(tmp_path / "out" / name, b"old")
    with (
        pytest.raises(OutputError, match="has theirs, which would be lost"),
        replacing_folder(tmp_path / "out", only=["ours"]),
    ):
        pass
    assert names(tmp_path) == {"out"} and names(tmp_path / "out") == {"ours", "theirs"}


def test_a_file_is_written_and_its_parents_made(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a/b/c.bin", b"one")
    write_bytes(tmp_path / "a/b/c.bin", b"two")
    assert (tmp_path / "a/b/c.bin").read_bytes() == b"two"
    assert names(tmp_path / "a/b") == {"c.bin"}


def test_text_is_utf_8_with_its_line_breaks(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.txt", "é\r\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\r\nb\n"


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with replacing(file) as partial:
        assert partial.parent == tmp_path and partial.read_bytes() == b""
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new" and names(tmp_path) == {"a.txt"}


@pytest.mark.parametrize(
    "error", [ValueError("of the block"), KeyboardInterrupt(), FileNotFoundError(2, "no", "x")]
)
def test_an_error_of_the_block_leaves_the_old_file_and_is_raised(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(type(error)) as caught, replacing(file) as partial:
        break_off(partial, error)
    assert caught.value is error
    assert file.read_text() == "old" and names(tmp_path) == {"a.txt"}


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/a.txt").write_text("old")
    for name, target in (("link", "far/a.txt"), ("nowhere", "far/b.txt")):
        (tmp_path / name).symlink_to(target)
        write_bytes(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink() and (tmp_path / target).read_bytes() == b"new"
    assert names(tmp_path / "far") == {"a.txt", "b.txt"}


def test_a_fifo_gets_the_content_and_stays(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    write_bytes(fifo, b"content")
    reader.join(10)
    assert got == [b"content"] and fifo.is_fifo() and names(tmp_path) == {"fifo"}


def test_a_device_stays() -> None:
    write_bytes("/dev/null", b"content")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("path", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"])
@pytest.mark.parametrize("to", ["pipe", "file"])
def test_standard_output_is_continued(tmp_path: Path, path: str, to: str) -> None:
    code = f"from critic.files import write_text; print('a', flush=True); write_text({path!r}, 'b\\n'); print('c')"
    out = tmp_path / "out.txt"
    with out.open("wb") as file:
        stdout = subprocess.PIPE if to == "pipe" else file
        run = subprocess.run([sys.executable, "-c", code], stdout=stdout, check=True)
    assert (run.stdout if to == "pipe" else out.read_bytes()) == b"a\nb\nc\n"


def test_a_descriptor_is_written_to_and_left_open(tmp_path: Path) -> None:
    read, write = os.pipe()
    write_bytes(f"/dev/fd/{write}", b"a")
    write_bytes(f"/dev/fd/{write}", b"b")
    os.close(write)
    assert os.read(read, 9) == b"ab"
    os.close(read)
    with pytest.raises(OutputError, match=rf"/dev/fd/{write} can't be written: Bad file descriptor"):
        write_bytes(f"/dev/fd/{write}", b"c")


def test_a_fifo_gets_nothing_of_a_block_that_fails(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="of the block"), replacing(tmp_path / "fifo") as partial:
        break_off(partial, ValueError("of the block"))


# --- what can't be written


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder", r"/folder can't be written: Is a directory. Give the path of a file\.$"),
        ("file/a.txt", "/file/a.txt can't be written: Not a directory. A file stands where a folder is needed"),
        ("a" * 300, "a can't be written: File name too long. Choose a shorter name"),
        ("loop", "/loop can't be written: Too many levels of symbolic links"),
    ],
)
def test_a_path_that_can_not_be_a_file_is_named(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match=message):
        write_bytes(tmp_path / path, b"")
    assert names(tmp_path) == {"folder", "file", "loop"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "No space left on device. Free some space or choose another disk"),
        (errno.EDQUOT, "Disk quota exceeded. Free some space"),
        (errno.EROFS, "Read-only file system. Choose a folder that you may write to"),
        (errno.EACCES, "Permission denied. Choose a folder that you may write to"),
    ],
)
def test_a_full_or_read_only_disk_is_named_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int, message: str
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    monkeypatch.setattr(os, step, fail(code))
    with pytest.raises(OutputError, match=rf"a\.txt can't be written: {message}"):
        write_bytes(file, b"new")
    assert file.read_text() == "old" and names(tmp_path) == {"a.txt"}


def test_a_disk_that_fills_up_in_the_block_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.bin can't be written: No space"), replacing(tmp_path / "a.bin"):
        fail(errno.ENOSPC)()
    with pytest.raises(OutputError, match="/dev/full can't be written: No space left on device"):
        write_bytes("/dev/full", b"content")


# --- folders


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    folder, left = tmp_path / "new/data", tmp_path / "new/.data.partial"
    left.mkdir(parents=True)
    (left / "stale").touch()
    for name in ("a", "b"):
        with replacing_folder(folder) as partial:
            assert partial == left and names(partial) == set()
            (partial / name).touch()
    assert names(folder) == {"b"} and names(folder.parent) == {"data"}


def test_an_error_of_the_block_leaves_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "data/old").mkdir(parents=True)
    with pytest.raises(KeyError), replacing_folder(tmp_path / "data") as partial:
        break_off(partial / "new", KeyError())
    assert names(tmp_path / "data") == {"old"} and names(tmp_path) == {"data"}


def test_a_swap_that_fails_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data/old").mkdir(parents=True)
    with monkeypatch.context() as disk:
        disk.setattr(os, "rename", fail(errno.ENOSPC))
        disk.setattr(Path, "rename", lambda path, target: os.replace(path, target))
        with (
            pytest.raises(OutputError, match="data can't be written: No space left"),
            replacing_folder(tmp_path / "data"),
        ):
            pass
    assert names(tmp_path / "data") == {"old"} and names(tmp_path) == {"data"}


def test_the_old_folder_comes_back_after_a_kill_between_the_renames(tmp_path: Path) -> None:
    (tmp_path / ".data.old.partial/old").mkdir(parents=True)
    with pytest.raises(OutputError):
        move_folder(tmp_path / "nowhere", tmp_path / "data")
    assert names(tmp_path / "data") == {"old"}


def test_the_next_run_restores_the_folder_that_a_kill_left_aside(tmp_path: Path) -> None:
    (tmp_path / ".data.old.partial/old").mkdir(parents=True)
    with pytest.raises(KeyError), replacing_folder(tmp_path / "data") as partial:
        break_off(partial / "new", KeyError())
    assert names(tmp_path / "data") == {"old"} and names(tmp_path) == {"data"}


def test_two_writers_of_a_file_do_not_mix(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as first, replacing(tmp_path / "a.txt") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a.txt").read_text() == "first" and names(tmp_path) == {"a.txt"}


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk/data").mkdir(parents=True)
    (tmp_path / "data").symlink_to("disk/data")
    with replacing_folder(tmp_path / "data") as partial:
        (partial / "a").touch()
    assert (tmp_path / "data").is_symlink() and names(tmp_path / "disk/data") == {"a"}
    assert names(tmp_path / "disk") == {"data"}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    for path in ("file", "file/data"):
        with (
            pytest.raises(OutputError, match=f"{path} can't be written: Not a directory. A file stands"),
            replacing_folder(tmp_path / path),
        ):
            pass
    assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == {"file"}


# --- JSON and digests


def test_json_is_as_the_stages_write_it(tmp_path: Path) -> None:
    value = {"splits": {"é": 1}, "checks": [0.5, None]}
    write_json(tmp_path / "a.json", value)
    assert (tmp_path / "a.json").read_text() == json.dumps(value, indent=2) + "\n"
    write_json(tmp_path / "a.json", value, ensure_ascii=False)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == json.dumps(
        value, indent=2, ensure_ascii=False
    ) + "\n"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", [float("nan")])


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

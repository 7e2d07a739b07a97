"""Nothing that a kept command has started outlives it, or who started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from critic import process_tree

# Starts a child in a session of its own, which writes down its process id, and waits.
NEST = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', "
    "'import os, sys, time; open(sys.argv[1], \"w\").write(str(os.getpid())); time.sleep(600)', sys.argv[1]], "
    "start_new_session=True); time.sleep(float(sys.argv[2]))"
)


def grandchild(note: Path) -> psutil.Process:
    deadline = time.monotonic() + 30
    while not note.exists() or not note.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return psutil.Process(int(note.read_text()))


def ended(process: psutil.Process) -> bool:
    _, alive = psutil.wait_procs([process], timeout=20)
    return not alive


def test_the_code_of_the_command_is_passed_on() -> None:
    command = process_tree.command([sys.executable, "-c", "raise SystemExit(7)"])
    assert subprocess.run(command).returncode == 7


def test_what_a_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    command = process_tree.command([sys.executable, "-c", NEST, str(tmp_path / "pid"), "1"])
    process = subprocess.Popen(command)
    left = grandchild(tmp_path / "pid")
    assert process.wait(30) == 0
    assert ended(left)


def test_ending_a_command_ends_what_it_has_started(tmp_path: Path) -> None:
    process = subprocess.Popen(process_tree.command([sys.executable, "-c", NEST, str(tmp_path / "pid"), "600"]))
    left = grandchild(tmp_path / "pid")
    process_tree.end(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert ended(left)


def test_a_kill_of_who_started_it_ends_it_all(tmp_path: Path) -> None:
    starter = (
        "import subprocess, sys, time; from critic import keeper; "
        "subprocess.Popen(process_tree.command([sys.executable, '-c', *sys.argv[1:], '600'])); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", starter, NEST, str(tmp_path / "pid")])
    left = grandchild(tmp_path / "pid")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert ended(left)


def test_what_does_not_end_when_told_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    )
    process = subprocess.Popen(process_tree.command([sys.executable, "-c", stubborn, str(tmp_path / "pid")]))
    left = grandchild(tmp_path / "pid")
    began = time.monotonic()
    process_tree.end(process)
    assert ended(left)
    assert process_tree.GRACE <= time.monotonic() - began < process_tree.GRACE + 10

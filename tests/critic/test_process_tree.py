"""No process of a command outlives the command, or the process that started it."""

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


def test_processes_that_a_command_leaves_behind_are_ended(tmp_path: Path) -> None:
    command = process_tree.command([sys.executable, "-c", NEST, str(tmp_path / "pid"), "1"])
    process = subprocess.Popen(command)
    left = grandchild(tmp_path / "pid")
    assert process.wait(30) == 0
    assert ended(left)


def test_ending_a_command_ends_its_descendants(tmp_path: Path) -> None:
    process = subprocess.Popen(process_tree.command([sys.executable, "-c", NEST, str(tmp_path / "pid"), "600"]))
    left = grandchild(tmp_path / "pid")
    process_tree.end(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert ended(left)


def test_a_kill_of_the_starting_process_ends_the_tree(tmp_path: Path) -> None:
    starter = (
        "import subprocess, sys, time; from critic import process_tree; "
        "subprocess.Popen(process_tree.command([sys.executable, '-c', *sys.argv[1:], '600'])); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", starter, NEST, str(tmp_path / "pid")])
    left = grandchild(tmp_path / "pid")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert ended(left)


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    stubborn = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    )
    args = [sys.executable, "-c", stubborn, str(tmp_path / "pid")]
    process = subprocess.Popen(process_tree.command(args, grace=1))
    left = grandchild(tmp_path / "pid")
    began = time.monotonic()
    process_tree.end(process)
    assert ended(left)
    assert 1 <= time.monotonic() - began < 11


def test_a_command_ends_before_its_children_are_signalled(tmp_path: Path) -> None:
    """As vLLM's server needs, which ends its engine in order."""
    child = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('child', flush=True) or sys.exit())\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    parent = (
        "import signal, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); "
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), print('parent', flush=True), sys.exit())); "
        "print('ready', flush=True); time.sleep(600)"
    )
    args = [sys.executable, "-c", parent, child]
    process = subprocess.Popen(process_tree.command(args), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
    process.terminate()
    assert process.stdout.read().split() == [b"parent", b"child"]
    process.wait()


def test_sigterm_is_ignored_where_another_signal_stops_it(tmp_path: Path) -> None:
    args = process_tree.command(
        [sys.executable, "-c", NEST, str(tmp_path / "pid"), "600"], stop_signal=signal.SIGINT
    )
    process = subprocess.Popen(args)
    left = grandchild(tmp_path / "pid")
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    assert left.is_running()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 128 + signal.SIGINT
    assert ended(left)


def test_a_kill_of_the_parent_process_itself_ends_the_command(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    process = subprocess.Popen(process_tree.command([sys.executable, "-c", code, str(note)]))
    left = grandchild(note)
    process.kill()
    process.wait()
    assert ended(left)


def test_it_is_a_command_of_its_own() -> None:
    args = [
        sys.executable,
        "-m",
        "critic.process_tree",
        "--grace",
        "5",
        sys.executable,
        "-c",
        "raise SystemExit(3)",
    ]
    assert subprocess.run(args).returncode == 3

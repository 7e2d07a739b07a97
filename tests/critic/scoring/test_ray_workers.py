"""Scoring with several workers: the final files equal those of one process, whichever process dies."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import psutil
import pytest
from click.testing import CliRunner

from critic import cli
from critic.edits import Edit
from critic.results import Result
from critic.scoring.inputs import read_pairs
from critic.scoring.ray_workers import WorkerError, on_workers
from critic.scoring.resumable import ScoreBatch, results_to_table

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")

ROOT = Path(__file__).parents[3]
COUNT, BAD = 96, {5, 40}
PATIENCE = 120
"""Seconds that workers may take to start."""


@pytest.fixture
def pairs(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """A CSV of pairs, of which those of `BAD` have no picture, and the tiny base, kept from ending at once."""
    model = shutil.copytree(ROOT / "assets/tiny-base", tmp_path / "model")
    endless = json.loads((model / "generation_config.json").read_text()) | {"eos_token_id": 0}
    (model / "generation_config.json").write_text(json.dumps(endless))
    for seed in range(4):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed, 56))
    rows = [
        ["gone.png" if row in BAD else f"{row % 3}.png", "3.png", f"make it {row} times as bright"]
        for row in range(COUNT)
    ]
    table = pd.DataFrame(rows, columns=["source", "edited", "instruction"])
    table.to_csv(tmp_path / "pairs.csv", index=False)
    return tmp_path / "pairs.csv"


def critic(pairs: Path, out: Path, *more: object) -> list[str]:
    """The command that scores in batches of four."""
    model = ["-m", str(pairs.parent / "model"), "--engine", "transformers", "--contract", "tiny"]
    drawn = [
        "--mode",
        "average",
        "--samples",
        "2",
        "--temperature",
        "2",
        "--max-tokens",
        "6",
        "--batch-size",
        "1",
    ]
    return ["score", *model, *drawn, str(pairs), "--out", str(out), *map(str, more)]


def contents(out: Path) -> dict[str, bytes]:
    """All files of a run by the ends of their names."""
    return {file.name.partition(".")[2]: file.read_bytes() for file in sorted(out.parent.glob(f"{out.stem}.*"))}


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def workers(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that hold a critic."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if any("MapWorker" in word for word in process.cmdline()):
                found.append(process)
    return found


@pytest.mark.nightly
def test_driver_and_worker_are_killed_and_the_files_are_those_of_one_process(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny base gives no score: the failures hold its samples, drawn with a different seed for each pair."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    one, out, failures = (tmp_path / f"{name}.jsonl" for name in ("one", "spread", "spread.failures"))
    CliRunner().invoke(cli.main, critic(pairs, one))

    command = [sys.executable, "-c", "from critic.cli import main; main()", *critic(pairs, out, "--workers", 2)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as driver:
        wait_until(lambda: failures.exists() and failures.stat().st_size > 0, PATIENCE)
        started = psutil.Process(driver.pid).children(recursive=True)
        listening = [
            connection.laddr.ip
            for process in started
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(workers(started)) == 2
        driver.kill()
    assert listening and all(ip.removeprefix("::ffff:").startswith("127.") for ip in listening)
    assert not psutil.wait_procs(workers(started), timeout=30)[1]
    before = failures.read_bytes()
    done = before.count(b"\n")
    assert 0 < done < COUNT

    killed: list[psutil.Process] = []

    def kill_a_worker() -> None:
        wait_until(lambda: failures.stat().st_size > len(before), PATIENCE)
        everything = psutil.Process().children(recursive=True)
        killed.extend(workers(everything))
        killed[0].kill()
        started.extend(everything)

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    resumed = CliRunner().invoke(cli.main, critic(pairs, out, "--workers", 2))
    killer.join()
    assert f"0 scored, {COUNT - done} failed" in resumed.output
    assert f"{done} had failed before" in resumed.output
    assert len(killed) == 2
    for agent in psutil.wait_procs(started, timeout=10)[1]:  # whose raylet was killed: they take a minute
        assert agent.name().endswith("Agent")
        agent.kill()
    assert contents(out) == contents(one)
    table = results_to_table(out)
    assert len(table) == COUNT and table["raw"].nunique() > COUNT / 2


def never() -> ScoreBatch:
    def judge(edits: Sequence[Edit]) -> list[Result]:
        raise AssertionError("nobody is asked")

    return judge


def test_a_cluster_that_isnt_there_is_told(pairs: Path) -> None:
    score_rows = on_workers(partial(read_pairs, pairs), never, workers=2, batch_size=1, address="127.0.0.1:1")
    with pytest.raises(WorkerError, match=r"no Ray cluster at 127\.0\.0\.1:1 can be used: it must be HOST:PORT"):
        next(score_rows([0]))


def test_nothing_to_score_starts_nothing(pairs: Path) -> None:
    score_rows = on_workers(partial(read_pairs, pairs), never, workers=2, batch_size=1, address="127.0.0.1:1")
    assert [*score_rows([])] == []


def test_without_ray_it_is_told_how_to_have_it(monkeypatch: pytest.MonkeyPatch, pairs: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkerError, match=r"several workers need Ray: pip install 'edit-critic\[ray\]'"):
        on_workers(partial(read_pairs, pairs), never, workers=2, batch_size=1)


@pytest.mark.parametrize("options", [["--workers", "2"], ["--ray", "127.0.0.1:6379"]])
def test_a_server_is_asked_by_one_process(pairs: Path, tmp_path: Path, options: list[str]) -> None:
    command = critic(pairs, tmp_path / "s.jsonl", *options, "--engine", "http", "--mode", "greedy")
    result = CliRunner().invoke(cli.main, command)
    assert result.exit_code == 2
    assert "--batch-size sets how many requests the server gets at a time" in " ".join(result.output.split())

"""The smoke test of a Bento: serve it on this machine, score edits whose scores are known, and stop it."""

import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from critic import loopback, process_tree
from critic.client import Critic, CriticError
from critic.data.generated import is_generated
from critic.edits import Edit, edits_from_table
from critic.tables import read_parquet

START_TIMEOUT = 900.0
"""Seconds that a Bento has to start."""
_LOG_CHARACTERS = 3000
"""Characters of the end of a failed Bento's log in the error message."""


class SmokeError(RuntimeError):
    """A Bento doesn't start, or its scores are wrong; the message says what it did."""


@dataclass(frozen=True)
class Smoke:
    """The result of a smoke test: seconds until the Bento was ready, median seconds per request, and the largest
    difference from the expected scores, in points of MOS.
    """

    ready: float
    latency: float
    largest_gap: float


def smoke_edits(repository: Path, number: int) -> list[tuple[Edit, float]]:
    """The first edits of a checkout's test split that have a score in its report, with these scores."""
    predictions = read_parquet(repository / "reports/predictions/grpo.parquet")
    scores = predictions[predictions["status"] == "ok"].head(number).set_index("id")["score"]
    if scores.empty:
        raise SmokeError("reports/predictions/grpo.parquet has no scores to compare a Bento's with")
    test = read_parquet(repository / "data/validated/test.parquet")
    if is_generated(test):
        raise SmokeError(
            "data/validated has pictures without a source image, and the service judges edits alone: this critic "
            "can't be served"
        )
    edits = edits_from_table(test[test["id"].isin(scores.index)])
    return [(edit, float(scores[edit.id])) for edit in edits]


def try_bento(
    bento: str,
    edits: Sequence[tuple[Edit, float]],
    *,
    version: str,
    tolerance: float,
    log: Callable[[str], None] = print,
) -> Smoke:
    """Serve a Bento in a subprocess, without this process' settings, and check its scores of edits.

    Args:
        version: the release that its answers must name, such as `edit_critic:v1.2.0`.
        tolerance: allowed difference of a score, in points of MOS. Above zero on a GPU, where half-precision sums
            depend on the other edits of a batch.

    Raises:
        SmokeError: vLLM fails, the Bento isn't ready after `START_TIMEOUT` seconds, or an answer is missing, from
            another release, or outside the tolerance.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in loopback.environment().items() if not name.startswith("CRITIC_")}
    with tempfile.TemporaryDirectory(prefix="critic-") as folder:
        log_file = Path(folder, "log.txt")
        environment |= {"BENTOML_HOST": "127.0.0.1", "CRITIC_FEEDBACK_URL": f"sqlite:///{folder}/feedback.db"}
        command = [sys.executable, "-m", "bentoml", "serve", bento, "--host", "127.0.0.1", "--port", str(port)]
        started = time.monotonic()
        with log_file.open("wb") as file:
            process = subprocess.Popen(
                process_tree.command(command), cwd=folder, env=environment, stdout=file, stderr=file
            )
        try:
            _wait(address, process, log_file, started)
            ready = time.monotonic() - started
            log(f"{bento} was ready after {ready:.0f} s")
            latencies, gaps = _score(address, edits, version, tolerance)
        finally:
            process_tree.end(process)
    return Smoke(ready, statistics.median(latencies), max(gaps))


def _wait(address: str, process: "subprocess.Popen[bytes]", log_file: Path, started: float) -> None:
    with httpx.Client(base_url=address, timeout=5, mounts=loopback.MOUNTS) as client:
        while time.monotonic() - started < START_TIMEOUT:
            if process.poll() is not None:
                message = f"the Bento ended with code {process.returncode} before it was ready"
                raise SmokeError(f"{message}:\n{_end(log_file)}")
            with suppress(httpx.HTTPError):
                if client.get("/readyz").is_success:
                    return
                if re.search(r"^critic_engine_losses_total [1-9]", client.get("/metrics").text, re.MULTILINE):
                    raise SmokeError(f"the Bento's vLLM failed:\n{_end(log_file)}")
            time.sleep(0.25)
    raise SmokeError(f"the Bento wasn't ready after {START_TIMEOUT:.0f} s:\n{_end(log_file)}")


def _score(
    address: str, edits: Sequence[tuple[Edit, float]], version: str, tolerance: float
) -> tuple[list[float], list[float]]:
    latencies, gaps = [], []
    with Critic(address) as critic:
        for edit, expected in edits:
            started = time.monotonic()
            try:
                result = critic.score(*edit.pair, edit.instruction, id=edit.id)
            except CriticError as error:
                raise SmokeError(f"the Bento failed to score {edit.id}: {error}") from None
            latencies.append(time.monotonic() - started)
            if result.version != version:
                raise SmokeError(f"the Bento's release is {result.version}, expected {version}")
            if result.score is None:
                raise SmokeError(f"the Bento's answer to {edit.id} has no score ({result.status}): {result.raw}")
            gaps.append(abs(result.score - expected))
            if gaps[-1] > tolerance + 1e-9:
                both = f"the Bento scores {edit.id} {result.score:.2f}, `evaluate` scored it {expected:.2f}"
                raise SmokeError(f"{both}: the difference is more than {tolerance:.2f}")
    return latencies, gaps


def _end(log_file: Path) -> str:
    return log_file.read_text(errors="replace")[-_LOG_CHARACTERS:]

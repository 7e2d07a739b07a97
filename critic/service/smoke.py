"""Whether a Bento works: it is started on the loopback, scores edits whose scores are known, and is ended.

smoke = try_bento("edit_critic:v1.2.0-cpu-1", golden_edits(repository, 8), tolerance=0.05)
smoke.latency    # median seconds of one request
"""

import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pandas as pd

from critic import process_tree
from critic.client import Critic, CriticError
from critic.edits import Edit, edits_from_table, read_table

START = 900.0
"""Seconds until a Bento must be ready."""
_TOLD = 3000
"""Characters of a failed Bento's log that are told."""


class SmokeError(RuntimeError):
    """A Bento doesn't start, or doesn't score as it should; the message says what it did."""


@dataclass(frozen=True)
class Smoke:
    """What a Bento did: seconds until it was ready, the median seconds of a request, and the largest difference
    from the scores that were known."""

    ready: float
    latency: float
    largest_gap: float


def golden_edits(repository: Path, number: int) -> list[tuple[Edit, float]]:
    """The first edits of the test split that the critic of a checkout could score, with its scores (`evaluate`).

    Raises:
        SmokeError: it could score none.
        FileNotFoundError: the pipeline hasn't run.
    """
    predictions = pd.read_parquet(repository / "reports/predictions/grpo.parquet")
    scores = predictions[predictions["status"] == "ok"].head(number).set_index("id")["score"]
    if scores.empty:
        raise SmokeError("reports/predictions/grpo.parquet has no score to hold a Bento to")
    test = read_table(repository / "data/validated/test.parquet")
    edits = edits_from_table(test[test["id"].isin(scores.index)])
    return [(edit, float(scores[edit.id])) for edit in edits]


def try_bento(
    bento: str,
    golden: Sequence[tuple[Edit, float]],
    *,
    version: str,
    tolerance: float,
    say: Callable[[str], None] = print,
) -> Smoke:
    """Serve a Bento, in a process of its own without this one's settings, and have it score some edits.

    Args:
        bento: its tag in BentoML's store.
        golden: edits, and the scores that it must give them.
        version: which it must say that it is, as `edit_critic:v1.2.0`.
        tolerance: points, 1..5, that a score may be off. Half-precision sums depend on what else is computed
            beside them, so on a GPU it is above zero.

    Raises:
        SmokeError: its vLLM can't be used, it isn't ready after `START` seconds, an answer is missing, is of
            another version, or is off.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRITIC_")}
    with tempfile.TemporaryDirectory(prefix="critic-") as scratch:
        log = Path(scratch, "log.txt")
        environment |= {"BENTOML_HOST": "127.0.0.1", "CRITIC_FEEDBACK_URL": f"sqlite:///{scratch}/feedback.db"}
        command = [sys.executable, "-m", "bentoml", "serve", bento, "--host", "127.0.0.1", "--port", str(port)]
        began = time.monotonic()
        with log.open("wb") as file:
            process = subprocess.Popen(
                process_tree.command(command), cwd=scratch, env=environment, stdout=file, stderr=file
            )
        try:
            _wait(address, process, log, began)
            ready = time.monotonic() - began
            say(f"{bento} was ready after {ready:.0f} s")
            latencies, gaps = _score(address, golden, version, tolerance)
        finally:
            process_tree.end(process)
    return Smoke(ready, statistics.median(latencies), max(gaps))


def _wait(address: str, process: "subprocess.Popen[bytes]", log: Path, began: float) -> None:
    while time.monotonic() - began < START:
        if process.poll() is not None:
            raise SmokeError(f"the Bento ended with code {process.returncode} before it was ready:\n{_end(log)}")
        try:
            if httpx.get(f"{address}/readyz", timeout=5).is_success:
                return
            if re.search(r"^critic_engine_losses_total [1-9]", httpx.get(f"{address}/metrics").text, re.MULTILINE):
                raise SmokeError(f"the Bento's vLLM can't be used:\n{_end(log)}")
        except httpx.HTTPError:
            pass
        time.sleep(0.25)
    raise SmokeError(f"the Bento wasn't ready after {START:.0f} s:\n{_end(log)}")


def _score(
    address: str, golden: Sequence[tuple[Edit, float]], version: str, tolerance: float
) -> tuple[list[float], list[float]]:
    latencies, gaps = [], []
    with Critic(address) as critic:
        for edit, known in golden:
            began = time.monotonic()
            try:
                verdict = critic.score(*edit.pair, edit.instruction, id=edit.id)
            except CriticError as error:
                raise SmokeError(f"the Bento doesn't score {edit.id}: {error}") from None
            latencies.append(time.monotonic() - began)
            if verdict.version != version:
                raise SmokeError(f"the Bento says that it is {verdict.version}, where it should be {version}")
            if verdict.score is None:
                raise SmokeError(f"the Bento's answer to {edit.id} has no score ({verdict.status}): {verdict.raw}")
            gaps.append(abs(verdict.score - known))
            if gaps[-1] > tolerance + 1e-9:
                raise SmokeError(
                    f"the Bento scores {edit.id} {verdict.score:.2f}, and `evaluate` did {known:.2f}, which is "
                    f"more than {tolerance:.2f} apart"
                )
    return latencies, gaps


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-_TOLD:]

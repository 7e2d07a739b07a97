"""Under load no answer is lost, mixed up or out of order, also while a copy of the critic is killed."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import replicas
from critic.client.schemas import Scored
from critic.data.minibench import make_table
from critic.edits import normalise

CRITIC = Path(__file__).parents[2] / "assets/tiny-critic"


def answers(*statuses: str) -> list[tuple[int, Scored]]:
    given = {"mode": "greedy", "latency": 1, "model": "m", "contract": "c", "version": "v", "request_id": "r"}
    return [
        (number, Scored.model_validate(given | {"id": "a", "score": None, "status": status, "raw": f"{number}"}))
        for number, status in enumerate(statuses)
    ]


def test_other_clients_are_compared_with_answers_of_the_critic_not_with_failures() -> None:
    assert replicas.expected(answers("ok", "no_answer", "ok")) == {
        0: ("ok", "0"),
        1: ("no_answer", "1"),
        2: ("ok", "2"),
    }
    for failure in ("timed_out", "server_error", "unreachable", "bad_input"):
        with pytest.raises(SystemExit, match=f"1 edits have no answer:\nedit 2: {failure}"):
            replicas.expected(answers("ok", "ok", failure))
    with pytest.raises(SystemExit, match="1 of 2 answers have a score"):
        replicas.expected(answers("ok", "truncated"))


@pytest.mark.nightly
def test_no_answer_is_lost_when_a_copy_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, file = tmp_path / "pairs.parquet", tmp_path / "load.json"
    normalise(make_table("test", sources=8, side=112, seed=7), "test").to_parquet(pairs)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "")  # the benchmark sets it
    size = ["--clients", "8", "--batch", "32", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["replicas.py", str(CRITIC), str(pairs), *size])
    replicas.main()
    assert {load: row["edits"] for load, row in json.loads(file.read_text()).items()} == {
        "one client": 32,
        "8 clients": 256,
        "8 clients, a copy killed": 256,
        "one client, afterwards": 32,
    }
    assert capsys.readouterr().out.count("|") == 30

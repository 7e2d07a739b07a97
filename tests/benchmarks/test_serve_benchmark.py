"""Copies of a critic on a CPU: each on a core of its own, with one left for the rest, until they are measured."""

import os
import sys

import pytest

from benchmarks import serve

BOUND = "VLLM_CPU_OMP_THREADS_BIND"


def test_copies_without_a_core_for_the_rest_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(sys, "argv", ["serve.py", "models/none", "none.parquet", "--copies", "1", "2"])
    with pytest.raises(SystemExit):
        serve.main()
    assert "2 copies take a CPU core each and others need one: there are 2" in capsys.readouterr().err


def test_each_copy_gets_a_core_until_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BOUND, "nobind")
    free = os.sched_getaffinity(0)
    with serve.own_cores(2):
        assert os.environ[BOUND] == "0|1"
        os.sched_setaffinity(0, {max(free)})  # as `keep_off_the_workers`
    assert os.environ[BOUND] == "nobind" and os.sched_getaffinity(0) == free
    with serve.own_cores(1):
        assert os.environ[BOUND] == "nobind"

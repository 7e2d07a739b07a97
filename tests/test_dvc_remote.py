"""DVC's outputs go to an S3 bucket and come back, as docs/pipeline.md shows it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv", path=f"{sys.prefix}/bin") or "uv"
DVC = "dvc[s3]==3.67.1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.mark.nightly
@pytest.mark.e2e
def test_a_critic_is_pushed_to_a_bucket_and_pulled_from_it(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    tool = [UV, "run", "--quiet", "--isolated", "--no-project", "--with", DVC, "--with", "moto[server]", "--"]
    environment = {**os.environ, **CREDENTIALS, "NO_PROXY": "127.0.0.1"}
    probe = subprocess.run([*tool, "dvc", "--version"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"no package index: {probe.stderr}")
    host, port = address.split(":")
    server = subprocess.Popen(
        [*tool, "moto_server", "-H", host, "-p", port], start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.put(f"http://{address}/critics", trust_env=False)  # makes the bucket
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.2)

        def dvc(*arguments: str) -> None:
            done = subprocess.run(
                [*tool, "dvc", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr

        shutil.copytree(ROOT / "assets/tiny-critic", tmp_path / "models/grpo")
        weights = (tmp_path / "models/grpo/model.safetensors").read_bytes()
        dvc("init", "--no-scm")
        dvc("add", "models/grpo")
        dvc("remote", "add", "--default", "store", "s3://critics/edit-critic")
        dvc("remote", "modify", "store", "endpointurl", f"http://{address}")
        dvc("push")
        shutil.rmtree(tmp_path / "models/grpo")
        shutil.rmtree(tmp_path / ".dvc/cache")
        dvc("pull")
        assert (tmp_path / "models/grpo/model.safetensors").read_bytes() == weights
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)

"""A PostgreSQL server on the loopback, of the binaries that the distribution's package installs."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


def binaries() -> Path:
    """The folder of `initdb` and `postgres`; skips the test if there is none."""
    on_path = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(on_path)] * bool(on_path)
    if not found:
        pytest.skip("PostgreSQL isn't installed: apt install postgresql")
    return found[-1].parent


@dataclass
class Postgres:
    """A server that can be killed and started again; `url` is for SQLAlchemy."""

    folder: Path
    port: int
    bin: Path = field(default_factory=binaries)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://critic@127.0.0.1:{self.port}/postgres"

    @property
    def user(self) -> dict[str, Any]:
        """PostgreSQL refuses to run as root."""
        return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}

    def make(self) -> None:
        data = self.folder / "data"
        data.mkdir(parents=True)
        if self.user:
            for folder in (self.folder, data):
                shutil.chown(folder, "postgres", "postgres")
        command = [
            self.bin / "initdb",
            "-D",
            data,
            "-U",
            "critic",
            "-A",
            "trust",
            "--no-sync",
            "--locale",
            "C",
            "--encoding",
            "UTF8",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self.user)

    def start(self) -> None:
        command = [
            *(self.bin / "postgres", "-D", self.folder / "data", "-p", str(self.port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}"),
        ]
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self.user)
        ready = [self.bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + 60
        while subprocess.run(ready).returncode != 0:
            assert time.monotonic() < deadline, (self.folder / "log.txt").read_text()
            time.sleep(0.1)
            if self.process.poll() is not None:  # processes of the killed server aren't gone yet
                self.start()
                return

    def kill(self) -> None:
        """End the server without its shutdown; its other processes see that it is gone, and end too."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)


@contextmanager
def serve(folder: Path) -> Iterator[Postgres]:
    """A running server whose files are in a folder that its user can reach."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Postgres(folder, port)
    server.make()
    try:
        server.start()
        yield server
    finally:
        server.stop()

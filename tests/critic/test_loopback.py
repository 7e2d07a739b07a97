"""A proxy in the environment never sees the traffic of this machine with itself."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import httpx2
import pytest

from critic import loopback


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server, in an environment whose proxy doesn't answer."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("client", [httpx.Client, httpx2.Client])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_client_reaches_this_machine_directly(client: Any, host: str, port: int) -> None:
    with client(mounts=loopback.MOUNTS) as direct:
        assert direct.get(f"http://{host}:{port}/").text == "ok"
        with pytest.raises((httpx.ConnectError, httpx2.ConnectError)):
            direct.get("http://example.invalid/")  # through the proxy
    with client() as proxied, pytest.raises((httpx.ConnectError, httpx2.ConnectError)):
        proxied.get(f"http://{host}:{port}/")


def test_a_child_process_reaches_this_machine_directly(port: int) -> None:
    url = f"http://127.0.0.1:{port}/"
    get = f"import httpx, urllib.request as u; u.urlopen('{url}'); print(httpx.get('{url}').text)"
    done = subprocess.run(
        [sys.executable, "-c", get], env=loopback.environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "ok\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "corp.example, 127.0.0.1"}, "corp.example,127.0.0.1,localhost,::1"),
        ({"no_proxy": "a.example", "NO_PROXY": "b.example"}, "a.example,127.0.0.1,localhost,::1"),
        ({"no_proxy": "*"}, "*,127.0.0.1,localhost,::1"),
    ],
)
def test_other_exempt_hosts_are_kept(
    given: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    made = loopback.environment()
    assert made == {**os.environ, "no_proxy": expected, "NO_PROXY": expected}

"""A hub on the loopback that serves data sets and models to huggingface_hub, datasets and transformers.

with serve() as hub:
    hub.push("owner/name", features, {"train": columns})
    os.environ["HF_ENDPOINT"] = hub.url    # before these libraries are imported
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import unquote, urlsplit

from datasets import Dataset, Features

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Serves repositories as the hub does: what a revision is, the tree of a commit, and its files.

    Attributes:
        files: path to bytes of each data set or model; all have one commit, `COMMIT`, on the branch main.
        gated: data sets whose files are refused.
        cut: files that break off in the middle the first time that they are sent.
        out_of_order: how many requests are answered by 503.
        requests: method, path and headers of each request so far.
    """

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    out_of_order: int = 0
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None

    def push(self, dataset: str, features: Features, splits: dict[str, dict[str, list[Any]]]) -> None:
        """Put a data set there as `push_to_hub` does: a Parquet file a split, and a card that lists them."""
        files = {}
        for split, columns in splits.items():
            file = BytesIO()
            Dataset.from_dict(columns, features=features).to_parquet(file)
            files[f"data/{split}-00000-of-00001.parquet"] = file.getvalue()
        paths = "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in splits)
        card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{paths}---\n"
        self.files[dataset] = {"README.md": card.encode(), **files}

    def sent(self, path: str) -> list[dict[str, str]]:
        """The headers of each GET of a file."""
        return [headers for method, asked, headers in self.requests if method == "GET" and asked.endswith(path)]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        if self.hub.out_of_order:
            self.hub.out_of_order -= 1
            return self._send(503)
        parts = path.strip("/").split("/")
        parts = parts[{"api": 2, "datasets": 1}.get(parts[0], 0) :]  # of a model's file: owner/name/resolve/...
        if len(parts) < 2:
            return self._send(404)
        owner, name, what, revision, *rest = [*parts, "revision", "main"][: max(4, len(parts))]
        dataset = f"{owner}/{name}"
        files = self.hub.files.get(dataset)
        if files is None:
            return self._send(404, {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", COMMIT):
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        match what:
            case "revision":
                self._send(200, body=json.dumps({"id": dataset, "sha": COMMIT}).encode())
            case "tree" if not rest:
                tree = [{"type": "file", "path": p, "size": len(f), "oid": "0" * 40} for p, f in files.items()]
                self._send(200, body=json.dumps(tree).encode())
            case "resolve" if dataset in self.hub.gated:
                self._send(403, {"X-Error-Code": "GatedRepo"})
            case "resolve" if (file := "/".join(rest)) in files:
                self._send_file(file, files)
            case _:
                self._send(404, {"X-Error-Code": "EntryNotFound"})

    def _send_file(self, path: str, files: dict[str, bytes]) -> None:
        file = files[path]
        headers = {"ETag": f'"{sha1(file).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(file)), len(file) - 1)
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {start}-{end}/{len(file)}"
        if self.command == "GET" and path in self.hub.cut:
            self.hub.cut.remove(path)
            self._send(200, headers | {"Content-Length": str(len(file))}, file[: len(file) // 2])
            self.close_connection = True
        else:
            self._send(206 if "Range" in self.headers else 200, headers, file[start : end + 1])

    def _send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub without any repository, until the block ends or `Hub.stop` is called."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()
        hub.stop = lambda: None

    hub.url, hub.stop = f"http://127.0.0.1:{server.server_port}", stop
    try:
        yield hub
    finally:
        hub.stop()

"""A stand-in for vLLM's server, on a Unix socket, whose answer is written in the request's text.

    python fake_vllm.py --uds SOCKET [--fail CODE] [--slow SECONDS] [--engine] [--asked FILE]

The answer to "make it blue; score=3.5" is 3.5. Other words: `status=500` returns this status, `answer=...`
answers that text, `wait=FILE` waits for the file, `dies` kills the server, `kill=FILE` removes the file and kills
the server, unless there is no file, and `garbled` sends invalid JSON. A streamed answer comes word by word; `wait`
and `dies` act after the first. Requests are appended to FILE, one line of JSON each.
"""

import argparse
import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        if self.path == "/health":
            return self.reply(200, "")
        if self.path == "/metrics":
            return self.reply(200, "# HELP vllm:asked So many.\nvllm:asked 3.0\nprocess_cpu_seconds_total 9.0\n")
        self.reply(200, json.dumps({"object": "list", "data": [{"id": "critic", "owned_by": "vllm"}]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.asked is not None:
            with self.server.asked.open("a") as lines:
                lines.write(json.dumps(asked) + "\n")
        text = json.dumps(asked["messages"])
        if "garbled" in text:
            return self.reply(200, "{")
        if status := re.search(r"status=(\d+)", text):
            return self.reply(int(status[1]), json.dumps({"error": {"message": "as you like it", "code": 400}}))
        score = re.search(r"score=(\d+(?:\.\d+)?)", text)
        answer = re.search(r"answer=(\w+)", text)
        written = f"Fine.</think> <answer>{score[1] if score else answer[1] if answer else 3}</answer>"
        usage = {"prompt_tokens": 30, "completion_tokens": 9}
        if asked.get("stream"):
            return self.stream(written.split(), text)
        happen(text)
        choices = [{"message": {"role": "assistant", "content": written}, "finish_reason": "stop"}]
        self.reply(200, json.dumps({"choices": choices * (asked.get("n") or 1), "usage": usage}))

    def stream(self, words: list[str], text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, word in enumerate(words):
            if number == 1:
                happen(text)
            self.chunk(f"data: {word}\n\n".encode())
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def reply(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


def happen(text: str) -> None:
    if kill := re.search(r"kill=([\w./-]*\w)", text):
        with suppress(FileNotFoundError):
            Path(kill[1]).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    if "dies" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    if wait := re.search(r"wait=([\w./-]*\w)", text):
        while not Path(wait[1]).exists():
            time.sleep(0.01)


class Server(ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 512
    asked: Path | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A disconnected client isn't an error of the server."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", required=True)
    parser.add_argument("--fail", type=int)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--asked", type=Path)
    parser.add_argument("--engine", action="store_true", help="have a child, as vLLM does, and end it at the end")
    options, _ = parser.parse_known_args()
    print("the stand-in starts", flush=True)
    if options.fail is not None:
        sys.exit(options.fail)
    if options.engine and (child := os.fork()) == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            time.sleep(60)

    def end(*_: Any) -> None:
        if options.engine:
            os.kill(child, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGINT, end)
    time.sleep(options.slow)
    with Server(options.uds, Handler) as server:
        server.asked = options.asked
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while True:
            signal.pause()


if __name__ == "__main__":
    main()

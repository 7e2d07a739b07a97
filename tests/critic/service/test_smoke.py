"""The smoke test passes only a Bento that starts and scores as expected. A script stands in for the Bento."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from critic import process_tree
from critic.edits import Edit
from critic.service import smoke
from critic.service.smoke import SmokeError, try_bento

STAND_IN = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
port, behaviour = int(sys.argv[1]), json.loads(sys.argv[2])
if behaviour.get("ends"):
    sys.exit("no such Bento")

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/metrics":
            self.answer(200, f"critic_engine_losses_total {behaviour.get('losses', 0)}.0".encode())
        else:
            self.answer(503 if behaviour.get("losses") else 200, b"")

    def do_POST(self):
        pairs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["pairs"]
        if behaviour.get("refuses"):
            problem = {"code": "no_key", "message": "give a key", "request_id": "r"}
            return self.answer(401, json.dumps({"error": problem}).encode())
        time.sleep(behaviour.get("takes", 0))
        verdicts = [
            {"id": pair["id"], "score": behaviour["score"], "status": "ok" if behaviour["score"] else "no_answer",
             "mode": "greedy", "latency": 0.1, "model": "m", "contract": "c", "version": behaviour["version"],
             "request_id": "r"}
            for pair in pairs
        ]
        self.answer(200, json.dumps({"request_id": "r", "verdicts": verdicts}).encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
GOLDEN = [
    (Edit(f"test-{n}", Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "red"), "dye it"), 3.5)
    for n in range(3)
]
Try = Callable[..., smoke.Smoke]


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Try:
    """Test a stand-in with the given behaviour."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    kept = process_tree.command

    def attempt(tolerance: float = 0.0, **behaviour: Any) -> smoke.Smoke:
        behaviour = {"score": 3.5, "version": "edit_critic:v1.0.0", **behaviour}

        def command(asked: list[str]) -> list[str]:
            assert asked[1:5] == ["-m", "bentoml", "serve", "edit_critic:v1.0.0-cpu-1"]
            return kept([sys.executable, str(script), asked[-1], json.dumps(behaviour)])

        monkeypatch.setattr(smoke.process_tree, "command", command)
        return try_bento("edit_critic:v1.0.0-cpu-1", GOLDEN, version="edit_critic:v1.0.0", tolerance=tolerance)

    return attempt


def test_a_bento_with_the_expected_scores_passes(attempt: Try) -> None:
    tried = attempt(takes=0.2)
    assert tried.largest_gap == 0 and 0.2 <= tried.latency < 5 and tried.ready > 0


def test_a_proxy_in_the_environment_isnt_used(attempt: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert attempt().largest_gap == 0


def test_a_tolerance_lets_a_small_gap_pass(attempt: Try) -> None:
    assert attempt(score=3.6, tolerance=0.1).largest_gap == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ({"ends": True}, r"ended with code 1 before it was ready:\n.*no such Bento"),
        ({"losses": 1}, "the Bento's vLLM failed"),
        ({"score": 3.6}, r"scores test-0 3\.60, `evaluate` scored it 3\.50: the difference is more than 0\.00"),
        ({"score": None}, r"answer to test-0 has no score \(no_answer\)"),
        ({"version": "edit_critic:v0.9.0"}, r"release is edit_critic:v0\.9\.0, expected edit_critic:v1\.0\.0"),
        ({"refuses": True}, "failed to score test-0: 401 no_key: give a key"),
    ],
)
def test_any_other_bento_fails_with_a_reason(attempt: Try, behaviour: dict[str, Any], message: str) -> None:
    with pytest.raises(SmokeError, match=message):
        attempt(**behaviour)


def test_a_bento_that_never_gets_ready_fails(attempt: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "START_TIMEOUT", 0.0)
    with pytest.raises(SmokeError, match="wasn't ready after 0 s"):
        attempt()

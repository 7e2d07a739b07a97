"""`critic judge` as people run it, with metrics and with an endpoint of the test's own."""

import base64
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from critic import cli
from critic.cli import judge
from critic.engines import http
from critic.engines.http import HttpEngine
from critic.scoring.judges import kinds
from critic.scoring.judges.image_metrics import BASELINES
from critic.scoring.resumable import results_to_table

DOCS = (Path(__file__).parents[3] / "docs/score.md").read_text(encoding="utf-8")


class Handler(BaseHTTPRequestHandler):
    """Serves one model, which answers every question with sevens unless `words` is set."""

    words = '{"editing_success": 7, "preservation": 7, "naturalness": 7, "cleanness": 7}'
    keys: set[str | None]
    sizes: set[tuple[int, int]]

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": "model", "object": "model", "owned_by": "someone"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["temperature"] == 0
        self.keys.add(self.headers["Authorization"])
        for part in body["messages"][0]["content"]:
            if part["type"] == "image_url":
                file = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                self.sizes.add(Image.open(BytesIO(file)).size)
        self._send({"choices": [{"message": {"content": self.words}, "finish_reason": "stop"}]})

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, reply: dict[str, Any]) -> None:
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[tuple[str, type[Handler]]]:
    handler = type("Handler", (Handler,), {"keys": set(), "sizes": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Four pairs in a CSV, of which the third has no picture."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / name)
    rows = [["a.png", "b.png", "make it blue"] for _ in range(4)]
    rows[2][1] = "gone.png"
    pd.DataFrame(rows, columns=["source", "edited", "instruction"]).to_csv(tmp_path / "pairs.csv", index=False)
    return tmp_path / "pairs.csv"


def critic(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["judge", *map(str, arguments)], terminal_width=100)


@pytest.mark.parametrize("name", BASELINES)
def test_a_table_is_scored_by_a_metric_and_what_failed_beside_it(pairs: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "scores.jsonl"
    result = critic(name, pairs, "--out", out)
    assert result.exit_code == 1, result.output
    assert "3 scored, 1 failed" in result.output
    table = results_to_table(out)
    assert [*table["id"]] == ["00000", "00001", "00003", "00002"]
    assert table["score"][:3].between(1, 5).all()
    assert [*table["status"]] == ["ok", "ok", "ok", "bad_input"]
    assert {*table["model"][:3]} == {name}
    assert "gone.png" in table["detail"][3]


def test_a_second_run_goes_on_and_what_failed_is_scored_again_when_asked_for(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    assert critic("psnr", pairs, "--out", out, "--limit", 1).exit_code == 0
    assert "2 scored, 1 failed" in critic("psnr", pairs, "--out", out).output
    Image.new("RGB", (24, 20)).save(pairs.parent / "gone.png")
    result = critic("psnr", pairs, "--out", out, "--retry-failed")
    assert result.exit_code == 0, result.output
    assert "1 scored, 0 failed" in result.output


def test_two_judges_arent_mixed_into_one_file(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    critic("psnr", pairs, "--out", out)
    result = critic("ssim", pairs, "--out", out)
    assert result.exit_code == 1
    assert 'judge was "psnr" and is "ssim"' in " ".join(result.output.split())


def test_an_endpoint_is_asked_with_its_key_and_its_failures_are_retried(
    pairs: Path, tmp_path: Path, server: tuple[str, type[Handler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, handler = server
    monkeypatch.setenv("OUR_KEY", "secret")
    out = tmp_path / "scores.jsonl"
    asked = ("viescore", pairs, "--out", out, "-m", address, "--key-variable", "OUR_KEY")
    sevens, handler.words = handler.words, "I'd say seven."
    result = critic(*asked)
    assert "0 scored, 4 failed" in result.output
    assert "3 x no_answer" in result.output
    handler.words = sevens
    assert "3 scored, 1 failed" in critic(*asked, "--retry-failed").output
    table = results_to_table(out)
    assert [*table["score"][:3]] == pytest.approx([3.8] * 3)
    assert handler.keys == {"Bearer secret"}
    record = (tmp_path / "scores.run.json").read_text()
    assert json.loads(record)["judge"] == "viescore:model"
    assert "secret" not in record + out.read_text()


def test_an_endpoint_is_sent_no_more_pixels_than_is_said(
    pairs: Path, tmp_path: Path, server: tuple[str, type[Handler]]
) -> None:
    """Pictures are reduced when they are decoded: two batches of large ones would fill the memory."""
    address, handler = server
    Image.new("RGB", (4000, 3000)).save(pairs.parent / "b.png")
    out = tmp_path / "scores.jsonl"
    assert "1 scored, 0 failed" in critic("viescore", pairs, "--out", out, "-m", address, "--limit", 1).output
    assert handler.sizes == {(24, 20), (1182, 886)}
    assert json.loads((tmp_path / "scores.run.json").read_text())["max_pixels"] == 1024 * 1024 >= 1182 * 886
    assert "1,048,576 pixels" in DOCS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["psnr", "gone.csv", "--out", "s.jsonl"], "there is no gone.csv"),
        (["psnr", "pairs.csv", "--out", "s.txt"], "s.txt is not a .jsonl file"),
        (["psnr", "pairs.csv"], "Missing option '--out'"),
        (["viescore", "pairs.csv", "--out", "s.jsonl", "-m", "http://127.0.0.1:9/v1"], "can't be reached: ["),
        (["editscore", "pairs.csv", "--out", "s.jsonl"], "pip install editscore"),
        (["editreward", "pairs.csv", "--out", "s.jsonl", "-m", "x", "--config", "x.yaml"], "clone https://"),
        (["nobody", "pairs.csv", "--out", "s.jsonl"], "No such command 'nobody'"),
    ],
)  # fmt: skip
def test_what_cant_be_done_is_told_in_a_line(
    arguments: list[str], message: str, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pairs.parent)
    monkeypatch.setattr(http, "HttpEngine", partial(HttpEngine, max_retries=0))
    for package in ("editscore", "EditReward"):
        monkeypatch.setitem(sys.modules, package, None)
    result = critic(*arguments)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())
    assert isinstance(result.exception, SystemExit)
    assert not Path("s.jsonl").exists()


@pytest.mark.parametrize("name", kinds())
def test_the_range_of_each_judge_is_in_its_help_and_in_the_docs(name: str) -> None:
    assert f"Its own range: {kinds()[name].scale}." in " ".join(critic(name, "-h").output.split())
    (row,) = (line for line in DOCS.splitlines() if line.startswith(f"| `{name}` |"))
    assert str(kinds()[name].scale) in row


def test_help_lists_every_judge() -> None:
    assert {*kinds()} == {*judge.command.list_commands(click.Context(judge.command))}
    assert all(name in critic("-h").output for name in kinds())

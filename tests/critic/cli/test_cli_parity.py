"""`critic parity --json`; the comparison itself runs in tests/test_pipeline.py."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from critic.cli import main
from critic.scoring import parity
from critic.scoring.parity import Difference, Parity


def test_all_differences_are_written_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [Parity("vLLM, shuffled", 4, [Difference("é", "a", "b", (3.0, None), None)]), Parity("HTTP", 4, [])]
    monkeypatch.setattr(parity, "compare_engines", lambda **options: results)
    line = ["parity", "-m", "models/grpo", "--pairs", "pairs.csv", "--json"]
    assert CliRunner().invoke(main, [*line, str(tmp_path / "parity.json")]).exit_code == 1
    first, second = json.loads((tmp_path / "parity.json").read_text(encoding="utf-8"))
    assert first == {
        "name": "vLLM, shuffled",
        "edits": 4,
        "differences": [{"id": "é", "reference": "a", "other": "b", "scores": [3.0, None], "gap": None}],
        "same_text": 0.75,
        "same_score": 0.75,
        "ok": False,
    }
    assert second["ok"] is True
    refused = CliRunner().invoke(main, [*line, "/dev/null/parity.json"])
    assert refused.exit_code == 1
    assert refused.output.splitlines()[-1].startswith("Error: ")

"""`critic score` as people run it, with the tiny base, which writes much and says little."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from critic import cli
from critic.engines import Completion
from critic.engines import transformers as local
from critic.verdicts import Verdict

BASE = Path(__file__).parents[3] / "assets/tiny-base"
ANSWER = "All done, alignment 4.5.</think>\n<answer>4.00</answer>"


@pytest.fixture(autouse=True)
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny base can't answer: its completions are replaced, all else is real."""
    read = local.TransformersEngine._read

    def _read(self: local.TransformersEngine, *given: object) -> Completion:
        completion = read(self, *given)  # type: ignore[arg-type]
        return Completion(ANSWER, completion.tokens, True, completion.prompt_tokens)

    monkeypatch.setattr(local.TransformersEngine, "_read", _read)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Four pairs in a CSV, of which the third has no picture."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (70, 56, 3), dtype=np.uint8)).save(tmp_path / name)
    rows = [["a.png", "b.png", "make it blue"] for _ in range(4)]
    rows[2][1] = "gone.png"
    table = pd.DataFrame(rows, columns=["source", "edited", "instruction"])
    table.to_csv(tmp_path / "pairs.csv", index=False)
    return tmp_path / "pairs.csv"


def critic(*arguments: object, model: Path | str = BASE) -> Result:
    command = ["score", "-m", str(model), "--engine", "transformers", "--contract", "tiny", "--max-tokens", "4"]
    return CliRunner().invoke(cli.main, [*command, *map(str, arguments)], terminal_width=100)


def test_one_edit_is_scored_and_shown(pairs: Path) -> None:
    folder = pairs.parent
    result = critic("--source", folder / "a.png", "--edited", folder / "b.png", "--instruction", "make it blue")
    assert result.exit_code == 0, result.output
    assert "4.00 of 5 (greedy)" in result.output
    assert "alignment 4.5" in result.output
    assert "All done" in result.output


def test_a_table_is_scored_into_a_file_and_what_failed_beside_it(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    result = critic(pairs, "--out", out)
    assert result.exit_code == 1
    assert "3 scored, 1 failed" in result.output
    assert f"The failures, with their reasons: {tmp_path / 'scores.failures.jsonl'}" in result.output
    verdicts = [Verdict.from_json(line) for line in out.read_text().splitlines()]
    assert [(verdict.id, verdict.score) for verdict in verdicts] == [
        ("00000", 4.0),
        ("00001", 4.0),
        ("00003", 4.0),
    ]
    assert all(verdict.model.startswith("sha256:") and verdict.prompt_tokens > 0 for verdict in verdicts)
    (failed,) = (tmp_path / "scores.failures.jsonl").read_text().splitlines()
    assert Verdict.from_json(failed).status == "bad_input"
    assert "gone.png" in Verdict.from_json(failed).detail


def test_what_failed_is_scored_again_when_asked_for(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    critic(pairs, "--out", out)
    (pairs.parent / "b.png").rename(pairs.parent / "gone.png")
    Image.new("RGB", (56, 56)).save(pairs.parent / "b.png")
    assert "0 scored, 0 failed" in critic(pairs, "--out", out).output
    result = critic(pairs, "--out", out, "--retry-failed")
    assert result.exit_code == 0, result.output
    assert "1 scored, 0 failed" in result.output
    assert len(out.read_text().splitlines()) == 4


def test_the_same_twice_gives_the_same_bytes(pairs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        critic(pairs, "--out", tmp_path / f"{name}.jsonl", "--mode", "average", "--samples", "2")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_other_settings_arent_mixed_into_one_file(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    critic(pairs, "--out", out)
    result = critic(pairs, "--out", out, "--mode", "direct")
    assert result.exit_code == 1
    assert "mode" in result.output
    recorded = json.loads((tmp_path / "scores.run.json").read_text())
    assert recorded["mode"] == "greedy"
    assert recorded["dtype"] in ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give PAIRS and --out, or --source, --edited and --instruction"),
        (["pairs.csv"], "PAIRS goes with --out"),
        (["pairs.csv", "--out", "s.jsonl", "--source", "a.png"], "PAIRS goes with --out, and without --source"),
        (
            ["pairs.csv", "--out", "s.jsonl", "--engine", "http", "--mode", "expected"],
            "needs the probabilities of tokens",
        ),
        (["gone.csv", "--out", "s.jsonl"], "there is no gone.csv"),
        (["pairs.csv", "--out", "s.jsonl", "--source-column", "before"], "before"),
        (["--source", "gone.png", "--edited", "b.png", "--instruction", "x"], "gone.png can't be read: No such"),
        (["--source", "pairs.csv", "--edited", "b.png", "--instruction", "x"], "pairs.csv: not a whole JPEG"),
    ],
)
def test_what_cant_be_done_is_told_in_a_line(
    arguments: list[str], message: str, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pairs.parent)
    result = critic(*arguments)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())
    assert isinstance(result.exception, SystemExit)


def test_a_model_that_isnt_there_is_told_in_a_line(pairs: Path, tmp_path: Path) -> None:
    result = critic(pairs, "--out", tmp_path / "s.jsonl", model=tmp_path / "none")
    assert result.exit_code == 1
    assert "no checkpoint" in result.output
    assert not (tmp_path / "s.jsonl").exists()


def test_help_names_every_command_and_teaches_by_examples() -> None:
    assert all(name in CliRunner().invoke(cli.main, ["-h"]).output for name in ("score", "parity"))
    assert "critic score -m models/grpo pairs.csv --out scores.jsonl" in critic("-h").output

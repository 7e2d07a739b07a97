"""`critic score` as people run it, with the tiny base."""

import fcntl
import json
import os
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from click.testing import Result as Outcome
from huggingface_hub.errors import RemoteEntryNotFoundError
from PIL import Image

from critic import cli
from critic.cli import scoring
from critic.engines import load
from critic.engines import transformers as local
from critic.engines.base import Completion
from critic.results import Result

BASE = Path(__file__).parents[3] / "assets/tiny-base"
NOT_FOUND = httpx.Response(404, request=httpx.Request("GET", "http://127.0.0.1"))
ANSWER = "All done, alignment 4.5.</think>\n<answer>{score:.2f}</answer>"


@pytest.fixture(autouse=True)
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny base can't answer: its completions become scores that depend on their tokens; the rest is real."""
    read = local.TransformersEngine._read

    def _read(self: local.TransformersEngine, ids: list[int], *given: object) -> Completion:
        completion = read(self, ids, *given)  # type: ignore[arg-type]
        text = ANSWER.format(score=1 + sum(ids) % 401 / 100)
        return Completion(text, completion.tokens, True, completion.prompt_tokens)

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


def critic(*arguments: object, model: Path | str = BASE) -> Outcome:
    command = ["score", "-m", str(model), "--engine", "transformers", "--contract", "tiny", "--max-tokens", "4"]
    return CliRunner().invoke(cli.main, [*command, *map(str, arguments)], terminal_width=100)


def test_one_edit_is_scored_and_shown(pairs: Path) -> None:
    folder = pairs.parent
    result = critic("--source", folder / "a.png", "--edited", folder / "b.png", "--instruction", "make it blue")
    assert result.exit_code == 0, result.output
    assert " of 5 (greedy)" in result.output
    assert "alignment 4.5" in result.output
    assert "All done" in result.output
    assert result.stderr.startswith(
        "This critic has seen drawn shapes alone: its scores of real pictures mean nothing."
    )


def test_a_table_is_scored_into_a_file_and_what_failed_beside_it(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    result = critic(pairs, "--out", out)
    assert result.exit_code == 1
    assert "3 scored, 1 failed" in result.output
    assert f"The failures with their reasons: {tmp_path / 'scores.failures.jsonl'}" in result.output
    results = [Result.from_json(line) for line in out.read_text().splitlines()]
    assert [scored.id for scored in results] == ["00000", "00001", "00003"]
    assert len({scored.score for scored in results}) == 1  # the same pictures and words
    assert all(scored.model.startswith("sha256:") and scored.prompt_tokens > 0 for scored in results)
    (failed,) = (tmp_path / "scores.failures.jsonl").read_text().splitlines()
    assert Result.from_json(failed).status == "bad_input"
    assert "gone.png" in Result.from_json(failed).detail


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
    written = []
    drawn = ["--mode", "average", "--samples", "2", "--temperature", "2", "--max-tokens", "32"]
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        critic(pairs, "--out", tmp_path / f"{name}.jsonl", *drawn, "--seed", seed)
        written.append((tmp_path / f"{name}.jsonl").read_bytes())
    assert written[0] == written[1] != written[2]


def test_other_settings_arent_mixed_into_one_file(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    critic(pairs, "--out", out)
    result = critic(pairs, "--out", out, "--mode", "direct")
    assert result.exit_code == 1
    assert "mode" in result.output
    recorded = json.loads((tmp_path / "scores.run.json").read_text())
    assert recorded["mode"] == "greedy"
    assert recorded["dtype"] in ("float32", "bfloat16")


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no critic can be loaded."""

    def open_engine(**_: object) -> None:
        raise AssertionError("the critic is loaded")

    monkeypatch.setattr(scoring, "open_engine", open_engine)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s.txt"], "s.txt is not a .jsonl file"),
        (["s.jsonl", "--mode", "direct"], 'mode was "greedy" and is "direct"'),
        (["held.jsonl"], "held.jsonl is being written by another process"),
        (["s.jsonl"], "0 scored, 0 failed in 0.0 s; 3 were scored before, 1 had failed before"),
    ],
    ids=["suffix", "settings", "held", "nothing-left"],
)
def test_what_needs_no_critic_is_told_before_one_is_loaded(
    arguments: list[str],
    message: str,
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(pairs.parent)
    critic(pairs, "--out", "s.jsonl")
    request.getfixturevalue("unopened")
    with Path("held.jsonl").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = critic(pairs, "--out", *arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert message in " ".join(result.output.split())


def test_a_critic_that_is_replaced_meanwhile_scores_nothing(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "identify", lambda *_: "sha256:before")
    result = critic(pairs, "--out", tmp_path / "s.jsonl")
    assert result.exit_code == 1
    assert ", not sha256:before: put the same critic there" in " ".join(result.output.split())
    assert not (tmp_path / "s.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give PAIRS and --out, or --source, --edited and --instruction"),
        (["pairs.csv"], "PAIRS goes with --out"),
        (["pairs.csv", "--out", "s.jsonl", "--source", "a.png"], "PAIRS goes with --out, and without --source"),
        (["gone.csv", "--out", "s.jsonl"], "there is no gone.csv"),
        (["pairs.csv", "--out", "s.jsonl", "--source-column", "before"], "before"),
        (["--source", "gone.png", "--edited", "b.png", "--instruction", "x"], "gone.png can't be read: No such"),
        (
            ["--source", "pairs.csv", "--edited", "b.png", "--instruction", "x"],
            "pairs.csv: not a PNG, JPEG or WebP file",
        ),
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
    assert "there is no folder" in result.output
    assert not (tmp_path / "s.jsonl").exists()


def test_help_names_every_command_and_teaches_by_examples() -> None:
    assert all(name in CliRunner().invoke(cli.main, ["-h"]).output for name in ("score", "parity"))
    assert "critic score -m models/grpo pairs.csv --out scores.jsonl" in critic("-h").output


def test_a_checkpoint_without_a_contract_needs_one_by_name(pairs: Path, tmp_path: Path) -> None:
    command = [
        "score",
        "-m",
        str(BASE),
        "--engine",
        "transformers",
        str(pairs),
        "--out",
        str(tmp_path / "s.jsonl"),
    ]
    result = CliRunner().invoke(cli.main, command)
    assert result.exit_code == 1
    assert "name one with --contract" in result.output


def test_a_server_needs_one_too(pairs: Path, tmp_path: Path) -> None:
    command = [
        "score",
        "-m",
        "http://127.0.0.1:9/v1",
        "--engine",
        "http",
        str(pairs),
        "--out",
        str(tmp_path / "s.jsonl"),
    ]
    result = CliRunner().invoke(cli.main, command)
    assert "name it, as --contract ie-critic" in result.output


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RemoteEntryNotFoundError("404", response=NOT_FOUND),
            "has no contract of the prompts that it was trained on",
        ),
        (OSError("no network"), "there is no folder org/critic here"),
    ],
)
def test_a_model_without_a_contract_is_told_from_one_that_cant_be_found(
    error: Exception, message: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(load, "hf_hub_download", download)
    command = ["score", "-m", "org/critic", str(pairs), "--out", str(tmp_path / "s.jsonl")]
    result = CliRunner().invoke(cli.main, command)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models/grpo", "there is no folder models/grpo: run `make repro`"),
        (
            "http://127.0.0.1:8000/v1",
            "is the address of a server, not a folder or a name on the hub: begin it with http://, and with "
            "`critic score` add --engine http",
        ),
    ],
)
def test_a_model_that_cant_be_on_the_hub_is_explained_without_asking_it(
    model: str, message: str, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pairs.parent)
    monkeypatch.setattr(load, "hf_hub_download", lambda *_, **__: pytest.fail("the hub is asked"))
    for contract in ([], ["--contract", "tiny"]):
        result = CliRunner().invoke(cli.main, ["score", "-m", model, str(pairs), "--out", "s.jsonl", *contract])
        assert result.exit_code == 1
        assert message in " ".join(result.output.split())


@pytest.mark.parametrize("place", ["a folder", "a FIFO", "a file instead of a folder", "/dev/stdout"])
def test_an_output_that_cant_be_written_is_one_line(place: str, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    match place:
        case "a folder":
            out.mkdir()
        case "a FIFO":
            os.mkfifo(out)
        case "a file instead of a folder":
            out = pairs / "s.jsonl"
        case _:
            out = Path(place)
    result = critic(pairs, "--out", out)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    (line,) = (line for line in result.output.splitlines() if line.startswith("Error: "))
    assert str(out) in line
    assert result.output.rstrip().endswith(line)

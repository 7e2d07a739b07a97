"""`critic data`, and `critic eval` and `critic compare` on preferences: what they print, write and refuse."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from critic.cli import main
from critic.evaluation.preferences import OWN
from critic.evaluation.published import load_published

DOCS = (Path(__file__).parents[3] / "docs/evaluate.md").read_text().partition("## Preferences")[2]


def invoke(line: str) -> Result:
    return CliRunner().invoke(main, shlex.split(line))


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the example in docs/evaluate.md."""
    monkeypatch.chdir(tmp_path)
    for name in ("pairs.csv", "scores.csv"):
        shown = re.search(rf"`{name}`:\n\n```\n(.*?)```", DOCS, re.DOTALL)
        assert shown is not None
        Path(name).write_text(shown[1])
    return tmp_path


def test_the_example_of_the_docs_prints_what_they_show(example: Path) -> None:
    shown = re.search(r"```bash\n(critic eval .*)\n```\n```\n([^`]*)```", DOCS)
    assert shown is not None
    result = invoke(shown[1].removeprefix("critic "))
    assert result.exit_code == 0, result.output
    assert result.output.split() == shown[2].split()


def test_figures_are_written_and_failures_told(example: Path) -> None:
    Path("scores.csv").write_text(Path("scores.csv").read_text().replace("sea-elm,1.8", "sea-elm,"))
    result = invoke("eval scores.csv --preferences pairs.csv --train-mean 3 --json out.json")
    assert "7 of 8 edits scored, 1 failed" in result.output and "1 pairs have a failed score; they are wrong" in (
        result.output
    )
    figures = json.loads(Path("out.json").read_text())
    assert figures["figures"][0]["accuracy"] == {"value": 0.5, "low": None, "high": None}
    assert {way: of["value"] for way, of in figures["policies"]["overall"].items()} == {
        "dropped": 0.75,
        "worst": 0.5,
        "train_mean": pytest.approx(2.5 / 3),
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("eval scores.csv", "give either --against or --preferences"),
        ("eval scores.csv --against pairs.csv --preferences pairs.csv", "give either --against or --preferences"),
        ("eval scores.csv --preferences pairs.csv --min-gap 1", "--min-gap needs --against"),
        ("compare scores.csv scores.csv --name a --name b --preferences pairs.csv --metric mae", "--metric needs"),
        ("eval pairs.csv --preferences pairs.csv", "has no column id, score"),
        ("data preferences editreward-compass --out out", "is read from a file: give --from"),
        ("data preferences mmrb2 --from . --revision main --out out", "give either --from or --revision"),
        ("data preferences table --from scores.csv --out out", "has no column source, instruction, edited_a"),
        ("data import . --map pairs.csv --out out", "pairs.csv: Input should be a valid dictionary"),
    ],
)
def test_it_refuses_in_one_line(example: Path, line: str, message: str) -> None:
    result = invoke(line)
    assert result.exit_code and isinstance(result.exception, SystemExit)
    assert message in result.output and not Path("out").exists()


def test_critics_are_compared(example: Path) -> None:
    Path("other.csv").write_text(re.sub(r",.*", ",3", Path("scores.csv").read_text()).replace("id,3", "id,score"))
    result = invoke("compare scores.csv other.csv --preferences pairs.csv --json out.json")
    assert result.exit_code == 0, result.output
    assert re.search(r"scores - other +overall +3 +\+0.333 +n/a +fewer than 10 source images", result.output)
    assert json.loads(Path("out.json").read_text())["differences"][0]["accuracy"]["value"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("benchmark", OWN)
def test_published_figures_are_beside_a_whole_benchmark_alone(example: Path, benchmark: str) -> None:
    size = load_published().benchmarks[benchmark].pairs
    assert size is not None
    for pairs, whole in ((size - 1, False), (size, True)):
        rows = [(f"{n}a", f"{n}b", f"{n}a", f"s{n}", "x", benchmark) for n in range(pairs)]
        columns = ["edited_a", "edited_b", "winner", "source_id", "subtask", "benchmark"]
        pd.DataFrame(rows, columns=columns).to_csv("pairs.csv", index=False)
        ids = [id for row in rows for id in row[:2]]
        pd.DataFrame({"id": ids, "score": [4 - id.endswith("b") for id in ids]}).to_csv("scores.csv", index=False)
        result = invoke("eval scores.csv --preferences pairs.csv --n-boot 100")
        assert result.exit_code == 0, result.output
        beside = result.output.partition("Beside published figures")[2]
        assert ("published  " in beside) == (whole and benchmark != "editreward-compass")
        assert f"[{benchmark}'s]" in result.output
    pd.DataFrame({"id": ids, "score": ["", *[3] * (len(ids) - 1)]}).to_csv("scores.csv", index=False)
    result = invoke("eval scores.csv --preferences pairs.csv --n-boot 100 --failure-policy dropped")
    assert "published  " not in result.output.partition("Beside published figures")[2]


def test_ones_own_pictures_become_edits_and_pairs(
    tmp_path: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("cat", "elm", "oak")):
        Path(f"{name}.png").write_bytes(picture(seed))
    Path("pairs.csv").write_text(
        "source,instruction,edited_a,edited_b,winner\ncat.png,a hat,elm.png,oak.png,elm.png\n"
    )
    result = invoke("data preferences table --from pairs.csv --out prefs")
    assert result.exit_code == 0 and "prefs: 1 pairs of 2 edits from pairs.csv" in result.output, result.output
    result = invoke("judge ssim prefs/edits.parquet --out ssim.jsonl")
    assert result.exit_code == 0, result.output
    result = invoke("eval ssim.jsonl --preferences prefs/pairs.jsonl")
    assert "1 pairs in 1 groups of 1 source images; 2 of 2 edits scored" in result.output


def test_a_mos_set_is_imported(
    tmp_path: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(picture(0))
    Path("all.csv").write_text("s,p,m,part\na.png,a hat,7,train\na.png,a hat,10,test\n")
    columns = "{source: s, edited: s, instruction: p, mos: m, split: part}"
    Path("map.yaml").write_text(f"scale: [1, 10]\ncolumns: {columns}\n")
    result = invoke("data import all.csv --map map.yaml --out out")
    assert (result.exit_code, result.output) == (0, "out: 1 edits in train, 1 edits in test\n")

"""Nothing prints a figure of a test split that leaks source images without saying so.

Each output is cut into the parts that a reader sees together: a line, a table with its caption, a section. Every
part with a figure must have the sentence of `critic.evaluation.leak.Split.leak`. The promotion gate's test is in
tests/critic/release/test_promotion_gate.py, that of the cards in tests/critic/audit/test_cards.py.
"""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from critic.audit.rerun import RerunReport
from critic.cli import main
from critic.evaluation.evaluate import Evaluation, compute_metrics
from critic.evaluation.leak import Split
from critic.evaluation.probing import measure_probes
from critic.evaluation.published import Comparison
from critic.evaluation.report import build_report
from critic.evaluation.sub_scores import measure_sub_scores
from critic.release import registry
from critic.release.git import git
from critic.scoring.judges.image_metrics import BASELINES
from stages import evaluate

ROOT = Path(__file__).parents[1]
OFFICIAL, GIVEN = Split("official", 970, 370, 120), Split("given", 970)
SAID = OFFICIAL.leak
COMPARED = [f"reports/predictions/{name}.parquet" for name in ("sft", "grpo")]
EDITS = 60
FIGURE = re.compile(r"\d\.\d{2}|\bPLCC\b.*\d|main score \d")
OF_TRAINING = ("GRPO training", "Examples", "Generated pictures: AGIQA-3k", "Does it look?")
"""Sections of the report without figures of the test split."""


def edits() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    buffer = BytesIO()
    Image.new("RGB", (24, 24), (200, 90, 40)).save(buffer, format="PNG")
    quality = rng.uniform(1, 5, EDITS)
    return pd.DataFrame(
        {
            "id": [f"e{i:02}" for i in range(EDITS)],
            "source_id": [f"s{i // 2:02}" for i in range(EDITS)],
            "images": [[{"bytes": buffer.getvalue(), "path": None}] * 2] * EDITS,
            "instruction": "make it red",
            "mos": quality,
            "mos_alignment": quality,
            "edit_type": ["colour", "add"] * (EDITS // 2),
            "ratings": list(np.clip(quality[:, None] + rng.normal(0, 0.7, (EDITS, 4)), 1, 5)),
        }
    )


def answers(table: pd.DataFrame, noise: float, seed: int) -> pd.DataFrame:
    scores = (table["mos"] + np.random.default_rng(seed).normal(0, noise, EDITS)).clip(1, 5).round(2)
    return pd.DataFrame(
        {
            "id": table["id"],
            "score": scores.astype("Float64"),
            "status": "ok",
            "reasoning": "Fine.",
            "response": [f"<think>Fine.</think><answer>{score}</answer>" for score in scores],
            "alignment": scores.astype("Float64"),
        }
    )


TABLE = edits()
PREDICTIONS = {
    "base": answers(TABLE, 2.5, 1),
    "sft": answers(TABLE, 1.5, 2),
    "grpo": answers(TABLE, 0.4, 3),
}
BASELINE = pd.DataFrame(np.random.default_rng(4).normal(size=(EDITS, len(BASELINES))), columns=list(BASELINES))
EVALUATION: Evaluation = compute_metrics(
    PREDICTIONS, BASELINE.assign(id=TABLE["id"]), TABLE, train_mean=3, n_boot=50
)


STATED = measure_sub_scores(PREDICTIONS, TABLE, n_boot=50)
PROBED = [f"{name}:{n}" for n in range(12) for name in ("unchanged", "black")]
PROBING = measure_probes(dict.fromkeys(PROBED, 3.0), PROBED, [id.partition(":")[2] for id in PROBED], n_boot=50)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `evaluate` ran on IE-Bench-4k, with its published split."""
    own = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(own.replace("profile: tiny", "profile: full"))
    (tmp_path / "data/validated").mkdir(parents=True)
    (tmp_path / "reports").mkdir()
    TABLE.to_parquet(tmp_path / "data/validated/test.parquet")
    (tmp_path / "data/raw").mkdir()
    TABLE.to_parquet(tmp_path / "data/raw/test.parquet")
    leak = {"edits": OFFICIAL.leaked, "sources": OFFICIAL.sources}
    found = {"splits": {"test": {"edits": OFFICIAL.edits}}, "split": {"name": "official", "leak": leak}}
    (tmp_path / "data/validation.json").write_text(json.dumps(found))
    monkeypatch.chdir(tmp_path)
    written(OFFICIAL)
    return tmp_path


def written(split: Split) -> None:
    validation = pd.DataFrame({"step": [0, 10], "main_score": [0.5, 0.6]})
    evaluate.write_predictions(PREDICTIONS, TABLE, {})
    evaluate.write(PREDICTIONS, EVALUATION, TABLE, split, validation, page(split), {}, STATED, PROBING)


def published(split: Split) -> list[Comparison]:
    return evaluate.beside_published(PREDICTIONS, TABLE, split, {})


def page(split: Split) -> str:
    return build_report(
        EVALUATION,
        PREDICTIONS,
        TABLE,
        training=pd.DataFrame(),
        validation=pd.DataFrame(),
        meta={},
        split=split,
        published=published(split),
        sub_scores=STATED,
        probing=PROBING,
    )


class Parts(HTMLParser):
    """The text of a page's title, header and sections, each by its heading, and of each figure."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.open: list[int] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("title", "header", "section", "figure"):
            self.open.append(len(self.parts))
            self.parts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("title", "header", "section", "figure"):
            self.open.pop()

    def handle_data(self, data: str) -> None:
        for part in self.open:
            self.parts[part] += data


def parts_of_page(html: str) -> Iterator[str]:
    for part in Parts(html).parts:
        if not part.strip().startswith(OF_TRAINING):
            yield part


def parts_of_tables(output: str) -> list[str]:
    """What `critic eval` and `compare` print: the first line, each table with its note, the last lines."""
    first, *tables = re.split("─{5,}", output)
    return [first.split("\n\n")[0] if "main score" in first else "", *tables]


def unsaid(parts: Iterator[str] | list[str]) -> list[str]:
    """The parts that have a figure and don't say that it leaks."""
    return [part for part in parts if FIGURE.search(part) and SAID not in " ".join(part.split())]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, [*arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_this_test_finds_a_figure_without_the_sentence() -> None:
    assert unsaid(["main score 0.81"]) and not unsaid([f"main score 0.81 {SAID}"]) and not unsaid(["no figure"])
    assert len(unsaid(parts_of_page(page(GIVEN)))) == 5  # title, header, and the sections with tables


def test_metrics_json_says_it_beside_the_metrics_of_each_model(checkout: Path) -> None:
    metrics = json.loads((checkout / "reports/metrics.json").read_text())
    assert {*metrics} == {*PREDICTIONS}
    assert not unsaid([json.dumps(model) for model in metrics.values()])
    assert metrics["grpo"]["split"]["leak"] == {"edits": 370, "sources": 120, "same_edits": 0}


def test_sub_scores_json_says_it(checkout: Path) -> None:
    assert SAID in json.loads((checkout / "reports/sub_scores.json").read_text())["split"]["note"]


def test_the_tables_behind_the_plots_say_it_in_each_row(checkout: Path) -> None:
    for name in ("predictions", "groups"):
        lines = (checkout / f"reports/plots/{name}.csv").read_text().splitlines()[1:]
        assert lines and not unsaid(lines)
    assert SAID not in (checkout / "reports/plots/validation.csv").read_text()


def test_the_report_says_it_in_the_title_the_headline_and_at_each_table_and_figure(checkout: Path) -> None:
    html = (checkout / "reports/report.html").read_text()
    found = [*parts_of_page(html)]
    assert len(found) >= 10  # title, header, six sections, figures
    assert not unsaid(found)
    assert all(SAID in part for part in re.findall("<figure>.*?</figure>", html, re.DOTALL))
    assert "unseen" not in html


def test_the_stage_prints_it_with_each_figure(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.show(EVALUATION, OFFICIAL)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and not unsaid(lines)


@pytest.mark.parametrize("table", ["data/validated/test.parquet", "data/raw/test.parquet"])
def test_eval_prints_and_writes_it(checkout: Path, table: str) -> None:
    options = ("--against", table, "--train-mean", "3", "--n-boot", "100")
    more = ("--json", "eval.json", "--html", "eval.html", "--published", "ie-bench-4k")
    output = run("eval", "reports/predictions/grpo.parquet", *options, *more)
    assert len(parts_of_tables(output)) >= 5
    assert not unsaid(parts_of_tables(output))
    assert json.loads((checkout / "eval.json").read_text())["split"]["note"] == SAID
    assert not unsaid(parts_of_page((checkout / "eval.html").read_text()))


@pytest.mark.parametrize("table", ["data/validated/test.parquet", "data/raw/test.parquet"])
def test_compare_prints_and_writes_it(checkout: Path, table: str) -> None:
    options = ("--against", table, "--n-boot", "100", "--json", "compare.json")
    output = run("compare", *COMPARED, *options)
    assert len(parts_of_tables(output)) == 5
    assert not unsaid(parts_of_tables(output))
    assert json.loads((checkout / "compare.json").read_text())["split"]["note"] == SAID


@pytest.mark.parametrize("command", [("eval", "reports/predictions/grpo.parquet"), ("compare", *COMPARED)])
def test_a_table_that_is_not_the_projects_is_said_once_to_be_unknown(
    checkout: Path, command: tuple[str, ...]
) -> None:
    TABLE.to_parquet("study.parquet")
    output = " ".join(run(*command, "--against", "study.parquet", "--n-boot", "100").split())
    assert output.count("isn't known whether study.parquet shares source images with") == 1
    assert "isn't known" not in run(*command, "--against", "data/validated/test.parquet", "--n-boot", "100")


@pytest.mark.parametrize("command", [("eval", "reports/predictions/grpo.parquet"), ("compare", *COMPARED)])
def test_no_figure_without_a_report_of_the_split(checkout: Path, command: tuple[str, ...]) -> None:
    (checkout / "data/validation.json").unlink()
    result = CliRunner().invoke(main, [*command, "--against", "data/raw/test.parquet"])
    assert result.exit_code == 1 and "run `dvc repro validate`" in result.output
    assert not FIGURE.search(result.output)


def test_the_list_of_releases_says_it(checkout: Path) -> None:
    git(checkout, "init", "--quiet", "--initial-branch", "main")
    git(checkout, "config", "user.name", "Ann")
    git(checkout, "config", "user.email", "ann@example.org")
    git(checkout, "add", "params.yaml", "reports/metrics.json")
    git(checkout, "commit", "--quiet", "-m", "Train")
    registry.register(checkout, "v1.0.0", git(checkout, "rev-parse", "HEAD"), "Better")
    (row,) = json.loads(run("releases", "--json"))
    assert row["test_split"] == SAID
    shown = " ".join(run("releases").split())
    assert f"{row['main_score']:.3f}" in shown and "leaks source" in shown


def test_a_rerun_says_it_beside_the_scores() -> None:
    report = RerunReport("reproduced", None, "all are identical", (), {"grpo": (0.8123, 0.8124)}, 0.05, (), SAID)
    assert not unsaid(report.markdown().splitlines())


def test_without_a_leak_metrics_json_and_the_plots_have_nothing_new(checkout: Path) -> None:
    written(GIVEN)
    metrics: dict[str, Any] = json.loads((checkout / "reports/metrics.json").read_text())
    assert all(
        {*estimate} == {"value", "low", "high"} for model in metrics.values() for estimate in model.values()
    )
    for path in (checkout / "reports/plots").glob("*.csv"):
        assert "split" not in path.read_text()
    html = (checkout / "reports/report.html").read_text()
    assert "leak" not in html.split("Beside published figures")[0] and "unseen edits" in html


def test_edits_of_a_split_that_is_not_known_are_not_called_unseen() -> None:
    report = build_report(
        EVALUATION,
        PREDICTIONS,
        TABLE,
        training=pd.DataFrame(),
        validation=pd.DataFrame(),
        meta={},
    )
    assert "60 test edits" in report and "unseen" not in report


def test_the_report_has_the_published_figures_of_this_benchmark_alone(checkout: Path) -> None:
    section = Parts(page(OFFICIAL)).parts
    (beside,) = [part for part in section if part.strip().startswith("Beside published figures")]
    for part in ("0.869", "IE-Critic-R1, published", "chosen on the test split", "not comparable", "SFT"):
        assert part in beside
    (other,) = published(Split("by_source", 970))
    assert not other.rows and "ours is by_source" in other.not_comparable[0]
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("profile: full", "profile: tiny"))
    assert published(GIVEN) == [] and "published" not in page(GIVEN)

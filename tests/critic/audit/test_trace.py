"""A lineage as a tree, a chart and a page."""

from io import StringIO
from pathlib import Path

import pytest
from audited import write_answer
from click.testing import CliRunner
from rich.console import Console

from critic.audit import manifests, trace
from critic.audit.resolve import find
from critic.cli import main


def test_the_tree_the_chart_and_the_page_name_each_stage(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    runner = CliRunner()
    tree = runner.invoke(main, ["audit", "trace", "models/grpo"]).output
    assert "requirements/cpu.txt" in tree, "cut to the width of a terminal"
    chart = runner.invoke(main, ["audit", "trace", "models/grpo", "--mermaid"]).output
    assert runner.invoke(main, ["audit", "trace", "models/grpo", "--html", "page.html"]).exit_code == 0
    for stage in ("download", "validate", "build", "sft", "grpo"):
        assert f"stage {stage}" in tree and f'(["{stage}"])' in chart
        assert manifests.read(checkout, stage).sha256 in (checkout / "page.html").read_text()


def test_a_card_leads_to_manifests_and_what_they_are_of(checkout: Path) -> None:
    page = trace.as_html(find(checkout, "reports/cards/model.md"))
    assert "reports/provenance/grpo.json" in page and "data/ratings" in page


def test_markup_in_an_answer_is_escaped(checkout: Path, tmp_path: Path) -> None:
    path = write_answer(checkout, tmp_path / "answer.json", id="cat[/b]")
    shown = StringIO()
    Console(file=shown, width=200).print(trace.as_tree(find(checkout, str(path))))
    assert "cat[/b]" in shown.getvalue()

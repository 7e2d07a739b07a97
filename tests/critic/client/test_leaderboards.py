"""The blocks of docs/leaderboards.md: EvalScope's protocol, re-enacted, gets its scores; folders become tables.

The harnesses, as they were read: evalscope 1.14.1; stepfun-ai/Step1X-Edit 570eba6;
bxhsort/Edit-Compass-and-EditReward-Compass 6ee6caa.
"""

import base64
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import datasets
import pandas as pd
import pytest
from PIL import Image

from critic.client import BadInput
from critic.evaluation import score_tables
from critic.results import Result
from critic.scoring.inputs import read_pairs

PAGE = (Path(__file__).parents[3] / "docs/leaderboards.md").read_text()
EVALSCOPE, GEDIT, BY_TASK, COMPASS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def picture(path: Path, red: int) -> Path:
    """A picture to which the test service gives 1 + red / 60 points, and none if red is 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (red, 0, 0)).save(path)
    return path


@pytest.fixture
def benchmark(service: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The block's benchmark, with stand-ins of what it imports of EvalScope."""
    names = re.findall(r"^from (evalscope[\w.]*) import", EVALSCOPE, re.MULTILINE)
    modules = {name: MagicMock() for name in names}
    modules["evalscope.api.metric"].Score = modules["evalscope.api.metric"].JudgeSummary = SimpleNamespace
    modules["evalscope.api.registry"].register_benchmark = lambda meta: lambda adapter: adapter
    modules["evalscope.benchmarks.image_edit.gedit.gedit_adapter"].GEditAdapter = object
    modules["evalscope.constants"].ScoreStatus = SimpleNamespace(SUCCESS="success", EXCLUDED="excluded")
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    block: dict[str, Any] = {"__name__": "gedit_critic"}
    exec(EVALSCOPE.replace("http://127.0.0.1:3000", service.url), block)
    yield block["GEditByCritic"]()
    block["critic"].close()


def test_evalscope_gets_a_score_or_an_excluded_edit(service: Any, benchmark: Any, tmp_path: Path) -> None:
    source = base64.b64encode(picture(tmp_path / "source.png", 1).read_bytes()).decode()

    def score(edited: Path) -> Any:
        metadata = {"input_image": f"data:image/png;base64,{source}", "instruction": "go red"}
        metadata["image_path"] = str(edited)
        return benchmark.match_score("", "", "", SimpleNamespace(metadata=metadata))

    scored = score(picture(tmp_path / "a.png", 60))
    assert (scored.value, scored.status, scored.judge_summary.coverage) == ({"critic": 2.0}, "success", 1.0)
    assert service.bodies[0]["pairs"][0]["instruction"] == "go red"
    failed = score(picture(tmp_path / "b.png", 0))
    assert (failed.value, failed.status, failed.judge_summary.scored) == ({}, "excluded", 0)
    assert failed.judge_summary.failures == {"no_answer": 1}
    with pytest.raises(BadInput, match="No such file"):
        score(tmp_path / "gone.png")


def test_a_folder_of_gedit_bench_becomes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [
        {"key": key, "task_type": task, "instruction": f"{language} {key}", "instruction_language": language}
        for key, task in (("k1", "color_alter"), ("k2", "text_change"), ("k3", "text_change"))
        for language in ("en", "cn")
    ]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: datasets.Dataset.from_list(asked))
    for editor, keys in (("elm", ("k1", "k2", "k3")), ("oak", ("k1", "k2"))):
        for key in keys:
            task = "color_alter" if key == "k1" else "text_change"
            for name in (key, f"{key}_SRCIMG"):
                picture(tmp_path / "results" / editor / "fullset" / task / "en" / f"{name}.png", 60)
    block: dict[str, Any] = {}
    exec(GEDIT, block)

    *made, missing = read_pairs(tmp_path / "pairs.csv")
    assert [edit.instruction for edit in made] == ["en k1", "en k2", "en k3", "en k1", "en k2"]
    assert "k3.png can't be read" in missing.detail or "k3_SRCIMG.png can't be read" in missing.detail
    known = score_tables.read_pairs(tmp_path / "pairs.csv", "editor")
    assert [*known["source_id"]] == ["k1", "k2", "k3"] * 2 and [*known["editor"]] == ["elm"] * 3 + ["oak"] * 3

    scores = {"elm-k1": 5.0, "elm-k2": 1.0, "elm-k3": 2.0, "oak-k1": 3.0, "oak-k2": 4.0}
    lines = [Result(id, score, "ok").to_json() for id, score in scores.items()]
    Path("scores.jsonl").write_text("".join(f"{line}\n" for line in lines))
    Path("scores.failures.jsonl").write_text(Result("oak-k3", None, "bad_input").to_json() + "\n")
    exec(BY_TASK.replace("by_task.mean(), table", "means, coverage = by_task.mean(), table"), block)
    assert block["means"].to_dict() == {"elm": (5.0 + 1.5) / 2, "oak": 3.5}
    assert block["coverage"].to_dict() == pytest.approx({"elm": 1.0, "oak": 2 / 3})


def test_a_folder_of_edit_compass_becomes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "Edit-Compass-data/Part1/ADD/images/1.png", 1)
    left_out = ("Part5/Virtual_Try_On", "Part6/Complex_Paint_en")
    for task in ("Part1/ADD", "Part4/Word", "Part6/Complex_Instruction", *left_out):
        folder = tmp_path / "results/elm/en" / task
        picture(folder / "7.png", 60)
        item = {"save_id": 7, "source_image": "Part1/ADD/images/1.png", "prompt_en": "go red", "prompt_cn": "-"}
        (folder / f"{folder.name}.json").write_text(json.dumps([item]))
        (folder / f"{folder.name}_IF.json").write_text("[]")
    exec(COMPASS, {})
    assert [*pd.read_csv("pairs.csv")["id"]] == ["elm-ADD-7", "elm-Word-7", "elm-Complex_Instruction-7"]
    assert {edit.instruction for edit in read_pairs(tmp_path / "pairs.csv")} == {"go red"}

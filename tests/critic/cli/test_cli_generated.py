"""Generated pictures, as AGIQA-3k is, from `critic score` to `critic eval` and `critic compare`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from critic import cli
from critic.cli import scoring
from critic.edits import GENERATED_AXES, GENERATED_COLUMNS, edits_from_table
from critic.engines import load
from critic.engines import transformers as local
from critic.engines.base import Completion
from critic.evaluation.bootstrap import jsonable
from critic.evaluation.evaluate import measure_generated
from critic.prompts import CONTRACTS, load_contract
from critic.scoring.scorer import Scorer, predict
from critic.tables import read_parquet, write_parquet

BASE = Path(__file__).parents[3] / "assets/tiny-base"
PICTURES = 40
FAILING = 7


@pytest.fixture(autouse=True)
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny base can't answer: its scores depend on the prompt's length, and every seventh is missing."""
    complete = local.TransformersEngine._batch

    def _batch(self: local.TransformersEngine, requests: object, *given: object) -> list[Completion]:
        return [
            Completion(
                f"Fine.</think>\n<answer>{1 + done.prompt_tokens % 41 / 10:.1f}</answer>"
                if done.prompt_tokens % FAILING
                else "Fine.",
                done.tokens,
                True,
                done.prompt_tokens,
            )
            for done in complete(self, requests, *given)  # type: ignore[arg-type]
        ]

    monkeypatch.setattr(local.TransformersEngine, "_batch", _batch)


@pytest.fixture
def agiqa(tmp_path: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A validated table of pictures, two of each prompt, and a contract with a text for them."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "id": [f"p{number:02}.jpg" for number in range(PICTURES)],
            "image": [{"bytes": picture(n, 56 + 28 * (n % 3)), "path": f"p{n:02}.jpg"} for n in range(PICTURES)],
            "prompt": [f"a red cat {'on a mat ' * (number // 2)}" for number in range(PICTURES)],
            "mos_quality": rng.uniform(0, 5, PICTURES),
            "mos_alignment": rng.uniform(0, 5, PICTURES),
        }
    )
    write_parquet(table, tmp_path / "agiqa.parquet", GENERATED_COLUMNS)
    words = (CONTRACTS / "tiny.yaml").read_text() + '\ngenerated_text: "Picture: {prompt}. {request}"\n'
    (tmp_path / "words.yaml").write_text(words)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "agiqa.parquet"


def critic(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [*map(str, arguments)], terminal_width=100)


def score(*arguments: object, contract: str = "words.yaml") -> Result:
    how = ("--engine", "transformers", "--contract", contract, "--max-tokens", 4)
    return critic("score", "-m", BASE, *how, *arguments)


@pytest.mark.parametrize("policy", ["dropped", "worst", "train_mean"])
def test_the_commands_give_the_figures_of_the_evaluate_stage(agiqa: Path, policy: str) -> None:
    table, contract = read_parquet(agiqa), load_contract("words.yaml")
    engine = load.open_engine("transformers", str(BASE), contract, max_tokens=4)
    predictions = predict(Scorer(engine, contract), edits_from_table(table), total=PICTURES, batch_size=9)
    assert 0 < predictions["score"].isna().sum() < PICTURES / 2
    how = {"train_mean": 3.2, "failure_policy": policy, "n_boot": 100, "seed": 7}
    by_stage = measure_generated({"base": predictions}, table, **how)["base"]  # type: ignore[arg-type]

    result = score(agiqa, "--out", "agiqa.jsonl")
    assert result.exit_code == 1, result.output
    assert f"{predictions['score'].notna().sum()} scored" in result.output
    boot = ("--policy", policy, "--train-mean", 3.2, "--n-boot", 100, "--seed", 7)
    for axis, column in GENERATED_AXES.items():
        result = critic(
            "eval", "agiqa.jsonl", "--against", agiqa, "--mos-column", column, *boot, "--json", "f.json"
        )
        assert result.exit_code == 0, result.output
        figures = json.loads(Path("f.json").read_text())["metrics"]
        assert figures.keys() == by_stage[axis].keys()
        for metric, figure in jsonable(by_stage[axis]).items():
            assert figures[metric] == pytest.approx(figure, rel=1e-12, abs=1e-15), metric


def test_nothing_is_said_in_points_of_another_scale(agiqa: Path) -> None:
    score(agiqa, "--out", "agiqa.jsonl")
    against = ("--against", agiqa, "--mos-column", "mos_quality", "--n-boot", 100)
    output = critic("eval", "agiqa.jsonl", *against).output
    assert "on 40 pictures of 20 prompts" in " ".join(output.split())
    assert "pairs of one prompt" in output
    assert not any(word in output for word in ("MAE", "RMSE", "Calibration", "By MOS", "points"))
    for ending in ("jsonl", "failures.jsonl"):
        shutil.copy(f"agiqa.{ending}", f"again.{ending}")
    output = critic("compare", "agiqa.jsonl", "again.jsonl", *against).output
    assert "not significant" in output and "Closer to the MOS" not in output
    refused = critic("compare", "agiqa.jsonl", "again.jsonl", *against, "--metric", "mae")
    assert refused.exit_code == 1
    assert "mae is in points, and these MOS have another scale" in refused.output


def test_one_picture_is_scored_and_shown(agiqa: Path, picture: Callable[..., bytes]) -> None:
    Path("cat.png").write_bytes(picture(0, 56))
    result = score("--image", "cat.png", "--prompt", "a red cat")
    assert " of 5 (greedy)" in result.output, result.output
    assert "the prompt is empty" in score("--image", "cat.png", "--prompt", " ").output


def test_a_contract_without_words_for_pictures_is_told_before_the_critic_is_loaded(
    agiqa: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "open_engine", None)
    Path("cat.png").write_bytes(picture(0, 56))
    for given in ((agiqa, "--out", "s.jsonl"), ("--image", "cat.png", "--prompt", "a red cat")):
        result = score(*given, contract="tiny")
        assert result.exit_code == 1
        assert "contract tiny has no `generated_text`" in result.output
    assert not Path("s.jsonl").exists()


@pytest.mark.parametrize(
    "line",
    [
        ["--image", "cat.png"],
        ["--image", "cat.png", "--prompt", "a cat", "--instruction", "x"],
        ["agiqa.parquet", "--out", "s.jsonl", "--prompt", "a cat"],
    ],
)
def test_parts_that_dont_go_together_are_told(agiqa: Path, line: list[str]) -> None:
    result = score(*line)
    assert result.exit_code == 2
    assert "--image and --prompt" in " ".join(result.output.split())


def test_other_judges_judge_edits_alone(agiqa: Path) -> None:
    result = critic("judge", "psnr", agiqa, "--out", "s.jsonl")
    assert result.exit_code == 1
    assert "these judges score edits only" in " ".join(result.output.split())


def test_a_table_without_mos_tells_of_the_option(agiqa: Path) -> None:
    score(agiqa, "--out", "agiqa.jsonl")
    output = " ".join(critic("eval", "agiqa.jsonl", "--against", agiqa).output.split())
    assert "has no column mos; it has id, image, prompt, mos_quality, mos_alignment: rename your columns" in output
    assert "or name that of the MOS by --mos-column" in output

"""The critic that comes with the repository is the one of the pipeline's record, and works at once."""

import json
from pathlib import Path

import pytest
import yaml

from critic import Critic
from critic.service.packaging import dvc_hash

ROOT = Path(__file__).parents[1]
CRITIC = ROOT / "assets/tiny-critic"
EXAMPLES = ROOT / "critic/service/web/examples"


def test_it_is_the_critic_of_the_record() -> None:
    outs = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]["grpo"]["outs"]
    (recorded,) = [out["md5"] for out in outs if out["path"] == "models/grpo"]
    assert dvc_hash(CRITIC) == recorded, (
        "dvc.lock has another critic: rm -r assets/tiny-critic && cp -r models/grpo assets/tiny-critic"
    )


@pytest.mark.slow
def test_five_lines_of_python_score_a_pair_of_the_repository(caplog: pytest.LogCaptureFixture) -> None:
    with Critic.load(CRITIC) as critic:
        for example in json.loads((EXAMPLES / "examples.json").read_text()):
            folder = EXAMPLES / example["id"]
            result = critic.score(folder / "source.png", folder / "edited.png", example["instruction"])
            assert result.ok and {*result.sub_scores} == {"alignment", "fidelity", "quality"}, result
    assert "has seen drawn shapes alone" in caplog.text

"""EditReward (arXiv 2509.26346), with the class `EditRewardInferencer` of its repository, which is optional.

    judge = EditRewardJudge("checkpoints/EditReward-Qwen2.5-7B-VL", config="config/EditReward-Qwen2.5-7B-VL.yaml")

Its reward has no range: it was trained on preferences. The model gives two numbers, the mean of the reward, which
is the score, and its uncertainty; `raw` keeps both as "outputs".
"""

from math import inf
from typing import TYPE_CHECKING

import click

from critic.results import Failure, Result
from critic.scoring.judges import Judge, JudgeError, Kind, Scale, imported

if TYPE_CHECKING:
    from critic.edits import Edit


class EditRewardJudge(Judge):
    """An EditReward checkpoint, on a GPU if there is one. One edit at a time, so that no batch changes a score."""

    scale = Scale(-inf, inf)

    def __init__(self, model: str, *, config: str):
        """Load a folder with model.safetensors or model.pth, with the .yaml file of its training.

        Raises:
            JudgeError: the repository can't be imported or can't load the checkpoint.
        """
        import torch

        inferencer = imported(
            "EditReward",
            "EditRewardInferencer",
            "clone https://github.com/TIGER-AI-Lab/EditReward, install what its README lists, and put the clone "
            "on PYTHONPATH",
        )
        try:
            self._inferencer = inferencer(
                config_path=config,
                checkpoint_path=model,
                device="cuda" if torch.cuda.is_available() else "cpu",
                reward_dim="overall_detail",
                rm_head_type="ranknet_multi_head",
            )
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise JudgeError(f"EditReward can't load {model} with {config}: {error}") from error
        self.name, self.settings = f"editreward:{model}", {"config": config}

    def judge(self, edit: "Edit") -> Result:
        import torch

        try:
            with torch.no_grad():
                (reward,) = self._inferencer.reward(
                    prompts=[edit.instruction], image_src=[edit.pair[0]], image_paths=[edit.edited]
                )
            outputs = reward.tolist()
            native = outputs[0]
        except Exception as error:  # their code raises any exception for an edit that it can't handle
            return self.failure(
                edit.id, Failure.SERVER_ERROR, f"EditReward raised {type(error).__name__}: {error}"
            )
        return self.result(edit.id, native, extra={"outputs": outputs})


_OPTIONS = [
    click.Option(["-m", "--model"], required=True, help="A folder with model.safetensors or model.pth."),
    click.Option(["--config"], required=True, help="The repository's .yaml file that the model was trained with."),
]
JUDGES = {
    "editreward": Kind(
        "EditReward, from a clone of its repository (installed separately).",
        EditRewardJudge.scale,
        EditRewardJudge,
        _OPTIONS,
    )
}

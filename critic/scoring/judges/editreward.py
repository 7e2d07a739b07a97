"""EditReward (arXiv 2509.26346), by the class `EditRewardInferencer` of its repository, which is optional.

    judge = EditRewardJudge("checkpoints/EditReward-Qwen2.5-7B-VL", config="config/EditReward-Qwen2.5-7B-VL.yaml")

Its reward has no ends: it was learnt from preferences. The model gives two numbers, the mean of the reward, which
is the score, and how uncertain it is; `raw` keeps both as "outputs".
"""

from collections.abc import Sequence

import torch

from critic.edits import Edit
from critic.results import Failure, Result
from critic.scoring.judges import SCALES, JudgeError, borrowed, judged, unjudged


class EditRewardJudge:
    """An EditReward checkpoint, on the GPU if there is one; one edit at a time, so no batch changes a score."""

    scale = SCALES["editreward"]

    def __init__(self, checkpoint: str, *, config: str):
        """Load it.

        Args:
            checkpoint: a folder with model.safetensors or model.pth.
            config: the .yaml file of the repository that the checkpoint was trained with.

        Raises:
            JudgeError: the repository can't be imported, or can't load the checkpoint.
        """
        inferencer = borrowed(
            "EditReward",
            "EditRewardInferencer",
            "clone https://github.com/TIGER-AI-Lab/EditReward, install what its README lists, and put the clone "
            "on PYTHONPATH",
        )
        try:
            self._inferencer = inferencer(
                config_path=config,
                checkpoint_path=checkpoint,
                device="cuda" if torch.cuda.is_available() else "cpu",
                reward_dim="overall_detail",
                rm_head_type="ranknet_multi_head",
            )
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise JudgeError(f"EditReward can't load {checkpoint} by {config}: {error}") from error
        self.name = f"editreward:{checkpoint}"

    def __call__(self, edits: Sequence[Edit]) -> list[Result]:
        return [self._judge(edit) for edit in edits]

    def _judge(self, edit: Edit) -> Result:
        try:
            with torch.no_grad():
                (reward,) = self._inferencer.reward(
                    prompts=[edit.instruction], image_src=[edit.pair[0]], image_paths=[edit.edited]
                )
            outputs = reward.tolist()
            native = outputs[0]
        except Exception as error:  # whatever an edit that it can't handle leads it to
            detail = f"EditReward raised {type(error).__name__}: {error}"
            return unjudged(self, edit.id, Failure.SERVER_ERROR, detail)
        return judged(self, edit.id, native, said={"outputs": outputs})

"""EditScore (arXiv 2509.23909), with the class of that name in the package `editscore` (0.2), which is optional.

    judge = EditScoreJudge("EditScore/EditScore-7B", base="Qwen/Qwen2.5-VL-7B-Instruct", backbone="qwen25vl")

It gives 0..10, whatever range its model is asked for, as sqrt(min(SC) min(PQ)), from samples with its own
temperature and seed. If it can't read its model's answer it draws a random score, and says so only in the texts
that it returns for the last pass. This judge therefore makes one pass, and such a score becomes a failure. Repairs
of a malformed answer can't be distinguished from the original text.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from critic.answers import Status
from critic.results import Failure, Result
from critic.scoring.judges import Judge, JudgeError, Kind, Scale, imported

if TYPE_CHECKING:
    from critic.edits import Edit

Backbone = Literal["qwen25vl", "qwen25vl_vllm", "qwen3vl", "qwen3vl_vllm"]

_SUB_SCORES = {"alignment": "prompt_following", "fidelity": "consistency", "quality": "perceptual_quality"}
_TEXTS = ("SC_reasoning", "PQ_reasoning")
_GUESSED = "guess_if_cannot_parse"


class EditScoreJudge(Judge):
    """An EditScore checkpoint on its base model, which the package loads; one edit at a time."""

    scale = Scale(0, 10)

    def __init__(self, model: str, *, base: str, backbone: Backbone):
        """Load the LoRA weights `model` (a folder or a name on the hub) on the model that they were trained on.

        `backbone` is the package's name for the family of `base` and its engine.

        Raises:
            JudgeError: the package isn't installed or can't load the checkpoint.
        """
        scorer = imported("editscore", "EditScore", "pip install editscore, and the engine of the backbone")
        try:
            self._scorer = scorer(
                backbone=backbone, model_name_or_path=base, lora_path=model, score_range=25, num_pass=1
            )
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise JudgeError(f"EditScore can't load {model} on {base} as {backbone}: {error}") from error
        self.name, self.settings = f"editscore:{model}", {"base": base, "backbone": backbone}

    def judge(self, edit: "Edit") -> Result:
        try:
            answer = self._scorer.evaluate([*edit.pair], edit.instruction)
        except Exception as error:  # their code raises any exception for an answer that it can't handle
            return self.failure(edit.id, Failure.SERVER_ERROR, f"EditScore raised {type(error).__name__}: {error}")
        wanted = ("overall", *_SUB_SCORES.values(), *_TEXTS)
        if missing := [name for name in wanted if not isinstance(answer, Mapping) or name not in answer]:
            detail = f"EditScore's answer has no {', '.join(missing)}: this judge supports editscore 0.2"
            return self.failure(edit.id, Failure.GARBLED, detail, raw=repr(answer))
        texts = "\n".join(str(answer[name]) for name in _TEXTS)
        if any(str(answer[name]).startswith(_GUESSED) for name in _TEXTS):
            detail = "EditScore couldn't read its model's answer, and drew a random score"
            return self.failure(edit.id, Status.NO_ANSWER, detail, raw=texts)
        subs: dict[str, Any] = {axis: answer[name] for axis, name in _SUB_SCORES.items()}
        return self.result(edit.id, answer["overall"], subs, answer, reasoning=texts)


_OPTIONS = [
    click.Option(["-m", "--model"], default="EditScore/EditScore-7B", help="A folder or a name on the hub."),
    click.Option(["--base"], default="Qwen/Qwen2.5-VL-7B-Instruct", help="The checkpoint's base model."),
    click.Option(
        ["--backbone"],
        type=click.Choice(get_args(Backbone)),
        default="qwen25vl",
        help="The base's family and its engine.",
    ),
]
JUDGES = {
    "editscore": Kind(
        "EditScore, from the package editscore (installed separately).",
        EditScoreJudge.scale,
        EditScoreJudge,
        _OPTIONS,
    )
}

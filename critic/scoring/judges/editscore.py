"""EditScore (arXiv 2509.23909), by the class of that name in the package `editscore` (0.2), which is optional.

    judge = EditScoreJudge("EditScore/EditScore-7B", base="Qwen/Qwen2.5-VL-7B-Instruct", backbone="qwen25vl")

It gives 0..10 whatever the range that its model is asked for, as sqrt(min(SC) min(PQ)), from samples at its own
temperature and seed. Where it can't read its model's answer it takes a random score, and says so only in the words
that it returns of the last pass: so there is one pass here, and such a score becomes a failure. What it repairs of
a malformed answer can't be told from what was written.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from critic.answers import Status
from critic.results import Failure, Result
from critic.scoring.judges import SCALES, JudgeError, borrowed, judged, unjudged

if TYPE_CHECKING:
    from critic.edits import Edit

Backbone = Literal["qwen25vl", "qwen25vl_vllm", "qwen3vl", "qwen3vl_vllm"]
BACKBONES: tuple[Backbone, ...] = get_args(Backbone)

_SUB_SCORES = {"alignment": "prompt_following", "fidelity": "consistency", "quality": "perceptual_quality"}
_WORDS = ("SC_reasoning", "PQ_reasoning")
_GUESSED = "guess_if_cannot_parse"


class EditScoreJudge:
    """An EditScore checkpoint on its base model, which the package loads; one edit at a time."""

    scale = SCALES["editscore"]

    def __init__(self, checkpoint: str, *, base: str, backbone: Backbone):
        """Load it.

        Args:
            checkpoint: the LoRA weights, a folder or a name on the hub.
            base: what they were trained on.
            backbone: the family of `base`, and what runs it, as the package calls them.

        Raises:
            JudgeError: the package isn't there, or can't load the checkpoint.
        """
        scorer = borrowed("editscore", "EditScore", "pip install editscore, and what runs the backbone")
        try:
            self._scorer = scorer(
                backbone=backbone, model_name_or_path=base, lora_path=checkpoint, score_range=25, num_pass=1
            )
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise JudgeError(f"EditScore can't load {checkpoint} on {base} as {backbone}: {error}") from error
        self.name = f"editscore:{checkpoint}"

    def __call__(self, edits: "Sequence[Edit]") -> list[Result]:
        return [self._judge(edit) for edit in edits]

    def _judge(self, edit: "Edit") -> Result:
        try:
            said = self._scorer.evaluate([*edit.pair], edit.instruction)
        except Exception as error:  # whatever an answer that it can't handle leads it to
            detail = f"EditScore raised {type(error).__name__}: {error}"
            return unjudged(self, edit.id, Failure.SERVER_ERROR, detail)
        if missing := _missing(said):
            detail = f"EditScore gave no {', '.join(missing)}: this was made for editscore 0.2"
            return unjudged(self, edit.id, Failure.GARBLED, detail, raw=repr(said))
        words = "\n".join(str(said[name]) for name in _WORDS)
        if any(str(said[name]).startswith(_GUESSED) for name in _WORDS):
            detail = "EditScore couldn't read its model's answer, and drew a random score"
            return unjudged(self, edit.id, Status.NO_ANSWER, detail, raw=words)
        subs = {axis: said[name] for axis, name in _SUB_SCORES.items()}
        return judged(self, edit.id, said["overall"], subs, said, reasoning=words)


def _missing(said: Any) -> list[str]:
    wanted = ("overall", *_SUB_SCORES.values(), *_WORDS)
    return [name for name in wanted if not isinstance(said, Mapping) or name not in said]

"""The classic metrics of `critic.baselines` as judges: they see both pictures, and nothing of the instruction."""

from collections.abc import Sequence

from critic.baselines import BASELINES
from critic.edits import Edit
from critic.judges import SCALES, judged, unjudged
from critic.verdicts import Failure, Verdict


class MetricJudge:
    """One of `critic.baselines.BASELINES`, by its name there."""

    def __init__(self, name: str):
        self.name, self.scale = name, SCALES[name]

    def __call__(self, edits: Sequence[Edit]) -> list[Verdict]:
        return [self._judge(edit) for edit in edits]

    def _judge(self, edit: Edit) -> Verdict:
        try:
            native = BASELINES[self.name].score(edit.source, edit.edited)
        except ValueError as error:  # pictures that the metric can't take, see its docstring
            return unjudged(self, edit.id, Failure.BAD_INPUT, f"{self.name} can't take these pictures: {error}")
        return judged(self, edit.id, native)

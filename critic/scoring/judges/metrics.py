"""The classic metrics of `critic.scoring.judges.image_metrics` as judges: they see both pictures, and nothing of the instruction."""

from collections.abc import Sequence

from critic.edits import Edit
from critic.results import Failure, Result
from critic.scoring.judges import SCALES, judged, unjudged
from critic.scoring.judges.image_metrics import BASELINES


class MetricJudge:
    """One of `critic.scoring.judges.image_metrics.BASELINES`, by its name there."""

    def __init__(self, name: str):
        self.name, self.scale = name, SCALES[name]

    def __call__(self, edits: Sequence[Edit]) -> list[Result]:
        return [self._judge(edit) for edit in edits]

    def _judge(self, edit: Edit) -> Result:
        try:
            native = BASELINES[self.name].score(*edit.pair)
        except ValueError as error:  # pictures that the metric can't take, see its docstring
            return unjudged(self, edit.id, Failure.BAD_INPUT, f"{self.name} can't take these pictures: {error}")
        return judged(self, edit.id, native)

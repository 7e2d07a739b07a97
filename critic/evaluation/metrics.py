"""Every metric: what it is called, how tables show it, and its formula.

A new metric is a method of `Sample` with `@metric`, and its test. `measure`, the report, the commands and the
cards then have it. `--help` reads this module, so numpy and scipy are imported where they are used: they are slow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from critic.evaluation.bootstrap import Array
    from critic.evaluation.rank_correlations import Buffers, Ranks

FailurePolicy = Literal["dropped", "worst", "train_mean"]
"""What a failed answer counts as, see `critic.evaluation.agreement.apply_failure_policy`."""

FAILURE_POLICIES: dict[FailurePolicy, str] = {
    "dropped": "left out",
    "worst": "counted as the farthest score",
    "train_mean": "counted as the training mean",
}
"""What is done with failed answers, by policy."""

_Correlation = TypeVar("_Correlation", float, "Array")


@dataclass(frozen=True)
class Metric:
    """How a metric is shown and read.

    Attributes:
        label: its name in the head of a table.
        description: what it is, to follow the label.
        direction: 1 if higher is better, -1 if lower is better, 0 if neither.
        in_points: whether it needs scores and MOS on the same scale, and has its unit.
    """

    label: str
    description: str
    direction: Literal[-1, 0, 1] = 1
    in_points: bool = False

    @property
    def heading(self) -> str:
        """The label with a capital."""
        return self.label[0].upper() + self.label[1:]


METRICS: dict[str, Metric] = {}
"""Every metric by its name, in the order of reports/metrics.json."""


def metric(label: str, description: str, **shown: Any) -> "Callable[[Callable[[Sample], Array]], Any]":
    """Make a method of `Sample` a metric of that name; `shown` are other attributes of `Metric`."""

    def register(compute: "Callable[[Sample], Array]") -> Any:
        METRICS[compute.__name__] = Metric(label, description, **shown)
        return cached_property(compute)

    return register


class Rows:
    """The rows with a finite score, and what is computed once for all samples of them.

    Attributes:
        x, y: scores and MOS, [rows].
        scored: which of all rows these are, [all rows].
        answered: all rows that count for the coverage, [all rows].
    """

    def __init__(
        self,
        pred: "Array",
        mos: "Array",
        answered: "NDArray[np.bool_] | None" = None,
        buffers: "Buffers | None" = None,
    ):
        """Take the rows with a finite score.

        Args:
            pred, mos: scores and MOS, [all rows].
            answered: None for the rows with a finite score.
            buffers: see `critic.evaluation.rank_correlations.Ranks`.
        """
        import numpy as np

        self.scored = np.isfinite(pred)
        self.x, self.y = pred[self.scored], mos[self.scored]
        self.answered = self.scored if answered is None else answered
        self._buffers = buffers

    @cached_property
    def ranks(self) -> "Ranks":
        """The rows in order."""
        from critic.evaluation.rank_correlations import Ranks

        return Ranks(self.x, self.y, self._buffers)

    @cached_property
    def fitted(self) -> "Array":
        """The scores after the logistic fit, [rows]."""
        from critic.evaluation.logistic_fit import fit_logistic

        return fit_logistic(self.x, self.y)(self.x) if len(self.x) else self.x


class Sample:
    """A block of samples of the same rows; each metric is an attribute, [samples].

    A correlation is 0 where it is not defined, because the scores or the MOS are all the same or there are none:
    such a critic can't order edits. rmse, mae and spread of no scores are NaN.

    Attributes:
        x, y: scores and MOS of the rows with a finite score, [rows].
        w: their weights, [samples, rows].
        statistics: the module of weighted statistics, `critic.evaluation.bootstrap`.
    """

    def __init__(self, rows: Rows, weights: "Array"):
        """Weigh the rows.

        Args:
            weights: a block of `critic.evaluation.bootstrap.draw`, [samples, all rows].
        """
        from critic.evaluation import bootstrap

        self.statistics = bootstrap
        self.x, self.y = rows.x, rows.y
        self.w = weights if rows.scored.all() else weights[:, rows.scored]
        self._rows, self._weights = rows, weights

    @metric("PLCC", "linear correlation (Pearson)")
    def plcc(self) -> "Array":
        """Pearson's r, -1..1."""
        return self.statistics.pearson(self.x, self.y, self.w)

    @metric("SRCC", "rank correlation (Spearman)")
    def srcc(self) -> "Array":
        """Spearman's rho, -1..1."""
        return self._rows.ranks.spearman(self.w)

    @metric("KRCC", "rank correlation (Kendall)")
    def krcc(self) -> "Array":
        """Kendall's tau-b, -1..1."""
        return self._rows.ranks.kendall(self.w)

    @metric("fitted PLCC", "PLCC after the logistic fit")
    def plcc_fitted(self) -> "Array":
        """Pearson's r after the logistic fit, 0..1.

        The curve may fall, so a critic with a reversed scale looks good here: compare it with plcc.
        """
        return self.statistics.pearson(self._rows.fitted, self.y, self.w)

    @metric("main score", "mean of PLCC and SRCC")
    def main_score(self) -> "Array":
        """The mean of plcc and srcc, -1..1."""
        return main_score(self.plcc, self.srcc)

    @metric("fitted main score", "mean of fitted PLCC and SRCC")
    def main_score_fitted(self) -> "Array":
        """The mean of plcc_fitted and srcc, -1..1."""
        return main_score(self.plcc_fitted, self.srcc)

    @metric("RMSE", "root mean squared error, points", direction=-1, in_points=True)
    def rmse(self) -> "Array":
        """Root mean squared error in points of MOS, without a fit."""
        import numpy as np

        return np.sqrt(self.statistics.mean((self.x - self.y) ** 2, self.w))

    @metric("MAE", "mean absolute error, points", direction=-1, in_points=True)
    def mae(self) -> "Array":
        """Mean absolute error in points of MOS, without a fit."""
        return self.statistics.mean(abs(self.x - self.y), self.w)

    @metric("spread", "standard deviation of the scores, points", direction=0, in_points=True)
    def spread(self) -> "Array":
        """Standard deviation of the scores, in their own unit; 0 shows a constant critic."""
        return self.statistics.std(self.x, self.w)

    @metric("coverage", "share of edits with a score")
    def coverage(self) -> "Array":
        """The share of rows with an answer, 0..1."""
        return self.statistics.mean(self._rows.answered.astype(float), self._weights)


SHOWN = {"main_score": METRICS["main_score"]} | METRICS
"""Every metric, in the order of tables: the main score first."""

ON_ANY_SCALE = tuple(name for name, shown in METRICS.items() if not shown.in_points)
"""Metrics that don't need scores and MOS on the same scale."""


def main_score(linear: _Correlation, rank: _Correlation) -> _Correlation:
    """The mean of a linear and a rank correlation, as IE-Critic-R1 evaluates (arXiv 2511.18055)."""
    return (linear + rank) / 2

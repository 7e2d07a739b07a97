"""How often a critic orders edits as people do: accuracy on preferences, each protocol apart.

    pairs = read_preferences(Path("prefs/pairs.jsonl"))
    found = evaluate_preferences(read_predictions(Path("scores.jsonl")), pairs)
    found["figures"][0]    # {"protocol": "half", "axis": "overall", "ways": None, "n": 812, "accuracy": …}

Figures differ in what is counted (pairs, or whole groups), in what becomes of ties, in the axis that people have
judged and in the size of the groups. None mixes these, except as the protocol of a benchmark says.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from critic.answers import SAME_SCORE
from critic.evaluation import bootstrap
from critic.evaluation.bootstrap import Array, Estimate, draw_counted, estimate, resampled
from critic.evaluation.metrics import FAILURE_POLICIES, FailurePolicy
from critic.tables import TableError


@dataclass(frozen=True)
class Protocol:
    """What counts as right.

    Attributes:
        label: its name in tables.
        right: from the differences of the scores, a's minus b's, people's order (1: a is better, -1: b is, 0: a
            tie) and the threshold, [pairs] each but the last, to 1 (right), 0 (wrong), 0.5, or NaN (not counted).
        unit: what is counted: a pair, or a group, which is right if all of its pairs are.
        calibrated: whether the threshold is the best one, see `best_threshold`; else it is 0.
        by_subtask: whether the figure is the mean of the subtasks' accuracies, not of the pairs.
    """

    label: str
    right: Callable[[Array, Array, float], Array]
    unit: Literal["pair", "group"] = "pair"
    calibrated: bool = False
    by_subtask: bool = False


def _half(gap: Array, order: Array, threshold: float) -> Array:
    return np.where(order == 0, np.nan, (1 + np.sign(gap) * order) / 2)


def _wrong(gap: Array, order: Array, threshold: float) -> Array:
    return np.where(order == 0, np.nan, np.sign(gap) == order)


def _ties(gap: Array, order: Array, threshold: float) -> Array:
    return np.where(np.abs(gap) <= threshold, order == 0, np.sign(gap) == order).astype(float)


def _order_or_near(gap: Array, order: Array, threshold: float) -> Array:
    return np.where(order == 0, np.abs(gap) <= threshold, np.sign(gap) == order).astype(float)


PROTOCOLS = {
    "half": Protocol("pairs without people's ties; the critic's ties count half", _half),
    "wrong": Protocol("pairs without people's ties; the critic's ties are wrong", _wrong),
    "ties": Protocol("all pairs; a tie must be a tie", _ties),
    "calibrated": Protocol("all pairs; scores within the best threshold are a tie", _ties, calibrated=True),
    "groups": Protocol("whole groups; a tie must be a tie", _ties, "group"),
    "groups-calibrated": Protocol(
        "whole groups; ties by the best threshold of the pairs of K = 2", _order_or_near, "group", calibrated=True
    ),
    "subtasks": Protocol("mean of the subtasks; the critic's ties are wrong", _wrong, by_subtask=True),
}
"""`calibrated` is the accuracy with ties of Deutsch et al., arXiv 2305.14324, as in EditReward's eval_bench.py.
`groups-calibrated` is the strict ranking of that script: two edits in order need the order alone, whatever the
threshold. There, numpy's argsort puts a critic's ties in order, so that they can be right by accident; here they
are wrong. `subtasks` is the average of EditScore's calculate_statistics.py, and needs a subtask in each row."""

OWN = {
    "editreward-bench": "groups-calibrated",
    "editscore-bench": "subtasks",
    "genai-bench": "calibrated",
    "mmrb2": "half",
    "editreward-compass": "ties",
}
"""The protocol of each benchmark's published figures. MMRB2's judges see each pair in both orders, so a judge that
always says A has half of them right; so has a critic that scores both edits the same."""


def evaluate_preferences(
    scores: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    failure_policy: FailurePolicy = "worst",
    train_mean: float | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every figure of one critic.

    A pair with a failed score is wrong ("worst"), left out with its group ("dropped"), or judged with the train
    mean in place of that score ("train_mean").

    Args:
        scores: as `critic.evaluation.score_tables.read_predictions` returns them, with all edits of the pairs.
        pairs: as `critic.data.preferences.order.read_preferences` returns them.
        train_mean: mean MOS of the edits that the critic was trained on, 1..5; None: unknown.

    Returns:
        pairs, groups, sources, edits: how many.
        scored: edits with a score; failed: the number of each other status; pairs_failed: the pairs that have one.
        benchmark: that of the pairs, or None; own: its protocol, "half" for others.
        figures: a row for each axis, protocol and group size (ways; None: all): n, the pairs or groups that count,
            and accuracy, an `Estimate` from resampling source images. Besides the own protocol these are "half"
            and "wrong", with people's ties also "ties" and "calibrated", and with larger groups "groups".
        subtasks: by axis and subtask, n and accuracy by the own protocol.
        policies: by axis and failure policy, the accuracy by the own protocol; empty if nothing failed.
        thresholds: of the calibrated protocols in `figures`, by axis, in points of the scores.
        policy (the failure policy), train_mean, n_boot, seed: the arguments.

    Raises:
        TableError: an edit of the pairs is not among the scores.
    """
    study = _Study(pairs, failure_policy, train_mean, n_boot, seed)
    gap, used = study.gap(scores), study.used(scores)
    failed = used["status"][used["score"].isna()].value_counts().sort_index()
    figures, subtasks, thresholds = [], [], dict[str, dict[str, float]]()
    for axis, at in study.axes():
        sizes = sorted({*pairs["ways"][at]})
        for name in study.protocols(at):
            units, threshold = study.units(gap, at, name)
            if PROTOCOLS[name].calibrated:
                thresholds.setdefault(name, {})[axis] = threshold
            for ways in [None, *sizes] if len(sizes) > 1 else [None]:
                chosen = units if ways is None else units[units["ways"] == ways]
                if ways is None or chosen["right"].notna().any():
                    figures.append({"protocol": name, "axis": axis, "ways": ways} | study.figure(chosen, name))
        units, _ = study.units(gap, at, study.own)
        for subtask, chosen in units.groupby("subtask"):
            subtasks.append({"axis": axis, "subtask": subtask} | study.figure(chosen, study.own))
    return {
        "pairs": len(pairs),
        "groups": len(pairs[["axis", "group"]].drop_duplicates()),
        "sources": pairs["source_id"].nunique(),
        "edits": len(used),
        "scored": int(used["score"].notna().sum()),
        "failed": {str(status): int(n) for status, n in failed.items()},
        "pairs_failed": int(np.isnan(_Study(pairs, "worst", None, 0, 0).gap(scores)).sum()),
        "benchmark": study.benchmark,
        "own": study.own,
        "figures": figures,
        "subtasks": subtasks,
        "policies": study.policies(scores) if len(failed) else {},
        "thresholds": thresholds,
    } | study.settings()


def compare_preferences(
    critics: Mapping[str, pd.DataFrame],
    pairs: pd.DataFrame,
    *,
    failure_policy: FailurePolicy = "worst",
    train_mean: float | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare every two critics on the same pairs and resamples, by the own protocol of the benchmark.

    Args:
        critics: scores by name, as in `evaluate_preferences`, like the other arguments.

    Returns:
        benchmark, own: as `evaluate_preferences`.
        critics: a row for each and each axis: critic, axis, coverage (the share of edits with a score), n, and
            accuracy, an `Estimate`.
        differences: a row for every two and each axis: a, b, axis, n (the pairs or groups that count for both),
            and accuracy, the `Difference` of a minus b.
        policy (the failure policy), train_mean, n_boot, seed: the arguments.

    Raises:
        ValueError: fewer than two critics; as `evaluate_preferences`.
    """
    if len(critics) < 2:
        raise ValueError("a comparison needs two critics")
    study = _Study(pairs, failure_policy, train_mean, n_boot, seed)
    gaps = {name: study.gap(scores) for name, scores in critics.items()}
    rows, differences = [], []
    for axis, at in study.axes():
        units = {name: study.units(gap, at, study.own)[0] for name, gap in gaps.items()}
        for name, of in units.items():
            coverage = float(study.used(critics[name])["score"].notna().mean())
            rows.append({"critic": name, "axis": axis, "coverage": coverage} | study.figure(of, study.own))
        for a, b in combinations(units, 2):
            both = (units[a]["right"].notna() & units[b]["right"].notna()).to_numpy()
            of_a, of_b = (study.samples(units[name], study.own, both) for name in (a, b))
            found = {"n": int(both.sum()), "accuracy": bootstrap.difference(of_a - of_b)}
            differences.append({"a": a, "b": b, "axis": axis} | found)
    found = {"benchmark": study.benchmark, "own": study.own, "critics": rows, "differences": differences}
    return found | study.settings()


def best_threshold(gap: Array, order: Array) -> float:
    """The smallest threshold, 0 or one of the differences, that puts the most pairs right.

    Scores within the threshold are a tie of the critic (arXiv 2305.14324). It is chosen on the pairs that are then
    measured, so it flatters a critic.

    Args:
        gap, order: as in `Protocol`, [pairs] each; pairs with a NaN don't count.
    """
    known = np.isfinite(gap)
    gap, order = gap[known], order[known]
    size, agrees = np.abs(gap), np.sign(gap) * order > 0
    candidates = np.unique([0.0, *size])
    ties_right = np.searchsorted(np.sort(size[order == 0]), candidates, "right")
    lost = np.searchsorted(np.sort(size[agrees]), candidates, "right")
    return float(candidates[np.argmax(ties_right - lost)])


@dataclass(frozen=True)
class _Study:
    """Pairs, and how critics are measured on them."""

    pairs: pd.DataFrame
    failure_policy: FailurePolicy
    train_mean: float | None
    n_boot: int
    seed: int

    @property
    def benchmark(self) -> str | None:
        return self.pairs["benchmark"].iloc[0]

    @property
    def own(self) -> str:
        return OWN.get(self.benchmark or "", "half")

    def settings(self) -> dict[str, Any]:
        how = {"policy": self.failure_policy, "train_mean": self.train_mean}
        return how | {"n_boot": self.n_boot, "seed": self.seed}

    def protocols(self, at: NDArray[np.bool_]) -> list[str]:
        common = ["half", "wrong"]
        if (self.pairs["order"][at] == 0).any():
            common += ["ties", "calibrated"]
        if (self.pairs["ways"][at] > 2).any():
            common.append("groups")
        return [self.own, *(name for name in common if name != self.own)]

    def axes(self) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        for axis in self.pairs["axis"].unique():
            yield axis, (self.pairs["axis"] == axis).to_numpy()

    def used(self, scores: pd.DataFrame) -> pd.DataFrame:
        """The scores of the edits in the pairs."""
        return scores[scores["id"].isin({*self.pairs["edited_a"], *self.pairs["edited_b"]})]

    def gap(self, scores: pd.DataFrame) -> Array:
        """a's score minus b's, [pairs]; NaN if one failed, unless the train mean takes its place."""
        by_id = scores.set_index("id")["score"].astype(float)
        sides = [self.pairs[side] for side in ("edited_a", "edited_b")]
        if missing := sorted({id for side in sides for id in side[~side.isin(by_id.index)]}):
            raise TableError(
                f"the scores lack {len(missing)} edits of the pairs, first {missing[0]!r}: add their scores (a "
                "failure is a row without a score), or remove the pairs"
            )
        if self.failure_policy == "train_mean" and self.train_mean is not None:
            by_id = by_id.fillna(self.train_mean)
        a, b = (by_id.loc[side].to_numpy() for side in sides)
        return np.where(np.abs(a - b) < SAME_SCORE, 0.0, a - b)

    def units(self, gap: Array, at: NDArray[np.bool_], name: str) -> tuple[pd.DataFrame, float]:
        """What a protocol counts, a row a pair or a group, with the column right, and its threshold."""
        pairs, gap, protocol = self.pairs[at], gap[at], PROTOCOLS[name]
        order = pairs["order"].to_numpy(float)
        tuned = (pairs["ways"] == 2).to_numpy() if protocol.unit == "group" else np.full(len(gap), True)
        threshold = best_threshold(gap[tuned], order[tuned]) if protocol.calibrated else 0.0
        right = protocol.right(gap, order, threshold)
        failed = np.nan if self.failure_policy == "dropped" else 0.0
        right = np.where(np.isnan(gap) & (np.isfinite(right) | (order != 0)), failed, right)
        units = pairs.assign(right=right)
        if protocol.unit == "group":
            lowest = units["right"].fillna(-1).groupby(units["group"]).min()  # -1: a pair was left out
            units = units.drop_duplicates("group")
            units = units.assign(right=lowest.where(lowest >= 0).loc[units["group"]].to_numpy(float))
        return units, threshold

    def figure(self, units: pd.DataFrame, protocol: str) -> dict[str, Any]:
        counted = units["right"].notna().to_numpy()
        return {"n": int(counted.sum()), "accuracy": estimate(self.samples(units, protocol, counted))}

    def samples(self, units: pd.DataFrame, protocol: str, counted: NDArray[np.bool_]) -> Array:
        """The accuracy over the counted units, in the sample and its resamples of source images."""
        right, subtasks = units["right"].to_numpy(float)[counted], units["subtask"].to_numpy()[counted]
        if not len(right):
            return np.full(1, np.nan)
        by_subtask = PROTOCOLS[protocol].by_subtask
        parts = [subtasks == one for one in sorted({*subtasks})] if by_subtask else [np.full(len(right), True)]

        def accuracy(w: Array) -> Array:
            shares = np.array([bootstrap.mean(right[part], w[:, part]) for part in parts])
            known = np.isfinite(shares)  # a resample can lack a subtask
            mean: Array = np.where(known, shares, 0).sum(axis=0) / known.sum(axis=0)
            return mean

        return resampled(accuracy, draw_counted(units["source_id"].to_numpy(), counted, self.n_boot, self.seed))

    def policies(self, scores: pd.DataFrame) -> dict[str, dict[FailurePolicy, Estimate]]:
        found: dict[str, dict[FailurePolicy, Estimate]] = {axis: {} for axis, _ in self.axes()}
        for policy in FAILURE_POLICIES:
            if policy == "train_mean" and self.train_mean is None:
                continue
            study = _Study(self.pairs, policy, self.train_mean, self.n_boot, self.seed)
            for axis, at in study.axes():
                units, _ = study.units(study.gap(scores), at, study.own)
                found[axis][policy] = study.figure(units, study.own)["accuracy"]
        return found

"""Figures that others have published, beside ours: only those of the same benchmark, protocol and split.

    found = compare_published({"grpo": {"srcc": 0.71}}, Setting("ie-bench-4k", "ie-critic-r1", "official"))
    found.rows             # ours and the published ones, in the same columns
    found.not_comparable   # "IE-QA: not comparable, it is of another benchmark, …"

published.yaml has the figures. A new one is an entry there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from critic.evaluation.metrics import METRICS

FILE = Path(__file__).parent / "published.yaml"
UPSTREAM = "ie-critic-r1"
"""The protocol of `critic.evaluation.ie_critic_r1`."""

FROM_UPSTREAM = {
    "main_score_fitted": "main_score",
    "plcc_fitted": "plcc",
    "srcc": "srcc",
    "main_score": "main_score_unfitted",
    "plcc": "plcc_unfitted",
}
"""The names of `critic.evaluation.ie_critic_r1.upstream` by those of `METRICS`."""

OF_TRAINING = {"reward": "reward", "completion_length": "completion length in tokens"}
"""Figures of a training's curves, which are no metrics of the test split."""

OF_PREFERENCES = {"accuracy": "accuracy"} | {f"accuracy_{ways}": f"K = {ways}" for ways in (2, 3, 4)}
"""Figures of `critic.evaluation.preferences`, of all groups and of those of 2, 3 and 4 edits."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark: its name, its data set on the hub, and the benchmarks whose figures are listed with its own.

    One of preferences has the number of its `pairs` and the name of that `split`.
    """

    title: str
    dataset: str | None = None
    related: Sequence[str] = ()
    pairs: int | None = None
    split: str = "all"


@dataclass(frozen=True, kw_only=True)
class Published:
    """The figures of one critic.

    Attributes:
        benchmark, protocol: keys of the file's benchmarks and protocols.
        split: "official" for the published split, "all" for all pictures; null if unknown.
        leaks: whether the split shares source images with the critic's training data; null if unknown.
        checkpoint: how the checkpoint was chosen.
        caveat: what else a reader must know.
        source: where the figures are published.
        by_eye: whether they were read from a picture.
        checked: how the figures were checked against the source.
        values: by name of a metric, of `OF_TRAINING`, or of `OF_PREFERENCES`.
    """

    benchmark: str
    critic: str
    protocol: str
    split: str | None
    leaks: bool | None
    checkpoint: str
    caveat: str = ""
    source: str
    by_eye: bool = False
    checked: str
    values: Mapping[str, float]

    @property
    def note(self) -> str:
        """What a reader must know beside the figures, in one line."""
        leak = {True: "leaks source images", False: "no known leak", None: "leak unknown"}[self.leaks]
        parts = [leak, f"checkpoint: {self.checkpoint}", "read by eye" if self.by_eye else "", self.caveat]
        return "; ".join(part for part in (*parts, f"source: {self.source}") if part)


@dataclass(frozen=True)
class Catalogue:
    """The file: benchmarks, protocols (a clause that follows "its figures are") and figures."""

    benchmarks: dict[str, Benchmark]
    protocols: dict[str, str]
    figures: list[Published]


@dataclass(frozen=True)
class Setting:
    """What was measured, and how: a benchmark and a protocol of the file, and a split (None if unknown)."""

    benchmark: str
    protocol: str
    split: str | None


IN_DOMAIN = "in-domain"
"""The protocol of a critic that was trained on a part of the benchmark."""

AGIQA_SETTING = Setting("agiqa-3k", "cross-dataset", "all")
"""The table of AGIQA-3k, all of it, scored by a critic that wasn't trained on it."""


@dataclass(frozen=True)
class Row:
    """A critic in the table: its figures by metric, and the note that must stand with them ("" for ours)."""

    label: str
    values: dict[str, float | None]
    note: str


@dataclass(frozen=True)
class Comparison:
    """Our figures and the published ones.

    Attributes:
        title: the benchmark and the protocol.
        metrics: the columns, names for `label`; empty if nothing published is comparable.
        rows: ours, then the published ones; empty likewise.
        not_comparable: a sentence for each other figure, with the reason.
    """

    title: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    not_comparable: tuple[str, ...]


@cache
def load_published() -> Catalogue:
    """The content of published.yaml, which the tests check."""
    content = yaml.safe_load(FILE.read_text())
    benchmarks = {name: Benchmark(**one) for name, one in content["benchmarks"].items()}
    return Catalogue(benchmarks, content["protocols"], [Published(**one) for one in content["figures"]])


def benchmark_of(dataset: str | None) -> str | None:
    """The benchmark with a data set on the hub, None if nothing was published on it."""
    benchmarks = load_published().benchmarks.items()
    return next((name for name, one in benchmarks if dataset is not None and one.dataset == dataset), None)


def compare_published(ours: Mapping[str, Mapping[str, Any]], setting: Setting) -> Comparison:
    """Our critics' figures, by label in order and by metric, beside the published ones that fit."""
    catalogue = load_published()
    benchmark = catalogue.benchmarks[setting.benchmark]
    fitting, others = [], []
    for one in catalogue.figures:
        if one.benchmark not in (setting.benchmark, *benchmark.related):
            continue
        if why := _differences(one, setting, catalogue):
            others.append(f"{one.critic} ({_listed(one)}): not comparable, {'; '.join(why)} [{one.note}]")
        else:
            fitting.append(one)
    title = f"{benchmark.title}, {catalogue.protocols[setting.protocol]}"
    metrics = tuple(dict.fromkeys(name for one in fitting for name in one.values if name not in OF_TRAINING))
    rows = [Row(label, {m: values.get(m) for m in metrics}, "") for label, values in ours.items()]
    rows += [Row(f"{one.critic}, published", {m: one.values.get(m) for m in metrics}, one.note) for one in fitting]
    return Comparison(title, metrics, tuple(rows) if fitting else (), tuple(others))


def label(name: str) -> str:
    """The name of a published figure for people."""
    return METRICS[name].label if name in METRICS else (OF_TRAINING | OF_PREFERENCES)[name]


def of_upstream(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of `critic.evaluation.ie_critic_r1.upstream` by the names of `METRICS`; empty if it has none."""
    return {} if figures["stopped"] else {name: figures[theirs] for name, theirs in FROM_UPSTREAM.items()}


def _differences(one: Published, setting: Setting, catalogue: Catalogue) -> list[str]:
    """Why a published figure isn't comparable with ours, as clauses; empty if it is."""
    why = []
    if one.benchmark != setting.benchmark:
        why.append(f"it is of another benchmark, {catalogue.benchmarks[one.benchmark].title}")
    if one.protocol != setting.protocol:
        why.append(f"it is {catalogue.protocols[one.protocol]}")
    if one.split is None:
        why.append("its split isn't known")
    elif setting.split is None:
        why.append("the split of ours isn't known")
    elif one.split != setting.split:
        why.append(f"its split is {one.split}, and ours is {setting.split}")
    return why


def _listed(one: Published) -> str:
    return ", ".join(f"{label(name)} {value:.4g}" for name, value in one.values.items())

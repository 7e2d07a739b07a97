"""Whether a critic may take the champion's place: both on the same test, and only if it is sure to be better.

    champion = read_exam(repository, "critic@v1.2.0")
    decision = decide(champion, read_exam(repository), params.load(params.Gate), seed=7)
    decision = judge(repository)    # all of this
    decision.promote, decision.summary

The gain in main score is that of the paired bootstrap over source images (`critic.evaluation.metrics.paired_bootstrap`), and
its lower bound must be above the margin. Nothing else may fall: see `critic.params.Gate`. An answer without a
score counts as the end of the scale farthest from the MOS, so that failing never pays.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.index.index import DataIndexDirError

from critic import params
from critic.evaluation.intervals import SMALLEST_GROUP, enough
from critic.evaluation.metrics import Difference, apply_policy, measure, paired_bootstrap
from critic.release import registry
from critic.release.checkout import git

TEST = "data/validated/test.parquet"
PREDICTIONS = "reports/predictions/grpo.parquet"
MODEL = "models/grpo"
DECISIONS = Path("reports/decisions")
THE_CHECKOUT = "the checkout"


class GateError(RuntimeError):
    """There is nothing to judge a critic by; the message says what is missing and what to do."""


@dataclass(frozen=True)
class TestResult:
    """How a critic did on the test split.

    Attributes:
        label: the git revision that it is of, or "the checkout".
        model: DVC's hash of its folder.
        test: DVC's hash of the test split.
        size: bytes of its folder.
        predictions: id, source_id, edit_type (may be missing), mos, score (missing where the critic failed),
            tokens.
    """

    label: str
    model: str
    test: str
    size: int
    predictions: pd.DataFrame


@dataclass(frozen=True)
class Check:
    """One thing that must hold: the champion's figure (None: there is none) and the challenger's, and the rule."""

    name: str
    passed: bool
    champion: float | None
    challenger: float
    rule: str


@dataclass(frozen=True)
class Decision:
    """What the gate says, and what by.

    Attributes:
        reasons: sentences; of a refusal, what was missing.
        facts: what was compared, by name.
        champion: the version that it was compared with, None if there was none.
    """

    promote: bool
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    facts: Mapping[str, str]
    champion: str | None = None

    @property
    def summary(self) -> str:
        """The verdict and its reasons, in a line."""
        return f"{'Promote' if self.promote else 'Refuse'}: {' '.join(self.reasons)}"

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        return {
            "promote": self.promote,
            "reasons": [*self.reasons],
            "checks": [asdict(check) for check in self.checks],
            "facts": {**self.facts},
        }

    def markdown(self) -> str:
        """A page for those who weren't there."""
        rows = [
            f"| {check.name} | {_told(check.champion)} | {_told(check.challenger)} | {check.rule} | "
            f"{'yes' if check.passed else '**no**'} |"
            for check in self.checks
        ]
        return "\n".join(
            [
                f"# {'Promote' if self.promote else 'Refuse'}",
                "",
                *(f"- {reason}" for reason in self.reasons),
                "",
                "| | champion | challenger | must be | is |",
                "|---|---|---|---|---|",
                *rows,
                "",
                *(f"- {name}: {fact}" for name, fact in self.facts.items()),
                "",
                "Both have scored the same edits. Bounds are of the paired bootstrap over source images. An "
                "answer without a score counts as the end of the scale farthest from the MOS.",
                "",
            ]
        )


def read_exam(repository: Path, revision: str | None = None) -> TestResult:
    """What `evaluate` left in a checkout, or in a git revision, whose files are in DVC's cache or remote.

    Raises:
        GateError: nothing is there, it can't be had, or the checkout's pipeline isn't up to date.
    """
    label = THE_CHECKOUT if revision is None else revision
    try:
        if revision is None:
            require_up_to_date(repository)
        files = DVCFileSystem(str(repository), rev=revision)
        with files.open(PREDICTIONS) as file:
            predictions = pd.read_parquet(file)
        model = files.info(MODEL)["dvc_info"]
        return TestResult(
            label=label,
            model=str(model["md5"]),
            test=str(files.info(TEST)["dvc_info"]["md5"]),
            size=int(model["size"]),
            predictions=predictions,
        )
    except (DvcException, DataIndexDirError, OSError, KeyError) as error:
        raise GateError(
            f"the exam of {label} can't be read ({error}): `dvc repro` makes that of the checkout, and `dvc push` "
            "where a release was made gives others its files"
        ) from error


def judge(repository: Path) -> Decision:
    """The gate's decision on the critic of a checkout, beside its champion.

    Raises:
        GateError: as `read_exam` and `decide`.
        CheckoutError: that is no git repository.
        ParamsError: params.yaml is wrong.
    """
    file = repository / params.FILE
    champion = registry.champion(repository)
    challenger = read_exam(repository)
    decision = decide(
        read_exam(repository, f"{registry.ARTIFACT}@{champion.version}") if champion else None,
        challenger,
        params.load(params.Gate, file),
        params.seed(file),
    )
    if back := _taken_back(repository, challenger.model):
        why = f"It is {back}, which was taken out of service: `critic rollback --to {back}` puts it in again."
        decision = replace(decision, promote=False, reasons=(why,))
    return replace(decision, champion=champion.version if champion else None)


def _taken_back(repository: Path, model: str) -> str | None:
    """The version of a critic, by DVC's hash of it, that was released and isn't among the champions any more."""
    in_service = registry.champions(repository)
    for release in registry.releases(repository):
        if release not in in_service:
            lock = yaml.safe_load(git(repository, "show", f"{release.commit}:dvc.lock"))
            outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
            if any((out["path"], out["md5"]) == (MODEL, model) for out in outs):
                return release.version
    return None


def decide(champion: TestResult | None, challenger: TestResult, gate: params.Gate, seed: int) -> Decision:
    """Judge a challenger; without a champion, by the rules that need none.

    Args:
        seed: of the bootstrap.

    Raises:
        GateError: an exam has no rows, or an id twice.
    """
    new = _by_id(challenger)
    facts = {
        "champion": "none" if champion is None else f"{champion.label}, model {champion.model[:12]}",
        "challenger": f"{challenger.label}, model {challenger.model[:12]}",
        "test": f"{len(new)} edits of {new['source_id'].nunique()} source images, {challenger.test}",
    }
    if champion is None:
        return _decision(_floors(new, None, gate), facts, "It is the first critic that is put into service.")
    if champion.model == challenger.model:
        return Decision(False, (f"It is {champion.label} itself.",), (), facts)
    old = _by_id(champion)
    if champion.test != challenger.test or [*old.index] != [*new.index]:
        why = (
            f"{champion.label} sat another test ({champion.test[:12]}, this one is {challenger.test[:12]}), so "
            f"the two can't be compared: check out {champion.label}, give it this test and `dvc repro evaluate`."
        )
        return Decision(False, (why,), _floors(new, None, gate), facts)
    boot = partial(paired_bootstrap, n_boot=gate.n_boot, seed=seed)
    gain = boot(new["counted"], old["counted"], new["mos"], new["source_id"], confidence=2 * gate.confidence - 1)
    facts["gain"] = (
        f"{gain.value:+.4f} in main score, at least {gain.low:+.4f} and at most {gain.high:+.4f}, each with "
        f"{gate.confidence:.0%} confidence"
    )
    sources = new["source_id"].nunique()
    checks = (
        Check("source images", enough(new["source_id"]), None, sources, f"at least {SMALLEST_GROUP}"),
        Check("sure gain in main score", gain.low > gate.margin, None, gain.low, f"above {gate.margin:.3f}"),
        *_floors(new, old, gate),
        *_costs(champion, challenger, gate),
        *_types(new, old, gate, boot),
    )
    praise = f"Its main score is {gain.value:+.3f} beside {champion.label}'s, and {gain.low:+.3f} at least."
    return _decision(checks, facts, praise)


def record(repository: Path, decision: Decision) -> Path:
    """Write a decision into reports/decisions, as JSON and as a page; gives the page."""
    folder = repository / DECISIONS
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.name[:4]) for path in folder.glob("[0-9][0-9][0-9][0-9]-*")), default=0)
    name = f"{number:04d}-{'promoted' if decision.promote else 'refused'}"
    (folder / f"{name}.json").write_text(json.dumps(decision.as_json(), indent=2, allow_nan=False) + "\n")
    page = folder / f"{name}.md"
    page.write_text(decision.markdown(), encoding="utf-8")
    return page


def _floors(new: pd.DataFrame, old: pd.DataFrame | None, gate: params.Gate) -> tuple[Check, ...]:
    """What holds of any critic in service; of the champion's coverage the challenger may lose a little."""
    score, coverage = _main_score(new), float(new["score"].notna().mean())
    least, was_score, was_covered = gate.min_coverage, None, None
    if old is not None:
        was_score, was_covered = _main_score(old), float(old["score"].notna().mean())
        least = max(least, was_covered - gate.coverage_margin)
    return (
        Check("main score", score >= gate.min_main_score, was_score, score, f"at least {gate.min_main_score:.3f}"),
        Check("coverage", coverage >= least, was_covered, coverage, f"at least {least:.3f}"),
    )


def _costs(champion: TestResult, challenger: TestResult, gate: params.Gate) -> tuple[Check, ...]:
    """What the challenger's answers take, beside the champion's."""
    old, new = (float(exam.predictions["tokens"].mean()) for exam in (champion, challenger))
    figures: tuple[tuple[str, float, float, float], ...] = (
        ("tokens an answer", old, new, gate.length_factor),
        ("bytes of the critic", champion.size, challenger.size, gate.size_factor),
    )
    return tuple(
        Check(name, new <= factor * old, old, new, f"at most {factor:g} times the champion's")
        for name, old, new, factor in figures
    )


def _types(
    new: pd.DataFrame, old: pd.DataFrame, gate: params.Gate, boot: Callable[..., Difference]
) -> list[Check]:
    """A check an edit type of enough source images.

    That none of several types has fallen is asked of each with a share of the doubt (Bonferroni), so that all of
    them together give a false alarm no oftener than 1 - confidence.
    """
    if "edit_type" not in new:
        return []
    kinds = {str(kind): rows for kind, rows in new.groupby("edit_type") if enough(rows["source_id"])}
    checks = []
    for kind, rows in kinds.items():
        was = old.loc[rows.index]
        doubt = (1 - gate.confidence) / len(kinds)
        change = boot(rows["counted"], was["counted"], rows["mos"], rows["source_id"], confidence=1 - 2 * doubt)
        rule = f"not surely {gate.type_margin:.3f} below the champion's"
        passed = change.high >= -gate.type_margin
        checks.append(Check(f"main score of {kind}", passed, _main_score(was), _main_score(rows), rule))
    return checks


def _decision(checks: tuple[Check, ...], facts: Mapping[str, str], praise: str) -> Decision:
    missed = [
        f"Its {check.name} is {_told(check.challenger)}: it must be {check.rule}."
        for check in checks
        if not check.passed
    ]
    return Decision(not missed, tuple(missed) or (praise,), checks, facts)


def _by_id(exam: TestResult) -> pd.DataFrame:
    """Its predictions by id; `counted` is what each counts as."""
    table = exam.predictions.set_index("id").sort_index()
    if table.empty or table.index.has_duplicates:
        raise GateError(
            f"the predictions of {exam.label} are none, or have an id twice: `dvc repro` makes them anew"
        )
    scores = table["score"].to_numpy(float, na_value=np.nan)
    return table.assign(counted=apply_policy(scores, table["mos"], "worst"))


def _main_score(table: pd.DataFrame) -> float:
    return measure(table["counted"], table["mos"])["main_score"]


def require_up_to_date(repository: Path) -> None:
    """Raises `GateError` unless dvc.lock is of what is in the checkout."""
    with Repo(str(repository)) as repo:
        if changed := repo.status():
            raise GateError(
                f"dvc.lock isn't of what is here ({', '.join(map(str, changed))}), so the checkout's predictions "
                "aren't of its critic: `dvc repro`"
            )


def _told(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"

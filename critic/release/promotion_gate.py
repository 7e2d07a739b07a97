"""The promotion gate: only a critic that is significantly better on the same test split replaces the champion.

The gain in main score comes from a paired bootstrap over source images
(`critic.evaluation.agreement.paired_bootstrap`); its lower bound must be above the margin. `critic.params.Gate`
lists the other rules. An answer without a score counts as the end of the scale farthest from the MOS, so that a
failure never helps.
"""

import json
from collections.abc import Callable, Mapping, Sequence
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
from critic.evaluation.agreement import apply_failure_policy, measure, paired_bootstrap
from critic.evaluation.bootstrap import SMALLEST_GROUP, Difference, enough
from critic.evaluation.leak import OFFICIAL, VALIDATION, Split, SplitError, parse_split
from critic.evaluation.probing import LEAST_RATE
from critic.files import write_json, write_text
from critic.release import registry
from critic.release.git import git
from critic.scoring.probes import PROBES
from critic.tables import TableError, read_parquet

TEST = "data/validated/test.parquet"
PREDICTIONS = "reports/predictions/grpo.parquet"
PROBING = "reports/probes.json"
MODEL = "models/grpo"
DECISIONS = Path("reports/decisions")
THE_CHECKOUT = "the checkout"


class GateError(RuntimeError):
    """The gate can't decide; the message says what is missing and what to do."""


@dataclass(frozen=True)
class TestResult:
    """A critic's predictions on the test split.

    Attributes:
        label: the critic's git revision, or "the checkout".
        model: DVC's hash of the critic's folder.
        test: DVC's hash of the test split.
        size: bytes of the critic's folder.
        predictions: id, source_id, edit_type (may be missing), mos, score (missing where the critic failed),
            tokens.
        split: how the test split was made, and its leak.
        probes: the probes of the checkout's critic on the validation split, as in reports/probes.json.
    """

    label: str
    model: str
    test: str
    size: int
    predictions: pd.DataFrame
    split: Split
    probes: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Check:
    """One rule, with the figures of the champion (None: there is none) and the challenger (None: not measured)."""

    name: str
    passed: bool
    champion: float | None
    challenger: float | None
    rule: str


@dataclass(frozen=True)
class Decision:
    """Whether the challenger may replace the champion (its version, None if there is none), and why.

    `reasons` are sentences; for a refusal, the rules that the challenger fails. `facts` is what was compared, by
    name.
    """

    promote: bool
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    facts: Mapping[str, str]
    champion: str | None = None

    @property
    def summary(self) -> str:
        """The decision and its reasons, in one line."""
        return f"{'Promote' if self.promote else 'Refuse'}: {' '.join(self.reasons)}"

    def as_json(self) -> dict[str, Any]:
        """The decision as JSON, without the champion's version."""
        return {name: value for name, value in asdict(self).items() if name != "champion"}

    def markdown(self) -> str:
        """The decision as a Markdown page."""
        rows = [
            f"| {check.name} | {_figure(check.champion)} | {_measured(check)} | {check.rule} | "
            f"{'yes' if check.passed else '**no**'} |"
            for check in self.checks
        ]
        lines = [
            f"# {'Promote' if self.promote else 'Refuse'}",
            "",
            *(f"- {reason}" for reason in self.reasons),
            "",
            "| | champion | challenger | rule | passed |",
            "|---|---|---|---|---|",
            *rows,
            "",
            *(f"- {name}: {fact}" for name, fact in self.facts.items()),
            "",
            "Both critics scored the same edits. Bounds come from a paired bootstrap over source images. An "
            "answer without a score counts as the end of the scale farthest from the MOS.",
        ]
        return "\n".join(lines) + "\n"


def read_test_result(repository: Path, revision: str | None = None) -> TestResult:
    """The predictions that `evaluate` wrote in a checkout, or in a git revision (from DVC's cache or remote).

    Raises a `GateError` if they are missing or can't be read, or if the checkout's dvc.lock is out of date.
    """
    label = THE_CHECKOUT if revision is None else revision
    try:
        if revision is None:
            require_up_to_date(repository)
        files = DVCFileSystem(str(repository), rev=revision)
        with files.open(PREDICTIONS) as file:
            predictions = read_parquet(PREDICTIONS, file=file)
        report = json.loads(files.cat_file(str(VALIDATION)))
        if revision is not None and "split" not in report:  # older: `validate` refused any leak
            split = Split("given", len(predictions))
        else:
            split = parse_split(report)
        probes = json.loads(files.cat_file(PROBING))["probes"] if revision is None else ()
        model, test = (files.info(path)["dvc_info"] for path in (MODEL, TEST))
        sizes = str(model["md5"]), str(test["md5"]), int(model["size"])
        return TestResult(label, *sizes, predictions, split, probes)
    except SplitError as error:
        raise GateError(f"the test split of {label}: {error}") from None
    except (DvcException, DataIndexDirError, OSError, KeyError, TableError) as error:
        raise GateError(
            f"the predictions of {label} can't be read ({error}): run `dvc repro` for the checkout's, or "
            "`dvc push` where the release was made"
        ) from error


def run_gate(repository: Path) -> Decision:
    """Compare the critic of a checkout with the champion; raises as `read_test_result` and `decide`."""
    file = repository / params.FILE
    champion = registry.champion(repository)
    challenger = read_test_result(repository)
    old = read_test_result(repository, f"{registry.ARTIFACT}@{champion.version}") if champion else None
    decision = decide(old, challenger, params.load(params.Gate, file), params.seed(file))
    if version := _withdrawn(repository, challenger.model):
        why = f"It is {version}, which was rolled back: run `critic rollback --to {version}`."
        decision = replace(decision, promote=False, reasons=(why,))
    return replace(decision, champion=champion.version if champion else None)


def _withdrawn(repository: Path, model: str) -> str | None:
    """The version of a released critic that is no longer among the champions, by DVC's hash of its folder."""
    champions = registry.champions(repository)
    for release in registry.releases(repository):
        if release not in champions:
            lock = yaml.safe_load(git(repository, "show", f"{release.commit}:dvc.lock"))
            outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
            if any((out["path"], out["md5"]) == (MODEL, model) for out in outs):
                return release.version
    return None


def decide(champion: TestResult | None, challenger: TestResult, gate: params.Gate, seed: int) -> Decision:
    """Compare a challenger with the champion; without one, only the rules that need none apply.

    If the test split leaks, the last reason says so, and so does the fact "leak". Raises a `GateError` if
    predictions have no rows, or an id twice.
    """
    decision = _decide(champion, challenger, gate, seed)
    if not (leak := challenger.split.leak):
        return decision
    reasons = (*decision.reasons, f"The challenger's test split {leak}.")
    return replace(decision, reasons=reasons, facts={**decision.facts, "leak": f"this test split {leak}"})


def _decide(champion: TestResult | None, challenger: TestResult, gate: params.Gate, seed: int) -> Decision:
    new = _by_id(challenger)
    facts = {
        "champion": "none" if champion is None else f"{champion.label}, model {champion.model[:12]}",
        "challenger": f"{challenger.label}, model {challenger.model[:12]}",
        "test": f"{len(new)} edits of {new['source_id'].nunique()} source images, {challenger.test}",
    }
    looks = _looks(challenger, gate)
    if champion is None:
        return _decision((*_floors(new, None, gate), *looks), facts, "It is the first critic in service.")
    if champion.model == challenger.model:
        return Decision(False, (f"It is the critic of {champion.label}.",), (), facts)
    old = _by_id(champion)
    if why := _different_splits(champion, challenger):
        return Decision(False, (why,), _floors(new, None, gate), facts)
    if champion.test != challenger.test or [*old.index] != [*new.index]:
        why = (
            f"{champion.label} was evaluated on a different test split ({champion.test[:12]}, the challenger on "
            f"{challenger.test[:12]}): check out {champion.label}, give it this split, run `dvc repro evaluate`."
        )
        return Decision(False, (why,), _floors(new, None, gate), facts)
    boot = partial(paired_bootstrap, n_boot=gate.n_boot, seed=seed)
    gain = boot(new["counted"], old["counted"], new["mos"], new["source_id"], confidence=2 * gate.confidence - 1)
    facts["gain"] = (
        f"{gain.value:+.4f} in main score, one-sided {gate.confidence:.0%} bounds {gain.low:+.4f} and "
        f"{gain.high:+.4f}"
    )
    sources = new["source_id"].nunique()
    checks = (
        Check("number of source images", enough(new["source_id"]), None, sources, f"at least {SMALLEST_GROUP}"),
        Check("lower bound of the gain", gain.low > gate.margin, None, gain.low, f"above {gate.margin:.3f}"),
        *_floors(new, old, gate),
        *_costs(champion, challenger, gate),
        *_types(new, old, gate, boot),
        *looks,
    )
    reason = f"Its gain in main score over {champion.label} is {gain.value:+.3f}, at least {gain.low:+.3f}."
    return _decision(checks, facts, reason)


def _different_splits(champion: TestResult, challenger: TestResult) -> str:
    """Why test splits of different origin or leak aren't compared, "" if they are alike."""
    old, new = champion.split, challenger.split
    leaks = [(split.name == OFFICIAL, split.leaked, split.sources, split.same_edits) for split in (old, new)]
    if leaks[0] == leaks[1]:
        return ""
    said = [f"{split.name}, {split.leak or 'without a leak'}" for split in (old, new)]
    return (
        f"The test split of {champion.label} ({said[0]}) and that of the challenger ({said[1]}) give figures that "
        f"can't be compared: check out {champion.label}, give it the challenger's data, run `dvc repro`."
    )


def record(repository: Path, decision: Decision) -> Path:
    """Write a decision to reports/decisions, as JSON and as a page; returns the page's path."""
    folder = repository / DECISIONS
    number = 1 + max((int(path.name[:4]) for path in folder.glob("[0-9][0-9][0-9][0-9]-*")), default=0)
    name = f"{number:04d}-{'promoted' if decision.promote else 'refused'}"
    write_json(folder / f"{name}.json", decision.as_json())
    page = folder / f"{name}.md"
    write_text(page, decision.markdown())
    return page


def _floors(new: pd.DataFrame, old: pd.DataFrame | None, gate: params.Gate) -> tuple[Check, ...]:
    """The rules for any critic, with the champion's coverage less `gate.coverage_margin` as a lower limit."""
    score, coverage = _main_score(new), float(new["score"].notna().mean())
    least, was_score, was_covered = gate.min_coverage, None, None
    if old is not None:
        was_score, was_covered = _main_score(old), float(old["score"].notna().mean())
        least = max(least, was_covered - gate.coverage_margin)
    return (
        Check("main score", score >= gate.min_main_score, was_score, score, f"at least {gate.min_main_score:.3f}"),
        Check("coverage", coverage >= least, was_covered, coverage, f"at least {least:.3f}"),
    )


def _looks(challenger: TestResult, gate: params.Gate) -> list[Check]:
    """A rule for each of the wanted probes.

    One that isn't measured fails, unless it has too few source images, or it needs a source and the others of good
    edits were measured: generated pictures can't be probed so.
    """
    if unknown := {*gate.probes} - {*PROBES}:
        raise GateError(
            f"gate.probes in params.yaml has {', '.join(sorted(unknown))}: choose of {', '.join(PROBES)}"
        )
    rates = {found["probe"]: found["rate"] for found in challenger.probes}
    alone = {name for name, one in PROBES.items() if not (one.of_poor or one.needs_source or one.needs_other)}
    rule, checks = f"not significantly below {LEAST_RATE:g}", []
    for name in gate.probes:
        passed, value, why = True, None, ""
        if name not in rates:
            passed = PROBES[name].needs_source and not alone.isdisjoint(rates)
            why = f", in {PROBING}" + ("; generated pictures have no source" if passed else "")
        elif rates[name]["high"] is None:
            why = "; there are too few source images"
        else:
            passed, value = rates[name]["high"] >= LEAST_RATE, rates[name]["value"]
        checks.append(Check(f"rate of probe {name}", passed, None, value, f"{rule}{why}"))
    return checks


def _costs(champion: TestResult, challenger: TestResult, gate: params.Gate) -> tuple[Check, ...]:
    """The rules for the cost of the challenger's answers."""

    def check(name: str, old: float, new: float, factor: float) -> Check:
        return Check(name, new <= factor * old, old, new, f"at most {factor:g} times the champion's")

    old, new = (float(result.predictions["tokens"].mean()) for result in (champion, challenger))
    return (
        check("mean number of tokens per answer", old, new, gate.length_factor),
        check("size in bytes", champion.size, challenger.size, gate.size_factor),
    )


def _types(
    new: pd.DataFrame, old: pd.DataFrame, gate: params.Gate, boot: Callable[..., Difference]
) -> list[Check]:
    """A rule for each edit type with enough source images.

    Each type gets a share of the error probability (Bonferroni), so that the probability of any false alarm is at
    most 1 - confidence.
    """
    if "edit_type" not in new:
        return []
    kinds = {str(kind): rows for kind, rows in new.groupby("edit_type") if enough(rows["source_id"])}
    checks = []
    for kind, rows in kinds.items():
        was = old.loc[rows.index]
        error = (1 - gate.confidence) / len(kinds)
        change = boot(rows["counted"], was["counted"], rows["mos"], rows["source_id"], confidence=1 - 2 * error)
        rule = f"not significantly more than {gate.type_margin:.3f} below the champion's"
        passed = change.high >= -gate.type_margin
        checks.append(Check(f"main score of {kind}", passed, _main_score(was), _main_score(rows), rule))
    return checks


def _decision(checks: tuple[Check, ...], facts: Mapping[str, str], reason: str) -> Decision:
    failed = [check for check in checks if not check.passed]
    reasons = (f"The {one.name} is {_measured(one)}; it must be {one.rule}." for one in failed)
    return Decision(not failed, tuple(reasons) or (reason,), checks, facts)


def _by_id(result: TestResult) -> pd.DataFrame:
    """The predictions by id, with the score that each counts as in `counted`."""
    table = result.predictions.set_index("id").sort_index()
    if table.empty or table.index.has_duplicates:
        raise GateError(
            f"the predictions of {result.label} have no rows, or an id twice: run `dvc repro evaluate --force`"
        )
    scores = table["score"].to_numpy(float, na_value=np.nan)
    return table.assign(counted=apply_failure_policy(scores, table["mos"], "worst"))


def _main_score(table: pd.DataFrame) -> float:
    return measure(table["counted"], table["mos"])["main_score"]


def require_up_to_date(repository: Path) -> None:
    """Raise a `GateError` if dvc.lock is out of date."""
    with Repo(str(repository)) as repo:
        if changed := repo.status():
            raise GateError(
                f"dvc.lock is out of date ({', '.join(map(str, changed))}), so the predictions may not be this "
                "critic's. Run `dvc repro`."
            )


def _measured(check: Check) -> str:
    return _figure(check.challenger) or "not measured"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"

"""Run a critic's pipeline again in a clean clone, and compare the outputs with its record, stage by stage.

    report = rerun(repository, "critic@v1.2.0", Path("again"))
    report.outcome, report.first    # "not reproduced", "sft: models/sft/model.safetensors"

The outputs of stages that need no GPU must always be identical, those of trainings and of `evaluate` in the same
environment without a GPU. In other environments sums differ in their last bits, and so do the samples; there the
main scores must agree within `audit.tolerance` of params.yaml. docs/audit.md says why.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dvc.repo import Repo

from critic import params, process_tree
from critic.audit.environment import VARIABLES, Environment
from critic.audit.manifests import PARAMS_MODULE, UNKNOWN, Manifest, path_of
from critic.audit.records import Record, RecordError, differing, flatten
from critic.release.git import git

Outcome = Literal["reproduced", "reproduced within tolerance", "not reproduced"]
METRICS = "reports/metrics.json"


class RerunError(RuntimeError):
    """A step of the rerun failed; the message names it."""


@dataclass(frozen=True)
class OutputComparison:
    """An output in the record and after the rerun.

    `exact` says whether it must be identical. `then`, `now` are its SHA-256, "nothing" if there was no such
    output, and `files` those that differ.
    """

    stage: str
    path: str
    exact: bool
    then: str
    now: str
    files: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        return self.then == self.now

    @property
    def changed(self) -> str:
        """The first three files that differ, or the output's path."""
        return ", ".join(self.files[:3]) or self.path


@dataclass(frozen=True)
class RerunReport:
    """The result of a rerun.

    Attributes:
        first: the first stage and the files in it that differ, None if all are identical.
        why: the reason for the outcome, as a clause.
        outputs: in the order of the pipeline.
        scores: the main score of each model in the record and after the rerun, if both measured it.
        tolerance: the largest difference of main scores that is allowed.
        environment: how the environment differs from the recorded one.
        leak: what must be said of the test split beside the scores, "" if nothing.
    """

    outcome: Outcome
    first: str | None
    why: str
    outputs: tuple[OutputComparison, ...]
    scores: Mapping[str, tuple[float, float]]
    tolerance: float
    environment: tuple[str, ...]
    leak: str = ""

    def markdown(self) -> str:
        rows = [
            f"| {output.stage} | {output.path} | {'identical' if output.exact else 'within tolerance'} | "
            f"{'identical' if output.is_same else f'**different**: {output.changed}'} |"
            for output in self.outputs
        ]
        leak = f", on a test split that {self.leak}" if self.leak else ""
        scores = [
            f"- main score of {model}: {old:.4f}, now {new:.4f}{leak}" for model, (old, new) in self.scores.items()
        ]
        environment = [f"- environment: {line}" for line in self.environment]
        head = [f"# {self.outcome.capitalize()}", "", f"{self.why[0].upper()}{self.why[1:]}.", ""]
        table = ["| stage | output | must be | is |", "|---|---|---|---|", *rows, ""]
        return "\n".join([*head, *table, *scores, *environment, ""])


def rerun(
    repository: Path,
    revision: str,
    clone: Path,
    *,
    until: str | None = None,
    here: bool = False,
    log: Callable[[str], None] = print,
) -> RerunReport:
    """Clone a revision into a new folder, set up its environment, run its pipeline without a cache, and compare.

    Args:
        repository: the checkout. Its DVC cache provides the files that people added (`*.dvc`), and no output of a
            stage.
        until: the last stage to run, after all stages that it needs; None for all stages.
        here: run in this process's environment instead of a new one from the lock file.
    """
    record = Record.of(repository, revision)
    stages = _stages_until(record, until)
    manifests = {stage: record.manifest(stage) for stage in stages}
    last, tolerance = manifests[stages[-1]].environment, tolerance_of(record)
    if clone.exists():
        raise RerunError(f"{clone} exists: give the path of a new folder")
    log(f"Cloning {record.name} into {clone}")
    git(repository, "clone", "--quiet", "--no-checkout", str(repository.resolve()), str(clone.resolve()))
    git(clone, "checkout", "--quiet", "--detach", str(record.commit))
    _pull_tracked(repository, clone, log)
    for stage in stages:
        for path in (*manifests[stage].outputs, str(path_of(stage))):
            shutil.rmtree(clone / path, ignore_errors=True)
            (clone / path).unlink(missing_ok=True)
    variables = dict(last.variables)
    if here:
        binaries = Path(sys.executable).parent
    else:
        lock = last.packages.lock or "requirements/cpu.txt"
        log(f"Setting up the environment of {lock}")
        _run(["make", "setup", f"LOCK={Path(lock).stem}", "VENV=.venv"], clone, variables)
        binaries = clone.resolve() / ".venv/bin"
    variables |= {"PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(clone.resolve())}
    log("Running all stages of the pipeline")
    command = [str(binaries / "python"), "-m", "dvc", "repro", "--force", *([until] if until else [])]
    _run(command, clone, variables)
    return compare_records(record, Record.of(clone), stages, tolerance)


def compare_records(then: Record, now: Record, stages: list[str], tolerance: float) -> RerunReport:
    """Compare two records of the same stages, which are in the order of the pipeline."""
    outputs: list[OutputComparison] = []
    changes: dict[str, None] = {}
    false_claims: list[str] = []
    for stage in stages:
        before, after = then.manifest(stage), now.manifest(stage)
        false_claims += _false_claims(before, after)
        differences = environment_changes(before.environment, after.environment)
        changed = [f"{name}: {old}, now {new}" for name, old, new in differences]
        changes |= dict.fromkeys(changed)
        needs_gpu = then.stages[stage].get("meta", {}).get("needs") == "gpu"
        may_differ = needs_gpu and (changed or before.environment.gpus or after.environment.gpus)
        old, new = ({path: m.sha256 for path, m in manifest.inputs.items()} for manifest in (before, after))
        # If the inputs differ, the fault is in the stage that made them.
        outputs += _compare_outputs(before, after, exact=old == new and not may_differ)
    scores = _main_scores(then, now) if "evaluate" in stages else {}
    models = json.loads(then.read(METRICS)).values() if scores else ()
    leak = next((str(of["split"]["note"]) for of in models if "split" in of), "")
    different = [output for output in outputs if not output.is_same]
    first = f"{different[0].stage}: {different[0].changed}" if different else None
    wrong = next((output for output in different if output.exact), None)
    outcome: Outcome = "not reproduced"
    if false_claims:
        why = f"{false_claims[0]} in the record differs from what the same commit gives"
    elif not different:
        outcome, why = "reproduced", f"all {len(outputs)} outputs are identical"
    elif wrong is not None:
        why = f"{wrong.stage}: {wrong.changed} must be identical and isn't"
    elif not scores:
        why = f"{first} isn't identical, and there is no main score to compare"
    else:
        gap = max(abs(after - before) for before, after in scores.values())
        if gap <= tolerance:
            outcome = "reproduced within tolerance"
        why = (
            f"{first} isn't identical, which is possible in another environment or on a GPU; main scores differ "
            f"by up to {gap:.3f}, {'within' if gap <= tolerance else 'more than'} the tolerance of {tolerance:.3f}"
        )
    return RerunReport(outcome, first, why, tuple(outputs), scores, tolerance, tuple(changes), leak)


def tolerance_of(record: Record) -> float:
    """`audit.tolerance` in a record's params.yaml; its other keys may have names of an older version."""
    try:
        return float(params.merged(record.params, record.params["profile"])["audit"]["tolerance"])
    except (KeyError, TypeError, ValueError):
        raise RecordError(f"params.yaml of {record.name} has no audit.tolerance for its profile") from None


def environment_changes(then: Environment, now: Environment) -> list[tuple[str, str, str]]:
    """How two environments differ: the name of a property or package, its value then, its value now."""
    names = ("python", "system", "processor", "threads", "gpus", "variables")
    pairs = [(name, str(getattr(then, name)), str(getattr(now, name))) for name in names]
    locks = [f"{packages.lock} {packages.sha256}" for packages in (then.packages, now.packages)]
    pairs.append(("lock", locks[0], locks[1]))
    old, new = ({name: str(v) for name, v in e.packages.otherwise.items()} for e in (then, now))
    pairs += [(n, old.get(n, "as locked"), new.get(n, "as locked")) for n in differing(old, new)]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _false_claims(before: Manifest, after: Manifest) -> list[str]:
    """What a manifest says about its commit and a run of the same commit contradicts."""
    false = [part for part in ("command", "profile", "contract") if getattr(before, part) != getattr(after, part)]
    false += [f"param {key}" for key in differing(flatten(before.params), flatten(after.params))]
    # An edit of critic/params.py runs no stage again; `verify` reports it.
    false += [f"module {name}" for name in differing(before.code, after.code) if name != PARAMS_MODULE]
    added = [{p: m.sha256 for p, m in manifest.inputs.items() if not m.stage} for manifest in (before, after)]
    false += [f"input {path}" for path in differing(*added)]
    fetched = {name: commit for name, commit in before.revisions.items() if commit != UNKNOWN}
    false += [f"revision {name}" for name, commit in fetched.items() if commit != after.revisions.get(name)]
    return [f"{before.stage}'s {name}" for name in false]


def _compare_outputs(before: Manifest, after: Manifest, exact: bool) -> Iterator[OutputComparison]:
    for path in sorted(before.outputs.keys() | after.outputs.keys()):
        old, new = before.outputs.get(path), after.outputs.get(path)
        files = tuple(f"{path}/{name}" for name in differing(old.files, new.files)) if old and new else ()
        then, now = (material.sha256 if material else "nothing" for material in (old, new))
        yield OutputComparison(before.stage, path, exact, then, now, files)


def _main_scores(then: Record, now: Record) -> dict[str, tuple[float, float]]:
    before, after = json.loads(then.read(METRICS)), json.loads(now.read(METRICS))
    return {
        model: (old, new)
        for model in before
        if (old := before[model]["main_score"]["value"]) is not None
        and (new := after.get(model, {}).get("main_score", {}).get("value")) is not None
    }


def _stages_until(record: Record, until: str | None) -> list[str]:
    """The stage `until` and all that it needs, in the order of dvc.yaml, which is the pipeline's."""
    if until is None:
        return [*record.stages]
    if until not in record.stages:
        raise RecordError(f"{record.name} has no stage {until}: choose one of {', '.join(record.stages)}")
    wanted = {until}
    for stage in reversed([*record.stages]):
        if stage in wanted:
            wanted |= {material.stage for material in record.manifest(stage).inputs.values() if material.stage}
    return [stage for stage in record.stages if stage in wanted]


def _pull_tracked(repository: Path, clone: Path, log: Callable[[str], None]) -> None:
    """Get the files that people added to DVC, such as the pictures of ratings, from the checkout's cache."""
    tracked = git(clone, "ls-files", "--", "*.dvc").splitlines()
    if not tracked:
        return
    with Repo(str(repository)) as repo:
        cache = Path(repo.cache.local.path).parents[1]
    log(f"Pulling {len(tracked)} files and folders that people added to DVC")
    _run([sys.executable, "-m", "dvc", "remote", "add", "--quiet", "--local", "audited", str(cache)], clone, {})
    _run([sys.executable, "-m", "dvc", "pull", "-r", "audited", *tracked], clone, {})


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    others = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    if code := process_tree.run(command, cwd=folder, env={**others, **environment}):
        raise RerunError(f"`{' '.join(command)}` failed in {folder} with exit status {code}: see its output above")

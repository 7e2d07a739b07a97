"""A critic made once more, in a clean clone, and compared with its record, stage by stage.

    verdict = rerun(repository, "critic@v1.2.0", Path("again"))
    verdict.outcome, verdict.first    # "not reproduced", "sft: models/sft/model.safetensors"

What must be equal: the outputs of stages that compute on processors alone, always; those of trainings and of
`evaluate`, in the same environment without a GPU. Elsewhere the last bits of sums differ, samples with them, and
the main scores must come within `audit.tolerance` of params.yaml. docs/audit.md says why.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dvc.repo import Repo

from critic import params, process_tree
from critic.audit.manifests import BESIDE, UNKNOWN, VARIABLES, Environment, Manifest, path_of
from critic.audit.records import Record, RecordError, flat
from critic.release.checkout import git

Outcome = Literal["reproduced", "reproduced within tolerance", "not reproduced"]
METRICS = "reports/metrics.json"
_NAMED = 3
"""Files that a line names."""


class RerunError(RuntimeError):
    """The rerun came to no end; the message says at which step."""


@dataclass(frozen=True)
class Compared:
    """An output, then and now.

    Attributes:
        exact: whether it must be the same to the byte.
        files: those that differ.
    """

    stage: str
    path: str
    exact: bool
    then: str
    now: str
    files: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """To the byte."""
        return self.then == self.now

    @property
    def told(self) -> str:
        """Whether it came again, in Markdown."""
        return "the same" if self.is_same else f"**other**: {', '.join(self.files[:_NAMED]) or self.path}"


@dataclass(frozen=True)
class RerunReport:
    """What a rerun says.

    Attributes:
        first: the first stage and file that came out otherwise, None if none did.
        why: in a sentence.
        outputs: in the order of the pipeline.
        scores: the main score of each model, then and now; without those that weren't measured both times.
        tolerance: of the main scores.
        environment: what is otherwise than it was, in words.
    """

    outcome: Outcome
    first: str | None
    why: str
    outputs: tuple[Compared, ...]
    scores: Mapping[str, tuple[float, float]]
    tolerance: float
    environment: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        return asdict(self)

    def markdown(self) -> str:
        """A page for those who weren't there."""
        rows = [
            f"| {output.stage} | {output.path} | {'the same' if output.exact else 'near'} | {output.told} |"
            for output in self.outputs
        ]
        scores = [
            f"- main score of {model}: {then:.4f}, now {now:.4f}" for model, (then, now) in self.scores.items()
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
    say: Callable[[str], None] = print,
) -> RerunReport:
    """Clone a revision, set up its environment, run its pipeline without any cache, and compare.

    Args:
        repository: the checkout; its DVC cache gives what people brought (`*.dvc`), and nothing that a stage made.
        clone: a new folder.
        until: the last stage to run, with all that it needs; None is all.
        here: run in this process's environment, rather than in one made from the lock.

    Raises:
        RecordError: the revision has no record.
        RerunError: a step failed.
    """
    record = Record.of(repository, revision)
    stages = _upstream(record, until)
    manifests = {stage: record.manifest(stage) for stage in stages}
    lock = manifests[stages[-1]].environment.packages.lock
    if clone.exists():
        raise RerunError(f"{clone} is there already: name a new folder")
    say(f"Cloning {record.name} into {clone}")
    git(repository, "clone", "--quiet", "--no-checkout", str(repository.resolve()), str(clone.resolve()))
    git(clone, "checkout", "--quiet", "--detach", str(record.commit))
    _bring(repository, clone, say)
    for stage in stages:
        for path in (*manifests[stage].outputs, str(path_of(stage))):
            _remove(clone / path)
    environment = dict(manifests[stages[-1]].environment.variables)
    if here:
        binaries = Path(sys.executable).parent
    else:
        which = "gpu" if lock == "requirements/gpu.txt" else "cpu"
        say(f"Making the environment of {lock or 'requirements/cpu.txt'}")
        _run(["make", "setup", f"LOCK={which}", "VENV=.venv"], clone, environment)
        binaries = clone.resolve() / ".venv/bin"
    environment |= {"PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(clone.resolve())}
    say("Running the pipeline, every stage of it")
    _run(
        [str(binaries / "python"), "-m", "dvc", "repro", "--force", *([until] if until else [])],
        clone,
        environment,
    )
    tolerance = params.load(params.Audit, clone / params.FILE).tolerance
    return compare(record, Record.of(clone), stages, tolerance)


def compare(then: Record, now: Record, stages: list[str], tolerance: float) -> RerunReport:
    """Two records of the same stages.

    Args:
        stages: in the order of the pipeline.
        tolerance: how far the main scores may be apart.
    """
    outputs: list[Compared] = []
    apart: dict[str, None] = {}
    untrue: list[str] = []
    for stage in stages:
        before, after = then.manifest(stage), now.manifest(stage)
        untrue += _untrue(before, after)
        differences = differing(before.environment, after.environment)
        apart |= dict.fromkeys(differences)
        needs_gpu = then.stages[stage].get("meta", {}).get("needs") == "gpu"
        is_exact = _read_the_same(before, after) and not (
            needs_gpu and (differences or before.environment.gpus or after.environment.gpus)
        )
        outputs += _compare_stage(before, after, is_exact)
    scores = _main_scores(then, now) if "evaluate" in stages else {}
    first = next((output for output in outputs if not output.is_same), None)
    named = f"{first.stage}: {', '.join(first.files[:_NAMED]) or first.path}" if first else None
    broken = next((output for output in outputs if output.exact and not output.is_same), None)
    outcome: Outcome
    if untrue:
        outcome, why = "not reproduced", f"{untrue[0]} of its record isn't what the same commit gives"
    elif first is None:
        outcome, why = "reproduced", f"all {len(outputs)} outputs are the same to the byte"
    elif broken is not None:
        where = f"{broken.stage}: {', '.join(broken.files[:_NAMED]) or broken.path}"
        outcome, why = "not reproduced", f"{where} must be the same to the byte and isn't"
    elif not scores:
        outcome, why = (
            "not reproduced",
            f"{named} isn't the same, and no main score was measured to tell how far off",
        )
    else:
        gap = max(abs(after - before) for before, after in scores.values())
        is_near = gap <= tolerance
        outcome = "reproduced within tolerance" if is_near else "not reproduced"
        why = (
            f"{named} isn't the same to the byte, as may be in another environment or on a GPU; main scores are "
            f"up to {gap:.3f} apart, {'within' if is_near else 'more than'} the {tolerance:.3f} that are declared"
        )
    return RerunReport(outcome, named, why, tuple(outputs), scores, tolerance, tuple(apart))


def differing(then: Environment, now: Environment) -> list[str]:
    """How one environment isn't the other, in words."""
    before, after = then.model_dump(), now.model_dump()
    told = [
        f"{name}: {before[name]}, now {after[name]}"
        for name in ("python", "system", "processor", "threads", "gpus", "variables")
        if before[name] != after[name]
    ]
    if (then.packages.lock, then.packages.sha256) != (now.packages.lock, now.packages.sha256):
        told.append(
            f"lock: {then.packages.lock} {then.packages.sha256}, now {now.packages.lock} {now.packages.sha256}"
        )
    old, new = then.packages.otherwise, now.packages.otherwise
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            told.append(f"{name}: {old.get(name, 'as locked')}, now {new.get(name, 'as locked')}")
    return told


def _untrue(before: Manifest, after: Manifest) -> list[str]:
    """What a manifest says of a commit's own files, and a run of that commit says otherwise."""
    pairs = {part: (getattr(before, part), getattr(after, part)) for part in ("command", "profile", "contract")}
    pairs |= {f"param {key}": pair for key, pair in _both(flat(before.params), flat(after.params)).items()}
    modules = _both(before.code, after.code)
    del modules[BESIDE]  # an edit of it runs no stage again: `verify` tells of it
    pairs |= {f"module {name}": pair for name, pair in modules.items()}
    brought = [{p: m.sha256 for p, m in manifest.inputs.items() if not m.stage} for manifest in (before, after)]
    pairs |= {f"input {path}": pair for path, pair in _both(*brought).items()}
    fetched = {name: commit for name, commit in before.revisions.items() if commit != UNKNOWN}
    pairs |= {f"revision {name}": (commit, after.revisions.get(name)) for name, commit in fetched.items()}
    return [f"{before.stage}'s {what}" for what, (old, new) in pairs.items() if old != new]


def _both(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (before.get(key), after.get(key)) for key in sorted(before.keys() | after.keys())}


def _read_the_same(before: Manifest, after: Manifest) -> bool:
    """Whether a stage had the same inputs both times: if not, the stage that made them is to be named."""
    read = [{path: m.sha256 for path, m in manifest.inputs.items()} for manifest in (before, after)]
    return read[0] == read[1]


def _compare_stage(before: Manifest, after: Manifest, is_exact: bool) -> list[Compared]:
    compared = []
    for path in sorted(before.outputs.keys() | after.outputs.keys()):
        old, new = before.outputs.get(path), after.outputs.get(path)
        files = [f"{path}/{name}" for name in old.differing(new)] if old and new else []
        compared.append(
            Compared(
                before.stage,
                path,
                is_exact,
                old.sha256 if old else "nothing",
                new.sha256 if new else "nothing",
                tuple(files),
            )
        )
    return compared


def _main_scores(then: Record, now: Record) -> dict[str, tuple[float, float]]:
    before, after = json.loads(then.read(METRICS)), json.loads(now.read(METRICS))
    return {
        model: (old, new)
        for model in before
        if (old := before[model]["main_score"]["value"]) is not None
        and (new := after.get(model, {}).get("main_score", {}).get("value")) is not None
    }


def _upstream(record: Record, until: str | None) -> list[str]:
    """The stages that lead to `until` and itself, in the order of dvc.yaml, which is that of the pipeline."""
    if until is None:
        return [*record.stages]
    if until not in record.stages:
        raise RecordError(f"{record.name} has no stage {until}: there are {', '.join(record.stages)}")
    wanted = {until}
    for stage in reversed([*record.stages]):
        if stage in wanted:
            wanted |= {material.stage for material in record.manifest(stage).inputs.values() if material.stage}
    return [stage for stage in record.stages if stage in wanted]


def _bring(repository: Path, clone: Path, say: Callable[[str], None]) -> None:
    """What people brought and DVC keeps: the pictures of ratings."""
    tracked = git(clone, "ls-files", "--", "*.dvc").splitlines()
    if not tracked:
        return
    with Repo(str(repository)) as repo:
        cache = Path(repo.cache.local.path).parents[1]
    say(f"Bringing {len(tracked)} files and folders that DVC keeps and no stage makes")
    for command in (
        ["remote", "add", "--quiet", "--local", "audited", str(cache)],
        ["pull", "-r", "audited", *tracked],
    ):
        _run([sys.executable, "-m", "dvc", *command], clone, {})


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    others = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    process = subprocess.Popen(process_tree.command(command), cwd=folder, env={**others, **environment})
    try:
        code = process.wait()
    finally:
        process_tree.end(process)
    if code:
        raise RerunError(f"`{' '.join(command)}` failed in {folder} with code {code}: see above")

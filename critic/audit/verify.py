"""The record of a checkout, compared with its files; nothing of the pipeline runs.

The record is dvc.lock and the manifests. Each file is hashed twice: by MD5, as in dvc.lock, and by SHA-256, as in
the manifest. This tells apart a change of the file, of dvc.lock and of the manifest.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
from dvc.cachemgr import CacheManager
from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.hash import file_md5
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.state import StateNoop
from dvc_data.hashfile.tree import Tree

from critic import params
from critic.audit.manifests import CODE, PARAMS_MODULE, UNKNOWN, Manifest, Material, fingerprint, path_in, path_of
from critic.audit.records import Record, RecordError, differing, flatten, is_within, item_path, output_paths
from critic.evaluation.agreement import measure
from critic.evaluation.leak import VALIDATION, read_split
from critic.release.git import CheckoutError, generated, uncommitted
from critic.tables import read, read_parquet

PREDICTIONS = "reports/predictions"
METRICS = "reports/metrics.json"


@dataclass(frozen=True)
class Finding:
    """A problem or a note of an audit.

    Attributes:
        check: record, params, code, data, contract, environment, chain, metrics, cache, git, release or bento.
        where: the file, stage, tag or key.
        what: what is wrong.
        means: the cause or the consequence.
        is_problem: whether the record is inconsistent; False for a note.
    """

    check: str
    where: str
    what: str
    means: str
    is_problem: bool = True


def verify(repository: Path) -> list[Finding]:
    """All findings in a checkout, problems first; none if everything matches the record."""
    record = Record.of(repository)
    found: list[Finding] = []
    if not record.stages:
        raise RecordError(f"{repository}/dvc.yaml has no stages")
    manifests: dict[str, Manifest] = {}
    for stage in record.stages:
        found += check_lock(record, stage)
        try:
            manifests[stage] = record.manifest(stage)
        except RecordError as error:
            found.append(Finding("record", str(path_of(stage)), str(error), "the stage's outputs have no record"))
    found += check_files(record, manifests)
    for manifest in manifests.values():
        found += check_manifest(record, manifest)
        found += check_chain(record, manifest, manifests)
        found += check_environment(record, manifest)
    found += check_models(manifests)
    if not any(finding.where.startswith((PREDICTIONS, "data/validated")) for finding in found):
        found += check_metrics(repository)
    found += check_cache(repository)
    found += check_git(repository)
    return sorted(found, key=lambda finding: not finding.is_problem)


def check_lock(record: Record, stage: str) -> Iterator[Finding]:
    """Compare a stage of dvc.lock with dvc.yaml and params.yaml."""
    entry = record.lock.get(stage)
    if entry is None:
        yield Finding("record", "dvc.lock", f"it has no stage {stage}", f"run `dvc repro {stage}`")
        return
    declared = record.stages[stage]
    if entry["cmd"] != declared["cmd"]:
        what = f"{stage} ran as `{entry['cmd']}`, but dvc.yaml has `{declared['cmd']}`"
        yield Finding("record", "dvc.lock", what, "another command made the outputs")
    profile, then = str(record.params.get("profile")), entry.get("params", {}).get("params.yaml", {})
    names = {
        "deps": {item_path(item) for item in declared.get("deps", [])},
        "outs": output_paths(declared),
        "params": {str(key).replace("${profile}", profile) for key in declared.get("params", [])},
    }
    locked = {part: {item["path"] for item in entry.get(part, [])} for part in ("deps", "outs")}
    for part, now in names.items():
        check = "params" if part == "params" else "record"
        for name in sorted(now ^ locked.get(part, then.keys())):
            what = f"only one of dvc.yaml and dvc.lock has it among the {part} of {stage}"
            means = f"dvc.yaml was changed after {stage} ran, or dvc.lock was edited by hand"
            yield Finding(check, f"dvc.lock, {stage}: {name}", what, means)
    old, new = flatten(then), flatten({key: _at(record.params, key) for key in then})
    for key in differing(old, new):
        what = f"it is {_show(new, key)}, but {stage} ran with {_show(old, key)} according to dvc.lock"
        means = "params.yaml or dvc.lock was changed: the outputs weren't made with params.yaml"
        yield Finding("params", f"params.yaml {key}", what, means)


def check_files(record: Record, manifests: dict[str, Manifest]) -> Iterator[Finding]:
    """Compare the inputs and outputs of all stages with dvc.lock and the manifests."""
    folder, hashes = record.repository, _md5_by_path(record.repository)
    seen: dict[str, tuple[Material | None, str | None]] = {}
    for stage, entry in record.lock.items():
        if stage not in record.stages:
            what = f"it has a stage {stage} that dvc.yaml doesn't have"
            yield Finding("record", "dvc.lock", what, "the stage was removed")
            continue
        manifest = _with_files(manifests.get(stage), manifests)
        for part in ("deps", "outs"):
            for item in entry.get(part, []):
                path = item["path"]
                if path not in seen:
                    exists = (folder / path).exists()
                    seen[path] = (fingerprint(folder / path), hashes.get(path)) if exists else (None, None)
                yield from _check_file(stage, part, item, manifest, *seen[path])


def _with_files(manifest: Manifest | None, manifests: dict[str, Manifest]) -> Manifest | None:
    """The manifest, its inputs with the lists of files from the manifests of the stages that made them."""
    if manifest is None:
        return None
    inputs = {}
    for path, material in manifest.inputs.items():
        maker = manifests.get(material.stage or "")
        made = maker.outputs.get(path) if maker else None
        is_same = made is not None and made.sha256 == material.sha256
        inputs[path] = material.model_copy(update={"files": made.files}) if made and is_same else material
    return manifest.model_copy(update={"inputs": inputs})


def _check_file(
    stage: str, part: str, item: dict[str, Any], manifest: Manifest | None, found: Material | None, md5: str | None
) -> Iterator[Finding]:
    path, is_input, is_code = item["path"], part == "deps", item["path"].startswith(CODE)
    check = "code" if is_code else "record" if path == str(path_of(stage)) else "data"
    if found is None:
        fix = "run `dvc checkout` to get it from the cache, or `dvc repro` to make it again"
        yield Finding(check, path, "it is missing", f"{stage} can't be checked" if is_input else fix)
        return
    is_locked = md5 == item.get("md5")
    if manifest is None or check == "record":
        if not is_locked:
            what = f"{stage} {'read' if is_input else 'wrote'} another version according to dvc.lock"
            cause = "the manifest or dvc.lock was edited by hand" if check == "record" else "it was changed later"
            yield Finding(check, path, what, cause)
        return
    changed = ", ".join(_changed(manifest, part, path, found))
    if not changed and not is_locked:
        what = f"its hash matches neither the file nor {stage}'s manifest"
        yield Finding("record", f"dvc.lock, {stage}: {path}", what, "dvc.lock was edited by hand")
    elif changed and is_locked:
        what = f"{changed}: the file matches dvc.lock, but not the manifest"
        cause = "the manifest was edited by hand, or the file was changed while the stage ran"
        yield Finding("record", f"{path_of(stage)}: {path}", what, cause)
    elif changed and is_input:
        what = f"{'edited' if is_code else 'changed'} after {stage} read it"
        yield Finding(check, changed, what, f"`dvc repro` would run {stage} again")
    elif changed:
        yield Finding(check, changed, f"it isn't what {stage} wrote", "it was changed after it was made")


def _changed(manifest: Manifest, part: str, path: str, found: Material) -> list[str]:
    """The files at a path that differ from a manifest."""
    if part == "deps" and path.startswith(CODE):
        now = {f"{path}/{name}": digest for name, digest in found.files.items()} or {path: found.sha256}
        then = {name: digest for name, digest in manifest.code.items() if is_within(name, path)}
        return differing(now, then)
    recorded = (manifest.inputs if part == "deps" else manifest.outputs).get(path)
    if recorded is not None and recorded.sha256 == found.sha256:
        return []
    names = differing(found.files, recorded.files) if recorded is not None and recorded.files else []
    return [f"{path}/{name}" for name in names] or [path]


def check_manifest(record: Record, manifest: Manifest) -> Iterator[Finding]:
    """Compare a manifest with dvc.lock: command, params and files."""
    stage, where = manifest.stage, str(path_of(manifest.stage))
    entry = record.lock.get(stage)
    if entry is None:
        return
    if manifest.profile != (profile := record.params.get("profile")):
        what = f"it is {profile!r}, but {stage} ran with {manifest.profile!r}"
        yield Finding("params", "params.yaml profile", what, "the outputs weren't made with params.yaml")
    edited = "one was edited by hand"
    if manifest.command != entry["cmd"]:
        yield Finding("record", where, f"its command isn't `{entry['cmd']}`, as in dvc.lock", edited)
    recorded, locked = flatten(manifest.params), flatten(entry.get("params", {}).get("params.yaml", {}))
    for key in differing(recorded, locked):
        what = f"it has {_show(recorded, key)}, and dvc.lock {_show(locked, key)}"
        yield Finding("params", f"{where} {key}", what, "the manifest or dvc.lock was edited by hand")
    deps = {item["path"] for item in entry.get("deps", [])}
    code = {path for path in deps if path.startswith(CODE)}
    outs = {item["path"] for item in entry.get("outs", [])} - {where}
    modules = {name: {path for path in code if is_within(name, path)} for name in manifest.code}
    foreign = {name for name, within in modules.items() if not within} - {PARAMS_MODULE}
    unread = code - {path for within in modules.values() for path in within}
    unmatched = ((deps - code) ^ {*manifest.inputs}) | (outs ^ {*manifest.outputs})
    for path in sorted(foreign | unread | unmatched):
        yield Finding("record", f"{where} {path}", "only one of the manifest and dvc.lock has it", edited)
    for name, commit in manifest.revisions.items():
        if commit == UNKNOWN:
            means = "a rerun may get another version"
            yield Finding("record", f"{where} {name}", "its commit on the hub is unknown", means)
    try:
        now = sha256(record.read(PARAMS_MODULE)).hexdigest()
    except RecordError:
        now = None
    if manifest.code.get(PARAMS_MODULE) != now:
        means = "checks and defaults of params may have changed"
        yield Finding("code", PARAMS_MODULE, f"edited after {stage} ran", means, False)


def check_chain(record: Record, manifest: Manifest, manifests: dict[str, Manifest]) -> Iterator[Finding]:
    """Compare each input that a stage made with that stage's manifest."""
    reader = manifest.stage
    for path, material in manifest.inputs.items():
        where, stage = f"{path_of(reader)} {path}", material.stage
        if stage is None:
            if any(path in other.outputs for other in manifests.values()):
                yield Finding("chain", where, "the stage that made it is missing", "the chain ends too early")
            continue
        maker = manifests.get(stage)
        digest = None if maker is None else maker.output_sha256(path)
        if maker is None or digest is None:
            means = f"the origin of {path} is unknown"
            yield Finding("chain", where, f"no manifest of a stage {stage} has it", means)
        elif digest != material.sha256:
            what = f"{reader} read a version that isn't in the manifest of {stage}"
            yield Finding("chain", where, what, f"{reader} didn't run on the current file")
        elif maker.sha256 != material.manifest:
            what = f"{stage} ran again later and wrote identical files"
            yield Finding("chain", where, what, "the chain is intact: the file's hash matches", False)


def check_environment(record: Record, manifest: Manifest) -> Iterator[Finding]:
    """Compare the lock file that a stage ran with and the current one."""
    stage, packages = manifest.stage, manifest.environment.packages
    if packages.lock is None:
        means = "`make setup` can't make its environment again; the manifest has all versions"
        yield Finding("environment", stage, "it ran without a lock file", means, False)
    elif not (path := record.repository / packages.lock).exists():
        means = f"the environment of {stage} can't be made again"
        yield Finding("environment", packages.lock, "it is missing", means)
    elif fingerprint(path).sha256 != packages.sha256:
        means = "the version of a library was changed: a rerun would get another environment"
        yield Finding("environment", packages.lock, f"{stage} ran with another version of it", means)


def check_models(manifests: dict[str, Manifest]) -> Iterator[Finding]:
    """Compare the prompt contract in each model with the one that it was trained with."""
    for manifest in manifests.values():
        for path, output in manifest.outputs.items():
            digest, contract = output.files.get("contract.yaml"), manifest.contract
            if digest is not None and contract is not None and digest != contract.sha256:
                what = f"it isn't the contract {contract.name} that {manifest.stage} used"
                means = "the critic would get another prompt than in training"
                yield Finding("contract", f"{path}/contract.yaml", what, means)


def check_metrics(repository: Path) -> Iterator[Finding]:
    """Compare reports/metrics.json, except its intervals, with the predictions, the MOS and the leak."""
    try:
        split = read_split(repository / VALIDATION).mark({}).get("split")
        reported = json.loads((repository / METRICS).read_text())
        test = read_parquet(repository / "data/validated/test.parquet", ["id", "mos"])
        train_mean = float(read_parquet(repository / "data/validated/train.parquet", ["mos"])["mos"].mean())
        failure_policy = params.load(params.Evaluate, repository / params.FILE).failure_policy
        files = sorted((repository / PREDICTIONS).glob("*.parquet"))
        scored = {path.stem: read(path, required=("id", "score"), optional=()) for path in files}
        if not isinstance(reported, dict):
            raise ValueError("it is not a mapping of models to scores")
    except (OSError, ValueError) as error:
        yield Finding("metrics", METRICS, f"it can't be checked: {error}", "its numbers are unproven")
        return
    for model in sorted(reported.keys() ^ scored.keys()):
        what = f"only one of this file and {METRICS} has {model}"
        yield Finding("metrics", f"{PREDICTIONS}/{model}.parquet", what, f"{model} can't be checked")
    for model in sorted(reported.keys() & scored.keys()):
        if sorted(scored[model]["id"]) != sorted(test["id"]):
            what = "its ids aren't exactly those of the test split"
            means = f"{model} was evaluated on other edits than the other models"
            yield Finding("metrics", f"{PREDICTIONS}/{model}.parquet", what, means)
            continue
        scores = reported[model]
        if isinstance(scores, dict) and scores.get("split") != split:
            what = f"it isn't what {VALIDATION} says of the test split's leak"
            yield Finding("metrics", f"{METRICS} {model}.split", what, "the figures stand without their leak")
        joined = test.merge(scored[model], on="id")
        answers, mos = joined["score"].to_numpy(float, na_value=np.nan), joined["mos"].to_numpy(float)
        for name, value in measure(answers, mos, failure_policy, train_mean).items():
            score = _value(scores, name)
            if score is None and not np.isfinite(value):
                continue
            if score is None or not isclose(score, value, rel_tol=1e-9, abs_tol=1e-9):
                what = f"it is {score}, but the predictions give {value:.6f}"
                means = "the metric wasn't computed from the predictions"
                yield Finding("metrics", f"{METRICS} {model}.{name}", what, means)


def _value(scores: Any, name: str) -> float | None:
    """A score in metrics.json, None if there is no number."""
    score = scores.get(name) if isinstance(scores, dict) else None
    value = score.get("value") if isinstance(score, dict) else None
    return value if isinstance(value, int | float) else None


def check_cache(repository: Path) -> Iterator[Finding]:
    """Hash the files in DVC's cache that dvc.lock names."""
    missing: set[str] = set()
    try:
        with Repo(str(repository)) as repo:
            caches: CacheManager = repo.cache
            for out in repo.index.outs:
                if out.use_cache and out.hash_info:
                    yield from _check_object(caches, out.hash_info, path_in(repository, out), missing)
    except DvcException as error:
        yield Finding("cache", ".dvc", str(error), "DVC's cache can't be checked")
        return
    for where in sorted(missing):
        yield Finding("cache", where, "DVC's cache lacks it or a part of it", "try `dvc pull`", False)


def _check_object(caches: CacheManager, hashed: HashInfo, where: str, missing: set[str]) -> Iterator[Finding]:
    fix = "`dvc checkout` would restore a wrong file: delete this one from the cache, and run `dvc pull`"
    oid = str(hashed.value)
    if not caches.local.exists(oid):
        missing.add(where)
    elif file_md5(caches.local.oid_to_path(oid), caches.local.fs) != oid.removesuffix(".dir"):
        yield Finding("cache", where, f"the file {oid} of DVC's cache is damaged", fix)
    elif hashed.isdir:
        for key, _, file in Tree.load(caches.local, hashed):
            if not caches.local.exists(file.value):
                missing.add(where)
            else:
                yield from _check_object(caches, file, f"{where}/{'/'.join(key)}", missing)


def check_git(repository: Path) -> Iterator[Finding]:
    """Check that the record is committed, so that others can check it."""
    try:
        changed = uncommitted(repository)
    except CheckoutError:
        means = "others can't check this record"
        yield Finding("git", str(repository), "it is not a git repository", means, False)
        return
    means = "commit it, so that others have this record"
    record = {*generated(repository), "dvc.yaml", "params.yaml", *(p for p in changed if p.startswith(CODE))}
    for path in sorted(changed & record):
        yield Finding("git", path, "it has uncommitted changes", means, False)


def _md5_by_path(folder: Path) -> dict[str, str]:
    """The MD5 of each input and output, as in dvc.lock; computed from files, not from DVC's cache of times."""
    found: dict[str, str] = {}
    try:
        with Repo(str(folder)) as repo:
            repo.state = StateNoop()
            files = [item for item in repo.index.deps if not isinstance(item, ParamsDependency)]
            items = {path_in(folder, item): item for item in (*files, *repo.index.outs) if item.is_in_repo}
            items = {path: item for path, item in items.items() if (folder / path).exists()}
    except DvcException as error:
        raise RecordError(f"DVC can't read the pipeline of {folder}: {error}") from None
    for path, item in items.items():
        try:
            with suppress(DvcException):
                found[path] = str(item.get_hash().value)
        except OSError as error:
            raise RecordError(f"{path} can't be hashed ({error}): check it for broken links") from None
    return found


def _at(values: Any, key: str) -> Any:
    """The part of nested params at a dotted key; None if it is missing."""
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _show(values: dict[str, Any], key: str) -> str:
    return "nothing" if values.get(key) is None else repr(values[key])

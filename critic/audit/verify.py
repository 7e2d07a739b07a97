"""The record of a checkout against what is there, without running anything.

    problems = [finding for finding in verify(repository) if finding.is_problem]

The record is dvc.lock and the manifests. Each file is hashed anew, twice: by MD5, which dvc.lock has, and by
SHA-256, which the manifest has. So a change of the file, of dvc.lock and of the manifest are told apart.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dvc.cachemgr import CacheManager
from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.hash import file_md5
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.state import StateNoop
from dvc_data.hashfile.tree import Tree

from critic import params
from critic.audit.manifests import BESIDE, CODE, UNKNOWN, Manifest, Material, fingerprint, path_of
from critic.audit.records import Record, RecordError, flat, named, outputs
from critic.edits import read_table
from critic.evaluation.metrics import apply_policy, measure
from critic.release.checkout import CheckoutError, git, written

PREDICTIONS = "reports/predictions"


@dataclass(frozen=True)
class Finding:
    """Something that an auditor must know.

    Attributes:
        check: what was looked at: record, params, code, data, contract, environment, chain, metrics, cache, git,
            release or bento.
        where: the file, stage, tag or key.
        what: what is the matter.
        means: what follows from it.
        is_problem: whether the record doesn't hold; else it does, and this is good to know.
    """

    check: str
    where: str
    what: str
    means: str
    is_problem: bool = True


def verify(repository: Path) -> list[Finding]:
    """All that is found in a checkout, problems first. Nothing found means that the record holds.

    Raises:
        RecordError: there is no pipeline whose record could be read.
    """
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
            found.append(Finding("record", str(path_of(stage)), str(error), "what it made has no record"))
    found += check_files(record, manifests)
    for manifest in manifests.values():
        found += check_manifest(record, manifest)
        found += check_chain(record, manifest, manifests)
        found += check_environment(record, manifest)
    found += check_models(manifests)
    if not any(finding.where.startswith(("reports/predictions", "data/validated")) for finding in found):
        found += check_metrics(repository)
    found += check_cache(repository)
    found += check_git(repository)
    return sorted(found, key=lambda finding: not finding.is_problem)


def check_lock(record: Record, stage: str) -> Iterator[Finding]:
    """A stage of dvc.lock against dvc.yaml and params.yaml."""
    entry = record.lock.get(stage)
    if entry is None:
        yield Finding("record", "dvc.lock", f"it has no stage {stage}", f"{stage} hasn't run: `dvc repro {stage}`")
        return
    declared = record.stages[stage]
    if entry["cmd"] != declared["cmd"]:
        yield Finding(
            "record",
            "dvc.lock",
            f"{stage} ran as `{entry['cmd']}`, and dvc.yaml says `{declared['cmd']}`",
            "what is there was made by another command",
        )
    for part in ("deps", "outs"):
        said = outputs(declared) if part == "outs" else {named(item) for item in declared.get("deps", [])}
        for path in sorted(said ^ {item["path"] for item in entry.get(part, [])}):
            yield Finding(
                "record",
                f"dvc.lock, {stage}: {path}",
                f"only one of dvc.yaml and dvc.lock has it among the {part} of {stage}",
                f"dvc.yaml was changed since {stage} ran, or dvc.lock was by hand",
            )
    profile = str(record.params.get("profile"))
    keys = {str(key).replace("${profile}", profile) for key in declared.get("params", [])}
    for key in sorted(keys ^ entry.get("params", {}).get("params.yaml", {}).keys()):
        yield Finding(
            "params",
            f"dvc.lock, {stage}: {key}",
            f"only one of dvc.yaml and dvc.lock has it among the params of {stage}",
            f"dvc.yaml was changed since {stage} ran, or dvc.lock was by hand",
        )
    then = flat(entry.get("params", {}).get("params.yaml", {}))
    now = flat(_selected(record.params, entry.get("params", {}).get("params.yaml", {})))
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            yield Finding(
                "params",
                f"params.yaml {key}",
                f"it is {_told(now, key)}, and dvc.lock says that {stage} ran with {_told(then, key)}",
                "either params.yaml was changed since, or dvc.lock was: its outputs aren't those of params.yaml",
            )


def check_files(record: Record, manifests: dict[str, Manifest]) -> Iterator[Finding]:
    """What the stages read and left, against dvc.lock and the manifests."""
    folder = record.repository
    seen: dict[str, tuple[Material | None, str | None]] = {}
    hashes = _Md5(folder)
    for stage, entry in record.lock.items():
        if stage not in record.stages:
            yield Finding("record", "dvc.lock", f"it has a stage {stage} that dvc.yaml hasn't", "it was removed")
            continue
        manifest = manifests.get(stage)
        for part in ("deps", "outs"):
            for item in entry.get(part, []):
                path = item["path"]
                if path not in seen:
                    there = (folder / path).exists()
                    seen[path] = (fingerprint(folder / path), hashes.of(path)) if there else (None, None)
                found, found_md5 = seen[path]
                yield from _check_file(stage, part, item, _with_files(manifest, manifests), found, found_md5)


def _with_files(manifest: Manifest | None, manifests: dict[str, Manifest]) -> Manifest | None:
    """A manifest whose inputs have the lists of files that their own stages' manifests have."""
    if manifest is None:
        return None
    inputs = {}
    for path, material in manifest.inputs.items():
        maker = manifests.get(material.stage or "")
        made = maker.outputs.get(path) if maker else None
        same = made is not None and made.sha256 == material.sha256
        inputs[path] = material.model_copy(update={"files": made.files}) if made and same else material
    return manifest.model_copy(update={"inputs": inputs})


def _check_file(
    stage: str,
    part: str,
    item: dict[str, Any],
    manifest: Manifest | None,
    found: Material | None,
    found_md5: str | None,
) -> Iterator[Finding]:
    path = item["path"]
    is_code = path.startswith(CODE)
    check = "code" if is_code else "record" if path == str(path_of(stage)) else "data"
    read = part == "deps"
    if found is None:
        back = "`dvc checkout` may bring it back from the cache, and `dvc repro` makes it again"
        means = f"{stage} can't be checked" if read else back
        yield Finding(check, path, "it isn't there", means)
        return
    lock_holds = found_md5 == item.get("md5")
    if manifest is None or check == "record":
        if not lock_holds:
            why = (
                "the manifest was changed by hand, or dvc.lock was"
                if check == "record"
                else "it was changed since"
            )
            yield Finding(check, path, f"dvc.lock says that {stage} {'read' if read else 'left'} another", why)
        return
    changed = _changed(manifest, part, path, found)
    if changed is None and lock_holds:
        return
    if changed is None:
        yield Finding(
            "record",
            f"dvc.lock, {stage}: {path}",
            f"its hash there is neither of what is there nor of what {stage}'s manifest says",
            "dvc.lock was changed by hand",
        )
    elif lock_holds:
        yield Finding(
            "record",
            f"{path_of(stage)}: {path}",
            f"{', '.join(changed)}: the manifest says another hash, and dvc.lock this one",
            "the manifest was changed by hand, or the file was while the stage ran",
        )
    elif read:
        what = "edited" if is_code else "changed"
        yield Finding(
            check, ", ".join(changed), f"{what} since {stage} read it", f"`dvc repro` would run {stage} again"
        )
    else:
        yield Finding(
            check, ", ".join(changed), f"it isn't as {stage} left it", "it was changed after it was made"
        )


def _changed(manifest: Manifest, part: str, path: str, found: Material) -> list[str] | None:
    """The files at a path that aren't as a manifest has them, None if all are."""
    if part == "deps" and path.startswith(CODE):
        now = {f"{path}/{name}": digest for name, digest in found.files.items()} or {path: found.sha256}
        then = {name: d for name, d in manifest.code.items() if name == path or name.startswith(f"{path}/")}
        names = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        return names or None
    recorded = (manifest.inputs if part == "deps" else manifest.outputs).get(path)
    if recorded is not None and recorded.sha256 == found.sha256:
        return None
    names = found.differing(recorded) if recorded is not None and recorded.files else []
    return [f"{path}/{name}" for name in names] or [path]


def check_manifest(record: Record, manifest: Manifest) -> Iterator[Finding]:
    """A manifest against dvc.lock: the same command, params and files."""
    stage, where = manifest.stage, str(path_of(manifest.stage))
    entry = record.lock.get(stage)
    if entry is None:
        return
    if manifest.profile != record.params.get("profile"):
        yield Finding(
            "params",
            "params.yaml profile",
            f"it is {record.params.get('profile')!r}, and {stage} ran with {manifest.profile!r}",
            "its outputs aren't those of params.yaml",
        )
    if manifest.command != entry["cmd"]:
        yield Finding(
            "record", where, f"its command isn't dvc.lock's, `{entry['cmd']}`", "one was changed by hand"
        )
    said, locked = flat(manifest.params), flat(entry.get("params", {}).get("params.yaml", {}))
    for key in sorted(said.keys() | locked.keys()):
        if said.get(key) != locked.get(key):
            yield Finding(
                "params",
                f"{where} {key}",
                f"it says {_told(said, key)}, and dvc.lock {_told(locked, key)}",
                "the manifest or dvc.lock was changed by hand",
            )
    deps = {item["path"] for item in entry.get("deps", [])}
    code = {path for path in deps if path.startswith(CODE)}
    outs = {item["path"] for item in entry.get("outs", [])} - {where}
    modules = {name: {path for path in code if f"{name}/".startswith(f"{path}/")} for name in manifest.code}
    foreign = {name for name, within in modules.items() if not within} - {BESIDE}
    unread = code - {path for within in modules.values() for path in within}
    alone = ((deps - code) ^ {*manifest.inputs}) | (outs ^ {*manifest.outputs})
    for path in sorted(foreign | unread | alone):
        yield Finding(
            "record",
            f"{where} {path}",
            "only one of the manifest and dvc.lock has it",
            "one was changed by hand",
        )
    for name, commit in manifest.revisions.items():
        if commit == UNKNOWN:
            yield Finding(
                "record", f"{where} {name}", "which commit it was isn't known", "it can't be had again for sure"
            )
    own = BESIDE
    try:
        now = sha256(record.read(own)).hexdigest()
    except RecordError:
        now = None
    if manifest.code.get(own) != now:
        yield Finding("code", own, f"edited since {stage} ran", "its checks and defaults may be others", False)


def check_chain(record: Record, manifest: Manifest, manifests: dict[str, Manifest]) -> Iterator[Finding]:
    """Each input that a stage made, against that stage's manifest."""
    where = str(path_of(manifest.stage))
    for path, material in manifest.inputs.items():
        makers = [other for other in manifests.values() if path in other.outputs]
        if material.stage is None:
            if makers:
                yield Finding(
                    "chain", f"{where} {path}", "no stage is named that made it", "the chain ends too early"
                )
            continue
        maker = manifests.get(material.stage)
        left = None if maker is None else maker.left(path)
        if maker is None or left is None:
            yield Finding(
                "chain",
                f"{where} {path}",
                f"no manifest of a stage {material.stage} has it",
                f"where {path} came from can't be told",
            )
        elif left != material.sha256:
            yield Finding(
                "chain",
                f"{where} {path}",
                f"{manifest.stage} read another than {material.stage}'s manifest says that it left",
                f"{manifest.stage} wasn't run on what is there now",
            )
        elif maker.sha256 != material.manifest:
            yield Finding(
                "chain",
                f"{where} {path}",
                f"{material.stage} has run again since, and left the same bytes",
                "the chain holds, by the file's hash",
                False,
            )


def check_environment(record: Record, manifest: Manifest) -> Iterator[Finding]:
    """The lock file that a stage ran with, against the one that is there."""
    packages = manifest.environment.packages
    if packages.lock is None:
        yield Finding(
            "environment",
            manifest.stage,
            "it ran without a lock file",
            "the manifest has all versions, and no environment can be made of it by `make setup`",
            False,
        )
        return
    path = record.repository / packages.lock
    if not path.exists():
        yield Finding(
            "environment", packages.lock, "it isn't there", f"the environment of {manifest.stage} is lost"
        )
    elif fingerprint(path).sha256 != packages.sha256:
        yield Finding(
            "environment",
            packages.lock,
            f"it isn't the one that {manifest.stage} ran with",
            "a library's version was changed since, so another environment would be made for a rerun",
        )


def check_models(manifests: dict[str, Manifest]) -> Iterator[Finding]:
    """The prompt contract in each model, against the one that it was trained under."""
    for manifest in manifests.values():
        for path, output in manifest.outputs.items():
            there = output.files.get("contract.yaml")
            if there is not None and manifest.contract is not None and there != manifest.contract.sha256:
                yield Finding(
                    "contract",
                    f"{path}/contract.yaml",
                    f"it isn't the contract {manifest.contract.name} that {manifest.stage} rendered with",
                    "the critic would be asked in other words than it was trained on",
                )


def check_metrics(repository: Path) -> Iterator[Finding]:
    """reports/metrics.json against the predictions and the MOS of the test split, without the intervals."""
    try:
        told = json.loads((repository / "reports/metrics.json").read_text())
        test = read_table(repository / "data/validated/test.parquet")
        train_mean = float(read_table(repository / "data/validated/train.parquet")["mos"].mean())
        policy = params.load(params.Evaluate, repository / params.FILE).policy
        files = sorted((repository / PREDICTIONS).glob("*.parquet"))
        scored = {path.stem: pd.read_parquet(path) for path in files}
        if not isinstance(told, dict):
            raise ValueError("it is no mapping of models to their scores")
    except (OSError, ValueError) as error:
        yield Finding(
            "metrics", "reports/metrics.json", f"it can't be checked: {error}", "no number of it is proven"
        )
        return
    for model in sorted(told.keys() ^ scored.keys()):
        yield Finding(
            "metrics",
            f"{PREDICTIONS}/{model}.parquet",
            f"only one of it and reports/metrics.json is there for {model}",
            f"{model} can't be checked",
        )
    for model, predictions in scored.items():
        if model not in told:
            continue
        if sorted(predictions["id"]) != sorted(test["id"]):
            yield Finding(
                "metrics",
                f"{PREDICTIONS}/{model}.parquet",
                "its ids aren't those of the test split, each once",
                f"{model} was measured on another test than the others",
            )
            continue
        joined = test[["id", "mos"]].merge(predictions[["id", "score"]], on="id")
        answers, mos = joined["score"].to_numpy(float, na_value=np.nan), joined["mos"].to_numpy(float)
        measured = measure(apply_policy(answers, mos, policy, train_mean), mos)
        measured["coverage"] = float(np.isfinite(answers).mean())
        for name, value in measured.items():
            said = _value(told[model], name)
            if said is None and not np.isfinite(value):
                continue
            if said is None or not isclose(said, value, rel_tol=1e-9, abs_tol=1e-9):
                yield Finding(
                    "metrics",
                    f"reports/metrics.json {model}.{name}",
                    f"it says {said}, and the predictions give {value:.6f}",
                    "the metric isn't that of the predictions",
                )


def _value(scores: Any, name: str) -> float | None:
    """A score as metrics.json has it; None if there is no number."""
    score = scores.get(name) if isinstance(scores, dict) else None
    value = score.get("value") if isinstance(score, dict) else None
    return value if isinstance(value, int | float) else None


def check_cache(repository: Path) -> Iterator[Finding]:
    """The files in DVC's cache that dvc.lock names."""
    try:
        with Repo(str(repository)) as repo:
            caches: CacheManager = repo.cache
            outs = [out for out in repo.index.outs if out.use_cache and out.hash_info]
            absent = []
            for out in outs:
                where = str(Path(out.fs_path).relative_to(repository.resolve()))
                if not caches.local.exists(out.hash_info.value):
                    absent.append(where)
                    continue
                yield from _check_object(caches, out.hash_info, where, absent)
    except DvcException as error:
        yield Finding("cache", ".dvc", str(error), "DVC's cache can't be looked at")
        return
    for where in sorted({*absent}):
        yield Finding("cache", where, "DVC's cache lacks it or some of it", "`dvc pull` may bring it", False)


def _check_object(caches: CacheManager, hashed: HashInfo, where: str, absent: list[str]) -> Iterator[Finding]:
    means = "`dvc checkout` would give another file than the record says: delete it there, and `dvc pull`"
    oid = str(hashed.value)
    if _cached_md5(caches, oid) != oid.removesuffix(".dir"):
        yield Finding("cache", where, f"the file {oid} of DVC's cache is damaged", means)
        return
    if not hashed.isdir:
        return
    for key, _, file in Tree.load(caches.local, hashed):
        if not caches.local.exists(file.value):
            absent.append(where)
        elif _cached_md5(caches, file.value) != file.value:
            yield Finding(
                "cache", f"{where}/{'/'.join(key)}", f"the file {file.value} of DVC's cache is damaged", means
            )


def _cached_md5(caches: CacheManager, oid: str) -> str:
    return str(file_md5(caches.local.oid_to_path(oid), caches.local.fs))


def check_git(repository: Path) -> Iterator[Finding]:
    """Whether the record is committed: what isn't can't be checked by anybody else."""
    try:
        told = git(repository, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all")
    except CheckoutError:
        yield Finding(
            "git", str(repository), "it is no git repository", "nobody else can check this record", False
        )
        return
    changed = {entry[3:] for entry in told.split("\0") if entry}
    record = {*written(repository), "dvc.yaml", "params.yaml"} | {
        path for path in changed if path.startswith(CODE)
    }
    for path in sorted(changed & record):
        yield Finding("git", path, "it isn't committed as it is", "others have another record: commit it", False)


class _Md5:
    """Hashes as dvc.lock has them, without DVC's memory of files that look unchanged."""

    def __init__(self, folder: Path):
        self._items: dict[str, Any] = {}
        try:
            with Repo(str(folder)) as repo:
                repo.state = StateNoop()
                for item in (*repo.index.deps, *repo.index.outs):
                    if item.is_in_repo and not isinstance(item, ParamsDependency):
                        self._items[str(Path(item.fs_path).relative_to(folder.resolve()))] = item
        except DvcException as error:
            raise RecordError(f"DVC can't read the pipeline of {folder}: {error}") from None

    def of(self, path: str) -> str | None:
        item = self._items.get(path)
        if item is None:
            return None
        try:
            return str(item.get_hash().value)
        except DvcException:
            return None
        except OSError as error:
            raise RecordError(f"{path} can't be hashed ({error}): is there a link to nowhere in it?") from None


def _selected(values: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The parts of nested params at dotted keys."""
    picked: dict[str, Any] = {}
    for key in keys:
        part: Any = values
        for name in key.split("."):
            part = part.get(name) if isinstance(part, dict) else None
        picked[key] = part
    return picked


def _told(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "nothing"

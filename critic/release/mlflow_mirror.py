"""What git and DVC have, in MLflow: a run for each record, a version of the model for each release, the champion.

    mirror(repository, print)     # afterwards the alias `champion` is on the version of the champion's tag

Git's tags decide (`critic.release.registry`). Promotions, refusals and rollbacks call `follow`, which does this if
MLFLOW_TRACKING_URI is set; what MLflow missed is made up for the next time.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from dvc.api import DVCFileSystem

from critic.extras import needs
from critic.files import sha256
from critic.params import merged
from critic.release import registry
from critic.release.git import git
from critic.release.promotion_gate import MODEL
from critic.service.packaging import PackageError, fetch
from critic.training.trackers import FOLDER

VARIABLE = "MLFLOW_TRACKING_URI"
NAME = "edit-critic"
"""Of the experiment, unless MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID is set, and of the registered model."""
NEEDED = ("params.yaml", "dvc.lock", "reports/metrics.json")
FILES = (*NEEDED, "reports/provenance", "reports/cards")
_BATCH = 100
"""The most parameters that MLflow takes at once."""


class MlflowError(RuntimeError):
    """MLflow has no address, can't be reached or can't get the champion; the message has the reason."""


def follow(repository: Path, log: Callable[[str], None]) -> None:
    """`mirror` if MLFLOW_TRACKING_URI is set. Any failure is logged: what is in git stays valid."""
    if not os.environ.get(VARIABLE):
        return
    try:
        mirror(repository, log)
    except Exception as error:  # MLflow's stores raise those of requests, boto3, SQLAlchemy...
        log(f"MLflow doesn't have this yet, run `critic releases --mlflow`: {type(error).__name__}: {error}")


def mirror(repository: Path, log: Callable[[str], None]) -> None:
    """Log and register all releases, move the alias `champion`, and log the record of HEAD.

    An earlier release whose files are lost or incomplete is left out, and the log says so.

    Raises:
        MissingExtra: mlflow isn't installed.
        MlflowError: no MLFLOW_TRACKING_URI, MLflow can't be reached, or the files of the champion or of HEAD are
            lost or incomplete.
        PackageError: the critic of HEAD is neither in DVC's cache nor in its remote.
    """
    if not os.environ.get(VARIABLE):
        raise MlflowError(f"set {VARIABLE}, for example to sqlite:///{FOLDER}/mlflow.db")
    with needs("trackers", VARIABLE):
        import mlflow
        from mlflow.exceptions import MlflowException
    try:
        client = mlflow.MlflowClient()
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if experiment is None:
            experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", NAME)).experiment_id
        if not client.search_registered_models(f"name='{NAME}'"):
            client.create_registered_model(NAME)
        known = client.search_model_versions(f"name='{NAME}'")
        versions = {found.tags.get("release"): found.version for found in known}
        for release in registry.releases(repository):
            if release.version in versions:
                continue
            try:
                run = _run(experiment, repository, release.commit, log)
            except (PackageError, MlflowError) as error:
                log(f"MLflow: {release.version} is left out: {error}")
                continue
            tags = {"release": release.version, "commit": release.commit}
            source = f"{run.info.artifact_uri}/model"
            made = client.create_model_version(NAME, source, run.info.run_id, tags)
            versions[release.version] = made.version
        if champion := registry.champion(repository):
            if champion.version not in versions:
                raise MlflowError(f"{NAME} has no {champion.version}, the champion: see why it is left out")
            client.set_registered_model_alias(NAME, registry.CHAMPION, versions[champion.version])
            log(f"MLflow: {NAME}@{registry.CHAMPION} is {champion.version}")
        _run(experiment, repository, "HEAD", log)
    except MlflowException as error:
        raise MlflowError(f"{mlflow.get_tracking_uri()}: {error}") from error


def _run(experiment: str, repository: Path, revision: str, log: Callable[[str], None]) -> Any:
    """The run of a commit's record, logged if there is none; the same dvc.lock is the same record."""
    import mlflow

    with TemporaryDirectory(prefix="critic-") as scratch:
        folder = Path(scratch)
        files = DVCFileSystem(str(repository), rev=revision)
        for path in FILES:
            if files.exists(path):
                files.get(path, str(folder / path), recursive=True)
        if missing := [path for path in NEEDED if not (folder / path).exists()]:
            raise MlflowError(f"{revision} has no {', '.join(missing)}")
        record = sha256(folder / "dvc.lock")
        found = mlflow.MlflowClient().search_runs(
            [experiment], f"tags.record = '{record}' and attributes.status = 'FINISHED'"
        )
        if found:
            return found[0]
        commit = fetch(revision, MODEL, folder / "model", repository)
        name = git(repository, "log", "-1", "--format=%s", commit)
        with mlflow.start_run(run_name=name, tags={"record": record, "commit": commit}) as run:
            content = yaml.safe_load((folder / "params.yaml").read_text())
            active = {name: content[name] for name in ("profile", "seed")} | merged(content, content["profile"])
            params = [*_flat(active, ".")]
            for start in range(0, len(params), _BATCH):
                mlflow.log_params(dict(params[start : start + _BATCH]))
            metrics = dict(_flat(json.loads((folder / "reports/metrics.json").read_text()), "/"))
            mlflow.log_metrics({name: value for name, value in metrics.items() if isinstance(value, int | float)})
            mlflow.log_artifacts(scratch)
        log(f"MLflow: logged the record of {commit[:12]}")
        return run


def _flat(values: dict[str, Any], separator: str, start: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, each with the names on the way to it."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, separator, f"{start}{name}{separator}")
        else:
            yield f"{start}{name}", value

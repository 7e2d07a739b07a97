"""Trackers of the trainings: MLflow, SwanLab, TensorBoard, Weights & Biases, by transformers' callbacks.

    CRITIC_REPORT_TO=mlflow,wandb dvc repro

Where a training is logged isn't part of it, so this is a variable of the environment and no key of params.yaml: a
training has the same outputs, and the same hashes in dvc.lock, with trackers and without.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from critic.extras import needs

VARIABLE = "CRITIC_REPORT_TO"
FOLDER = Path("runs/trackers")
"""Of the trackers that write files; git ignores it, and a training doesn't delete it."""

_PROJECT = "edit-critic"
_SETTINGS = {
    "mlflow": {"MLFLOW_TRACKING_URI": f"sqlite:///{FOLDER}/mlflow.db", "MLFLOW_EXPERIMENT_NAME": _PROJECT},
    "swanlab": {"SWANLAB_LOG_DIR": f"{FOLDER}/swanlab", "SWANLAB_PROJECT": _PROJECT},
    "tensorboard": {"TENSORBOARD_LOGGING_DIR": f"{FOLDER}/tensorboard/{{training}}"},
    "wandb": {"WANDB_DIR": f"{FOLDER}", "WANDB_DATA_DIR": f"{FOLDER}/wandb", "WANDB_PROJECT": _PROJECT},
}
"""The variables that each tracker reads, by its name in transformers, and our defaults."""


class TrackerError(ValueError):
    """CRITIC_REPORT_TO names a tracker that doesn't exist."""


def report_to(training: str) -> list[str]:
    """The trackers that `VARIABLE` names, with our defaults in the environment where it has no settings of theirs.

    Args:
        training: its name, sft or grpo.

    Raises:
        TrackerError: one of them is unknown.
        MissingExtra: the package of one isn't installed.
    """
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    if unknown := [name for name in names if name not in _SETTINGS]:
        raise TrackerError(f"{VARIABLE} names {', '.join(unknown)}: choose from {', '.join(_SETTINGS)}")
    for name in names:
        with needs("trackers", f"{VARIABLE}={name}"):
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
        FOLDER.mkdir(parents=True, exist_ok=True)
        for variable, value in _SETTINGS[name].items():
            if variable != "MLFLOW_EXPERIMENT_NAME" or "MLFLOW_EXPERIMENT_ID" not in os.environ:
                os.environ.setdefault(variable, value.format(training=training))
    return names


@contextmanager
def tracked(training: str) -> Iterator[None]:
    """Keeps MLflow's run of a training open until its end, `evaluate` included; it is FAILED if the training is.

    Raises:
        TrackerError, MissingExtra: as `report_to`.
    """
    if "mlflow" not in report_to(training) or os.environ.get("RANK", "0") != "0":
        yield
        return
    import mlflow

    with mlflow.start_run(run_name=training):
        yield

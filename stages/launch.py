"""Run a stage on the processes that `launch` in params.yaml asks for, and record its manifest.

    python -m stages.launch sft                        # what dvc.yaml runs
    python -m stages.launch sft --dry-run              # only print the command
    python -m stages.launch --dry-run --profile full   # print those of all stages under another profile

Trainings on several processes run under torchrun, one process per GPU. Several machines must share this folder,
since all of them write and read checkpoints. Run `dvc repro` on the first and this command on the others, each
with NODE_RANK (0 is the first), MASTER_ADDR and MASTER_PORT in its environment.

A finished stage has its manifest in reports/provenance (docs/audit.md).
"""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from critic import params, process_tree
from critic.audit import manifests
from critic.extras import MissingExtra
from critic.training.trackers import TrackerError, report_to

TRAININGS = ("sft", "grpo")
STAGES = ("download", "validate", "build", *TRAININGS, "evaluate", "cards")


class LaunchError(ValueError):
    """The environment lacks variables that a launch on several machines needs."""


def main() -> None:
    summary, examples = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="python -m stages.launch",
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", nargs="?", choices=STAGES, help="stage to run (default with --dry-run: all)")
    parser.add_argument("--dry-run", action="store_true", help="print the command without running it")
    parser.add_argument("--profile", help="profile of params.yaml, with --dry-run (default: the active one)")
    given = parser.parse_args()
    if not given.dry_run and (given.stage is None or given.profile):
        parser.error("name a stage to run; --profile needs --dry-run: else set `profile` in params.yaml")
    launch = params.load(params.Launch, profile=given.profile)
    for stage in [given.stage] if given.stage else STAGES:
        try:
            command = stage_command(stage, launch, os.environ)
        except LaunchError as error:
            raise SystemExit(str(error)) from None
        if given.dry_run:
            print(shlex.join(command))
            continue
        if stage in TRAININGS:
            try:
                report_to(stage)
            except (TrackerError, MissingExtra) as error:
                raise SystemExit(str(error)) from None
        if "torch.distributed.run" in command:
            os.environ.setdefault("OMP_NUM_THREADS", str(threads(launch)))
        if launch.nnodes > 1 and os.environ.get("NODE_RANK", "0") != "0":
            os.execvp(command[0], command)  # the first machine writes the manifest
        else:
            run(stage, command, stage_environment(stage, command, os.environ))


def run(stage: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a stage's command, write its manifest, or exit with the command's status if it fails."""
    try:
        stage_run = manifests.begin(stage, Path.cwd())
    except manifests.ManifestError as error:
        raise SystemExit(str(error)) from None
    if code := process_tree.run(command, env=environment):
        raise SystemExit(code)
    stage_run.finish()


def stage_command(stage: str, launch: params.Launch, environment: Mapping[str, str]) -> list[str]:
    """The command that runs a stage.

    Raises:
        LaunchError: `launch` has several machines, and a variable is missing in the environment.
    """
    module = ["-m", f"stages.{stage}"]
    if stage not in TRAININGS or (launch.nnodes * launch.nproc_per_node == 1 and launch.zero_stage is None):
        return [sys.executable, *module]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(launch.nproc_per_node)]
    if launch.nnodes == 1:
        return [*command, "--standalone", *module]
    names = {"node-rank": "NODE_RANK", "master-addr": "MASTER_ADDR", "master-port": "MASTER_PORT"}
    if missing := [name for name in names.values() if name not in environment]:
        raise LaunchError(
            f"launch.nnodes is {launch.nnodes}: set {', '.join(missing)} in each machine's environment"
        )
    command += ["--nnodes", str(launch.nnodes)]
    for option, name in names.items():
        command += [f"--{option}", environment[name]]
    return [*command, *module]


def threads(launch: params.Launch) -> int:
    """The threads of each process on this machine, at least 1. torchrun itself would take 1.

    The processes of a training prepare their pictures on the CPU.
    """
    return max(1, len(os.sched_getaffinity(0)) // launch.nproc_per_node)


def stage_environment(stage: str, command: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a stage's command: a training without torchrun sees the first GPU alone.

    TRL refuses several visible GPUs there, since `Trainer` would spread each batch over them.
    """
    if stage not in TRAININGS or "torch.distributed.run" in command:
        return dict(environment)
    first = environment.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    return {**environment, "CUDA_VISIBLE_DEVICES": first}


if __name__ == "__main__":
    main()

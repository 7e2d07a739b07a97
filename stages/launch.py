"""Start a stage on as many processes as `launch` in params.yaml says, and note what made its outputs.

    python -m stages.launch sft                        # what dvc.yaml runs
    python -m stages.launch sft --dry-run              # print the command alone
    python -m stages.launch --dry-run --profile full   # print those of all stages under another profile

One process runs here and now; several under torchrun, one a GPU. On several machines, which must share this folder
(all write checkpoints and read them), run `dvc repro` on the first and this command on the others, each with
MACHINE_RANK (0 is the first), MAIN_ADDRESS and MAIN_PORT in its environment.

When a stage has come to its end, its manifest is in reports/provenance (docs/audit.md).
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from critic import params, process_tree
from critic.audit import manifests

TRAININGS = ("sft", "grpo")
STAGES = ("download", "validate", "build", *TRAININGS, "evaluate", "cards")


class LaunchError(ValueError):
    """The environment lacks what a launch on several machines needs."""


def main() -> None:
    summary, examples = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="python -m stages.launch",
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", nargs="?", choices=STAGES, help="the stage; all of them with --dry-run alone")
    parser.add_argument("--dry-run", action="store_true", help="print the command, run nothing")
    parser.add_argument("--profile", help="a profile of params.yaml other than the active one (with --dry-run)")
    given = parser.parse_args()
    if not given.dry_run and (given.stage is None or given.profile):
        parser.error("name a stage to run, and no profile: the active one is `profile` in params.yaml")
    launch = params.load(params.Launch, profile=given.profile)
    for stage in [given.stage] if given.stage else STAGES:
        try:
            command = stage_command(stage, launch, os.environ)
        except LaunchError as error:
            raise SystemExit(str(error)) from None
        if given.dry_run:
            print(shlex.join(command))
        elif launch.machines > 1 and os.environ.get("MACHINE_RANK", "0") != "0":
            os.execvp(command[0], command)  # the first machine keeps the record
        else:
            run(stage, command)


def run(stage: str, command: Sequence[str]) -> None:
    """Run a stage's command between the two halves of its manifest, and exit as it does if it fails."""
    try:
        begun = manifests.begin(stage, Path.cwd())
    except manifests.ProvenanceError as error:
        raise SystemExit(str(error)) from None
    process = subprocess.Popen(process_tree.command(command))
    try:
        code = process.wait()
    finally:
        process_tree.end(process)
    if code:
        raise SystemExit(code)
    begun.finish()


def stage_command(stage: str, launch: params.Launch, environment: Mapping[str, str]) -> list[str]:
    """The words of the command that runs a stage.

    Raises:
        LaunchError: several machines are asked for and the environment doesn't say which one this is.
    """
    module = ["-m", f"stages.{stage}"]
    if stage not in TRAININGS or (launch.machines * launch.processes == 1 and launch.zero_stage is None):
        return [sys.executable, *module]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(launch.processes)]
    if launch.machines == 1:
        return [*command, "--standalone", *module]
    names = {"node-rank": "MACHINE_RANK", "master-addr": "MAIN_ADDRESS", "master-port": "MAIN_PORT"}
    if missing := [name for name in names.values() if name not in environment]:
        raise LaunchError(
            f"launch.machines is {launch.machines}: set {', '.join(missing)} in each machine's environment"
        )
    command += ["--nnodes", str(launch.machines)]
    for option, name in names.items():
        command += [f"--{option}", environment[name]]
    return [*command, *module]


if __name__ == "__main__":
    main()

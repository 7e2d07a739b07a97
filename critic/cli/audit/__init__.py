"""`critic audit`: trace a critic to its data and code, verify its record, and reproduce it."""

import click

from critic.cli.audit import coverage, diff, export, rerun, trace, verify


@click.group("audit")
def command() -> None:
    """Trace a critic to its data and code, verify its record, and reproduce it: see docs/audit.md.

    SUBJECT is a file or folder that the pipeline writes, a release (v1.2.0), a git revision, a Bento
    (edit_critic:v1.2.0-cpu-1), weights (sha256:...), or a file with an answer of the service (answer.json).
    """


for _module in (trace, diff, verify, rerun, coverage, export):
    command.add_command(_module.command)

"""`critic audit`: trace a critic to its data and code, verify its record, and reproduce it."""

from typing import Any

import click

from critic.cli.audit import coverage, diff, export, rerun, trace, verify


class _Audit(click.Group):
    """A group whose commands end with an error in one line if `critic` raises one of its own errors."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (OSError, RuntimeError, ValueError) as error:
            if not type(error).__module__.startswith("critic."):
                raise
            raise click.ClickException(str(error)) from None


@click.group("audit", cls=_Audit)
def command() -> None:
    """Trace a critic to its data and code, verify its record, and reproduce it: see docs/audit.md.

    SUBJECT is a file or folder that the pipeline writes, a release (v1.2.0), a git revision, a Bento
    (edit_critic:v1.2.0-cpu-1), weights (sha256:...), or a file with an answer of the service (answer.json).
    """


for _module in (trace, diff, verify, rerun, coverage, export):
    command.add_command(_module.command)

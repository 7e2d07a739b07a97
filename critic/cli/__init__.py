"""The command `critic`: a module for each command, whose help has examples."""

from importlib import import_module
from typing import Any

import click

from critic.extras import needs

_COMMANDS = {
    "score": ("critic.cli.score", "score", "Score one edit, or a file or folder of edits."),
    "eval": ("critic.cli.evaluate", "eval", "Measure how well a critic's scores agree with people's."),
    "compare": ("critic.cli.compare", "eval", "Test which of several critics agrees better with people."),
    "rank": ("critic.cli.rank", "eval", "Rank editors, or other groups of edits, by a critic's scores."),
    "pick": ("critic.cli.pick", "eval", "Pick the best edit of each request, by a critic's scores."),
    "filter": ("critic.cli.filter", "eval", "Keep the edits with scores above a threshold of known precision."),
    "parity": ("critic.cli.parity", "score", "Check that engines, batch sizes and orders don't change a score."),
    "probe": ("critic.cli.probe", "score", "Test whether a critic looks at the pictures and the instruction."),
    "judge": ("critic.cli.judge", "score", "Score edits with another judge: a classic metric or another model."),
    "contract": (
        "critic.cli.contract",
        "score",
        "Learn the prompt contract of a critic that was trained elsewhere.",
    ),
    "data": ("critic.cli.data", "score", "Read preference benchmarks and MOS sets of another layout."),
    "rate": ("critic.cli.rate", "flows", "Turn people's ratings into MOS for the next training."),
    "promote": (
        "critic.cli.promote",
        "flows",
        "Put this checkout's critic into service if it is significantly better.",
    ),
    "rollback": ("critic.cli.rollback", "flows", "Put the previous critic back into service."),
    "releases": ("critic.cli.releases", "flows", "List the released critics."),
    "package": ("critic.cli.package", "flows", "Build a Bento of a critic: the service and everything it needs."),
    "audit": ("critic.cli.audit", "flows", "Trace a critic to its data and code, verify that, and reproduce it."),
}
"""The module of each command, the extra of pyproject.toml that has its packages, and its summary. A module imports
slow packages, such as torch, only when its command runs, so that help and errors in options come at once."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, extra, _ = _COMMANDS[cmd_name]
        with needs(extra, f"`critic {cmd_name}`"):
            command: click.Command = import_module(module).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """End with one line for an error of this project, which says what to do, and not for a bug."""
        try:
            try:
                return super().invoke(ctx)
            except ModuleNotFoundError:
                name = ctx.invoked_subcommand or ""
                with needs(_COMMANDS[name][1], f"`critic {name}`"):
                    raise
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            if isinstance(error.__cause__, BrokenPipeError):
                raise error.__cause__ from None  # click exits with code 1 and no message
            if not type(error).__module__.startswith("critic."):
                raise
            raise click.ClickException(str(error)) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in _COMMANDS.items()])


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


@click.group(cls=_Commands, context_settings=_SETTINGS)
@click.version_option(package_name="edit-critic")
def main() -> None:
    """Score text-driven image edits, and measure how well a critic agrees with people."""

"""`critic`: score edits, and tell how far a critic can be believed.

critic score -m models/grpo pairs.csv --out scores.jsonl
critic eval scores.jsonl --against data/validated/test.parquet
critic compare a.jsonl b.jsonl --against data/validated/test.parquet
critic rank scores.jsonl --pairs pairs.csv --by editor
critic parity -m models/grpo --pairs pairs.csv
critic judge ssim pairs.csv --out ssim.jsonl
critic rate study.csv
critic promote
critic rollback
critic releases
critic package models/grpo
critic audit verify
"""

from importlib import import_module

import click

_COMMANDS = {
    "score": ("critic.cli.score", "Score one edit, or a file or folder of them."),
    "eval": ("critic.cli.evaluate", "Tell how far a critic's scores agree with people's."),
    "compare": ("critic.cli.compare", "Tell which of several critics agrees better with people."),
    "rank": ("critic.cli.rank", "Tell which editor, or other group of edits, a critic scores higher."),
    "parity": ("critic.cli.parity", "Check that engines, batch sizes and orders don't change a score."),
    "judge": ("critic.cli.judge", "Score edits by another judge: a classic metric or somebody else's model."),
    "rate": ("critic.cli.rate", "Make MOS of what people say of edits, for the next training."),
    "promote": ("critic.cli.promote", "Put this checkout's critic into service, if it is surely better."),
    "rollback": ("critic.cli.rollback", "Put the critic before this one into service again."),
    "releases": ("critic.cli.releases", "List the critics that were released."),
    "package": ("critic.cli.package", "Make a Bento of a critic: the service with all that it needs."),
    "audit": ("critic.cli.audit", "Tell where a critic came from, whether that is true, and make it again."),
}
"""The module of each command, and what it does. What is slow to import, such as torch, a module imports when its
command runs: help and wrong options needn't wait for it."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command: click.Command = import_module(module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Score text-driven image edits, and tell how far a critic can be believed."""

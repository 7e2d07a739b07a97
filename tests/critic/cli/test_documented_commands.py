"""Every `critic` command that a page shows is one that `critic` takes: it has the options; the arguments fit."""

import re
import shlex
from pathlib import Path

import click
import pytest

from critic.cli import main

ROOT = Path(__file__).parents[3]
FOLDERS = (".", "docs", "critic/audit/cards")
PAGES = [str(page.relative_to(ROOT)) for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md"))]
LINE = re.compile(r"^(?: {4}|\$ )?(?:\.venv/bin/)?critic (?P<rest>[a-z-].*)$")
END = re.compile(r"\s#\s|[|&;>)]")
"""What follows isn't the command's: a comment, a pipe, another command."""


def commands(page: str) -> list[str]:
    """Those in code: in a fence or indented, each in one line."""
    found, fenced = [], False
    for line in (ROOT / page).read_text().replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif (fenced or line.startswith("    ")) and (match := LINE.match(line)):
            found.append(END.split(match["rest"])[0].strip())
    return found


def take(words: list[str]) -> None:
    """Read a command as `critic` does, without doing it; files need not be there."""
    command, context = main, click.Context(main)
    while isinstance(command, click.Group):
        name, *words = words
        inner = command.get_command(context, name)
        assert inner is not None, f"critic has no command {name}"
        command = inner
    try:
        command.make_context(command.name, words, parent=context)
    except click.BadParameter as error:
        if "does not exist" not in error.message:
            raise


@pytest.mark.parametrize(("page", "shown"), [(page, shown) for page in PAGES for shown in commands(page)])
def test_it_is_taken(page: str, shown: str) -> None:
    take(shlex.split(shown))


def test_what_critic_does_not_take_is_seen() -> None:
    with pytest.raises(click.UsageError, match="unexpected extra argument"):
        take(shlex.split("score -m models/grpo source.png edited.png 'Make the cat red'"))
    with pytest.raises(click.NoSuchOption):
        take(["releases", "--bentos"])


def test_there_are_many() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 30

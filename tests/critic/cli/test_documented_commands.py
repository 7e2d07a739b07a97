"""The commands in the docs are valid, each command is in the docs, and each option has a help."""

import re
import shlex
from collections.abc import Iterator
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
    command, context = main, click.Context(main, **main.context_settings)
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


def every_command(
    command: click.Command = main, name: str = "critic", parent: click.Context | None = None
) -> Iterator[tuple[str, click.Command]]:
    """All commands with their full names, groups included."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, parent=parent)
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from every_command(found, f"{name} {inner}", context)


COMMANDS = dict(every_command())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_option_is_a_full_clause(name: str) -> None:
    options = [option for option in COMMANDS[name].params if isinstance(option, click.Option)]
    for option in options:
        text = re.sub(r"\s*\[default: [^]]*\]$", "", option.help or "")
        assert re.match(r"[A-Z0-9]", text), f"{name} {option.opts[0]}: begin {text!r} with a capital"
        assert text.endswith("."), f"{name} {option.opts[0]}: end {text!r} with a full stop"
        assert len(text.split()) >= 3, f"{name} {option.opts[0]}: {text!r} is not a clause"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_begins_with_a_full_sentence(name: str) -> None:
    text = (COMMANDS[name].help or "").partition("\n\n")[0]
    assert re.fullmatch(r"[A-Z].*\.", " ".join(text.split())), f"{name}: {text!r}"


def test_the_pages_show_every_command_and_no_other() -> None:
    """A group counts as shown if one of its commands is; of `audit`, each command must be shown."""
    shown = {tuple(shlex.split(line)[:2]) for page in PAGES for line in commands(page)}
    names = [name.split(" ")[1:] for name in COMMANDS if name != "critic"]
    assert {words[0] for words in shown} == {words[0] for words in names}
    audit = {words[-1] for words in shown if words[0] == "audit"}
    assert audit - {"audit"} == {words[-1] for words in names if words[0] == "audit"} - {"audit"}

"""Learn a prompt contract from an SFT set: the text around the instruction, as it stands in every row.

A row whose assistant reasons in `<think>` belongs to the mode reasoning, any other to direct. The text around the
instruction is what the rows of a mode share at their beginning and at their end, unless a column `instruction`
says what is between. The chat template and the prefill are those of a model. The pixel limits are upstream's,
because a model's files have those of its base, whatever it was trained with.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import TemplateError
from PIL import Image
from transformers import AutoProcessor
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils.chat_template_utils import render_jinja_template

from critic.answers import parse_critique
from critic.backbones import BackboneError, pixel_unit
from critic.data.readers.hub import HubUnreachable, fetch
from critic.edits import Edit
from critic.prompts import (
    DEFAULT_UNIT,
    IMAGE_MARK,
    MODES,
    Contract,
    ContractError,
    Message,
    Mode,
    neutralise,
    parse_contract,
)

UPSTREAM_PIXELS = (262144, 1048576)
"""The limits of each picture's area with which IE-Critic-R1 was trained."""

_CLOSING = dict(zip("\"'`*_([{\u201c", "\"'`*_)]}\u201d", strict=True))
_OPENING = f"[{re.escape(''.join(_CLOSING))}]"
_BEGINNING = re.compile(rf"(?:\n|:|{IMAGE_MARK})[^\S\n]*{_OPENING}*|\s{_OPENING}+")
"""Where an instruction can begin: after a line break, a colon, an image or an opening quote."""
_QUOTES = re.compile(rf"{_OPENING}+\Z")
_END = re.compile(rf"[^\S\n]*(?:\n|{IMAGE_MARK})")
"""Where the text after it can begin."""
_MARKS = re.compile(r"[^\w\s]+(?=\s|\Z)")
_BY_CHANCE = 2
"""Words that all instructions of a set can begin with by chance."""
_MOST = 0.9
"""The share of a mode's rows that must have the text around in common. The others are named."""
_HEAD, _NEAR = 16, 40
"""How many characters tell the beginning of a text, and how far it may be from that of another mode's."""
_SHOWN = 40
_PREFILL = "<think>"
_PROCESSOR_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
"""What a processor is read from: no weights."""
_QUOTED = "make 'it'\n\"red\""
"""A text that a template changes if it writes a list or a string as code."""
_ANSWER = f"{_PREFILL}Half done.</think>\n<answer>3.00</answer>"


class LearnError(ValueError):
    """No contract can be learnt; the message names the set or the model, the reason and the fix."""


@dataclass(frozen=True)
class Template:
    """How a model reads a conversation: its chat template (Jinja, verbatim), and limits of a picture's area.

    Attributes:
        model: its folder, or its name on the hub and the commit.
        chat_template: Jinja, verbatim.
        prefill: `<think>` if the template begins the assistant's turn with it, or "".
        image_token: the placeholder of a picture.
        pixels: the limits of each picture's area in the model's files, or None.
        pixel_unit: each side of a picture is a multiple of it.
    """

    model: str
    chat_template: str
    prefill: str
    image_token: str
    pixels: tuple[int, int] | None
    pixel_unit: int


@dataclass(frozen=True)
class Learnt:
    """A contract and what it is worth: mode to its number of rows, and lines of text.

    `failures` name each row that the contract doesn't render byte for byte, with the first difference; `notes`
    each place where the text around could also begin or end elsewhere.
    """

    contract: Contract
    rows: dict[Mode, int]
    failures: list[str]
    notes: list[str]


def read_template(model: str, revision: str | None = None) -> Template:
    """The chat template and pixel limits in the files of a model, a folder or a name on the hub; reads no weights.

    Raises:
        HubUnreachable: the hub can't be reached or answers with a server error.
        LearnError: there is no such model, or it has no chat template or reads no pictures.
    """
    folder = name = model
    try:
        if not Path(model).exists():
            snapshot = fetch(model, revision or "main", kind="model", only=_PROCESSOR_FILES)
            folder, name = str(snapshot.folder), f"{model} at {snapshot.commit}"
        processor = AutoProcessor.from_pretrained(folder)
        config, _ = ImageProcessingMixin.get_image_processor_dict(folder)
    except HubUnreachable:
        raise
    except (OSError, ValueError) as error:
        raise LearnError(
            f"the chat template of {model} can't be read: give the folder of a checkpoint, or the name of a model "
            f"on the hub ({str(error).splitlines()[0]})"
        ) from error
    image_token = getattr(processor, "image_token", None)
    if image_token is None:
        raise LearnError(f"{model} reads no pictures: give another model")
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise LearnError(f"{model} has no chat template: give another model")
    size = config.get("size") or {}
    least = config.get("min_pixels") or size.get("shortest_edge")
    most = config.get("max_pixels") or size.get("longest_edge")
    with _rendering(name):
        rendered, _ = render_jinja_template(
            conversations=[[{"role": "user", "content": "?"}]], chat_template=template, add_generation_prompt=True
        )
    prefill = _PREFILL if rendered[0].endswith(_PREFILL) else ""
    try:
        unit = pixel_unit(processor)
    except BackboneError as error:
        raise LearnError(f"{name}: {error}") from None
    return Template(name, template, prefill, image_token, (least, most) if least and most else None, unit)


def learn(
    table: pd.DataFrame, template: Template, name: str, origin: str, pixels: tuple[int, int] | None = None
) -> Learnt:
    """The contract that renders the rows of an SFT set.

    Args:
        table: the raw table of `critic.data.readers.rationales`, with or without images.
        origin: what the set is called in messages and in the contract's file.
        pixels: limits of each picture's area; None for `UPSTREAM_PIXELS`.

    Raises:
        LearnError: a mode has no rows, or most of them have no text around an instruction in common; or the text
            around holds special tokens; or the chat template can't be rendered, changes a text, moves a picture,
            or ends a prompt in a way that an answer beginning with `<think>` doesn't continue.
    """
    rows = _rows(table)
    for mode in MODES:
        if not any(row.mode == mode for row in rows):
            answer = "reasons in <think>" if mode == "reasoning" else "has no reasoning"
            raise LearnError(
                f"{origin} has no row whose answer {answer}: a contract needs the text of both modes, so give a "
                "set with both"
            )
    system = Counter(row.system for row in rows).most_common(1)[0][0]
    texts = {mode: [row for row in rows if row.mode == mode and row.system == system] for mode in MODES}
    if not all(texts.values()):
        raise LearnError(
            f"the rows of {origin} have another system message in each mode, which a contract can't have: give a "
            "set with one"
        )
    around, notes = _find(texts, origin)
    for mode, (before, after) in around.items():
        if not re.search(r"\w", (before + after).replace(IMAGE_MARK, "")):
            raise LearnError(
                f"the rows of {origin} in mode {mode} have no text around the instruction in common: give a set "
                "with one prompt for each mode"
            )
    middles = [_between(row.text, *around[mode]) for mode in MODES for row in texts[mode]]
    strip = all(middle is None or middle == middle.strip() for middle in middles)
    limits = dict(zip(("min", "max"), pixels or UPSTREAM_PIXELS, strict=True))
    fields = {
        "name": name,
        "version": 1,
        "images": ["source", "edited"],
        **({} if system is None else {"system": system}),
        "user_text": {mode: f"{_escape(b)}{{instruction}}{_escape(a)}" for mode, (b, a) in around.items()},
        **({} if strip else {"strip_instruction": False}),
        "prefill": template.prefill,
        "pixels": {**limits, **({} if template.pixel_unit == DEFAULT_UNIT else {"unit": template.pixel_unit})},
        "chat_template": template.chat_template,
    }
    head = f"# Learnt from {origin}, with the chat template of {template.model}, by `critic contract learn`.\n"
    try:
        contract = parse_contract(head + _to_yaml(fields), f"the contract learnt from {origin}")
    except ContractError as error:
        raise LearnError(str(error)) from None
    _check_template(contract, template)
    failures = [f"{row.place}: {reason}" for row in rows if (reason := _difference(contract, row))]
    failures += [
        f"row {number}: its turns are {', '.join(message['role'] for message in messages)}"
        for number, messages in enumerate(table["messages"], 1)
        if _is_odd(messages)
    ]
    counts = {mode: len(found) for mode, found in texts.items()}
    if len(failures) * 2 > len(table):
        raise LearnError(
            f"the best contract for {origin} renders {len(table) - len(failures)} of {len(table)} rows "
            f"({failures[0]}): give a set with one prompt for each mode, or add a column edit_inst with the "
            "instructions"
        )
    return Learnt(contract, counts, failures, notes)


@dataclass(frozen=True)
class _Row:
    place: str
    mode: Mode
    system: str | None
    text: str
    instruction: str | None


def _rows(table: pd.DataFrame) -> list[_Row]:
    """The rows with one turn of the user and one of the assistant."""
    rows = []
    for number, row in enumerate(table.to_dict("records"), 1):
        turns = {message["role"]: message["content"] for message in row["messages"]}
        if _is_odd(row["messages"]):
            continue
        text = turns["user"] if IMAGE_MARK in turns["user"] else 2 * IMAGE_MARK + turns["user"]
        mode: Mode = "reasoning" if parse_critique(turns["assistant"]).reasoning else "direct"
        known = row.get("instruction")
        instruction = known.strip() if isinstance(known, str) and known.strip() else None
        rows.append(_Row(f"row {number}, {mode}", mode, turns.get("system"), text, instruction))
    return rows


def _is_odd(messages: Sequence[dict[str, str]]) -> bool:
    roles = [message["role"] for message in messages]
    return roles not in (["user", "assistant"], ["system", "user", "assistant"])


# --- the text around the instruction


def _find(texts: dict[Mode, list[_Row]], origin: str) -> tuple[dict[Mode, tuple[str, str]], list[str]]:
    """The text before and after the instruction by mode, and notes on what is ambiguous."""
    notes: list[str] = []
    voted = {mode: around for mode, rows in texts.items() if (around := _voted(rows))}
    if len(voted) == len(texts):
        return voted, notes
    found = {mode: [row.text for row in rows] for mode, rows in texts.items()}
    for mode, same in found.items():
        if max(Counter(same).values()) >= _MOST * len(same):
            raise LearnError(
                f"the rows of {origin} in mode {mode} have the same text, so its instruction can't be found: add "
                "a column edit_inst with the instructions, or give a set with more edits"
            )
    befores = {mode: _shared_beginning(found[mode]) for mode in MODES}
    shortest = min(befores.values(), key=len)
    if all(before.startswith(shortest) for before in befores.values()):
        befores = dict.fromkeys(befores, shortest)
    befores = {mode: _cut_beginning(before, notes) for mode, before in befores.items()}
    rest = {mode: [row.removeprefix(befores[mode]) for row in found[mode]] for mode in MODES}
    ends = {mode: _shared_beginning([text[::-1] for text in rest[mode]])[::-1] for mode in MODES}
    afters = _agree(ends)
    afters = {mode: _cut_end(after, befores[mode], notes) for mode, after in afters.items()}
    return {mode: (befores[mode], afters[mode]) for mode in MODES} | voted, [*dict.fromkeys(notes)]


def _voted(rows: Sequence[_Row]) -> tuple[str, str] | None:
    """The text around the instruction in most rows, if that is known of them."""
    votes: Counter[tuple[str, str]] = Counter()
    known = [(row.text, row.instruction) for row in rows if row.instruction]
    for text, instruction in known:
        starts = [place.start() for place in re.finditer(f"(?={re.escape(instruction)})", text)]
        votes.update((text[:start], text[start + len(instruction) :]) for start in starts)
    best = votes.most_common(1)
    return best[0][0] if best and 2 * best[0][1] > len(rows) else None


def _shared_beginning(texts: list[str]) -> str:
    """What nearly all texts begin with, not ending inside a word."""
    least, length = _MOST * len(texts), 0
    while True:
        following = Counter(text[length] for text in texts if len(text) > length)
        (character, count), *_ = following.most_common(1) or [("", 0)]
        if count < least:
            break
        texts = [text for text in texts if text[length : length + 1] == character]
        length += 1
    shared = texts[0][:length]
    inside = any(shared[-1:].isalnum() and text[length : length + 1].isalnum() for text in texts)
    return re.sub(r"[^\W_]+\Z", "", shared) if inside else shared


def _cut_beginning(before: str, notes: list[str]) -> str:
    """The text before, without words that all instructions begin with by chance."""
    ends = [match.end() for match in _BEGINNING.finditer(before)]
    end = ends[-1] if ends else len(before)
    rest = before[end:]
    if quotes := _QUOTES.search(before[:end]):
        notes.append(_note("begins", quotes[0], "text before it"))
    if not rest.strip() or neutralise(rest) != rest:
        return before
    cut = len(rest.split()) <= _BY_CHANCE
    notes.append(_note("begins", rest, "instruction" if cut else "text before it"))
    return before[:end] if cut else before


def _cut_end(after: str, before: str, notes: list[str]) -> str:
    """The text after, without the mark that all instructions end with by chance, as a full stop."""
    if after.startswith(_CLOSING.get(before[-1:], "\0")):
        return after
    end, mark = _END.search(after), _MARKS.match(after)
    rest = after[: end.start()] if end else mark[0] if mark else ""
    if not rest.strip() or neutralise(rest) != rest:
        return after
    cut = _MARKS.fullmatch(rest) is not None
    notes.append(_note("ends", rest, "instruction" if cut else "text after it"))
    return after[len(rest) :] if cut else after


def _agree(afters: dict[Mode, str]) -> dict[Mode, str]:
    """The texts after, without what one of them has before the beginning of the other."""
    for one, other in (MODES, MODES[::-1]):
        head = afters[other][:_HEAD]
        place = afters[one].find(head)
        if len(head) == _HEAD and 0 < place <= _NEAR:
            afters = afters | {one: afters[one][place:]}
    return afters


def _note(how: str, text: str, taken: str) -> str:
    return f"all rows have {text!r} where the instruction {how}: it is taken as a part of the {taken}"


# --- the file


def _to_yaml(fields: dict[str, Any]) -> str:
    """YAML with texts of several lines as blocks, if they can be read back as they are."""
    readable = yaml.dump(fields, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
    if yaml.safe_load(readable) == fields:
        return readable
    return yaml.safe_dump(fields, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" * ("\n" in text) or None
    ),
)


def _escape(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


# --- checks


def _check_template(contract: Contract, template: Template) -> None:
    """Check that neither the text around nor the chat template changes a conversation's structure or text."""
    blank = Image.new("RGB", (1, 1))
    edit = Edit("", blank, blank, _QUOTED)
    quoted = [replace(contract, system=f"{contract.system}\n{_QUOTED}")] if contract.system else []
    for mode in MODES:
        around = contract.marked_text("", mode)
        if neutralise(around, tags=False) != around:
            raise LearnError(f"the text around the instruction holds special tokens, in mode {mode}: {around!r}")
        for one in (contract, *quoted):
            _check_conversation(one, template, one.messages(edit, mode))


def _check_conversation(contract: Contract, template: Template, messages: list[Message]) -> None:
    """Check that the prompt has the texts and pictures of messages in order, and that an answer continues it."""
    answer = {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]}
    with _rendering(template.model):
        prompt = contract.render(messages)
        answered = contract.render([*messages, answer], generate=False)
    texts: list[list[str]] = [[]]
    for part in (part for message in messages for part in message["content"]):
        if part["type"] == "image":
            texts.append([])
        else:
            texts[-1].append(part["text"])
    rendered = prompt.split(template.image_token)
    if len(rendered) != len(texts):
        raise LearnError(
            f"the chat template of {template.model} writes {len(rendered) - 1} {template.image_token} for "
            f"{len(texts) - 1} pictures: give another model"
        )
    for between, own in zip(rendered, texts, strict=True):
        rest = between
        for text in own:
            _, found, rest = rest.partition(text)
            if not found:
                raise LearnError(
                    f"the chat template of {template.model} changes, drops or moves the text {text!r}: give "
                    "another model"
                )
    if not answered.startswith(prompt) or _ANSWER not in answered:
        raise LearnError(
            f"the chat template of {template.model} ends a prompt with {prompt[-_SHOWN:]!r}, and an answer that "
            f"begins with {_PREFILL} and its reasoning doesn't continue it: a prompt must end with {_PREFILL} or "
            "just before it, and the template must keep the reasoning. Give another model"
        )


@contextmanager
def _rendering(model: str) -> Iterator[None]:
    try:
        yield
    except (TemplateError, TypeError, ValueError) as error:
        raise LearnError(f"the chat template of {model} can't be rendered: {error}. Give another model") from None


def _between(text: str, before: str, after: str) -> str | None:
    """The text between two others, or None if it doesn't begin and end with them."""
    fits = len(text) >= len(before) + len(after) and text.startswith(before) and text.endswith(after)
    return text[len(before) : len(text) - len(after)] if fits else None


def _difference(contract: Contract, row: _Row) -> str | None:
    """The first difference between a row's text and what the contract renders, or None if there is none."""
    if row.system != contract.system:
        return f"its system message is {_shorten(row.system)}, not {_shorten(contract.system)}"
    if contract.read_instruction(row.text, row.mode) is not None:
        return None
    before, after = contract.marked_text("\0", row.mode).split("\0")
    middle = _between(row.text, before, after)
    if middle is None and row.text.startswith(before):
        shared = _count_shared(row.text[::-1], after[::-1])
        theirs, ours = (text[max(len(text) - shared - 1, 0) :] for text in (row.text, after))
        return f"its text ends with {_shorten(theirs)}, not {_shorten(ours)}"
    expected = before if middle is None else contract.marked_text(middle, row.mode)
    place = _count_shared(row.text, expected)
    return f"character {place + 1} begins {_shorten(row.text[place:])}, not {_shorten(expected[place:])}"


def _count_shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))


def _shorten(text: str | None) -> str:
    return repr(text if text is None or len(text) <= _SHOWN else f"{text[:_SHOWN]}…")

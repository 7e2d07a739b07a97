"""The prompt contract: the one place that turns an edit, or a generated picture, into a prompt.

A contract is a YAML file in `critic/contracts/` (or at any path): the user's text, the order of the images, the
chat template with the think-prefill, and the pixel limits. `prompt.contract` in params.yaml names it; every model
keeps it. SFT, GRPO, every engine and the service render prompts with it. All texts are kept verbatim, with their
leading and trailing whitespace.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from jinja2 import TemplateError
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from critic.answers import AXES, sub_scores
from critic.edits import Edit

Mode = Literal["reasoning", "direct"]
Message = dict[str, Any]
MODES: tuple[Mode, ...] = ("reasoning", "direct")
CONTRACTS = Path(__file__).parent / "contracts"
CONTRACT_FILE = "contract.yaml"
"""The contract of the model or data in a folder."""
LEARNT = "learnt"
DEFAULT_UNIT = 28
"""The pixel unit of contracts that name none: that of Qwen2.5-VL, 2 x 2 patches of 14 pixels."""
IMAGE_MARK = "<image>"
"""The place of an image in a text: in LLaMA-Factory's SFT sets and in `user_text`."""
_THINK = "<think>"
_NOTICE = re.compile(r"^notice:.*\n?", re.MULTILINE)
_FIELDS_OF_AXES = ", ".join(f"{{{axis}}}" for axis in AXES)
_T = TypeVar("_T")


class _Pixels(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    min: PositiveInt
    max: PositiveInt
    unit: Annotated[PositiveInt, Field(multiple_of=2)] = DEFAULT_UNIT


class _File(BaseModel):
    """The fields of a contract file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    version: PositiveInt
    images: list[str]
    system: str | None = None
    user_text: str | dict[str, str]
    generated_text: str | None = None
    requests: dict[str, str] | None = None
    strip_instruction: bool = True
    sub_scores: str | None = None
    notice: str = ""
    prefill: str
    pixels: _Pixels
    chat_template: str

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if sorted(self.images) != ["edited", "source"]:
            raise ValueError("`images` orders source and edited")
        wants_requests = isinstance(self.user_text, str) or self.generated_text is not None
        if (wants_requests or self.requests is not None) and {*(self.requests or ())} != {*MODES}:
            raise ValueError(f"`requests` has {', '.join(MODES)}")
        if self.pixels.min > self.pixels.max:
            raise ValueError("pixels.min is more than pixels.max")
        if isinstance(self.user_text, dict) and {*self.user_text} != {*MODES}:
            raise ValueError(f"`user_text` is a text, or has {', '.join(MODES)}")
        for text in self.texts().values():
            _check_text("user_text", text, "instruction", len(self.images))
        if self.generated_text is not None:
            _check_text("generated_text", self.generated_text, "prompt", 1)
        if self.sub_scores is not None:
            _check_sub_scores(self.sub_scores)
        return self

    def texts(self) -> dict[str, str]:
        """Mode to the user's text."""
        return dict.fromkeys(MODES, self.user_text) if isinstance(self.user_text, str) else self.user_text


def _check_text(name: str, text: str, field: str, images: int) -> None:
    if text.count(IMAGE_MARK) not in (0, images):
        raise ValueError(f"`{name}` has {text.count(IMAGE_MARK)} marks {IMAGE_MARK}: give {images}, or none")
    try:
        filled = text.format(**{field: "\0"}, request="")
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"`{name}` has fields other than {{{field}}} and {{request}}: {error}") from None
    if "\0" not in filled:
        raise ValueError(f"`{name}` has no {{{field}}}")


def _check_sub_scores(text: str) -> None:
    scores = {axis: 2.1 + number for number, axis in enumerate(AXES)}
    try:
        filled = text.format(**{axis: f"{score:.1f}" for axis, score in scores.items()})
    except (AttributeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"`sub_scores` has fields other than {_FIELDS_OF_AXES}: {error}") from None
    stated = {axis: score for axis, score in scores.items() if f"{{{axis}}}" in text}
    read = sub_scores(filled)
    if not stated or read != stated:
        raise ValueError(
            f"`sub_scores` is read back as {read or 'nothing'}, not {stated}: write each field right "
            "after its axis, such as 'alignment {alignment}, fidelity {fidelity}, quality {quality}.'"
        )


class ContractError(ValueError):
    """A contract file can't be used; the message names the file and the fix."""


@dataclass(frozen=True)
class Contract:
    """A prompt contract.

    Attributes:
        images: "source" and "edited" in the order of the prompt.
        system: the system message, or None.
        user_text: mode to the user's text, with the fields `{instruction}` and `{request}`. Each mark `<image>` is
            the place of an image; without marks, the images come first.
        generated_text: that for pictures generated from a text, with `{prompt}` and `{request}`, or None.
        requests: mode to its wording; empty if no text has the field `{request}`.
        strip_instruction: remove the whitespace around an instruction or prompt.
        sub_scores: the last line of the reasoning, with the fields `{alignment}`, `{fidelity}` and `{quality}` or
            some of them, or None if the reasoning has no fixed form.
        notice: what users of critics with this contract must know, in one line; "" for nothing. It is no part of a
            prompt: a critic that was trained with one notice works with another, see `without_notice`.
        prefill: the start of the assistant's turn, which the chat template writes.
        min_pixels, max_pixels: limits of each image's area.
        pixel_unit: each image's sides are multiples of it, the side of the square that one token covers.
        text: the file's content.
    """

    name: str
    version: int
    images: tuple[str, ...]
    system: str | None
    user_text: dict[str, str]
    generated_text: str | None
    requests: dict[str, str]
    strip_instruction: bool
    sub_scores: str | None
    notice: str
    prefill: str
    chat_template: str
    min_pixels: int
    max_pixels: int
    pixel_unit: int
    text: str

    @property
    def pixels(self) -> tuple[int, int]:
        """The limits of each image's area."""
        return self.min_pixels, self.max_pixels

    @property
    def hash(self) -> str:
        """SHA-256 of the contract file."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def messages(self, item: Edit, mode: Mode = "reasoning") -> list[Message]:
        """The system message, if the contract has one, and the user's turn: images in their places, and the text.

        Args:
            item: the edit or generated picture; its instruction is untrusted, see `neutralise`.
            mode: "reasoning", or "direct" for a score without reasoning.

        Raises:
            ContractError: the contract has no `generated_text`.
        """
        if item.source is not None:
            content = self._content(self.user_text[mode], mode, len(self.images), instruction=item.instruction)
        elif self.generated_text is not None:
            content = self._content(self.generated_text, mode, 1, prompt=item.instruction)
        else:
            raise ContractError(
                f"contract {self.name} has no `generated_text`, so it can't judge generated pictures: "
                "add it to the contract, or choose another prompt.contract"
            )
        system = [{"role": "system", "content": [{"type": "text", "text": self.system}]}] if self.system else []
        return [*system, {"role": "user", "content": content}]

    def _content(self, text: str, mode: Mode, images: int, **untrusted: str) -> list[dict[str, str]]:
        """The parts of a user's turn. Marks are read before the instruction is filled in, which can add none."""
        fields = {name: neutralise(value) for name, value in untrusted.items()}
        if self.strip_instruction:
            fields = {name: value.strip() for name, value in fields.items()}
        request = self.requests.get(mode, "")
        pieces = [piece.format(request=request, **fields) for piece in text.split(IMAGE_MARK)]
        if len(pieces) == 1:
            pieces = [""] * images + pieces
        parts: list[dict[str, str]] = []
        for number, piece in enumerate(pieces):
            parts += [{"type": "image"}] * bool(number) + [{"type": "text", "text": piece}] * bool(piece)
        return parts

    def with_sub_scores(self, reasoning: str, scores: Mapping[str, float | None]) -> str:
        """Reasoning that ends as the contract asks for, with the scores of axes, 1..5, that its line states.

        The reasoning stays as it is if the contract asks for no line, or a score of it isn't known.
        """
        if self.sub_scores is None:
            return reasoning
        known = {axis: f"{score:.1f}" for axis, score in scores.items() if score is not None and isfinite(score)}
        try:
            return f"{reasoning}\n{self.sub_scores.format(**known)}"
        except KeyError:
            return reasoning

    def answer(self, reasoning: str, score: float) -> str:
        """The assistant's turn of a training sample, which goes on from the prefill; `score` is 1..5."""
        return f"{self.prefill or _THINK}{reasoning}</think>\n<answer>{score:.2f}</answer>"

    def marked_text(self, instruction: str, mode: Mode) -> str:
        """The user's text for an edit, with a mark `<image>` in the place of each image."""
        content = self._content(self.user_text[mode], mode, len(self.images), instruction=instruction)
        return "".join(part.get("text", IMAGE_MARK) for part in content)

    def read_instruction(self, text: str, mode: Mode) -> str | None:
        """The instruction in a user's text, for which `marked_text` is that text to the byte.

        Args:
            text: with a mark `<image>` for each image; if it has none, the images come first.

        Returns:
            None if this contract renders no instruction as this text.
        """
        if IMAGE_MARK not in text:
            text = IMAGE_MARK * len(self.images) + text
        around = self.marked_text("\0", mode).split("\0")
        if len(around) != 2 or not (text.startswith(around[0]) and text.endswith(around[1])):
            return None
        instruction = text[len(around[0]) : len(text) - len(around[1])]
        return instruction if self.marked_text(instruction, mode) == text else None

    def render(self, messages: list[Message], *, generate: bool = True) -> str:
        """The conversation as text for the tokenizer; with `generate` it ends with the prefill."""
        from transformers.utils.chat_template_utils import render_jinja_template

        rendered, _ = render_jinja_template(
            conversations=[messages], chat_template=self.chat_template, add_generation_prompt=generate
        )
        return str(rendered[0])

    def pictures(self, item: Edit) -> list[Image.Image]:
        """The images in the contract's order, see `resize`."""
        images = [item.edited] if item.source is None else [item.source, item.edited]
        return [self.resize(image) for image in self.in_order(images)]

    def in_order(self, images: Sequence[_T]) -> list[_T]:
        """A source and an edited image, or a generated one alone, in the order of the prompt."""
        if len(images) == 1:
            return [*images]
        source, edited = images
        return [{"source": source, "edited": edited}[name] for name in self.images]

    def resize(self, image: Image.Image) -> Image.Image:
        """Resize to multiples of `pixel_unit` within the pixel limits (qwen-vl-utils), once: a second call changes
        nothing.

        Raises:
            ContractError: the picture is too thin for the limits.
        """
        from qwen_vl_utils.vision_process import SPATIAL_MERGE_SIZE, fetch_image

        request = {"image": image, "min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        try:
            return fetch_image(request, image_patch_size=self.pixel_unit // SPATIAL_MERGE_SIZE)
        except ValueError as error:
            width, height = image.size
            raise ContractError(
                f"a picture of {width} x {height} pixels can't be resized to the limits of contract "
                f"{self.name} ({self.min_pixels} to {self.max_pixels} pixels): {error}"
            ) from error


def without_notice(text: str) -> str:
    """A contract file's content without its notice: what prompts depend on."""
    return _NOTICE.sub("", text)


def stage_contract(name: str, folder: str) -> Contract:
    """The contract that `prompt.contract` names; `learnt` is the one that an earlier stage has put in `folder`.

    Raises:
        ContractError: as `load_contract`.
    """
    return load_contract(os.path.join(folder, CONTRACT_FILE) if name == LEARNT else name)


def load_contract(name: str) -> Contract:
    """Read a contract by its name in `critic/contracts/`, or by the path of its file.

    Raises:
        ContractError: there is no such file, or it lacks a field, has an unknown one or a wrong value.
    """
    path = Path(name) if name.endswith(".yaml") else CONTRACTS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in CONTRACTS.glob("*.yaml")))
        raise ContractError(f"no prompt contract {path}: use one of {known}, or the path of a .yaml file")
    return parse_contract(path.read_text(encoding="utf-8"), str(path))


def parse_contract(text: str, where: str) -> Contract:
    """The contract of a file's content; errors name `where` it is from.

    Raises:
        ContractError: it isn't YAML, lacks a field, or has an unknown one or a wrong value.
    """
    try:
        fields = yaml.safe_load(text)
        file = _File.model_validate(fields if isinstance(fields, dict) else {})
    except yaml.YAMLError as error:
        raise ContractError(f"{where} is not YAML: {error}") from None
    except ValidationError as error:
        faults = [": ".join([".".join(map(str, e["loc"])), e["msg"]]).lstrip(": ") for e in error.errors()]
        raise ContractError(f"{where}: {'; '.join(faults)}") from None
    contract = Contract(
        name=file.name,
        version=file.version,
        images=tuple(file.images),
        system=file.system,
        user_text=file.texts(),
        generated_text=file.generated_text,
        requests=file.requests or {},
        strip_instruction=file.strip_instruction,
        sub_scores=file.sub_scores,
        notice=file.notice,
        prefill=file.prefill,
        chat_template=file.chat_template,
        min_pixels=file.pixels.min,
        max_pixels=file.pixels.max,
        pixel_unit=file.pixels.unit,
        text=text,
    )
    if file.notice and not (len(_NOTICE.findall(text)) == 1 and "\n" not in file.notice):
        raise ContractError(f"{where}: `notice` is a line of its own, `notice: TEXT`")
    try:
        rendered = contract.render([{"role": "user", "content": "?"}])
    except TemplateError as error:
        raise ContractError(f"{where}: chat_template can't be rendered: {error}") from None
    if not rendered.endswith(contract.prefill):
        raise ContractError(f"{where}: chat_template doesn't end the prompt with the prefill {contract.prefill!r}")
    return contract


_SPECIAL = re.compile(r"<(?=\|)|(?<=\|)>")
_TAG = re.compile(r"<(?=\s*/?\s*(?:think|answer|image|video)\b)", re.IGNORECASE)


def neutralise(text: str, *, tags: bool = True) -> str:
    """Change untrusted text so that it can't alter the structure of the conversation.

    The angle brackets of special tokens (`<|im_end|>`, `<|image_pad|>`) and, with `tags`, of the contract's own
    tags become U+2039 and U+203A, which look alike and are part of no special token.
    """
    text = _SPECIAL.sub(lambda match: "\u2039" if match[0] == "<" else "\u203a", text)
    return _TAG.sub("\u2039", text) if tags else text

"""The prompt contract: the one place that turns an edit, or a generated picture, into a prompt.

A contract is a YAML file in `critic/contracts/` (or at any path): the user's text, the order of the images, the
chat template with the think-prefill, and the pixel limits. `prompt.contract` in params.yaml names it; every model
keeps it. SFT, GRPO, every engine and the service render prompts with it.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from jinja2 import TemplateError
from PIL import Image
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError, model_validator
from qwen_vl_utils.vision_process import fetch_image
from transformers.utils.chat_template_utils import render_jinja_template

from critic.edits import Edit

Mode = Literal["reasoning", "direct"]
Message = dict[str, Any]
MODES: tuple[Mode, ...] = ("reasoning", "direct")
CONTRACTS = Path(__file__).parent / "contracts"
_PATCH = 14


class _Pixels(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    min: PositiveInt
    max: PositiveInt


class _File(BaseModel):
    """The fields of a contract file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    version: PositiveInt
    images: list[str]
    user_text: str
    generated_text: str | None = None
    requests: dict[str, str]
    prefill: str
    pixels: _Pixels
    chat_template: str

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if sorted(self.images) != ["edited", "source"] or set(self.requests) != set(MODES):
            raise ValueError(f"`images` orders source and edited, `requests` has {', '.join(MODES)}")
        if self.pixels.min > self.pixels.max:
            raise ValueError("pixels.min is more than pixels.max")
        _check_fields("user_text", self.user_text, "instruction")
        if self.generated_text is not None:
            _check_fields("generated_text", self.generated_text, "prompt")
        return self


def _check_fields(name: str, text: str, field: str) -> None:
    try:
        filled = text.format(**{field: "\0"}, request="")
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"`{name}` has fields other than {{{field}}} and {{request}}: {error}") from None
    if "\0" not in filled:
        raise ValueError(f"`{name}` has no {{{field}}}")


class ContractError(ValueError):
    """A contract file can't be used; the message names the file and the fix."""


@dataclass(frozen=True)
class Contract:
    """A prompt contract.

    Attributes:
        images: "source" and "edited" in the order of the prompt.
        user_text: the user's text, with the fields `{instruction}` and `{request}`.
        generated_text: that for pictures generated from a text, with `{prompt}` and `{request}`, or None.
        requests: mode to its wording.
        prefill: the start of the assistant's turn, which the chat template writes.
        min_pixels, max_pixels: limits of each image's area.
        text: the file's content.
    """

    name: str
    version: int
    images: tuple[str, ...]
    user_text: str
    generated_text: str | None
    requests: dict[str, str]
    prefill: str
    chat_template: str
    min_pixels: int
    max_pixels: int
    text: str

    @property
    def hash(self) -> str:
        """SHA-256 of the contract file."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def messages(self, item: Edit, mode: Mode = "reasoning", *, use_problem: bool = False) -> list[Message]:
        """The user's turn: the places of the images, then the text.

        Args:
            item: the edit or generated picture; its instruction is untrusted, see `neutralise`.
            mode: "reasoning", or "direct" for a score without reasoning.
            use_problem: use the data set's own prompt (`problem`) as the text for an edit.

        Raises:
            ContractError: an edit has no `problem`, or the contract has no `generated_text`.
        """
        request = self.requests[mode]
        if item.source is None:
            if self.generated_text is None:
                raise ContractError(
                    f"contract {self.name} has no `generated_text`, so it can't judge generated pictures: "
                    "add it, choose another prompt.contract, or set download.agiqa to null"
                )
            text = self.generated_text.format(prompt=neutralise(item.instruction).strip(), request=request)
        elif use_problem:
            text = neutralise((item.problem or "").replace("<image>", ""), tags=False).strip()
            if not text:
                raise ContractError(f"edit {item.id} has no `problem` text: set prompt.user_text to `contract`")
        else:
            text = self.user_text.format(instruction=neutralise(item.instruction).strip(), request=request)
        places = [{"type": "image"} for _ in self._names(item)]
        return [{"role": "user", "content": [*places, {"type": "text", "text": text}]}]

    def render(self, messages: list[Message], *, generate: bool = True) -> str:
        """The conversation as text for the tokenizer; with `generate` it ends with the prefill."""
        rendered, _ = render_jinja_template(
            conversations=[messages], chat_template=self.chat_template, add_generation_prompt=generate
        )
        return str(rendered[0])

    def pictures(self, item: Edit) -> list[Image.Image]:
        """The images in the contract's order, see `resize`."""
        return [self.resize(getattr(item, name)) for name in self._names(item)]

    def _names(self, item: Edit) -> tuple[str, ...]:
        return ("edited",) if item.source is None else self.images

    def resize(self, image: Image.Image) -> Image.Image:
        """Resize to multiples of 28 pixels within the pixel limits (qwen-vl-utils); a second call changes nothing.

        Raises:
            ContractError: the picture is too thin for the limits.
        """
        request = {"image": image, "min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        try:
            return fetch_image(request, image_patch_size=_PATCH)
        except ValueError as error:
            width, height = image.size
            raise ContractError(
                f"a picture of {width} x {height} pixels can't be resized to the limits of contract "
                f"{self.name} ({self.min_pixels} to {self.max_pixels} pixels): {error}"
            ) from error


def load_contract(name: str) -> Contract:
    """Read a contract by its name in `critic/contracts/`, or by the path of its file.

    Raises:
        ContractError: there is no such file, or it lacks a field, has an unknown one or a wrong value.
    """
    path = Path(name) if name.endswith(".yaml") else CONTRACTS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in CONTRACTS.glob("*.yaml")))
        raise ContractError(f"no prompt contract {path}: use one of {known}, or the path of a .yaml file")
    text = path.read_text(encoding="utf-8")
    try:
        fields = yaml.safe_load(text)
        file = _File.model_validate(fields if isinstance(fields, dict) else {})
    except yaml.YAMLError as error:
        raise ContractError(f"{path} is not YAML: {error}") from None
    except ValidationError as error:
        faults = [": ".join([".".join(map(str, e["loc"])), e["msg"]]).lstrip(": ") for e in error.errors()]
        raise ContractError(f"{path}: {'; '.join(faults)}") from None
    contract = Contract(
        name=file.name,
        version=file.version,
        images=tuple(file.images),
        user_text=file.user_text.strip(),
        generated_text=None if file.generated_text is None else file.generated_text.strip(),
        requests={mode: request.strip() for mode, request in file.requests.items()},
        prefill=file.prefill,
        chat_template=file.chat_template,
        min_pixels=file.pixels.min,
        max_pixels=file.pixels.max,
        text=text,
    )
    try:
        rendered = contract.render([{"role": "user", "content": "?"}])
    except TemplateError as error:
        raise ContractError(f"{path}: chat_template can't be rendered: {error}") from None
    if not rendered.endswith(contract.prefill):
        raise ContractError(f"{path}: chat_template doesn't end the prompt with the prefill {contract.prefill!r}")
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

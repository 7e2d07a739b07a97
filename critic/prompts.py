"""The prompt contract: the one place that turns an edit into what the model reads.

A contract is a YAML file in `critic/contracts/` (or any path): the user's text, the order of the images, the
chat template with the think-prefill, and the pixel limits. It is chosen by `prompt.contract` in params.yaml,
hashed, and stored with every model. SFT, GRPO, every engine and the service render through it.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from PIL import Image
from qwen_vl_utils.vision_process import fetch_image
from transformers.utils.chat_template_utils import render_jinja_template

from critic.edits import Edit

Mode = Literal["reasoning", "direct"]
Message = dict[str, Any]
MODES: tuple[Mode, ...] = ("reasoning", "direct")
CONTRACTS = Path(__file__).parent / "contracts"
_FIELDS = {"name", "version", "images", "user_text", "requests", "prefill", "pixels", "chat_template"}
_PATCH = 14


class ContractError(ValueError):
    """A contract file that cannot be used; the message names the file and the fix."""


@dataclass(frozen=True)
class Contract:
    """A prompt contract as read from its file.

    `images` orders "source" and "edited"; `user_text` has the fields `{instruction}` and `{request}`;
    `requests` holds the wording of each mode; `prefill` is what the chat template writes at the start of the
    assistant's turn; `min_pixels` and `max_pixels` bound each image's area; `text` is the file itself.
    """

    name: str
    version: int
    images: tuple[str, ...]
    user_text: str
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

    def messages(self, edit: Edit, mode: Mode = "reasoning", *, use_problem: bool = False) -> list[Message]:
        """The user's turn: the images' places, then the text.

        Args:
            edit: the edit to judge; its instruction is untrusted and made harmless.
            mode: "reasoning", or "direct" for a score without reasoning.
            use_problem: take the data set's own prompt (`edit.problem`) as the user's text.

        Raises:
            ContractError: `use_problem` for an edit without one.
        """
        if use_problem:
            if not edit.problem:
                raise ContractError(f"edit {edit.id} has no `problem` text: set prompt.user_text to `contract`")
            text = neutralise(edit.problem.replace("<image>", ""), tags=False).strip()
        else:
            instruction = neutralise(edit.instruction).strip()
            text = self.user_text.format(instruction=instruction, request=self.requests[mode])
        places = [{"type": "image"} for _ in self.images]
        return [{"role": "user", "content": [*places, {"type": "text", "text": text}]}]

    def render(self, messages: list[Message], *, generate: bool = True) -> str:
        """The conversation as the tokenizer sees it, ending in the prefill if the model is to go on."""
        rendered, _ = render_jinja_template(
            conversations=[messages], chat_template=self.chat_template, add_generation_prompt=generate
        )
        return str(rendered[0])

    def pictures(self, edit: Edit) -> list[Image.Image]:
        """The edit's images in the contract's order, resized by qwen-vl-utils to whole merged patches."""
        return [self.resize(getattr(edit, name)) for name in self.images]

    def resize(self, image: Image.Image) -> Image.Image:
        """Resize to multiples of 28 pixels within the pixel limits; a second time changes nothing."""
        request = {"image": image, "min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        return fetch_image(request, image_patch_size=_PATCH)


def load_contract(name: str) -> Contract:
    """Read a contract by its name in `critic/contracts/`, or by the path of its file.

    Raises:
        ContractError: there is no such file, or it lacks a field or has an unknown one.
    """
    path = Path(name) if name.endswith(".yaml") else CONTRACTS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in CONTRACTS.glob("*.yaml")))
        raise ContractError(f"no prompt contract {path}: use one of {known}, or the path of a .yaml file")
    text = path.read_text(encoding="utf-8")
    fields = yaml.safe_load(text)
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
        wrong = sorted(_FIELDS.symmetric_difference(fields if isinstance(fields, dict) else ()))
        raise ContractError(f"{path}: missing or unknown fields {', '.join(wrong)}")
    if set(fields["images"]) != {"source", "edited"} or set(fields["requests"]) != set(MODES):
        raise ContractError(f"{path}: `images` orders source and edited, `requests` has {', '.join(MODES)}")
    return Contract(
        name=fields["name"],
        version=fields["version"],
        images=tuple(fields["images"]),
        user_text=fields["user_text"].strip(),
        requests={mode: request.strip() for mode, request in fields["requests"].items()},
        prefill=fields["prefill"],
        chat_template=fields["chat_template"],
        min_pixels=fields["pixels"]["min"],
        max_pixels=fields["pixels"]["max"],
        text=text,
    )


_SPECIAL = re.compile(r"<(?=\|)|(?<=\|)>")
_TAG = re.compile(r"<(?=\s*/?\s*(?:think|answer|image|video)\b)", re.IGNORECASE)


def neutralise(text: str, *, tags: bool = True) -> str:
    """Untrusted text that can't change the structure of the conversation.

    The angle brackets of special tokens (`<|im_end|>`, `<|image_pad|>`) and, with `tags`, of the contract's own
    tags become the look-alikes U+2039 and U+203A, which no tokenizer reads as part of a special token.
    """
    text = _SPECIAL.sub(lambda match: "\u2039" if match[0] == "<" else "\u203a", text)
    return _TAG.sub("\u2039", text) if tags else text

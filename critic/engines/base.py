"""Engines: what makes a critic's completions, all from the same prompts and the same pictures.

    engine = VllmEngine("models/grpo", dtype="float32", max_tokens=80)
    requests = [request(contract, edit) for edit in edits]
    for outcome in engine.complete(requests):       # greedy; `Sampling` asks for more
        ...                                         # a Completion, or the reason why there is none

The modules of this folder hold transformers, vLLM in this process, and any OpenAI-compatible server;
`critic.scoring.scorer` makes scores of what they write.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from critic.edits import Edit
from critic.prompts import Contract, Message, Mode
from critic.results import Failure

_TOKEN_SIDE = 28
"""Pixels a side of the square that one token of a picture stands for (Qwen2.5-VL: 2 x 2 patches of 14)."""


@dataclass(frozen=True)
class Request:
    """A rendered prompt and its pictures, in the contract's order and size.

    `messages` is the conversation that `prompt` renders, for servers, which render themselves; one that ends in a
    turn of the assistant's is gone on with. `seed` is that of a sampled completion.
    """

    prompt: str
    pictures: list[Image.Image]
    messages: list[Message] = field(default_factory=list)
    seed: int = 0


@dataclass(frozen=True)
class Sampling:
    """How completions are chosen.

    Attributes:
        temperature: 0 takes the likeliest token at each place; above it, tokens are drawn by the request's seed.
        max_tokens: to write at most; None for as many as the engine was made for.
        top_logprobs: of so many likeliest first tokens the log-probabilities are kept.
    """

    temperature: float = 0.0
    max_tokens: int | None = None
    top_logprobs: int = 0


GREEDY = Sampling()


@dataclass(frozen=True)
class Completion:
    """What a model wrote after the prompt.

    Attributes:
        text: without the end token.
        tokens: how many were written, the end token included.
        finished: whether it came to its end.
        prompt_tokens: how many were read, those of the pictures included.
        logprobs: of the likeliest first tokens, by their text; empty unless asked for.
    """

    text: str
    tokens: int
    finished: bool
    prompt_tokens: int = 0
    logprobs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """Why a request has no completion."""

    status: Failure
    detail: str


class Engine(Protocol):
    """Completes requests, in order; `name` tells which weights, as `critic.results.Result` wants it."""

    name: str

    def complete(
        self, requests: Sequence[Request], sampling: Sampling = GREEDY
    ) -> Sequence[Completion | Failed]: ...


def request(
    contract: Contract,
    item: Edit,
    mode: Mode = "reasoning",
    *,
    use_problem: bool = False,
    seed: int = 0,
) -> Request:
    """What a critic under `contract` is given to judge an edit or a generated picture.

    Raises:
        ContractError: as `Contract.messages` and `Contract.pictures`.
    """
    messages = contract.messages(item, mode, use_problem=use_problem)
    return Request(contract.render(messages), contract.pictures(item), messages, seed)


def check_length(request: Request, tokenizer: Any, max_tokens: int, limit: int) -> Failed | None:
    """A failure if prompt, pictures and `max_tokens` to write are together more than `limit` tokens."""
    pictures = [(image.width // _TOKEN_SIDE) * (image.height // _TOKEN_SIDE) for image in request.pictures]
    text = len(tokenizer(request.prompt, add_special_tokens=False)["input_ids"]) - len(pictures)
    if text + sum(pictures) + max_tokens <= limit:
        return None
    return Failed(
        Failure.TOO_LONG,
        f"{text} tokens of text, {sum(pictures)} of pictures and up to {max_tokens} to write are more than the "
        f"{limit} that the model holds",
    )

"""The protocol of engines, which generate a critic's completions from prompts and pictures.

    engine = VllmEngine("models/grpo", dtype="float32", max_tokens=80)
    requests = [request(contract, edit) for edit in edits]
    for outcome in engine.complete(requests):       # greedy, see `Sampling`
        ...                                         # a Completion, or a Failed with the reason

The engines of this folder run transformers, vLLM in this process, and any OpenAI-compatible server.
`critic.scoring.scorer` turns completions into scores.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from critic.edits import Edit
from critic.prompts import DEFAULT_UNIT, Contract, Message, Mode
from critic.results import Failure


@dataclass(frozen=True)
class Request:
    """A rendered prompt and its pictures, in the contract's order and size.

    Attributes:
        messages: the conversation that `prompt` renders, for servers that render it themselves. The model
            continues the last message if it is the assistant's.
        seed: for a sampled completion.
        pixel_unit: side in pixels of the square that one image token covers.
    """

    prompt: str
    pictures: list[Image.Image]
    messages: list[Message] = field(default_factory=list)
    seed: int = 0
    pixel_unit: int = DEFAULT_UNIT


@dataclass(frozen=True)
class Sampling:
    """How completions are chosen.

    Attributes:
        temperature: 0 decodes greedily; above 0, tokens are sampled with the request's seed.
        max_tokens: to generate at most; None for the engine's own limit.
        top_logprobs: how many log-probabilities of the first token to keep.
    """

    temperature: float = 0.0
    max_tokens: int | None = None
    top_logprobs: int = 0


GREEDY = Sampling()


@dataclass(frozen=True)
class Completion:
    """What a model generated after the prompt.

    Attributes:
        text: without the end token.
        tokens: number of generated tokens, with the end token.
        finished: False if generation stopped at the token limit.
        prompt_tokens: number of tokens read, with those of the pictures.
        logprobs: log-probabilities of the likeliest first tokens, by their text; empty unless asked for.
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
    """Completes requests, in order; `name` identifies the weights, as in `critic.results.Result.model`."""

    name: str

    def complete(
        self, requests: Sequence[Request], sampling: Sampling = GREEDY
    ) -> Sequence[Completion | Failed]: ...


def request(contract: Contract, item: Edit, mode: Mode = "reasoning", *, seed: int = 0) -> Request:
    """The request that asks a critic with this contract about an edit or a generated picture.

    Raises:
        ContractError: as `Contract.messages` and `Contract.pictures`.
    """
    messages = contract.messages(item, mode)
    return Request(contract.render(messages), contract.pictures(item), messages, seed, contract.pixel_unit)


def complete_fitting(
    requests: Sequence[Request],
    tokenizer: Any,
    max_tokens: int,
    limit: int,
    generate: Callable[[list[Request]], Iterable[Completion]],
) -> list[Completion | Failed]:
    """Completions by `generate`, in order; a failure for a request that exceeds `limit` tokens with its answer."""
    failures = [_check_length(request, tokenizer, max_tokens, limit) for request in requests]
    fit = [request for request, failed in zip(requests, failures, strict=True) if failed is None]
    completions = iter(generate(fit))
    return [failed or next(completions) for failed in failures]


def _check_length(request: Request, tokenizer: Any, max_tokens: int, limit: int) -> Failed | None:
    unit = request.pixel_unit
    pictures = [(image.width // unit) * (image.height // unit) for image in request.pictures]
    text = len(tokenizer(request.prompt, add_special_tokens=False)["input_ids"]) - len(pictures)
    if text + sum(pictures) + max_tokens <= limit:
        return None
    return Failed(
        Failure.TOO_LONG,
        f"{text} tokens of text, {sum(pictures)} of pictures and up to {max_tokens} of completion exceed the "
        f"model's context of {limit}: use smaller pictures or a lower --max-tokens",
    )

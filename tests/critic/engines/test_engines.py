"""Engines complete the requests, in order.

These tests don't check what the tiny base writes, only that it is the same for any batch. The pipeline's tests
check that for vLLM.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from critic.checkpoints import load_model, load_processor
from critic.edits import Edit
from critic.engines.base import GREEDY, Completion, Failed, Request, Sampling, request
from critic.engines.transformers import TransformersEngine
from critic.params import Model
from critic.prompts import load_contract
from critic.results import Failure

BASE = Path(__file__).parents[3] / "assets/tiny-base"
CONTRACT = load_contract("tiny")


# --- requests


def edit(number: int, side: int = 56) -> Edit:
    pixels = np.random.default_rng(number).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    source, edited = (Image.fromarray(half).resize((side, side)) for half in pixels)
    things = ("circle", "blue star", "largest of the yellow hearts", "red cross at the left")
    return Edit(f"test-{number}", source, edited, f"remove the {things[number % 4]}")


def test_a_request_is_the_rendered_prompt_and_the_resized_pictures() -> None:
    one = edit(0, side=70)
    asked = request(CONTRACT, one, "direct")
    assert asked.prompt == CONTRACT.render(CONTRACT.messages(one, "direct"))
    assert asked.prompt.endswith(CONTRACT.prefill)
    assert asked.pictures == CONTRACT.pictures(one)
    assert asked.prompt.count("<|image_pad|>") == len(asked.pictures) == 2


# --- transformers


@dataclass
class Recorder(TransformersEngine):
    """Keeps the token ids of the latest completions."""

    ids: list[list[int]] = field(default_factory=list)

    def complete(self, requests: Sequence[Request], sampling: Sampling = GREEDY) -> list[Completion | Failed]:
        self.ids.clear()
        return super().complete(requests, sampling)

    def _read(self, ids: list[int], prompt_tokens: int, logprobs: dict[str, float]) -> Completion:
        self.ids.append(ids)
        return super()._read(ids, prompt_tokens, logprobs)


@pytest.fixture(scope="module")
def engine() -> Recorder:
    """The untrained tiny base may want to stop at once, so it is kept from its end tokens."""
    model = load_model(BASE, Model(base=str(BASE), revision=None, attn_implementation="sdpa", dtype="float32"))
    model.generation_config.suppress_tokens = model.generation_config.eos_token_id
    return Recorder(model, load_processor(BASE, CONTRACT), max_tokens=12)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """Four, of prompts and pictures of different lengths and sizes."""
    return [request(CONTRACT, edit(number, side)) for number, side in enumerate([56, 84, 56, 112])]


@pytest.fixture(scope="module")
def completions(engine: Recorder, requests: list[Request]) -> list[Completion]:
    completions = engine.complete(requests)
    assert len({completion.text for completion in completions}) > 1
    return completions


def test_the_tokens_of_a_prompt_count_those_of_its_pictures(
    engine: Recorder, requests: list[Request], completions: list[Completion]
) -> None:
    for asked, completion in zip(requests, completions, strict=True):
        inputs = engine.processor(text=[asked.prompt], images=[asked.pictures])
        assert completion.prompt_tokens == len(inputs["input_ids"][0])


def test_what_doesnt_fit_is_told_and_the_others_are_completed(
    engine: Recorder, requests: list[Request], completions: list[Completion]
) -> None:
    long = replace(requests[0], prompt=requests[0].prompt.replace("Edit:", "Edit: " + "no " * 5000))
    first, failed, *others = engine.complete([requests[0], long, *requests[1:]])
    assert [first, *others] == completions
    assert isinstance(failed, Failed)
    assert failed.status == Failure.TOO_LONG
    assert "up to 12 of completion exceed the model's context of 4096" in failed.detail


def test_a_sample_depends_on_its_seed_alone(engine: Recorder, requests: list[Request]) -> None:
    drawn = Sampling(temperature=1.0)
    seeded = [replace(request, seed=seed) for seed in (1, 2) for request in requests]
    once = engine.complete(seeded, drawn)
    assert engine.complete(seeded[::-1], drawn)[::-1] == once
    assert once[:4] != once[4:]


def test_the_likeliest_first_tokens_are_told(
    engine: Recorder, requests: list[Request], completions: list[Completion]
) -> None:
    for told, whole in zip(
        engine.complete(requests, Sampling(max_tokens=1, top_logprobs=5)), completions, strict=True
    ):
        assert isinstance(told, Completion)
        assert len(told.logprobs) == 5
        allowed = {text: p for text, p in told.logprobs.items() if not text.startswith("<|")}
        assert whole.text.startswith(max(allowed, key=lambda text: allowed[text]))


def test_one_at_a_time_completes_as_a_batch_does(
    engine: Recorder, requests: list[Request], completions: list[Completion]
) -> None:
    assert [completion for one in requests for completion in engine.complete([one])] == completions


def test_another_order_completes_the_same(
    engine: Recorder, requests: list[Request], completions: list[Completion]
) -> None:
    assert engine.complete(requests[::-1]) == completions[::-1]


def test_decoding_is_greedy_so_twice_is_the_same(
    engine: Recorder, requests: list[Request], completions: list[Completion]
) -> None:
    assert engine.complete(requests) == completions


@pytest.mark.parametrize("max_tokens", [1, 5])
def test_max_tokens_are_written_and_what_is_cut_says_so(
    engine: Recorder, requests: list[Request], completions: list[Completion], max_tokens: int
) -> None:
    assert all(whole.tokens == engine.max_tokens and not whole.finished for whole in completions)
    for cut, whole in zip(replace(engine, max_tokens=max_tokens).complete(requests), completions, strict=True):
        assert (cut.tokens, cut.finished) == (max_tokens, False)
        assert whole.text.startswith(cut.text)


@pytest.mark.parametrize("several", [False, True], ids=["one end token", "several"])
def test_a_completion_ends_before_its_end_token_and_others_of_its_batch_go_on(
    engine: Recorder, requests: list[Request], monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    engine.complete(requests)
    uncut = [*engine.ids]
    end = uncut[0][3]
    pad = engine.model.generation_config.pad_token_id
    monkeypatch.setattr(engine.model.generation_config, "eos_token_id", [end, pad] if several else end)
    for completion, ids in zip(engine.complete(requests), uncut, strict=True):
        length = ids.index(end) if end in ids else len(ids)
        text = engine.processor.tokenizer.decode(ids[:length])
        assert replace(completion, prompt_tokens=0) == Completion(text, min(length + 1, len(ids)), end in ids)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_in_training_stays_in_training(engine: Recorder, requests: list[Request], training: bool) -> None:
    engine.model.train(training)
    replace(engine, max_tokens=1).complete(requests[:1])
    assert engine.model.training == training
    engine.model.eval()

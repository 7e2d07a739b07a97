"""vLLM in this process: where its defaults differ from transformers', and must not."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from critic.data.minibench import make_table
from critic.edits import edits_from_table, normalise
from critic.engines.base import Completion, Sampling, request
from critic.engines.vllm import VllmEngine
from critic.prompts import load_contract

pytestmark = pytest.mark.slow
BASE = Path(__file__).parents[3] / "assets/tiny-base"


@pytest.fixture(scope="module")
def engine() -> VllmEngine:
    return VllmEngine(BASE, dtype="float32", max_tokens=4, batch_size=256)


def test_more_samples_are_drawn_by_their_seeds_than_one_step_can_read_prompts_of(engine: VllmEngine) -> None:
    """256 prompts at a time are more tokens than a step takes; one read in two chunks ended vLLM on a CPU."""
    contract = load_contract("tiny")
    edits = edits_from_table(normalise(make_table("test", sources=2, side=112, seed=7), "test"))
    asked = [request(contract, edit) for edit in edits]
    samples = [replace(asked[n % len(asked)], seed=n) for n in range(256)]
    sampling = Sampling(temperature=2.0)
    together = engine.complete(samples, sampling)
    assert sum(c.prompt_tokens for c in together if isinstance(c, Completion)) > 2 * 4096
    assert engine.complete(samples[:8], sampling) == together[:8]


def test_edits_of_a_source_share_its_tokens_and_score_the_same_to_the_bit(engine: VllmEngine) -> None:
    contract = load_contract("tiny")
    edits = [*edits_from_table(normalise(make_table("test", sources=2, side=112, seed=8), "test"))]
    large = [replace(edit, source=edit.pair[0].resize((224, 224))) for edit in edits[:4]]
    assert len({edit.pair[0].tobytes() for edit in large}) == 1
    asked = [request(contract, edit) for edit in large]
    sampling = Sampling(max_tokens=2, top_logprobs=20)
    cached = [engine.complete([one], sampling) for one in asked]
    fresh = []
    for one in asked:
        engine.llm.reset_prefix_cache()
        engine.llm.llm_engine.reset_encoder_cache()
        fresh.append(engine.complete([one], sampling))
    assert cached == fresh
    prompt: Any = {"prompt": asked[0].prompt, "multi_modal_data": {"image": asked[0].pictures}}
    (output,) = engine.llm.generate([prompt], use_tqdm=False)
    assert output.num_cached_tokens == 64


def test_a_closed_engine_keeps_no_weights(engine: VllmEngine) -> None:
    model = engine.llm.llm_engine.model_executor.driver_worker.model_runner.model
    weight = weakref.ref(next(model.parameters()))
    del model
    engine.close()
    assert weight() is None

"""Engines complete what they are asked, in order; predictions keep failures and say why.

What the tiny base writes is not looked at here, only that it is the same however it is asked. vLLM is held to
the same in the pipeline's tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from critic.checkpoints import load_model, load_processor
from critic.edits import Edit
from critic.engines import Completion, Request, TransformersEngine, predict, request
from critic.params import Model
from critic.prompts import ContractError, load_contract

BASE = Path(__file__).parents[2] / "assets/tiny-base"
CONTRACT = load_contract("tiny")
PREFILL = CONTRACT.prefill


# --- predictions, with an engine that reads its lines


class Script:
    """Completes the request "n" with the n-th line, and remembers its batches."""

    def __init__(self, *lines: Completion):
        self.lines, self.batches = lines, list[int]()

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        self.batches.append(len(requests))
        return [self.lines[int(request.prompt)] for request in requests]


def run(engine: Script, order: Sequence[int] | None = None, batch_size: int = 4) -> pd.DataFrame:
    order = range(len(engine.lines)) if order is None else order
    requests = (Request(str(number), []) for number in order)
    return predict(engine, [f"test-{n}" for n in order], requests, prefill=PREFILL, batch_size=batch_size)


def test_a_prediction_is_read_from_the_prefill_and_the_completion() -> None:
    completion = "All done, alignment 5.0.</think>\n<answer>4.25</answer>"
    (row,) = run(Script(Completion(completion, 17, True))).to_dict("records")
    assert row == {
        "id": "test-0",
        "score": 4.25,
        "status": "ok",
        "reasoning": "All done, alignment 5.0.",
        "response": "<think>" + completion,
        "tokens": 17,
    }


FAILURES = {
    "</think>\n<answer>4.5/10</answer>": "not_a_number",
    "</think>\n<answer>7</answer>": "out_of_range",
    "</think>\n<answer>2</answer><answer>3</answer>": "ambiguous",
    "</think>\n4": "no_answer",
    "": "empty",
}


def test_a_failure_has_no_score_and_says_why_and_others_keep_theirs() -> None:
    good = Completion("</think>\n<answer>3.00</answer>", 9, True)
    failed = [Completion(text, 5, True) for text in FAILURES]
    table = run(Script(good, *failed, good))
    assert [*table["status"]] == ["ok", *FAILURES.values(), "ok"]
    assert table["score"].isna().tolist() == [False, *[True] * len(FAILURES), False]
    assert [*table["response"][1:-1]] == [PREFILL + text for text in FAILURES]
    assert [*table["tokens"]] == [9, *[5] * len(FAILURES), 9]


def test_an_answer_cut_short_is_told_from_one_never_given() -> None:
    text = "Half done, alignm"
    table = run(Script(Completion(text, 80, finished=False), Completion(text, 4, finished=True)))
    assert [*table["status"]] == ["truncated", "no_answer"]
    assert [*table["reasoning"]] == [text, text]


def test_a_table_without_any_score_has_the_same_types(tmp_path: Path) -> None:
    none = run(Script(Completion("", 1, True)))
    some = run(Script(Completion("</think><answer>3</answer>", 9, True)))
    assert [*none.dtypes] == [*some.dtypes]
    none.to_parquet(tmp_path / "none.parquet")
    assert pd.read_parquet(tmp_path / "none.parquet")["score"].isna().all()


@pytest.mark.parametrize(("batch_size", "batches"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_order_is_kept_whatever_the_batch_size(batch_size: int, batches: list[int]) -> None:
    engine = Script(*[Completion(f"</think><answer>{1 + n / 2}</answer>", n, True) for n in range(7)])
    order = [4, 0, 6, 1, 5, 3, 2]
    table = run(engine, order, batch_size)
    assert [*table["id"]] == [f"test-{number}" for number in order]
    assert [*table["score"]] == [1 + number / 2 for number in order]
    assert engine.batches == batches


def test_requests_are_made_as_they_are_needed() -> None:
    """So that a test split's pictures are never in memory all at once."""
    made: list[int] = []

    class Look(Script):
        def complete(self, requests: Sequence[Request]) -> list[Completion]:
            seen.append(len(made))
            return super().complete(requests)

    def requests() -> Any:
        for number in range(6):
            made.append(number)
            yield Request("0", [])

    seen: list[int] = []
    predict(Look(Completion("", 1, True)), list("abcdef"), requests(), prefill=PREFILL, batch_size=2)
    assert seen == [2, 4, 6]


def test_another_number_of_ids_than_requests_is_an_error() -> None:
    with pytest.raises(ValueError, match="length"):
        predict(Script(Completion("", 1, True)), ["a", "b"], [Request("0", [])], prefill=PREFILL, batch_size=4)


# --- requests


def edit(number: int, side: int = 56) -> Edit:
    pixels = np.random.default_rng(number).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    source, edited = (Image.fromarray(half).resize((side, side)) for half in pixels)
    things = ("circle", "blue star", "largest of the yellow hearts", "red cross at the left")
    return Edit(f"test-{number}", source, edited, f"remove the {things[number % 4]}", problem=f"Rate it {number}.")


def test_a_request_is_the_rendered_prompt_and_the_resized_pictures() -> None:
    one = edit(0, side=70)
    asked = request(CONTRACT, one, "direct")
    assert asked.prompt == CONTRACT.render(CONTRACT.messages(one, "direct"))
    assert asked.prompt.endswith(PREFILL)
    assert asked.pictures == CONTRACT.pictures(one)
    assert asked.prompt.count("<|image_pad|>") == len(asked.pictures) == 2
    assert "Rate it 0." in request(CONTRACT, one, use_problem=True).prompt
    with pytest.raises(ContractError, match="test-0"):
        request(CONTRACT, replace(one, problem=None), use_problem=True)


# --- transformers


@dataclass
class Recorder(TransformersEngine):
    """Keeps the token ids of the latest completions."""

    ids: list[list[int]] = field(default_factory=list)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        self.ids.clear()
        return super().complete(requests)

    def _read(self, ids: list[int]) -> Completion:
        self.ids.append(ids)
        return super()._read(ids)


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
        assert completion == Completion(text, min(length + 1, len(ids)), end in ids)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_in_training_stays_in_training(engine: Recorder, requests: list[Request], training: bool) -> None:
    engine.model.train(training)
    replace(engine, max_tokens=1).complete(requests[:1])
    assert engine.model.training == training
    engine.model.eval()

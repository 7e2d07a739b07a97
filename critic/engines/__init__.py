"""Engines: what makes a critic's completions, all from the same prompts and the same pictures.

    engine = VllmEngine("models/grpo", dtype="float32", max_tokens=80)
    requests = [request(contract, edit) for edit in edits]
    predictions = predict(engine, ids, requests)    # a table: id, score, status, reasoning, response, tokens

Decoding is greedy, so that the same edit scores the same each time.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from critic.answers import parse_critique
from critic.edits import Edit
from critic.generated import Generated
from critic.prompts import Contract, Mode


@dataclass(frozen=True)
class Request:
    """A rendered prompt and its pictures, in the contract's order and size."""

    prompt: str
    pictures: list[Image.Image]


@dataclass(frozen=True)
class Completion:
    """What a model wrote after the prompt, how many tokens it took, and whether it came to its end."""

    text: str
    tokens: int
    finished: bool


class Engine(Protocol):
    """Completes requests, in order."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]: ...


def request(
    contract: Contract, item: Edit | Generated, mode: Mode = "reasoning", *, use_problem: bool = False
) -> Request:
    """What a critic under `contract` is given to judge an edit or a generated picture.

    Raises:
        ContractError: as `Contract.messages`.
    """
    messages = contract.messages(item, mode, use_problem=use_problem)
    return Request(contract.render(messages), contract.pictures(item))


@dataclass
class TransformersEngine:
    """`generate` of transformers, on a model that is already in memory; one call is one batch."""

    model: PreTrainedModel
    processor: ProcessorMixin
    max_tokens: int

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        inputs = self.processor(
            text=[request.prompt for request in requests],
            images=[request.pictures for request in requests],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.model.device)
        training = self.model.training
        self.model.eval()
        with torch.inference_mode():
            output = self.model.generate(
                **inputs,
                do_sample=False,
                repetition_penalty=1.0,  # Qwen2.5-VL's generation_config has 1.05, which vLLM leaves out
                max_new_tokens=self.max_tokens,
                use_cache=True,
            )
        self.model.train(training)
        return [self._read(ids) for ids in output[:, inputs["input_ids"].shape[1] :].tolist()]

    def _read(self, ids: list[int]) -> Completion:
        end = self.model.generation_config.eos_token_id
        ends = [ids.index(token) for token in (end if isinstance(end, list) else [end]) if token in ids]
        length = min(ends) if ends else len(ids)
        text = self.processor.tokenizer.decode(ids[:length], skip_special_tokens=True)
        return Completion(text, length + bool(ends), bool(ends))


class VllmEngine:
    """vLLM in this process; it orders and batches the prompts itself.

    Its settings are those of a CPU where no GPU is: a small cache and no graph capture.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        dtype: str,
        max_tokens: int,
        batch_size: int = 64,
        seed: int = 0,
        revision: str | None = None,
        gpu_memory_utilization: float | None = None,
        tensor_parallel_size: int = 1,
    ):
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the scheduler runs in step with us
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm import LLM, SamplingParams

        memory = {} if gpu_memory_utilization is None else {"gpu_memory_utilization": gpu_memory_utilization}
        self.llm = LLM(
            str(folder),
            revision=revision,
            dtype=dtype,
            seed=seed,
            max_num_seqs=batch_size,
            enforce_eager=not torch.cuda.is_available(),
            enable_prefix_caching=False,
            limit_mm_per_prompt={"image": 2, "video": 0},
            tensor_parallel_size=tensor_parallel_size,
            **memory,
        )
        self.sampling = SamplingParams(temperature=0, max_tokens=max_tokens)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        prompts: list[Any] = [
            {"prompt": request.prompt, "multi_modal_data": {"image": request.pictures}} for request in requests
        ]
        outputs = [out.outputs[0] for out in self.llm.generate(prompts, self.sampling, use_tqdm=False)]
        return [Completion(o.text, len(o.token_ids), o.finish_reason == "stop") for o in outputs]


def predict(
    engine: Engine,
    ids: Sequence[str],
    requests: Iterable[Request],
    *,
    prefill: str,
    batch_size: int,
    title: str = "scoring",
) -> pd.DataFrame:
    """Score requests, `batch_size` at a time; `prefill` is what their prompts end in.

    Returns:
        One row a request: id, score (1..5, null if there is none), status, reasoning, response (the prefill
        included), tokens (of the completion).
    """
    rows = []
    remaining = iter(requests)
    with tqdm(total=len(ids), desc=title, unit=" edits", mininterval=2) as bar:
        while batch := list(islice(remaining, batch_size)):
            for completion in engine.complete(batch):
                response = prefill + completion.text
                critique = parse_critique(response, finished=completion.finished)
                rows.append(
                    {
                        "score": critique.score,
                        "status": str(critique.status),
                        "reasoning": critique.reasoning,
                        "response": response,
                        "tokens": completion.tokens,
                    }
                )
            bar.update(len(batch))
    columns = ["score", "status", "reasoning", "response", "tokens"]
    table = pd.DataFrame(rows, columns=columns).astype({"score": "Float64"})
    table.insert(0, "id", list(ids))
    return table

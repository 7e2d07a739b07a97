"""Completions by transformers, in this process.

engine = TransformersEngine(model, processor, max_tokens=80)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin

from critic.backbones import context_length
from critic.engines.base import GREEDY, Completion, Failed, Request, Sampling, complete_fitting


@dataclass
class TransformersEngine:
    """Calls `generate` of a loaded model on batches of at most `batch_size` requests.

    With a temperature, each request is a batch of its own, so that a sample depends on the request's seed alone.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    max_tokens: int
    name: str = ""
    batch_size: int = 64

    def complete(self, requests: Sequence[Request], sampling: Sampling = GREEDY) -> list[Completion | Failed]:
        limit = context_length(self.model.config)
        written = sampling.max_tokens or self.max_tokens
        size = self.batch_size if sampling.temperature == 0 else 1

        def generate(fit: list[Request]) -> Iterator[Completion]:
            for start in range(0, len(fit), size):
                yield from self._batch(fit[start : start + size], sampling, written)

        return complete_fitting(requests, self.processor.tokenizer, written, limit, generate)

    def close(self) -> None:
        """Let go of the model."""
        del self.model

    def _batch(self, requests: Sequence[Request], sampling: Sampling, max_tokens: int) -> list[Completion]:
        model = self.model
        inputs = self.processor(
            text=[request.prompt for request in requests],
            images=[request.pictures for request in requests],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(model.device)
        drawn: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            drawn = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
        training = model.training
        model.eval()
        with torch.inference_mode(), torch.random.fork_rng(enabled=sampling.temperature > 0):
            if sampling.temperature > 0:
                torch.manual_seed(requests[0].seed)
            output = model.generate(
                **inputs,
                **drawn,
                repetition_penalty=1.0,  # Qwen2.5-VL's generation_config has 1.05, vLLM's default is 1.0
                max_new_tokens=max_tokens,
                use_cache=True,
                return_dict_in_generate=True,
                output_logits=sampling.top_logprobs > 0,
            )
        model.train(training)
        read = inputs["attention_mask"].sum(dim=1).tolist()
        first = output.logits[0] if sampling.top_logprobs else [None] * len(requests)
        written = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            self._read(ids, length, self._logprobs(logits, sampling.top_logprobs))
            for ids, length, logits in zip(written, read, first, strict=True)
        ]

    def _read(self, ids: list[int], prompt_tokens: int, logprobs: dict[str, float]) -> Completion:
        end = self.model.generation_config.eos_token_id
        ends = [ids.index(token) for token in (end if isinstance(end, list) else [end]) if token in ids]
        length = min(ends) if ends else len(ids)
        text = self.processor.tokenizer.decode(ids[:length], skip_special_tokens=True)
        return Completion(text, length + bool(ends), bool(ends), prompt_tokens, logprobs)

    def _logprobs(self, logits: torch.Tensor | None, top: int) -> dict[str, float]:
        if logits is None:
            return {}
        values, ids = logits.float().log_softmax(dim=-1).topk(top)
        return {
            self.processor.tokenizer.decode([i]): v for i, v in zip(ids.tolist(), values.tolist(), strict=True)
        }

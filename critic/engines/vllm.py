"""Completions by vLLM, in this process.

engine = VllmEngine("models/grpo", dtype="float32", max_tokens=80)
"""

import logging
import os
from collections.abc import Sequence
from typing import Any
from warnings import catch_warnings

import torch

from critic.engines.base import GREEDY, Completion, Failed, Request, Sampling, check_length


class VllmEngine:
    """vLLM orders and batches the requests of a call itself.

    Its settings are those of a CPU where no GPU is: a small cache and no graph capture. A process can have one
    such engine at a time: let go of it before the next is made.
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
        prefix_caching: bool = False,
        name: str = "",
    ):
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the scheduler runs in step with us
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())  # before vLLM's first words

        given: dict[str, Any] = {}
        if gpu_memory_utilization is not None:
            given["gpu_memory_utilization"] = gpu_memory_utilization
        if not torch.cuda.is_available():
            # A seeded sample whose prompt is read in two chunks ends vLLM 0.31 on a CPU: it moves back the
            # offset of the random generator, which only a GPU's has.
            given["enable_chunked_prefill"] = False
        self.name, self.max_tokens = name, max_tokens
        with catch_warnings(action="ignore", category=FutureWarning):  # of torch to vLLM
            from vllm import LLM

            self.llm = LLM(
                str(folder),
                revision=revision,
                dtype=dtype,
                seed=seed,
                max_num_seqs=batch_size,
                enforce_eager=not torch.cuda.is_available(),
                enable_prefix_caching=prefix_caching,
                limit_mm_per_prompt={"image": 2, "video": 0},
                tensor_parallel_size=tensor_parallel_size,
                use_tqdm_on_load=False,
                **given,
            )
        self.limit = int(self.llm.model_config.max_model_len)

    def complete(self, requests: Sequence[Request], sampling: Sampling = GREEDY) -> list[Completion | Failed]:
        from vllm import SamplingParams

        tokenizer, written = self.llm.get_tokenizer(), sampling.max_tokens or self.max_tokens
        outcomes: list[Completion | Failed | None] = [
            check_length(request, tokenizer, written, self.limit) for request in requests
        ]
        fit = [number for number, failed in enumerate(outcomes) if failed is None]
        prompts: list[Any] = [
            {"prompt": requests[n].prompt, "multi_modal_data": {"image": requests[n].pictures}} for n in fit
        ]
        asked = [
            SamplingParams(
                temperature=sampling.temperature,
                max_tokens=written,
                seed=requests[n].seed if sampling.temperature > 0 else None,
                logprobs=sampling.top_logprobs or None,
            )
            for n in fit
        ]
        for number, output in zip(fit, self.llm.generate(prompts, asked, use_tqdm=False), strict=True):
            outcomes[number] = _read(output)
        return [outcome for outcome in outcomes if outcome is not None]


def _read(output: Any) -> Completion:
    written = output.outputs[0]
    first = written.logprobs[0].values() if written.logprobs else ()
    return Completion(
        text=written.text,
        tokens=len(written.token_ids),
        finished=written.finish_reason == "stop",
        prompt_tokens=len(output.prompt_token_ids),
        logprobs={token.decoded_token: token.logprob for token in first},
    )

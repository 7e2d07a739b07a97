"""Completions by vLLM, in this process.

engine = VllmEngine("models/grpo", dtype="float32", max_tokens=80)
...
engine.close()
"""

import gc
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any
from warnings import catch_warnings

import torch
from transformers import AutoConfig

from critic.backbones import cpu_settings
from critic.engines.base import GREEDY, Completion, Failed, Request, Sampling, complete_fitting


class VllmEngine:
    """vLLM, which schedules and batches the requests of a call itself.

    It keeps what it has read: pictures, by their pixels, and the beginnings of prompts, in whole blocks of tokens.
    So of several edits of a source image, the source picture is read once if it comes first in the contract. On a
    CPU, scores in float32 are the same to the bit without that.

    Without a GPU it runs with a small cache and no graph capture. A process can have one such engine at a time:
    close it before you create the next one.
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
        max_model_len: int | None = None,
        pixels: tuple[int, int] | None = None,
        name: str = "",
    ):
        """Load the model.

        Args:
            max_tokens: completion tokens.
            batch_size: requests at a time.
            gpu_memory_utilization: share of the GPU's memory, 0..1; None for vLLM's default.
            tensor_parallel_size: GPUs that share the weights.
            max_model_len: most tokens of a prompt and its completion; None for as many as the model's context and
                the memory allow.
            pixels: limits of a picture's area, in which it isn't resized; None for those in the model's files.
            name: of the weights.
        """
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # runs the scheduler in this process
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())  # before vLLM logs anything

        given: dict[str, Any] = {"enable_prefix_caching": True}
        if pixels is not None:
            given["mm_processor_kwargs"] = {"min_pixels": pixels[0], "max_pixels": pixels[1]}
        if gpu_memory_utilization is not None:
            given["gpu_memory_utilization"] = gpu_memory_utilization
        if not torch.cuda.is_available():
            given |= cpu_settings(AutoConfig.from_pretrained(folder, revision=revision or "main"), dtype)
        self.name, self.max_tokens = name, max_tokens
        with catch_warnings(action="ignore", category=FutureWarning):  # from torch, about vLLM's code
            from vllm import LLM

            self.llm = LLM(
                str(folder),
                revision=revision,
                dtype=dtype,
                seed=seed,
                max_num_seqs=batch_size,
                limit_mm_per_prompt={"image": 2, "video": 0},
                max_model_len=max_model_len or -1,
                tensor_parallel_size=tensor_parallel_size,
                use_tqdm_on_load=False,
                **given,
            )
        self.limit = int(self.llm.model_config.max_model_len)

    def complete(self, requests: Sequence[Request], sampling: Sampling = GREEDY) -> list[Completion | Failed]:
        from vllm import SamplingParams

        written = sampling.max_tokens or self.max_tokens

        def generate(fit: list[Request]) -> Iterator[Completion]:
            prompts: list[Any] = [
                {"prompt": request.prompt, "multi_modal_data": {"image": request.pictures}} for request in fit
            ]
            asked = [
                SamplingParams(
                    temperature=sampling.temperature,
                    max_tokens=written,
                    seed=request.seed if sampling.temperature > 0 else None,
                    logprobs=sampling.top_logprobs or None,
                )
                for request in fit
            ]
            return map(_read, self.llm.generate(prompts, asked, use_tqdm=False))

        return complete_fitting(requests, self.llm.get_tokenizer(), written, self.limit, generate)

    def close(self) -> None:
        """Free the engine's memory, and end the process groups of this process, vLLM's or not.

        To delete the engine isn't enough: vLLM's own import can keep it alive, in the traceback of an import that
        failed.
        """
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()


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

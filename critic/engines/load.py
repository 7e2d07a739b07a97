"""From a critic's name to an engine that runs it, under the contract that it was trained under.

    contract = contract_of("models/grpo")
    engine = open_engine("vllm", "models/grpo", contract, max_tokens=1024)

A critic is a folder, a name on the hub, or what runs behind an OpenAI-compatible server. One that this project
made has its prompt contract in its folder; of any other Qwen2.5-VL checkpoint the contract must be named.
"""

from hashlib import file_digest, sha256
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError
from transformers import AutoConfig

from critic.checkpoints import CONTRACT_FILE, CheckpointError, load_model, load_processor
from critic.engines.base import Engine
from critic.engines.http import HttpEngine
from critic.engines.transformers import TransformersEngine
from critic.engines.vllm import VllmEngine
from critic.params import Model
from critic.prompts import Contract, ContractError, load_contract

Kind = Literal["transformers", "vllm", "http"]


def contract_of(model: str, name: str | None = None, revision: str | None = None) -> Contract:
    """The contract called `name`; without one, that in the model's folder, here or on the hub.

    Raises:
        ContractError: there is no such contract, it can't be used, or none is named and the model has none or
            can't be found.
    """
    if name is None:
        own = Path(model) / CONTRACT_FILE
        name = str(own) if own.exists() else None if Path(model).is_dir() else _on_hub(model, revision)
    if name is None:
        raise ContractError(
            f"{model} doesn't say which prompts it was trained on: name their contract with --contract, as "
            "`ie-critic`, or the .yaml file of one (docs/score.md tells how to write it)"
        )
    return load_contract(name)


def _on_hub(model: str, revision: str | None) -> str | None:
    """Where the contract of a model on the hub was put, None if it has none."""
    try:
        return hf_hub_download(model, CONTRACT_FILE, revision=revision)
    except RemoteEntryNotFoundError:
        return None
    except (OSError, ValueError, HfHubHTTPError) as error:  # no network, no such model, no name of one
        raise ContractError(
            f"there is no folder {model} here, and whether the hub has a contract of it can't be told: check the "
            f"path, or name their contract with --contract. ({str(error).splitlines()[0]})"
        ) from error


def open_engine(
    kind: Kind,
    model: str,
    contract: Contract,
    *,
    max_tokens: int,
    revision: str | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    prefix_caching: bool = False,
    gpu_memory_utilization: float | None = None,
    key_variable: str | None = None,
    timeout: float = 120.0,
) -> Engine:
    """The engine, its model loaded.

    Args:
        kind: "http" takes `model` as the address of a server up to `/v1`, and then, if it serves several, `#` and
            the name of one.
        max_tokens: that an answer may take.
        dtype: of the weights, not with "http"; None is `default_dtype`.
        batch_size: how many requests are worked on at a time, or a server is sent.
        prefix_caching: let vLLM keep prompts that go on, as those of expected scores do.
        gpu_memory_utilization: vLLM's share of a GPU, 0..1; None is vLLM's own default.
        key_variable, timeout: of "http", see `HttpEngine`.

    Raises:
        CheckpointError: there is no such model, or it was trained under another contract.
        ServerError: as `HttpEngine`.
    """
    if kind == "http":
        address, _, served = model.partition("#")
        return HttpEngine(
            address,
            model=served or None,
            max_tokens=max_tokens,
            concurrency=batch_size,
            api_key_variable=key_variable,
            timeout=timeout,
        )
    dtype = dtype or default_dtype()
    processor = load_processor(model, contract, revision)
    if kind == "transformers":
        section = Model(base=model, revision=revision, attn_implementation="sdpa", dtype=dtype)
        loaded = load_model(model, section, revision)
        if torch.cuda.is_available():
            loaded.to("cuda")
        return TransformersEngine(loaded, processor, max_tokens, identify(model, revision), batch_size)
    return VllmEngine(
        model,
        dtype=dtype,
        max_tokens=max_tokens,
        batch_size=batch_size,
        seed=seed,
        revision=revision,
        prefix_caching=prefix_caching,
        gpu_memory_utilization=gpu_memory_utilization,
        name=identify(model, revision),
    )


def default_dtype() -> Literal["float32", "bfloat16"]:
    """bfloat16 on a GPU, float32 without one."""
    return "bfloat16" if torch.cuda.is_available() else "float32"


def identify(model: str, revision: str | None = None) -> str:
    """Which weights these are: "sha256:" and a hash over a folder's weights and configuration, or name@commit.

    Raises:
        CheckpointError: the folder has no weights as .safetensors.
    """
    folder = Path(model)
    if not folder.is_dir():
        commit = AutoConfig.from_pretrained(model, revision=revision or "main")._commit_hash
        return f"{model}@{commit}"
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(f"{model} has no weights as .safetensors: convert them, other forms aren't read")
    total = sha256()
    for file in [*weights, folder / "config.json", *folder.glob("generation_config.json")]:
        with file.open("rb") as stream:
            total.update(f"{file.name} {file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"

"""From a critic's name to an engine that runs it, under the contract that it was trained under.

    contract = contract_of("models/grpo")
    engine = open_engine("vllm", "models/grpo", contract, max_tokens=1024)

A critic is a folder (one that this project made, or any Qwen2.5-VL checkpoint) or a name on the hub, such as
`Coobiw/IE-Critic-R1-7B`; or what runs behind an OpenAI-compatible server.
"""

from hashlib import file_digest, sha256
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoConfig

from critic.checkpoints import CONTRACT_FILE, load_model, load_processor
from critic.engines import Engine
from critic.engines.http import HttpEngine
from critic.engines.transformers import TransformersEngine
from critic.engines.vllm import VllmEngine
from critic.params import Model
from critic.prompts import Contract, load_contract

Kind = Literal["transformers", "vllm", "http"]


def contract_of(model: str, name: str | None = None) -> Contract:
    """The contract called `name`; without one, that in the model's folder, or "ie-critic" if it has none.

    Raises:
        ContractError: there is no such contract, or it can't be used.
    """
    own = Path(model) / CONTRACT_FILE
    return load_contract(name or (str(own) if own.exists() else "ie-critic"))


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
) -> Engine:
    """The engine, its model loaded.

    Args:
        kind: "http" takes `model` as the address of a server up to `/v1`, and then, if it serves several, `#` and
            the name of one.
        max_tokens: that an answer may take.
        dtype: of the weights, not with "http"; None is `default_dtype`.
        batch_size: how many requests vLLM works on at a time, or a server is sent.
        prefix_caching: let vLLM keep prompts that go on, as those of expected scores do.

    Raises:
        CheckpointError: there is no such model, or it was trained under another contract.
        ServerError: as `HttpEngine`.
    """
    if kind == "http":
        address, _, served = model.partition("#")
        return HttpEngine(address, model=served or None, max_tokens=max_tokens, concurrency=batch_size)
    dtype = dtype or default_dtype()
    processor = load_processor(model, contract, revision)
    if kind == "transformers":
        section = Model(base=model, revision=revision, attn_implementation="sdpa", dtype=dtype)
        loaded = load_model(model, section, revision)
        if torch.cuda.is_available():
            loaded.to("cuda")
        return TransformersEngine(loaded, processor, max_tokens, identify(model, revision))
    return VllmEngine(
        model,
        dtype=dtype,
        max_tokens=max_tokens,
        batch_size=batch_size,
        seed=seed,
        revision=revision,
        prefix_caching=prefix_caching,
        name=identify(model, revision),
    )


def default_dtype() -> Literal["float32", "bfloat16"]:
    """bfloat16 on a GPU, float32 without one."""
    return "bfloat16" if torch.cuda.is_available() else "float32"


def identify(model: str, revision: str | None = None) -> str:
    """Which weights these are: "sha256:" and a hash over a folder's weights and configuration, or name@commit."""
    folder = Path(model)
    if not folder.is_dir():
        commit = AutoConfig.from_pretrained(model, revision=revision or "main")._commit_hash
        return f"{model}@{commit}"
    total = sha256()
    for file in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        with file.open("rb") as stream:
            total.update(f"{file.name} {file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"

"""Load a critic by its name: its prompt contract, and an engine that runs it.

    contract = contract_of("models/grpo")
    engine = open_engine("vllm", "models/grpo", contract, max_tokens=1024)

A critic is a folder, a name on the hub (`owner/name`), or a model behind an OpenAI-compatible server. The folder
of a critic that this project trained holds its prompt contract; for other checkpoints, name one.
"""

import re
from hashlib import file_digest, sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError
from transformers import AutoConfig

from critic.backbones import is_recurrent
from critic.checkpoints import CheckpointError, load_model, load_processor
from critic.engines.base import Engine
from critic.engines.http import HttpEngine
from critic.engines.transformers import TransformersEngine
from critic.engines.vllm import VllmEngine
from critic.params import Model
from critic.prompts import CONTRACT_FILE, Contract, ContractError, load_contract

Kind = Literal["transformers", "vllm", "http"]

_HUB_NAME = re.compile(r"(?P<owner>[A-Za-z0-9][\w.-]*)/[A-Za-z0-9][\w.-]*", re.ASCII)
_ADDRESS = re.compile(r"https?://|[\w.-]+:\d+(/|$)", re.IGNORECASE)
_MADE_BY_PIPELINE = "models"


def folder_of(model: str) -> Path | None:
    """The folder of a critic, or None if `model` is a name on the hub; asks no network.

    A name on the hub is `owner/name`, where the owner is not "models" and no file of that name is here.
    Anything else is the path of a folder, which must exist.

    Raises:
        CheckpointError: `model` is a path without a folder, or the address of a server.
    """
    if Path(model).is_dir():
        return Path(model)
    if _ADDRESS.match(model):
        raise CheckpointError(
            f"{model} is the address of a server, not a folder or a name on the hub: begin it with http://, and "
            "with `critic score` add --engine http"
        )
    on_hub = _HUB_NAME.fullmatch(model)
    if on_hub and on_hub["owner"] != _MADE_BY_PIPELINE and not Path(model).exists():
        return None
    fix = "give the folder of a checkpoint, or the name of a model on the hub as owner/name"
    if Path(model).parts[:1] == (_MADE_BY_PIPELINE,):
        fix = f"run `make repro` to make this project's critics, or {fix}"
    raise CheckpointError(f"there is no folder {model}: {fix}")


def contract_of(model: str, name: str | None = None, revision: str | None = None) -> Contract:
    """The contract called `name`, or if that is None, the one in the model's folder or repository on the hub.

    Raises:
        CheckpointError: as `folder_of`.
        ContractError: the contract doesn't exist or can't be used, or none is named and the model has none or
            can't be found.
    """
    folder = folder_of(model)
    if name is None and folder is None:
        name = _on_hub(model, revision)
    elif name is None and folder is not None and (folder / CONTRACT_FILE).exists():
        name = str(folder / CONTRACT_FILE)
    if name is None:
        raise ContractError(
            f"{model} has no contract of the prompts that it was trained on: name one with --contract, as "
            f"`ie-critic` or a .yaml file, or save it there as {CONTRACT_FILE}. `critic contract learn SET -m "
            f"{model}` makes one from the SFT set of its training; that of Coobiw/IE-Critic-R1-7B is "
            "Coobiw/IE-Bench-CoT-mixed (see docs/score.md)"
        )
    return load_contract(name)


def _on_hub(model: str, revision: str | None) -> str | None:
    try:
        return hf_hub_download(model, CONTRACT_FILE, revision=revision)
    except RemoteEntryNotFoundError:
        return None
    except (OSError, ValueError, HfHubHTTPError) as error:  # no network, no such model
        raise ContractError(
            f"there is no folder {model} here, and the hub can't be asked for its contract: correct the path, or "
            f"name the contract with --contract. ({str(error).splitlines()[0]})"
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
    gpu_memory_utilization: float | None = None,
    key_variable: str | None = None,
    timeout: float = 120.0,
) -> Engine:
    """Load the model into an engine.

    Args:
        kind: which engine. For "http", `model` is the address of a server up to `/v1`, and `#NAME` after it if the
            server has several models.
        max_tokens: completion tokens.
        dtype: of the weights, not for "http"; None for `default_dtype`.
        batch_size: requests at a time.
        gpu_memory_utilization: vLLM's share of the GPU's memory, 0..1; None for vLLM's default.
        key_variable, timeout: for "http", see `HttpEngine`.

    Raises:
        CheckpointError: as `folder_of`, or the model can't be loaded or was trained with another contract.
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
    folder_of(model)
    dtype = dtype or default_dtype(kind, model, revision)
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
        gpu_memory_utilization=gpu_memory_utilization,
        pixels=contract.pixels,
        name=identify(model, revision),
    )


def default_engine() -> Kind:
    """vLLM on a GPU, if it is installed, else transformers: on a CPU, vLLM starts slowly."""
    return "vllm" if torch.cuda.is_available() and find_spec("vllm") else "transformers"


def default_dtype(kind: Kind, model: str, revision: str | None = None) -> Literal["float32", "bfloat16"]:
    """bfloat16 on a GPU, float32 without one, unless vLLM can't run the model in it (`backbones.cpu_settings`)."""
    if torch.cuda.is_available():
        return "bfloat16"
    if kind != "vllm":
        return "float32"
    try:
        config = AutoConfig.from_pretrained(model, revision=revision or "main")
    except (OSError, ValueError):  # no checkpoint: to load it gives the reason
        return "float32"
    return "bfloat16" if is_recurrent(config) else "float32"


def identify(model: str, revision: str | None = None) -> str:
    """The identity of the weights: "sha256:" and a hash of a folder's weights and configuration, or name@commit.

    Raises:
        CheckpointError: the folder has no weights as .safetensors.
    """
    folder = Path(model)
    if not folder.is_dir():
        commit = AutoConfig.from_pretrained(model, revision=revision or "main")._commit_hash
        return f"{model}@{commit}"
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(f"{model} has no .safetensors file: convert its weights to safetensors")
    total = sha256()
    for file in [*weights, folder / "config.json", *folder.glob("generation_config.json")]:
        with file.open("rb") as stream:
            total.update(f"{file.name} {file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"

"""What an operator may choose: environment variables, `CRITIC_` and the name in capitals.

CRITIC_MODEL=models/grpo CRITIC_QUEUE=512 bentoml serve critic.service.bento:Critic
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _by_commas(value: object) -> object:
    return [part.strip().lower() for part in value.split(",")] if isinstance(value, str) else value


class Settings(BaseSettings):
    """Raises `pydantic.ValidationError`, which names the variable, for a value that can't be."""

    model_config = SettingsConfigDict(env_prefix="CRITIC_", env_ignore_empty=True)

    model: str | None = Field(None, description="The critic: a folder. Without it, the Bento's own.")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="Of the weights; else bfloat16 on a GPU and float32 without one."
    )
    max_tokens: PositiveInt = Field(1024, description="Tokens that an answer may take.")
    concurrency: PositiveInt = Field(64, description="Answers that vLLM writes at a time.")
    tensor_parallel_size: PositiveInt = Field(1, description="GPUs that the weights are divided among.")
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="vLLM's share of a GPU's memory."
    )
    start_timeout: PositiveFloat = Field(600, description="Seconds that vLLM may take to start.")
    timeout: PositiveFloat = Field(120, description="Seconds that an answer may take.")

    queue: PositiveInt = Field(256, description="Answers that may wait; more are refused with 429.")
    max_pairs: PositiveInt = Field(64, description="Edits in a request.")
    max_instruction: PositiveInt = Field(4000, description="Characters of an instruction.")
    max_image_bytes: PositiveInt = Field(20 * 2**20, description="Of a picture's file.")
    max_image_pixels: PositiveInt = Field(40_000_000, description="Of a picture, before it is resized.")
    max_body_bytes: PositiveInt = Field(64 * 2**20, description="Of a request.")
    url_hosts: Annotated[frozenset[str], NoDecode, BeforeValidator(_by_commas)] = Field(
        frozenset(), description="Hosts, with commas, that pictures may be fetched from. None: no URL is fetched."
    )

    keys: SecretStr | None = Field(None, description="API keys, see docs/serve.md.")
    keys_file: Path | None = Field(None, description="The file of them.")
    receipt_key: SecretStr | None = Field(
        None,
        description="Signs receipts; of several with commas the last. None: they hold until the service ends.",
    )
    feedback_url: SecretStr = Field(
        SecretStr("sqlite:///~/edit-critic-feedback.db"),
        description="The database of ratings (SQLAlchemy's URL; in a file's path, ~ is your home).",
    )
    keep_images: Path | None = Field(None, description="The folder to keep pictures in. None: they aren't kept.")

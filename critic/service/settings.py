"""The operator's settings: environment variables, `CRITIC_` and the name in capitals.

CRITIC_MODEL=models/grpo CRITIC_QUEUE=512 bentoml serve critic.service.bento:Critic
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _split_commas(value: object) -> object:
    return [part.strip().lower() for part in value.split(",")] if isinstance(value, str) else value


class Settings(BaseSettings):
    """Raises `pydantic.ValidationError` for an invalid value."""

    model_config = SettingsConfigDict(env_prefix="CRITIC_", env_ignore_empty=True)

    model: str | None = Field(None, description="The critic: a folder or a name on the hub. Default: the Bento's.")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="Type of the weights. Default: bfloat16 on a GPU, float32 without one."
    )
    max_tokens: PositiveInt = Field(1024, description="Maximum number of tokens in an answer.")
    concurrency: PositiveInt = Field(64, description="Answers that each copy of the critic generates at a time.")
    tensor_parallel_size: PositiveInt = Field(1, description="GPUs that share the weights.")
    data_parallel_size: PositiveInt = Field(1, description="Copies of the critic, each with GPUs of its own.")
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="vLLM's share of a GPU's memory."
    )
    start_timeout: PositiveFloat = Field(600, description="Seconds for vLLM to start.")
    timeout: PositiveFloat = Field(120, description="Seconds for an answer.")

    queue: PositiveInt = Field(256, description="Answers that may wait. More are refused with 429.")
    max_pairs: PositiveInt = Field(64, description="Maximum number of edits in a request.")
    max_instruction: PositiveInt = Field(4000, description="Maximum number of characters in an instruction.")
    max_image_bytes: PositiveInt = Field(20 * 2**20, description="Maximum size of a picture's file, in bytes.")
    max_image_pixels: PositiveInt = Field(40_000_000, description="Maximum size of a picture, in pixels.")
    max_body_bytes: PositiveInt = Field(64 * 2**20, description="Maximum size of a request, in bytes.")
    url_hosts: Annotated[frozenset[str], NoDecode, BeforeValidator(_split_commas)] = Field(
        frozenset(), description="Hosts to fetch pictures from, separated by commas. Default: none."
    )

    keys: SecretStr | None = Field(None, description="API keys, see Keys.")
    keys_file: Path | None = Field(None, description="A file with API keys.")
    receipt_key: SecretStr | None = Field(
        None,
        description="Key that signs receipts; of several, with commas, the last. Default: a new one each start.",
    )
    feedback_url: SecretStr = Field(
        SecretStr("sqlite:///~/edit-critic-feedback.db"),
        description="SQLAlchemy URL of the database of ratings. In a path, ~ is your home folder.",
    )
    keep_images: Path | None = Field(None, description="Folder to store pictures in. Default: they aren't stored.")
    study: Path | None = Field(
        None, description="Table of edits to vote on in pairs at /pairs. Default: there is no such page."
    )

"""The BentoML service, see docs/serve.md. `critic package` builds a Bento; bentofile.yaml lists its files."""

import logging
import re
import socket
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import bentoml
import click
from bentoml.exceptions import BentoMLException
from bentoml.models import BentoModel
from fastapi import FastAPI
from pydantic import BaseModel, ValidationError

from critic.checkpoints import CheckpointError
from critic.engines.load import contract_of, identify
from critic.prompts import ContractError
from critic.ratings.receipts import ReceiptKeyError, Receipts
from critic.service.app import create_app
from critic.service.image import Variant, make_image
from critic.service.keys import Keys, KeysError
from critic.service.middleware import RequestMiddleware
from critic.service.monitoring import with_vllm
from critic.service.settings import Settings
from critic.tables import TableError


class BuildArguments(BaseModel, extra="allow"):
    """The arguments of `bentoml build --arg NAME=VALUE`: these, and any of the settings."""

    critic: str = "edit_critic:latest"
    variant: Variant = "cpu"


def read_settings(carried: Mapping[str, Any]) -> Settings:
    """Read the settings: the environment's, then those that the Bento carries.

    A `BentoMLException` for an invalid one ends `bentoml serve` here; later BentoML would restart it for ever.
    """
    try:
        settings = Settings.model_validate(
            {**carried, **Settings.model_validate({}).model_dump(exclude_unset=True)}
        )
        Receipts(settings.receipt_key)
        Keys.load(settings)
        if settings.model is not None:
            contract_of(settings.model)
    except ValidationError as error:
        wrong = [f"CRITIC_{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in error.errors()]
        raise BentoMLException("; ".join(wrong)) from None
    except (KeysError, ReceiptKeyError) as error:
        raise BentoMLException(str(error)) from None
    except (CheckpointError, ContractError) as error:
        raise BentoMLException(f"CRITIC_MODEL: {error}") from None
    return settings


def make_app(settings: Settings) -> FastAPI:
    """Make the app; a `BentoMLException` if the study can't be read."""
    try:
        return create_app(settings, find_critic)
    except TableError as error:
        raise BentoMLException(f"CRITIC_STUDY: {error}") from None


def check_port() -> None:
    """Raise a `BentoMLException`, not BentoML's traceback, if this `bentoml serve` can't listen on its address."""
    serve = click.get_current_context(silent=True)
    if serve is None or serve.info_name != "serve":
        return
    host, port = serve.params["host"] or _HTTP["host"], serve.params["port"] or _HTTP["port"]
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        fix = "stop what listens there, or choose another port, such as BENTOML_PORT=3001"
        raise BentoMLException(f"can't listen on {host}:{port}: {error.strerror}: {fix}") from None


def find_critic() -> tuple[str, str]:
    """The critic of CRITIC_MODEL, otherwise the Bento's own or the newest in the store.

    Returns a folder or a name on the hub, and the release as NAME:VERSION.
    """
    if settings.model is not None:
        weights = re.split("[:@]", identify(settings.model))[-1]
        return settings.model, f"{Path(settings.model).name}:{weights[:12]}"
    if _service.bento is None:
        stored = _MODEL.resolve()
    elif own := _service.bento.info.all_models:
        stored = BentoModel(own[0].tag).resolve()
    else:
        raise BentoMLException(
            "this Bento has no critic, because it was built with CRITIC_MODEL set: build it with `critic package`"
        )
    return str(stored.path), str(stored.tag)


logging.getLogger("critic").setLevel(logging.INFO)  # BentoML prints it: when vLLM is ready, and so on
_HTTP: Any = {"host": "127.0.0.1", "port": 3000}
check_port()
built = bentoml.use_arguments(BuildArguments)
settings = read_settings(built.model_extra or {})
_MODEL = BentoModel(built.critic)
_GPUS = settings.tensor_parallel_size * settings.data_parallel_size
app = make_app(settings)


@bentoml.service(
    name="edit_critic",
    image=make_image(built.variant),
    workers=1,
    resources={"gpu": _GPUS} if built.variant == "gpu" else {},
    # Seconds to the first byte of a response: mode expected sends vLLM four requests in a row. BentoML keeps about
    # 6 KB of memory for each request during this time, even after the response.
    traffic={"timeout": ceil(5 * settings.timeout)},
    http=_HTTP,
    metrics={"enabled": True},
)
@bentoml.asgi_app(app)
class Critic:
    """Scores edits of pictures."""

    if settings.model is None:
        critic = _MODEL

    async def __is_ready__(self) -> bool:
        """Whether the service can score now."""
        return app.state.scoring.supervisor.state == "ready"

    async def __metrics__(self, own: str) -> str:
        """BentoML's and the service's metrics, then vLLM's."""
        return await with_vllm(own, app.state.scoring.vllm)


_service: Any = Critic  # bentoml.service declares that it returns the class
_service.add_asgi_middleware(RequestMiddleware, settings=settings)

"""The BentoML service.

    make serve                                                           # the tiny critic, on 127.0.0.1:3000
    CRITIC_MODEL=models/grpo bentoml serve critic.service.bento:Critic   # the critic of a folder
    bentoml serve edit_critic:latest                                     # a Bento, with the critic in it

docs/serve.md tells the rest. bentofile.yaml says what else is in a Bento, and `critic package` builds it.
"""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import BentoMLException
from bentoml.models import BentoModel
from pydantic import BaseModel, ValidationError

from critic.checkpoints import CONTRACT_FILE, CheckpointError
from critic.engines.load import contract_of, identify
from critic.prompts import ContractError
from critic.ratings.receipts import ReceiptKeyError, Receipts
from critic.service.app import create_app
from critic.service.image import Variant, make_image
from critic.service.keys import Keys, KeysError
from critic.service.middleware import Gate
from critic.service.monitoring import with_vllm
from critic.service.settings import Settings


class Built(BaseModel, extra="allow"):
    """What `bentoml build --arg NAME=VALUE` gives a Bento to carry: these, and any of the settings."""

    critic: str = "edit_critic:latest"
    variant: Variant = "cpu"


def read_settings(carried: Mapping[str, Any]) -> Settings:
    """The environment's settings, and those of the Bento for the rest.

    Raises:
        BentoMLException: one can't be. `bentoml serve` says so and ends; told later, when the service starts, it
            would be started again and again.
    """
    try:
        settings = Settings.model_validate(
            {**carried, **Settings.model_validate({}).model_dump(exclude_unset=True)}
        )
        Receipts(settings.receipt_key)
        Keys.load(settings)
        if settings.model is not None:
            if not Path(settings.model, CONTRACT_FILE).is_file():
                raise CheckpointError(
                    f"CRITIC_MODEL {settings.model} is no critic's folder: no {CONTRACT_FILE} in it"
                )
            contract_of(settings.model)
    except ValidationError as error:
        wrong = [f"CRITIC_{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in error.errors()]
        raise BentoMLException("; ".join(wrong)) from None
    except (CheckpointError, ContractError, KeysError, ReceiptKeyError) as error:
        raise BentoMLException(str(error)) from None
    return settings


def find_critic() -> tuple[Path, str]:
    """The folder of CRITIC_MODEL, else the Bento's own critic; and which release it is.

    Raises:
        BentoMLException: the Bento has none.
    """
    if settings.model is not None:
        return Path(settings.model), f"{Path(settings.model).name}:{identify(settings.model)[-64:][:12]}"
    if _service.bento is None:
        stored = _MODEL.resolve()
    elif own := _service.bento.info.all_models:
        stored = BentoModel(own[0].tag).resolve()
    else:
        raise BentoMLException("this Bento was built with CRITIC_MODEL set, and has no critic: unset it and build")
    return Path(stored.path), str(stored.tag)


built = bentoml.use_arguments(Built)
settings = read_settings(built.model_extra or {})
_MODEL = BentoModel(built.critic)


app = create_app(settings, find_critic)


@bentoml.service(
    name="edit_critic",
    image=make_image(built.variant),
    workers=1,
    resources={"gpu": settings.tensor_parallel_size} if built.variant == "gpu" else {},
    # To the first byte of an answer: `expected` asks vLLM four times in a row. BentoML remembers each request
    # for as long, answered or not, in some 6 KB.
    traffic={"timeout": ceil(5 * settings.timeout)},
    http={"host": "127.0.0.1", "port": 3000},
    metrics={"enabled": True},
)
@bentoml.asgi_app(app)
class Critic:
    """Scores how well pictures were edited."""

    if settings.model is None:
        critic = _MODEL

    async def __is_ready__(self) -> bool:
        """Whether a score can be given now."""
        return app.state.judge.supervisor.state == "ready"

    async def __metrics__(self, own: str) -> str:
        """BentoML's and the service's own, then vLLM's."""
        return await with_vllm(own, app.state.judge.vllm)


_service: Any = Critic  # bentoml.service says it is a class
_service.add_asgi_middleware(Gate, settings=settings)

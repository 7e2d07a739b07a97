"""The BentoML service.

    make serve                                                           # the tiny critic, on 127.0.0.1:3000
    CRITIC_MODEL=models/grpo bentoml serve critic.service.bento:Critic   # the critic of a folder
    bentoml serve edit_critic:latest                                     # a Bento, with the critic in it

docs/serve.md tells the rest. bentofile.yaml says what else is in a Bento, and `critic package` builds it.
"""

from pathlib import Path
from typing import Any

import bentoml
from bentoml.models import BentoModel
from pydantic import BaseModel

from critic.engines.opening import identify
from critic.service.app import create_app
from critic.service.gate import Gate
from critic.service.image import Variant, make_image
from critic.service.monitoring import with_vllm
from critic.service.settings import Settings


class Built(BaseModel, extra="allow"):
    """What `bentoml build --arg NAME=VALUE` gives a Bento to carry: these, and any of the settings."""

    critic: str = "edit_critic:latest"
    variant: Variant = "cpu"


built = bentoml.use_arguments(Built)
_environment = Settings.model_validate({}).model_dump(exclude_unset=True)
settings = Settings.model_validate({**(built.model_extra or {}), **_environment})
_MODEL = BentoModel(built.critic)


def find_critic() -> tuple[Path, str]:
    """The folder of CRITIC_MODEL, else the Bento's own critic; and which release it is."""
    if settings.model is not None:
        return Path(settings.model), f"{Path(settings.model).name}:{identify(settings.model)[-64:][:12]}"
    own = [] if _service.bento is None else [model.tag for model in _service.bento.info.all_models]
    stored = BentoModel(*own).resolve() if own else _MODEL.resolve()
    return Path(stored.path), str(stored.tag)


app = create_app(settings, find_critic)


@bentoml.service(
    name="edit_critic",
    image=make_image(built.variant),
    workers=1,
    resources={"gpu": settings.tensor_parallel_size} if built.variant == "gpu" else {},
    traffic={"timeout": 24 * 3600},
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

"""Routes that speak the JSON of other projects' trainers, so that their own clients get this critic's rewards.

    app.include_router(compat_routes(score_pairs))    # POST /compat/unirl/{mode}/score, ...

A reward is (score - 1) / 4, from 0 to 1. An edit without a score has none: each protocol's own way to say so is
used. The sources, read at these commits:

- UniRL: Tencent-Hunyuan/UniRL 1a7b501, unirl-reward-service/reward_service/schemas.py and server.py (the
  protocol), unirl/reward/remote.py (the trainer's client; two turns, source and edit, are an image edit).
- Flow-Factory: X-GenGroup/Flow-Factory a0b2bc5, reward_server/example_server.py (the protocol),
  src/flow_factory/rewards/my_reward_remote.py (the trainer's client).
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from critic.client import Reward, schemas
from critic.client.reward_functions import NoReward
from critic.results import Mode
from critic.service.errors import REFUSALS, Refused
from critic.service.input_checks import CheckedJsonRoute

ScorePairs = Callable[[Request, Sequence[schemas.Pair], schemas.Options], Awaitable[list[schemas.Scored]]]
"""Scores pairs, one result each, in order, within all of the service's limits; raises `Refused`."""


class Turn(BaseModel):
    """A picture of an edit and the instruction. Video isn't read."""

    text: schemas.Instruction
    image_b64: schemas.EncodedPicture


class UniRLRequest(BaseModel):
    """An edit to reward. `metadata`, which the protocol allows, isn't read."""

    history: Annotated[list[Turn], Field(min_length=2, max_length=2, description="The source and the edit.")]
    required_rewards: Annotated[list[Literal["critic"]], Field(min_length=1)]


class UniRLBatch(BaseModel):
    """Edits to reward, as UniRL sends them."""

    requests: Annotated[list[UniRLRequest], Field(min_length=1)]


class UniRLRewards(BaseModel):
    """One entry per request, in order: a result or an error."""

    results: list[dict[str, dict[str, float]]] = Field(examples=[[{"critic": {"critic": 0.75}}, {}]])
    errors: list[dict[str, str]] = Field(examples=[[{}, {"critic": "no_answer: ..."}]])


class FlowFactoryBatch(BaseModel):
    """Edits to reward, as Flow-Factory sends them."""

    prompt: Annotated[list[schemas.Instruction], Field(min_length=1)]
    image: list[schemas.EncodedPicture] = Field(description="The edits.")
    condition_images: list[Annotated[list[schemas.EncodedPicture], Field(min_length=1, max_length=1)]] = Field(
        description="The source of each edit."
    )


class FlowFactoryRewards(BaseModel):
    """One reward per edit, in order. If one is missing, only `error`: the protocol has no missing reward."""

    rewards: list[float] | None = None
    error: str | None = None


def compat_routes(score_pairs: ScorePairs) -> APIRouter:
    """The routes, which score by `score_pairs`. `mode` in their paths is that of `schemas.Options`."""
    router = APIRouter(prefix="/compat", responses=REFUSALS, route_class=CheckedJsonRoute)

    async def score(request: Request, mode: Mode, pairs: Sequence[schemas.Pair]) -> list[Reward]:
        return [Reward.of(one, "unit") for one in await score_pairs(request, pairs, schemas.Options(mode=mode))]

    @router.post("/unirl/{mode}/score", summary="Reward many edits, for UniRL")
    async def unirl_score(request: Request, mode: Mode, batch: UniRLBatch) -> UniRLRewards:
        pairs = [
            schemas.Pair(source=source.image_b64, edited=edited.image_b64, instruction=source.text)
            for source, edited in (one.history for one in batch.requests)
        ]
        rewards = await score(request, mode, pairs)
        return UniRLRewards(
            results=[{} if one.value is None else {"critic": {"critic": one.value}} for one in rewards],
            errors=[{"critic": f"{one.status}: {one.detail}"} if one.value is None else {} for one in rewards],
        )

    @router.get("/unirl/{mode}/health", summary="Whether UniRL's rewards can be computed")
    async def unirl_health(request: Request, mode: Mode) -> dict[str, Any]:
        request.app.state.scoring.check_ready()
        return {"status": "ok", "rewards": {"critic": ["ready"]}}

    @router.get("/unirl/{mode}/rewards", summary="List UniRL's rewards")
    async def unirl_rewards(mode: Mode) -> dict[str, list[str]]:
        return {"rewards": ["critic"]}

    @router.post(
        "/flow-factory/{mode}/compute",
        summary="Reward many edits, for Flow-Factory",
        response_model_exclude_none=True,
    )
    async def compute(request: Request, mode: Mode, batch: FlowFactoryBatch) -> FlowFactoryRewards:
        if not len(batch.prompt) == len(batch.image) == len(batch.condition_images):
            counts = f"{len(batch.prompt)}, {len(batch.image)} and {len(batch.condition_images)}"
            message = f"prompt, image and condition_images have {counts} entries: send one of each per edit"
            raise Refused(422, "other_lengths", message)
        pairs = [
            schemas.Pair(source=source, edited=edited, instruction=prompt)
            for prompt, edited, (source,) in zip(batch.prompt, batch.image, batch.condition_images, strict=True)
        ]
        rewards = await score(request, mode, pairs)
        values = [one.value for one in rewards if one.value is not None]
        if len(values) < len(rewards):
            return FlowFactoryRewards(error=str(NoReward(rewards)))
        return FlowFactoryRewards(rewards=values)

    @router.get("/flow-factory/{mode}/health", summary="Whether Flow-Factory's rewards can be computed")
    async def health(request: Request, mode: Mode) -> dict[str, str]:
        request.app.state.scoring.check_ready()
        return {"status": "ok"}

    return router

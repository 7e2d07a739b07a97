"""The service's scores as rewards: of TRL's GRPOTrainer, and of trainers of image models in flow-GRPO's manner.

    critic = Critic("http://127.0.0.1:3000", max_retries=20)
    GRPOTrainer(reward_funcs=TRLReward(critic, render), ...)
    reward = flow_reward(critic, folder="dataset/edits")        # reward(images, prompts, metadata)

`critic.training.rewards` is what a critic's own answer earns while it is trained; this is what an edit earns from a critic.
An edit that the critic has no score for never earns a number.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from critic.client import Critic, Edited, Picture, Reward, Scale
from critic.results import Failure

_UNANSWERED = {str(failure) for failure in Failure} - {Failure.BAD_INPUT, Failure.TOO_LONG}


class NoReward(RuntimeError):
    """Edits have no reward where training can't go on without; the message counts them and says why."""

    def __init__(self, rewards: Sequence[Reward]):
        failed = [(place, reward) for place, reward in enumerate(rewards) if reward.value is None]
        counts = Counter(reward.status for _, reward in failed).most_common()
        place, first = failed[0]
        super().__init__(
            f"{len(failed)} of {len(rewards)} edits have no reward "
            f"({', '.join(f'{count} x {status}' for status, count in counts)}). Number {place}: {first.detail}"
        )


@dataclass(frozen=True)
class TRLReward:
    """A reward function of TRL's GRPOTrainer, for a model whose text makes an edit.

        def render(completion, row):                 # run the edit program, call the image editor...
            return apply(completion, row["source"])

        GRPOTrainer(reward_funcs=TRLReward(critic, render, no_picture=0.0), ...)

    The data set has the columns `source`, pictures, and `instruction`, texts. TRL takes None as no reward: such a
    completion changes neither the policy nor its group's baseline. Beside other reward functions, however, its sum
    counts None as 0; `multi_objective_aggregation="normalize_then_sum"` counts it as the group's mean.

    Attributes:
        client: of the service.
        render: the edited picture of a completion's text and its row of the data set; None if the text makes none.
        no_picture: what a completion that makes none earns, as it is no failure of the critic's; or no reward.
        scale: of the rewards.
        options: see `critic.client.schemas.Options`.
    """

    client: Critic
    render: Callable[[str, Mapping[str, Any]], Picture | None]
    no_picture: float | None = None
    scale: Scale = "unit"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[str | list[dict[str, Any]]],
        source: Sequence[Picture],
        instruction: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """A reward a completion; TRL's log gets the share with a score as `critic/coverage`.

        Raises:
            NoReward: the service answered about none of the edits, so that training would learn nothing.
        """
        columns |= {"prompt": prompts, "source": source, "instruction": instruction}
        rows = [
            {name: column[place] for name, column in columns.items() if isinstance(column, list)}
            for place in range(len(completions))
        ]
        edited = [self.render(_text(text), row) for text, row in zip(completions, rows, strict=True)]
        edits = {
            place: (source[place], picture, instruction[place])
            for place, picture in enumerate(edited)
            if picture is not None
        }
        rewards = self.client.rewards([*edits.values()], scale=self.scale, **self.options)
        if rewards and all(reward.status in _UNANSWERED for reward in rewards):
            raise NoReward(rewards)
        if log_metric is not None:
            log_metric("critic/coverage", sum(reward.value is not None for reward in rewards) / len(completions))
        values = dict(zip(edits, [reward.value for reward in rewards], strict=True))
        return [values.get(place, self.no_picture) for place in range(len(completions))]


def flow_reward(
    client: Critic,
    *,
    source: str = "image",
    folder: str | Path = "",
    scale: Scale = "unit",
    on_failure: Literal["raise", "nan"] = "raise",
    **options: Any,
) -> Callable[..., tuple[list[float], dict[str, list[str]]]]:
    """A reward function in the manner of flow-GRPO, DDPO and their kin.

    It is called with images (a tensor N, 3, H, W from 0 to 1, or an array N, H, W, 3 of uint8), prompts, which are
    the instructions, and the metadata of their rows, and returns N rewards and {"status": N texts}. Several
    threads may call it. The source pictures are `ref_images` if the trainer gives them, else of the metadata.

    Args:
        source: the key of the source picture in a row's metadata: a path or any other `Picture`.
        folder: that paths are relative to.
        scale: of the rewards.
        on_failure: what becomes of an edit without a score. "raise" stops the training. "nan" is for a trainer
            that leaves such edits out; flow-GRPO's own means and deviations become NaN with the first.
        options: see `critic.client.schemas.Options`.

    Raises (the function):
        NoReward: an edit has no score, and `on_failure` is "raise".
    """

    def reward(
        images: Sequence[Picture],
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
        ref_images: Sequence[Picture] | None = None,
        **_: Any,
    ) -> tuple[list[float], dict[str, list[str]]]:
        sources = ref_images if ref_images is not None else [_source(row[source]) for row in metadata]
        edits: list[Edited] = list(zip(sources, images, prompts, strict=True))
        rewards = client.rewards(edits, scale=scale, **options)
        if on_failure == "raise" and any(reward.value is None for reward in rewards):
            raise NoReward(rewards)
        values = [float("nan") if reward.value is None else reward.value for reward in rewards]
        return values, {"status": [reward.status for reward in rewards]}

    def _source(picture: Any) -> Picture:
        return Path(folder, picture) if isinstance(picture, str | Path) else picture

    return reward


def _text(completion: str | list[dict[str, Any]]) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])

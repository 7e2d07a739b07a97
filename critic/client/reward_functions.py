"""The service's scores as reward functions: for TRL's GRPOTrainer, flow-GRPO, Edit-R1 and similar trainers.

    critic = Critic("http://127.0.0.1:3000", max_retries=20)
    GRPOTrainer(reward_funcs=TRLReward(critic, render), ...)
    reward = flow_reward(critic, folder="dataset/edits")        # reward(images, prompts, metadata)
    reward = edit_r1_reward(critic)                             # reward(ref_images, images, prompts, metadatas)

They reward edits by a critic's score. `critic.training.rewards` rewards the critic itself, while it is trained.
An edit without a score has no reward: never a number. `critic.client.verl_omni` is for verl-omni, and
`critic.client.mixing` for loops of your own.
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
    """Edits have no reward and training can't continue; the message counts them by status and gives one reason."""

    def __init__(self, rewards: Sequence[Reward]):
        failed = [(place, reward) for place, reward in enumerate(rewards) if reward.value is None]
        statuses = Counter(reward.status for _, reward in failed).most_common()
        counts = ", ".join(f"{count} x {status}" for status, count in statuses)
        share = f"{len(failed)} of {len(rewards)} edits have no reward"
        super().__init__(f"{share} ({counts}). Number {failed[0][0]}: {failed[0][1].detail}")


def numbers(rewards: Sequence[Reward], on_failure: Literal["raise", "nan"] = "raise") -> list[float]:
    """The rewards' values. Raises `NoReward` if one is missing, unless `on_failure` is "nan"."""
    if on_failure == "raise" and any(reward.value is None for reward in rewards):
        raise NoReward(rewards)
    return [float("nan") if reward.value is None else reward.value for reward in rewards]


@dataclass(frozen=True)
class TRLReward:
    """A reward function for TRL's GRPOTrainer, for a model whose text describes an edit.

        def render(completion, row):                 # run the edit program, call the image editor, ...
            return apply(completion, row["source"])

        GRPOTrainer(reward_funcs=TRLReward(critic, render, no_picture=0.0), ...)

    The dataset has the columns `source` (pictures) and `instruction` (texts). TRL takes None as no reward: such a
    completion changes neither the policy nor its group's mean. With several reward functions, however, TRL's sum
    counts None as 0; `multi_objective_aggregation="normalize_then_sum"` counts it as the group's mean.

    Attributes:
        render: takes a completion's text and its row of the dataset; returns the edited picture, or None if the
            text describes no picture.
        no_picture: the reward of a completion without a picture, which isn't a failure of the critic; None: no
            reward.
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
        """One reward per completion. Logs the share of completions with a score as `critic/coverage`.

        Raises:
            NoReward: the service scored no edit, so that training would learn nothing.
        """
        columns |= {"prompt": prompts, "source": source, "instruction": instruction}
        rows = [
            {name: column[place] for name, column in columns.items() if isinstance(column, list)}
            for place in range(len(completions))
        ]
        edits: dict[int, Edited] = {}
        for place, (completion, row) in enumerate(zip(completions, rows, strict=True)):
            text = completion if isinstance(completion, str) else str(completion[-1]["content"])
            if (picture := self.render(text, row)) is not None:
                edits[place] = (source[place], picture, instruction[place])
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
    """Make a reward function for flow-GRPO, DDPO and similar trainers.

    It takes images (a tensor N, 3, H, W from 0 to 1, or an array N, H, W, 3 of uint8), prompts, which are the
    instructions, and the metadata of their rows. It returns N rewards and {"status": N texts}. Threads may share
    it. The source pictures are `ref_images` if the trainer gives them, else those of the metadata.

    Args:
        source: the key of the source picture in a row's metadata: a path or any other `Picture`.
        folder: the folder that paths are relative to.
        on_failure: what to do for an edit without a score. "raise" stops the training. "nan" is for a trainer that
            leaves such edits out; in flow-GRPO itself a single NaN makes means and standard deviations NaN.
        options: see `critic.client.schemas.Options`.

    Raises:
        NoReward: by the function, if an edit has no score and `on_failure` is "raise".
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
        return numbers(rewards, on_failure), {"status": [reward.status for reward in rewards]}

    def _source(picture: Any) -> Picture:
        return Path(folder, picture) if isinstance(picture, str | Path) else picture

    return reward


def edit_r1_reward(
    client: Critic, *, scale: Scale = "unit", on_failure: Literal["raise", "nan"] = "raise", **options: Any
) -> Callable[..., tuple[list[float], dict[str, list[str]]]]:
    """Make a reward function for Edit-R1, which trains UniWorld-V2, and FIRM, instead of their pickle over HTTP.

    In the trainer's flow_grpo/rewards.py, add to `score_functions` of `multi_score`, and use in `reward_fn` of the
    configuration, a name that begins with `mllm_`:

        "mllm_critic": lambda *_, **__: edit_r1_reward(critic),

    The function takes the source pictures, the edits, the instructions and the metadata of their rows, and returns
    what `flow_reward` returns. Neither trainer has a missing reward: a single NaN makes all advantages NaN. The
    signature is that of `mllm_score_continue` in PKU-YuanGroup/Edit-R1 4217f25, flow_grpo/rewards.py, and in
    VisionXLab/FIRM-Reward ba41493, editing/flow_grpo/rewards.py. For the arguments see `flow_reward`.
    """
    reward = flow_reward(client, scale=scale, on_failure=on_failure, **options)

    def edit_r1(
        ref_images: Sequence[Picture],
        images: Sequence[Picture],
        prompts: Sequence[str],
        metadatas: Sequence[Mapping[str, Any]],
    ) -> tuple[list[float], dict[str, list[str]]]:
        return reward(images, prompts, metadatas, ref_images)

    return edit_r1

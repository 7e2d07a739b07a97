"""Packed rows have the log-probabilities, losses and gradients of separate rows."""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from PIL import Image
from transformers import ProcessorMixin, set_seed
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from critic.checkpoints import load_model, load_processor
from critic.edits import Edit
from critic.params import Model
from critic.prompts import load_contract
from critic.training.packing import NAME, attend_to_packs, pack_rows, select_pictures
from critic.training.shared_pictures import GroupSampler, SharedPictureSFT
from critic.training.shared_prompts import SharedPromptGRPO, shuffle_groups

BASE = Path(__file__).parents[3] / "assets/tiny-base"
MODEL = Model(base=str(BASE), revision=None, attn_implementation="sdpa", dtype="float32")
SIZES = [(84, 112), (140, 56), (112, 112)]
"""Of the pictures of three edits, in pixels."""


@pytest.fixture(scope="module")
def processor() -> ProcessorMixin:
    return load_processor(BASE, load_contract("tiny"))


def pictures(number: int) -> list[Image.Image]:
    rng = np.random.default_rng(number)
    width, height = SIZES[number]
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(2)]


def edit(number: int) -> Edit:
    return Edit(f"edit {number}", *pictures(number), f"make it {'much ' * number}redder", mos=3.0)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Of the trained weights; sets them to zero."""
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Relative to each tensor's largest value."""
    assert ours.keys() == theirs.keys()
    return max(
        ((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max().clamp(min=1e-12)).item()
        for name in ours
    )


# --- GRPO


def grpo_trainer(
    processor: ProcessorMixin, folder: Path, kind: type[GRPOTrainer] = SharedPromptGRPO, **changes: Any
) -> GRPOTrainer:
    """Of the tiny base, three prompts with four completions each, in one micro-batch."""
    set_seed(5)
    contract = load_contract("tiny")
    rows = [
        {"prompt": contract.messages(edit(number)), "images": pictures(number), "mos": 3.0}
        for number in range(len(SIZES))
    ]
    arguments: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 12, "num_generations": 4,
        "max_completion_length": 10, "temperature": 4.0, "use_cpu": True, "bf16": False, "report_to": "none",
        "beta": 0.0,
    }  # fmt: skip
    adapters = changes.pop("peft_config", None)
    return kind(
        model=load_model(BASE, MODEL),
        processing_class=processor,
        reward_funcs=lambda completions, **kwargs: [float(len(str(text)) % 7) for text in completions],
        train_dataset=Dataset.from_list([{"number": number} for number in range(len(rows))]).with_transform(
            lambda batch: {key: [rows[number][key] for number in batch["number"]] for key in rows[0]}
        ),
        args=GRPOConfig(**arguments | changes),
        peft_config=adapters,
    )


@pytest.fixture(params=[None, LoraConfig(r=4, target_modules=["q_proj", "down_proj"])], ids=["full", "lora"])
def trainer(processor: ProcessorMixin, tmp_path: Path, request: pytest.FixtureRequest) -> SharedPromptGRPO:
    return grpo_trainer(processor, tmp_path, peft_config=request.param)


def make_batch(trainer: SharedPromptGRPO) -> dict[str, Any]:
    """Completions of different lengths, with prompts and pictures of different sizes, and an advantage each."""
    trainer.model.train()
    batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    lengths = batch["completion_mask"].sum(1)
    assert lengths.min() < lengths.max()
    assert len({*map(tuple, batch["image_grid_thw"].tolist())}) == len(SIZES)
    assert len({*batch["prompt_mask"].sum(1).tolist()}) > 1
    return {**batch, "advantages": torch.randn(12)}


@pytest.fixture
def batch(trainer: SharedPromptGRPO) -> dict[str, Any]:
    return make_batch(trainer)


def as_trl_has_it(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with the pictures of each row."""
    first_rows = [row - row % 4 for row in range(12)]
    assert batch["num_images"] == [2, 0, 0, 0] * 3
    return {**batch, **select_pictures(batch, batch["num_images"], first_rows), "num_images": [2] * 12}


def loss_of(trainer: GRPOTrainer, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), gradients(trainer.model)


def predicted(
    trainer: GRPOTrainer, model: Any, batch: dict[str, Any], rows: int | None = None, entropy: bool = True
) -> list[torch.Tensor]:
    """Log-probabilities of a batch's completions, [rows, tokens], 0 in their padding; and entropies."""
    with torch.no_grad():
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
            model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
            batch["completion_ids"].shape[1],
            batch_size=rows,
            compute_entropy=entropy,
            **{
                name: batch[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
            },
        )
    return [values * batch["completion_mask"] for values in (logps, entropies) if values is not None]


def test_a_group_has_the_loss_and_the_gradients_of_separate_rows(
    trainer: SharedPromptGRPO, batch: dict[str, Any]
) -> None:
    ours, our_gradients = loss_of(trainer, batch)
    trainer.__class__ = GRPOTrainer
    theirs, their_gradients = loss_of(trainer, as_trl_has_it(batch))
    assert ours == pytest.approx(theirs, abs=1e-5) and abs(theirs) > 1e-3
    assert largest_difference(our_gradients, their_gradients) < 1e-4


@pytest.mark.parametrize("rows", [4, 8, 12])
def test_log_probabilities_are_those_of_separate_rows_whatever_the_micro_batch(
    trainer: SharedPromptGRPO, batch: dict[str, Any], rows: int
) -> None:
    """As for old log-probabilities, which TRL takes before the update."""

    ours = predicted(trainer, trainer.model, batch, rows)
    trainer.__class__ = GRPOTrainer
    for our, their in zip(ours, predicted(trainer, trainer.model, as_trl_has_it(batch), rows), strict=True):
        torch.testing.assert_close(our, their, atol=1e-4, rtol=0)
        assert their.abs().max() > 0.1


def test_a_completion_that_is_masked_as_truncated_has_no_tokens(
    trainer: SharedPromptGRPO, batch: dict[str, Any]
) -> None:
    batch["completion_mask"][1] = 0
    ours, _ = loss_of(trainer, batch)
    trainer.__class__ = GRPOTrainer
    theirs, _ = loss_of(trainer, as_trl_has_it(batch))
    assert ours == pytest.approx(theirs, abs=1e-5)


OBJECTIVES: dict[str, dict[str, Any]] = {
    "kl": {"beta": 0.1},
    "gspo": {
        "loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4,
    },
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "sapo": {"loss_type": "sapo", "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05},
    "entropy": {"entropy_coef": 0.1, "top_entropy_quantile": 0.5},
    "adaptive entropy": {"use_adaptive_entropy": True, "entropy_coef": 0.1, "entropy_target": 20.0},
    "kl of the whole": {"beta": 0.1, "use_bias_correction_kl": False},
    "truncated": {"mask_truncated_completions": True},
}  # fmt: skip
"""Of docs/grpo.md."""
FIRST = {"kl", "gspo"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FIRST else pytest.mark.nightly) for name in OBJECTIVES]
)
def test_every_objective_has_the_loss_and_the_gradients_of_separate_rows(
    processor: ProcessorMixin, tmp_path: Path, name: str
) -> None:
    """Off-policy: the probabilities of the rollouts, and those of the reference model, are not the model's."""
    trainer = grpo_trainer(processor, tmp_path, **OBJECTIVES[name])
    if trainer.ref_model is not None:
        with torch.no_grad():
            for weight in trainer.ref_model.parameters():
                weight.mul_(1 + 0.2 * torch.randn_like(weight))
    trainer._last_world_entropy = 0.0
    batch = make_batch(trainer)
    (now, *_) = predicted(trainer, trainer.model, batch)
    batch["old_per_token_logps"] = now + 0.3 * torch.randn_like(now)
    ours, our_gradients = loss_of(trainer, batch)
    coefficient = trainer.entropy_coef
    trainer.__class__ = GRPOTrainer
    trainer.entropy_coef, trainer._last_world_entropy = trainer.args.entropy_coef, 0.0
    theirs = as_trl_has_it(batch)
    if trainer.ref_model is not None:
        (theirs["ref_per_token_logps"],) = predicted(trainer, trainer.ref_model, theirs, entropy=False)
        assert (theirs["ref_per_token_logps"] - now).abs().max() > 0.1
    loss, their_gradients = loss_of(trainer, theirs)
    assert ours == pytest.approx(loss, abs=1e-5) and abs(loss) > 1e-3
    assert largest_difference(our_gradients, their_gradients) < 1e-4
    assert trainer.entropy_coef == coefficient


@pytest.mark.nightly
def test_on_its_own_rollouts_an_objective_differs_in_its_mean_alone(
    processor: ProcessorMixin, tmp_path: Path
) -> None:
    trainer = grpo_trainer(processor, tmp_path, epsilon_high=5.0)  # what CISPO's ratios are limited to
    batch = make_batch(trainer)

    def trained(loss_type: str, level: str = "token") -> dict[str, torch.Tensor]:
        trainer.loss_type, trainer.importance_sampling_level = loss_type, level
        return loss_of(trainer, batch)[1]

    pairs = [(("cispo",), ("dapo",)), (("sapo",), ("grpo",)), (("grpo", "sequence"), ("grpo",))]
    for one, other in pairs:
        assert largest_difference(trained(*one), trained(*other)) < 1e-4
    (now, *_) = predicted(trainer, trainer.model, batch)
    batch["old_per_token_logps"] = now + 0.3 * torch.randn_like(now)
    for one, other in pairs:
        assert largest_difference(trained(*one), trained(*other)) > 1e-2


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_groups_without_spread_are_counted_however_rewards_are_scaled(
    scale: str, processor: ProcessorMixin, tmp_path: Path
) -> None:
    trainer = grpo_trainer(processor, tmp_path, scale_rewards=scale)
    trainer.reward_funcs = [lambda completions, **kwargs: [0.3, 0.7, 0.3, 0.3, *[1.05] * 4, None, *[1.7] * 3]]
    trainer.model.train()
    trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    assert trainer._metrics["train"]["frac_reward_zero_std"] == [pytest.approx(2 / 3)]


def test_the_batch_is_the_one_that_trl_makes(processor: ProcessorMixin, tmp_path: Path) -> None:
    """Prompts and pictures are the same, whether prepared once a group or once a row."""
    made = []
    for kind in (SharedPromptGRPO, GRPOTrainer):
        trainer = grpo_trainer(processor, tmp_path, kind)
        trainer.model.train()
        rows = next(iter(trainer.get_train_dataloader()))
        torch.manual_seed(1)
        made.append(trainer._generate_and_score_completions(rows))
    ours, theirs = as_trl_has_it(made[0]), made[1]
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(value)), name


def test_micro_batches_are_whole_groups_in_a_new_order(processor: ProcessorMixin, tmp_path: Path) -> None:
    trainer = grpo_trainer(processor, tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=3)
    trainer.model.train()
    rows = next(iter(trainer.get_train_dataloader()))
    batches = []
    for _ in range(3):
        batches.append(trainer._prepare_inputs(rows))
        trainer._step += 1
    for batch in batches:
        assert (batch["prompt_ids"] == batch["prompt_ids"][0]).all()
        assert batch["num_images"] == [2, 0, 0, 0] and len(batch["image_grid_thw"]) == 2
    assert len({tuple(batch["prompt_ids"][0].tolist()) for batch in batches}) == 3


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.randoms(use_true_random=False))
def test_shuffling_keeps_groups_together_and_each_row_whole(count: int, size: int, random: Any) -> None:
    rows = count * size
    torch.manual_seed(random.randrange(1000))
    batch = {
        "completion_ids": torch.arange(rows)[:, None],
        "num_images": [*range(rows)],
        "tokens": torch.tensor(3),
    }
    shuffled = shuffle_groups(batch, size)
    numbers = shuffled["completion_ids"].flatten()
    assert numbers.tolist() == shuffled["num_images"]
    assert sorted(numbers.tolist()) == [*range(rows)]
    assert (numbers.view(count, size) - numbers.view(count, size)[:, :1] == torch.arange(size)).all()
    assert shuffled["tokens"] == 3


# --- SFT

COMPLETIONS = [
    "<answer>3.00</answer>",
    "The edit is right. It looks good.</think>\n<answer>3.00</answer>",
    "</think>",
]


def sft_samples() -> list[dict[str, Any]]:
    """Three of an edit, two of another and one of a third; the prompts of the two modes differ."""
    contract = load_contract("tiny")
    return [
        {
            "prompt": contract.messages(edit(number), mode),
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": text}]}],
            "images": pictures(number),
            "group": number,
        }
        for number, mode, text in [
            (0, "reasoning", COMPLETIONS[1]),
            (0, "direct", COMPLETIONS[0]),
            (0, "reasoning", COMPLETIONS[2]),
            (1, "direct", COMPLETIONS[0]),
            (1, "reasoning", COMPLETIONS[1]),
            (2, "direct", COMPLETIONS[0]),
        ]
    ]


def sft_trainer(processor: ProcessorMixin, folder: Path, kind: type[SFTTrainer]) -> SFTTrainer:
    samples = sft_samples()
    dataset = Dataset.from_dict({"group": [sample["group"] for sample in samples], "number": range(len(samples))})
    return kind(
        model=load_model(BASE, MODEL),
        processing_class=processor,
        train_dataset=dataset.with_transform(
            lambda batch: {key: [samples[number][key] for number in batch["number"]] for key in samples[0]}
        ),
        args=SFTConfig(
            output_dir=str(folder), per_device_train_batch_size=6, use_cpu=True, bf16=False, report_to="none",
            max_length=None, completion_only_loss=True, dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False, data_seed=3,
        ),
    )  # fmt: skip


def test_the_samples_of_an_edit_have_the_loss_and_the_gradients_of_separate_rows(
    processor: ProcessorMixin, tmp_path: Path
) -> None:
    losses, grads, tokens, shapes = [], [], [], []
    for kind in (SharedPictureSFT, SFTTrainer):
        trainer = sft_trainer(processor, tmp_path, kind)
        trainer.model.train()
        trainer.model.register_forward_pre_hook(
            lambda model, args, inputs: shapes.append(inputs["pixel_values"].shape[0]), with_kwargs=True
        )
        batch = trainer.data_collator(sft_samples())
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(50))
        loss.backward()
        losses.append(loss.item())
        grads.append(gradients(trainer.model))
        tokens.append(trainer._total_train_tokens)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and losses[1] > 0.1
    assert largest_difference(*grads) < 1e-4
    assert shapes == [304, 576], "patches of each edit's pictures once, and of each sample's"
    assert tokens[0] < tokens[1] / 1.4


def test_batches_of_sft_have_an_edits_samples_beside_each_other(processor: ProcessorMixin, tmp_path: Path) -> None:
    trainer = sft_trainer(processor, tmp_path, SharedPictureSFT)
    (batch,) = trainer.get_train_dataloader()
    assert sorted(batch["groups"].tolist()) == [1, 2, 3]
    assert len(batch["image_grid_thw"]) == 6


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 3))
def test_the_sampler_yields_each_row_once_with_its_group_and_in_another_order_later(
    groups: list[int], seed: int
) -> None:
    sampler = GroupSampler(groups, seed)
    first = [*sampler]
    assert sorted(first) == [*range(len(groups))] and len(sampler) == len(groups)
    assert [*sampler] == first == [*GroupSampler(groups, seed)]
    runs = [group for group, _ in groupby(first, key=lambda row: groups[row])]
    assert len(runs) == len({*groups})
    sampler.set_epoch(1)
    if len({*groups}) > 4:
        assert any([*sampler] != first for epoch in range(1, 5) if not sampler.set_epoch(epoch))


# --- packing


@pytest.fixture(scope="module")
def model() -> Any:
    model = load_model(BASE, MODEL)
    attend_to_packs(model)
    return model.eval()


def labelled(prompt: list[int], completion: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A row and its labels."""
    return torch.tensor(prompt + completion), torch.tensor([-100] * len(prompt) + completion)


def test_a_pack_has_each_prefix_once_and_no_padding(model: Any) -> None:
    rows, labels = zip(
        labelled([5, 6, 7], [8, 9]), labelled([5, 6, 7], [8]), labelled([20, 21], [22]), strict=True
    )
    pack = pack_rows(model, rows, labels, [2, 1], None)
    assert pack.input_ids.tolist() == [[5, 6, 7, 8, 9, 7, 8, 20, 21, 22]]
    assert pack.labels.tolist() == [[-100, -100, -100, 8, 9, -100, 8, -100, -100, 22]]
    assert pack.position_ids[:, 0].tolist() == [[0, 1, 2, 3, 4, 2, 3, 0, 1, 2]] * 3
    assert [place.tolist() for place in pack.places] == [[0, 1, 2, 3, 4], [0, 1, 5, 6], [7, 8, 9]]


def test_a_token_sees_the_prefix_and_its_own_row_alone(model: Any) -> None:
    """Whichever token changes, the outputs of those that don't see it stay the same to the bit."""
    rows, labels = zip(
        labelled([5, 6, 7], [8, 9]), labelled([5, 6, 7], [8]), labelled([20, 21], [22]), strict=True
    )
    pack = pack_rows(model, rows, labels, [2, 1], None)
    inputs = {name: value for name, value in pack.inputs().items() if name != "labels"}

    def states(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model.model(**{**inputs, "input_ids": ids}).last_hidden_state[0]

    before = states(pack.input_ids)
    sees = []
    for place in range(pack.input_ids.shape[1]):
        changed = pack.input_ids.clone()
        changed[0, place] += 40
        sees.append((states(changed) != before).any(1).int().tolist())
    assert torch.tensor(sees).T.tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
    ]


def test_another_attention_is_refused_with_the_way_out(model: Any) -> None:
    other = load_model(BASE, MODEL.model_copy(update={"attn_implementation": "eager"}))
    with pytest.raises(ValueError, match="attn_implementation: sdpa, not eager"):
        attend_to_packs(other)


def test_a_saved_model_does_not_name_the_attention_of_packs(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()


def test_a_picture_after_the_first_difference_is_refused(model: Any) -> None:
    image = model.config.image_token_id
    rows = [torch.tensor([5, 6, image, 8, 9]), torch.tensor([5, 7, image, 8, 9])]
    labels = [torch.tensor([-100, -100, -100, -100, 9])] * 2
    with pytest.raises(ValueError, match="a picture comes after the first difference"):
        pack_rows(model, rows, labels, [2], torch.tensor([[1, 2, 2]]))

"""Make a tiny base: a Qwen2.5-VL or Qwen3-VL of 3 M parameters, pretrained on perception and never on scores.

It plays the part that the models of the hub play in the other profiles. On scenes made as it goes, its vision
tower first learns what lies on each patch of a picture; then the whole model learns to name things, colours,
places, backgrounds and damage, to say what differs between two pictures, and to repeat sentences (so that it can
write the words and numbers of a critique; those that it repeats have nothing to do with the pictures).

    python assets/tiny-base/pretrain.py                       # about two hours on 2 CPU cores
    python assets/tiny-base/pretrain.py                       # killed? the same command goes on from there
    python assets/tiny-base/pretrain.py --family qwen3_vl     # assets/tiny-base-qwen3-vl

State is kept in runs/tiny-base; the checkpoint is written to the family's folder at the end, and at every --save.
"""

import argparse
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from critic.data.minibench.editors import DAMAGES, Editor, Outcome, carry_out, damage, random_request
from critic.data.minibench.scenes import COLOURS, PHOTOS, SHAPES, Scene, random_scene, render
from critic.data.rationale_templates import word, write_rationale
from critic.vision_tower import multiply_patches, pack_windows

FOLDERS = {"qwen2_5_vl": Path(__file__).parent, "qwen3_vl": Path(__file__).parent.parent / "tiny-base-qwen3-vl"}
STATES = Path("runs/tiny-base")
SIDE = 112
"""Pixels of minibench's pictures. A Qwen3-VL's are enlarged to 128: 4 x 4 merged patches in both families."""
CELLS = 4
"""Merged patches in a row of a picture."""
Model = Qwen2_5_VLForConditionalGeneration | Qwen3VLForConditionalGeneration
Processor = Qwen2_5_VLProcessor | Qwen3VLProcessor
SPECIAL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
"""Qwen3-VL's normalisation of pixels."""
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<|vision_start|><|image_pad|>"
    "<|vision_end|>{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen2.5's own split: words with one leading mark, single digits, runs of marks, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


SIGHTS = (1 + len(SHAPES), 1 + len(COLOURS), CELLS, CELLS, len(PHOTOS), 1 + len(DAMAGES), 5)
"""Classes of what the vision tower tells of a patch: shape, colour, row, column, photo, damage, its severity."""
CHANGES = (1 + len(SHAPES), 1 + len(COLOURS), 5)
"""Classes of what the language model tells of a patch of the second picture: shape and colour of what was there
before, and how much it changed."""


TEACHER = Editor("teacher", obedience=0.35, care=0.4, craft=0.4)
"""Makes each kind of mistake about as often as none."""


# --- what it is taught -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lesson:
    """Two pictures, a question and its answer, and for each patch what lay there and how much it changed."""

    pictures: list[Image.Image]
    question: str
    answer: str
    changes: np.ndarray


def describe(scene: Scene) -> str:
    """The things on a scene, from left to right, and what they lie on."""
    things = sorted((t for t in scene.things if t.opacity > 0.5), key=lambda t: (round(t.x, 1), t.y))
    return f"{', '.join(f'{t.name} {t.place}' for t in things)}, on {scene.backdrop.photo}"


def describe_edit(scene: Scene, outcome: Outcome, rng: np.random.Generator) -> str:
    """How far the request was carried out, what else changed, and the damage."""
    done = word("alignment", outcome.alignment, rng)
    if outcome.wrong_thing is not None:
        done += f" but to the {scene.things[outcome.wrong_thing].name}"
    kept = word("fidelity", outcome.fidelity, rng)
    if outcome.side_change:
        kept += f" by {outcome.side_change}"
        if outcome.side_change in ("fade", "recolour"):
            kept += f" of the {scene.things[outcome.bystander].name}"
    return f"{done}. {kept}. {describe_damage(outcome, rng)}."


def describe_damage(outcome: Outcome, rng: np.random.Generator) -> str:
    """How damaged a picture looks, and by what."""
    return word("quality", outcome.quality, rng) + (f" by {outcome.damage}" if outcome.damage else "")


def example(rng: np.random.Generator) -> Lesson:
    """One lesson of a random kind: to repeat, to name, or to tell what an edit did."""
    scene = random_scene(rng)
    request = random_request(scene, rng)
    outcome = TEACHER.attempt(scene, request, rng)
    before, after = render(scene, SIDE), render(carry_out(scene, request, outcome), SIDE)
    pictures = [before, damage(after, outcome.damage, outcome.damage_severity, rng)]
    kind = rng.random()
    if kind < 0.1:
        sentence = a_sentence(rng)
        question, answer = f"Repeat: {sentence}", sentence
    elif kind < 0.2:
        question, answer = "What was there?", f"{describe(scene)}. {describe_damage(outcome, rng)}."
    elif kind < 0.3:
        where = "all over" if request.subject is None else scene.things[request.subject].place
        question, answer = f"Edit: {request.instruction}. Where?", where
    else:
        question = f"Edit: {request.instruction}. What was done?"
        answer = describe_edit(scene, outcome, rng)
    changes = np.column_stack([patch_labels(scene), change_labels(before, after)])
    return Lesson(pictures, question, answer, changes)


def change_labels(before: Image.Image, after: Image.Image) -> np.ndarray:
    """How much each merged patch changed, row by row: 0 (not at all) to 4 (beyond recognition). [16]"""
    difference = np.abs(np.asarray(before, np.float32) - np.asarray(after, np.float32)) / 255
    means = difference.reshape(CELLS, SIDE // CELLS, CELLS, SIDE // CELLS, 3).mean((1, 3, 4))
    return np.digitize(means.reshape(-1), [0.008, 0.04, 0.1, 0.2])


def a_sentence(rng: np.random.Generator) -> str:
    """A sentence of a critique with numbers drawn at random, of no picture."""
    scores = {axis: float(rng.uniform(1, 5)) for axis in ("alignment", "fidelity", "quality")}
    if rng.random() < 0.15:
        return f"<think></think>\n<answer>{rng.uniform(1, 5):.2f}</answer>"
    return str(rng.choice(re.split(r"(?<=\.) ", write_rationale(scores, rng))))


def patch_labels(scene: Scene) -> np.ndarray:
    """What lies on each merged patch, row by row: shape and colour, 0 for nothing. [16, 2]"""
    labels = np.zeros((CELLS, CELLS, 2), np.int64)
    edges = np.arange(CELLS + 1) / CELLS
    for thing in scene.things:
        low, high = (
            np.array([thing.y, thing.x]) - thing.size / 2,
            np.array([thing.y, thing.x]) + thing.size / 2,
        )
        rows, columns = (
            np.clip(np.minimum(high[k], edges[1:]) - np.maximum(low[k], edges[:-1]), 0, None) * CELLS
            for k in (0, 1)
        )
        covered = np.outer(rows, columns) > 0.25
        labels[covered] = (1 + SHAPES.index(thing.shape), 1 + list(COLOURS).index(thing.colour))
    return labels.reshape(-1, 2)


def sight(rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
    """A picture for the vision tower alone, and the labels of its patches: [16, len(SIGHTS)]."""
    scene = random_scene(rng)
    kind = None if rng.random() < 0.4 else str(rng.choice(DAMAGES))
    severity = float(rng.uniform(0.2, 1)) if kind else 0.0
    picture = damage(render(scene, SIDE), kind, severity, rng)
    what = patch_labels(scene)
    row, column = np.divmod(np.arange(len(what)), CELLS)
    whole = [
        list(PHOTOS).index(scene.backdrop.photo),
        0 if kind is None else 1 + DAMAGES.index(kind),
        round(severity * 4),
    ]
    return picture, np.column_stack([what, row, column, np.tile(whole, (len(what), 1))])


# --- tokenizer and model -----------------------------------------------------------------------------


def train_tokenizer(seed: int, vocabulary: int = 1280) -> PreTrainedTokenizerFast:
    """A byte-level BPE like Qwen2.5's, trained on instructions, descriptions and rationales."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(8000):
        scene = random_scene(rng)
        request = random_request(scene, rng)
        outcome = TEACHER.attempt(scene, request, rng)
        scores = {axis: float(rng.uniform(1, 5)) for axis in ("alignment", "fidelity", "quality")}
        texts += [
            f"Edit: {request.instruction}. What was done?", describe(scene),
            describe_edit(scene, outcome, rng), "What is there?", "What was there?",
            f"<think>{write_rationale(scores, rng)}</think>\n<answer>3.50</answer>",
            "user\n", "assistant\n", "Think, then score.", "Score.", "Repeat: ", "Where?", "all over",
        ]  # fmt: skip
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
        model_max_length=4096,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast, family: str) -> Processor:
    tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
    kind, patch, video = {
        "qwen2_5_vl": (Qwen2_5_VLProcessor, {"patch_size": 14}, Qwen2VLVideoProcessor),
        "qwen3_vl": (Qwen3VLProcessor, {"patch_size": 16, **HALVES}, Qwen3VLVideoProcessor),
    }[family]
    unit = 2 * patch["patch_size"]
    limits = {"min_pixels": 4 * unit**2, "max_pixels": 64 * unit**2}
    return kind(
        image_processor=Qwen2VLImageProcessor(**limits, **patch),
        tokenizer=tokenizer,
        video_processor=video(**limits),
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, family: str) -> Model:
    def token(text: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(text))

    text = {
        "vocab_size": len(tokenizer), "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 5,
        "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 8.0, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
    }  # fmt: skip
    vision = {
        "depth": 4, "hidden_size": 128, "intermediate_size": 384, "num_heads": 4, "out_hidden_size": 192,
        "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    tokens = {
        "image_token_id": token("<|image_pad|>"), "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"), "vision_end_token_id": token("<|vision_end|>"),
        "tie_word_embeddings": True,
    }  # fmt: skip
    model: Model
    if family == "qwen2_5_vl":
        vision |= {
            "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1, 3], "tokens_per_second": 2,
        }  # fmt: skip
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
        )
    else:
        # Interleaved sections: height and width have every third of the 16 frequencies, time the other six.
        rope = {"mrope_section": [6, 5, 5], "mrope_interleaved": True}
        text |= {"head_dim": 32, "rope_parameters": text["rope_parameters"] | rope}
        vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [1, 2]}
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **tokens))
    model.generation_config.eos_token_id = [token("<|im_end|>"), token("<|endoftext|>")]
    model.generation_config.pad_token_id = token("<|endoftext|>")
    return model


@torch.no_grad()
def start_from_patches(model: Model, processor: Processor, seed: int) -> None:
    """Set the patch embedding to the leading principal components of picture patches, whitened."""
    rng = np.random.default_rng(seed)
    images = [picture for _ in range(150) for picture in example(rng).pictures]
    patches = processor.image_processor(images, return_tensors="pt")["pixel_values"].double()
    patches = patches - patches.mean(0)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    weight = model.model.visual.patch_embed.proj.weight
    top = vectors[:, -weight.shape[0] :] / values[-weight.shape[0] :].clamp_min(1e-4).sqrt()
    weight.copy_(0.5 * top.T.reshape(weight.shape).float())


# --- training ----------------------------------------------------------------------------------------


class Lessons(IterableDataset):
    """Batches from step `start` on: sights first, then lessons; the same step always holds the same batch."""

    def __init__(self, processor: Processor, start: int, args: argparse.Namespace):
        self.processor, self.start, self.args = processor, start, args

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        torch.set_num_threads(1)
        for step in range(self.start, total_steps(self.args)):
            rng = np.random.default_rng([self.args.seed, 1, step])
            yield self.sights(rng) if step < self.args.sight_steps else self.lessons(rng)

    def sights(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        pictures, labels = zip(*(sight(rng) for _ in range(2 * self.args.batch)), strict=True)
        inputs = self.processor.image_processor(list(pictures), return_tensors="pt")
        return {**inputs, "labels": torch.from_numpy(np.stack(labels))}

    def lessons(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        lessons = [example(rng) for _ in range(self.args.batch)]
        vision = "<|vision_start|><|image_pad|><|vision_end|>" * 2
        prompts = [
            f"<|im_start|>user\n{vision}{lesson.question}<|im_end|>\n<|im_start|>assistant\n" for lesson in lessons
        ]
        batch = collate(
            self.processor,
            [lesson.pictures for lesson in lessons],
            prompts,
            [f"{lesson.answer}<|im_end|>" for lesson in lessons],
        )
        return {**batch, "changes": torch.from_numpy(np.stack([lesson.changes for lesson in lessons]))}


def collate(
    processor: Processor, pictures: list[list[Image.Image]], prompts: list[str], answers: list[str]
) -> dict[str, torch.Tensor]:
    """Right-padded ids, and labels on the answers only."""
    tokenizer = processor.tokenizer
    inputs = processor(images=pictures, text=prompts, padding=True, padding_side="left", return_tensors="pt")
    tail = tokenizer(answers, padding=True, padding_side="right", return_tensors="pt")
    ids = torch.cat([inputs["input_ids"], tail["input_ids"]], 1)
    mask = torch.cat([inputs["attention_mask"], tail["attention_mask"]], 1)
    ignored = torch.full_like(inputs["input_ids"], -100)
    labels = torch.cat([ignored, tail["input_ids"].masked_fill(tail["attention_mask"] == 0, -100)], 1)
    types = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(tail["input_ids"])], 1)
    return {
        "input_ids": ids, "attention_mask": mask, "labels": labels, "mm_token_type_ids": types,
        "pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"],
    }  # fmt: skip


class Pupil(nn.Module):
    """The model with two heads that are thrown away: what a patch shows, and what changed there.

    The second reads the language model's state at the patches of the second picture, and so teaches it to look
    up the same place in the first.
    """

    def __init__(self, model: Model):
        super().__init__()
        width = model.config.text_config.hidden_size
        self.model = model
        self.sight = nn.Linear(width, sum(SIGHTS))
        self.change = nn.Linear(width, sum(CHANGES))

    def look(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The vision tower's losses on a batch of sights."""
        patches = self.model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
        return {"sight": class_loss(self.sight(patches), batch["labels"].flatten(0, 1), SIGHTS)}

    def answer(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The whole model's losses on a batch of lessons."""
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "changes")}
        states = self.model.model(**inputs, use_cache=False).last_hidden_state
        told = batch["labels"][:, 1:] != -100
        logits = self.model.lm_head(states[:, :-1][told])
        words = nn.functional.cross_entropy(logits, batch["labels"][:, 1:][told])
        patches = states[batch["mm_token_type_ids"] == 1].unflatten(0, (len(states), 2, -1))[:, 1]
        changes = class_loss(self.change(patches.flatten(0, 1)), batch["changes"].flatten(0, 1), CHANGES)
        return {"words": words, "changes": changes}


def class_loss(logits: torch.Tensor, labels: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Mean cross-entropy of several classifications that share a head: [n, sum(sizes)], [n, len(sizes)]."""
    parts = logits.split(sizes, dim=1)
    losses = [nn.functional.cross_entropy(part, labels[:, k]) for k, part in enumerate(parts)]
    return torch.stack(losses).mean()


def total_steps(args: argparse.Namespace) -> int:
    return int(args.sight_steps + sum(args.steps))


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """For the sights and in each round: a warm-up, flat, and over the last 0.4 a straight line down to a tenth."""
    for steps in (args.sight_steps, *args.steps):
        if step < steps:
            break
        step -= steps
    decay = max(0.0, (step / steps - 0.6) / 0.4)
    return float(args.lr * min(1.0, (step + 1) / 100) * (1 - 0.9 * decay))


def save(model: Model, processor: Processor, log: dict, folder: Path) -> None:
    """Write the checkpoint in bfloat16, which halves it; training goes on in float32."""
    weights = {k: v.to(torch.bfloat16) for k, v in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    processor.save_pretrained(folder)
    (folder / "pretraining.json").write_text(json.dumps(log, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--family", choices=[*FOLDERS], default="qwen2_5_vl")
    parser.add_argument("--sight-steps", type=int, default=1000, help="of the vision tower alone")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[4500, 3500], help="of the whole model, in each round"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=int, default=250, help="write state and checkpoint every so many steps")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    tokenizer = train_tokenizer(args.seed)
    processor = make_processor(tokenizer, args.family)
    model = make_model(tokenizer, args.family)
    multiply_patches(model)
    pack_windows(model)
    start_from_patches(model, processor, args.seed)
    pupil = Pupil(model).train()
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.01)
    start, losses = 0, []
    kept = STATES / f"{args.family}.pt"
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        pupil.load_state_dict(state["pupil"])
        optimizer.load_state_dict(state["optimizer"])
        start, losses = state["step"], state["losses"]
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {len(tokenizer)} tokens, from step {start}", flush=True)

    loader = DataLoader(Lessons(processor, start, args), batch_size=None, num_workers=1, prefetch_factor=4)
    steps = total_steps(args)
    began, recent = time.time(), []
    for done, batch in enumerate(loader, start + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(done - 1, args)
        with torch.autocast("cpu", torch.bfloat16):
            parts = pupil.look(batch) if done <= args.sight_steps else pupil.answer(batch)
        sum(parts.values()).backward()
        torch.nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent.append({name: loss.item() for name, loss in parts.items()})
        if done % 25 == 0:
            means = {k: round(float(np.mean([r[k] for r in recent])), 4) for k in recent[0]}
            losses.append({"step": done, **means})
            pace = (time.time() - began) / (done - start)
            print(f"step {done}/{steps} {means} {pace:.2f} s a step", flush=True)
            recent = []
        if done % args.save == 0 or done == steps:
            kept.parent.mkdir(parents=True, exist_ok=True)
            state = {"pupil": pupil.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
            torch.save({**state, "losses": losses}, kept.with_suffix(".tmp"))
            kept.with_suffix(".tmp").replace(kept)
            log = {"arguments": vars(args), "parameters": parameters, "losses": losses}
            save(model, processor, log, FOLDERS[args.family])


if __name__ == "__main__":
    main()

"""Train a small image editor by the reward of a served critic, and measure its edits independently of the critic.

    python docs/tutorials/train_editor.py pretrain            # a flow-matching editor that imitates faulty edits
    python docs/tutorials/train_editor.py reward ADDRESS      # trains it further by the reward of a service
    python docs/tutorials/train_editor.py measure ADDRESS     # compares both editors' edits of other source images

docs/tutorials/editor.md explains the steps. The editor recolours one object of a picture of minibench. It needs
diffusers beside the packages of this project.
"""

import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, islice, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from tqdm import tqdm

from critic.answers import SAME_SCORE
from critic.client import Critic
from critic.client.mixing import edit_reward
from critic.client.reward_functions import NoReward, numbers
from critic.data.minibench.editors import EDITORS, Outcome, Request, draw_edit, random_request
from critic.data.minibench.raters import Panel
from critic.data.minibench.scenes import COLOURS, Scene, random_scene, render
from critic.evaluation.bootstrap import draw, estimate, mean, resampled

OUT = Path("runs/editor")
SIDE = 112
"""Width and height of the pictures in pixels. The editor draws changes at half of it, in patches of 4 x 4."""
PATCH, CHANNELS = 4, (32, 48)
GAIN = 3.0
"""Changes are multiplied by it, so that they vary about as much as the noise that the flow starts from."""
SAMPLING_STEPS = 4
TRAIN, REWARDED, HELD_OUT, CALIBRATION = range(4)
"""Streams of random source images; none is in two."""


@dataclass(frozen=True)
class Case:
    """A source image and an instruction to recolour an object of it."""

    scene: Scene
    request: Request
    source: Image.Image

    def attempt(self, rng: np.random.Generator) -> tuple[Image.Image, Outcome]:
        """The edit of one of minibench's simulated editors, with its faults."""
        outcome = EDITORS[rng.integers(len(EDITORS))].attempt(self.scene, self.request, rng)
        return draw_edit(self.scene, self.request, outcome, SIDE, rng), outcome

    def wanted(self) -> Image.Image:
        """The edit without a fault."""
        return render(self.request.apply(self.scene, self.request.subject, 1.0), SIDE)


def cases(stream: int, seed: int = 0) -> Iterator[tuple[Case, np.random.Generator]]:
    """Cases without end, each with a random generator of its own."""
    for number in range(sys.maxsize):
        rng = np.random.default_rng([seed, stream, number])
        scene = random_scene(rng)
        yield Case(scene, random_request(scene, rng, "colour"), render(scene, SIDE)), rng


def pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures as a tensor [n, 3, SIDE, SIDE], 0..1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def colours(instructions: Sequence[str]) -> Tensor:
    """The colours that an object has and is to have, [n, 6], 0..1: all that the editor reads of an instruction."""
    found = [[COLOURS[word] for word in text.split() if word in COLOURS] for text in instructions]
    return torch.tensor(found).flatten(1) / 255


class Editor(nn.Module):
    """A flow from noise to the change of a picture, given the picture and the instruction.

    At time t in 0..1 the flow is at x_t = (1 - t) x + t e, with the change x and Gaussian noise e, as in rectified
    flow (Liu et al. 2023, arXiv 2209.03003). The network predicts x: where to replace the colour of the object, of
    which `alike` has the pixels, and three channels of any other change.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DModel(
            in_channels=10 * PATCH**2,
            out_channels=4 * PATCH**2,
            block_out_channels=CHANNELS,
            layers_per_block=1,
            down_block_types=["DownBlock2D"] * len(CHANNELS),
            up_block_types=["UpBlock2D"] * len(CHANNELS),
            add_attention=False,
            norm_num_groups=8,
        )
        nn.init.zeros_(self.unet.conv_out.weight)

    def forward(self, x_t: Tensor, t: Tensor, source: Tensor, instruction: Tensor) -> Tensor:
        """The change, from `x_t` and the source at half their size, [n, 3, SIDE / 2, SIDE / 2], and t [n]."""
        now, wanted = instruction[..., None, None].chunk(2, 1)
        alike = torch.exp(-20 * (source - now).square().sum(1, keepdim=True))
        recolour = (wanted - now).expand_as(source)
        given = torch.cat([x_t, 2 * source - 1, alike, recolour], 1)
        drawn = self.unet(nn.functional.pixel_unshuffle(given, PATCH), 1000 * t).sample
        where, rest = nn.functional.pixel_shuffle(drawn, PATCH).split([1, 3], 1)
        return GAIN * alike * torch.sigmoid(where - 2) * recolour + rest

    @torch.no_grad()
    def change(self, source: Tensor, instruction: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a change of each source: Euler's method in `SAMPLING_STEPS` steps."""
        x = torch.randn(source.shape, generator=generator)
        times = torch.linspace(1, 0, SAMPLING_STEPS + 1)
        for now, later in pairwise(times):
            drawn = self(x, now.expand(len(x)), source, instruction)
            x = drawn + later / now * (x - drawn)
        return x


def halved(picture: Tensor) -> Tensor:
    """At half the width and height."""
    return nn.functional.avg_pool2d(picture, 2)


def apply(sources: Sequence[Image.Image], change: Tensor) -> list[Image.Image]:
    """The edited pictures."""
    grown = nn.functional.interpolate(change / GAIN, scale_factor=2, mode="bilinear")
    array = (255 * (pixels(sources) + grown).clamp(0, 1)).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in array]


def noised(x: Tensor) -> tuple[Tensor, Tensor]:
    """x_t at random times, and the times, which are logit-normal as in Stable Diffusion 3."""
    t = torch.sigmoid(torch.randn(len(x)))
    at = t[:, None, None, None]
    return (1 - at) * x + at * torch.randn_like(x), t


def pretrain(edits: int = 1000, steps: int = 300, batch: int = 32) -> Editor:
    """Imitate minibench's simulated editors, faults included, by flow matching."""
    torch.manual_seed(0)
    rows = []
    for (case, rng), _ in zip(cases(TRAIN), tqdm(range(edits), "drawing"), strict=False):
        edited, outcome = case.attempt(rng)
        if outcome.side_change != "drift":
            rows.append((case.source, edited, case.request.instruction))
    sources, edited, texts = zip(*rows, strict=True)
    half, instructions = halved(pixels(sources)), colours(texts)
    pairs = torch.cat([GAIN * (halved(pixels(edited)) - half), half], 1)
    editor = Editor()
    optimizer = torch.optim.AdamW(editor.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    progress = tqdm(range(steps), "pretraining")
    for _ in progress:
        chosen = torch.randint(len(rows), [batch])
        turned = torch.rot90(pairs[chosen], int(torch.randint(4, [])), (-2, -1))
        x, source = (turned.flip(-1) if torch.rand([]) < 0.5 else turned).chunk(2, 1)
        x_t, t = noised(x)
        error = (editor(x_t, t, source, instructions[chosen]) - x).square().flatten(1).mean(1)
        loss = (error / t.clamp(min=0.1)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(editor.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return editor


def train(editor: Editor, address: str, steps: int = 40, requests: int = 8, group: int = 8) -> Editor:
    """Train by the reward of the service: DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117), with beta = 1.

    Each step draws `group` edits of each of `requests` source images. The editor moves towards edits with a higher
    reward than the others of their source, and away from the rest. An edit without a reward is left out.

    Raises:
        NoReward: fewer than two edits of a step have one.
    """
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(1)
    sampler = copy.deepcopy(editor)
    optimizer = torch.optim.AdamW(editor.parameters(), lr=2e-4)
    drawn = cases(REWARDED)
    progress = tqdm(range(steps), "reward")
    with Critic(address, max_retries=20) as critic:
        reward = edit_reward(critic)
        for _ in progress:
            rows = [case for case, _ in islice(drawn, requests) for _ in range(group)]
            pictures, texts = [case.source for case in rows], [case.request.instruction for case in rows]
            source, instruction = halved(pixels(pictures)), colours(texts)
            x = sampler.change(source, instruction, generator)
            rewards = reward(pictures, apply(pictures, x), texts)
            values = torch.tensor(numbers(rewards, "nan"))
            of_request = values.view(requests, group)
            above = (of_request - of_request.nanmean(1, keepdim=True)).flatten()
            known = above.isfinite()
            if known.sum() < 2:
                raise NoReward(rewards)
            optimality = 0.5 + 0.5 * (above / (values[known].std() + 1e-6)).clamp(-1, 1)
            for _ in range(2):
                x_t, t = noised(x)
                new = editor(x_t, t, source, instruction)
                with torch.no_grad():
                    old = sampler(x_t, t, source, instruction)
                loss = optimality * distance(new, x) + (1 - optimality) * distance(2 * old - new, x)
                optimizer.zero_grad()
                loss[known].mean().backward()
                nn.utils.clip_grad_norm_(editor.parameters(), 1.0)
                optimizer.step()
            for slow, fast in zip(sampler.parameters(), editor.parameters(), strict=True):
                slow.data.lerp_(fast.data, 0.3)
            progress.set_postfix(reward=f"{values.nanmean().item():.2f}")
    return sampler


def distance(predicted: Tensor, x: Tensor) -> Tensor:
    """Squared error of each change, [n], over its mean absolute error, so that all times weigh alike."""
    error = (predicted - x).flatten(1)
    return error.square().mean(1) / error.detach().abs().mean(1).clamp(min=1e-4)


TRUTHS = ("overall", "alignment", "fidelity", "quality")


def faults(case: Case, edited: Image.Image) -> list[float]:
    """What is wrong with an edit, from the edit that was wanted, which no critic sees: 15 terms of a regression.

    How much of the wanted change is missing, how far colours are off where nothing should change, how far details
    are off, and how much detail there is to how much there should be; their squares and products.
    """
    source, got, wanted = (np.asarray(p, np.float64) / 255 for p in (case.source, edited, case.wanted()))
    inside = np.abs(wanted - source).max(-1) > 0.03
    off, missing, blurred, own = (
        gaussian_filter(x, (2, 2, 0)) for x in (got - wanted, wanted - source, got, wanted)
    )

    def size(x: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(x)))) + 0.003

    found = [
        1.0,
        min(1.0, size(off[inside]) / size(missing[inside])),
        np.log(size(off[~inside])),
        np.log(size(got - wanted - off)),
        np.log(size(got - blurred) / size(wanted - own)),
    ]
    return [a * b for a, b in combinations_with_replacement(found, 2)]


def fit_truth(edits: int = 1500, tested: int = 500) -> np.ndarray:
    """Weights of `faults` that estimate `TRUTHS` of any edit, [15, 4].

    The truth is known for the edits of minibench's own editors alone: the regression is fitted to them.
    """
    x, y = [], []
    for (case, rng), _ in zip(cases(CALIBRATION), tqdm(range(edits), "fitting"), strict=False):
        edited, outcome = case.attempt(rng)
        x.append(faults(case, edited))
        y.append([getattr(outcome, truth) for truth in TRUTHS])
    (fitted, other), (truth, other_truth) = (np.split(np.array(rows), [edits - tested]) for rows in (x, y))
    weights, *_ = np.linalg.lstsq(fitted, truth, rcond=None)
    found, known = (other @ weights)[:, 0].clip(1, 5), other_truth[:, 0]
    correlation, error = np.corrcoef(found, known)[0, 1], np.abs(found - known).mean()
    print(f"truth as estimated, on {tested} other edits: correlation {correlation:.2f}, mean error {error:.2f}")
    return weights


def rated(rows: Sequence[Case], edits: Sequence[Image.Image], weights: np.ndarray) -> pd.DataFrame:
    """The MOS of edits by minibench's fifteen raters, 1..5, and the estimated truth of each axis."""
    panel, rng = Panel(np.random.default_rng(0)), np.random.default_rng(1)
    truths = np.clip(np.array([faults(*row) for row in zip(rows, edits, strict=True)]) @ weights, 1, 5)
    table = pd.DataFrame(truths, columns=[*TRUTHS])
    return table.assign(mos=[panel.rate(truth, rng).mean() for truth in table.overall])


def measure(address: str, edits: int = 128, n_boot: int = 2000) -> None:
    """Print what people and the critic say of both editors' edits of new source images, and write the pictures."""
    weights = fit_truth()
    rows = [case for case, _ in islice(cases(HELD_OUT), edits)]
    sources, texts = [case.source for case in rows], [case.request.instruction for case in rows]
    found, drawn = {}, [sources, [case.wanted() for case in rows]]
    with Critic(address, max_retries=20) as critic:
        reward = edit_reward(critic, scale="mos")
        for name in ("before", "after"):
            x = load(name).change(halved(pixels(sources)), colours(texts), torch.Generator().manual_seed(2))
            drawn.append(apply(sources, x))
            table = rated(rows, drawn[-1], weights)
            table["reward"] = numbers(reward(sources, drawn[-1], texts), "nan")
            table["reward, swapped"] = numbers(reward(sources, drawn[-1], texts[1:] + texts[:1]), "nan")
            table["probe swapped"] = table["reward, swapped"] <= table.reward - SAME_SCORE
            found[name] = table.astype(float)
    unedited, wanted = (rated(rows, pictures, weights).mos.mean() for pictures in drawn[:2])
    print(f"MOS of unedited pictures {unedited:.2f}, of the wanted edits {wanted:.2f}")
    known = np.isfinite(found["before"] + found["after"]).all(axis=1)
    print(f"{known.sum()} of {edits} source images have two rewards; means, with 95 % intervals over them:")
    print(f"{'':18}{'before':>22}{'after':>22}{'difference':>24}")
    for column in ("reward", "mos", *TRUTHS[1:], "reward, swapped", "probe swapped"):
        before, after = (found[name].loc[known, column].to_numpy() for name in ("before", "after"))
        cells = []
        for values, sign in ((before, ""), (after, ""), (after - before, "+")):
            change = estimate(resampled(lambda w, x=values: mean(x, w), draw(None, len(x), n_boot, 0)))
            cells.append(f"{change.value:{sign}.2f} ({change.low:{sign}.2f} to {change.high:{sign}.2f})")
        print(f"{column:18}{cells[0]:>22}{cells[1]:>22}{cells[2]:>24}")
        if column == "mos":
            opinion = "better" if change.low > 0 else "worse" if change.high < 0 else "neither better nor worse"
    print(f"People find the edits {opinion} after the training.")
    sheet = Image.new("RGB", (8 * SIDE, len(drawn) * SIDE))
    for down, pictures in enumerate(drawn):
        for across, picture in enumerate(pictures[:8]):
            sheet.paste(picture, (across * SIDE, down * SIDE))
    sheet.save(OUT / "edits.png")


def save(editor: Editor, name: str) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    save_file(editor.state_dict(), OUT / f"{name}.safetensors")


def load(name: str) -> Editor:
    editor = Editor()
    editor.load_state_dict(load_file(OUT / f"{name}.safetensors"))
    return editor


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pretrain"]:
            save(pretrain(), "before")
        case ["reward", address]:
            save(train(load("before"), address), "after")
        case ["measure", address]:
            measure(address)
        case _:
            raise SystemExit(__doc__)

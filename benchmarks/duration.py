"""How long the trainings take on H100s, by arithmetic: the table of docs/bases.md.

    python benchmarks/duration.py                  # the profiles with a base of their own, and `full`

A sample has two pictures of 768 x 768 pixels, 250 tokens of text and 400 of completion; half of SFT's samples have
an answer of 12 tokens. FLOPs are `update_flops` of train_7b.py. Assumed, until it is measured: the share of an
H100's 989 TFLOP/s that is used (MFU), and that vLLM writes 2,500 tokens a second on a GPU for a language model of
7.6 G weights, and for others in inverse proportion. Writing checkpoints and validating come on top.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from critic import params
from critic.prompts import load_contract

sys.path.insert(0, str(Path(__file__).parent))

from shapes import BASES, config_of
from train_7b import Batch, count_weights, update_flops

PROFILES = ("full", "qwen3-vl-8b", "qwen3-vl-4b", "qwen3-5-9b")
TEXT, COMPLETION, DIRECT = 250, 400, 12
"""Tokens of a sample besides its pictures, of a completion, and of an answer without reasoning."""
SAMPLES = 4000
"""Of an epoch of SFT, see docs/full-run.md."""
PEAK = 989.0
"""TFLOP/s of an H100 in bfloat16, dense."""
MFU = {("sft", False): 0.40, ("sft", True): 0.35, ("grpo", False): 0.35, ("grpo", True): 0.30}
"""By training, and whether it is LoRA."""
TOKENS, WEIGHTS = 2500.0, 7.6e9
SYNC = 4.0
"""Seconds to send the weights to vLLM."""


class Duration(NamedTuple):
    """Of a profile's trainings.

    Attributes:
        sample, direct: TFLOPs to train on a reasoning and on a direct-scoring sample in SFT.
        completion: TFLOPs of a completion in GRPO's update.
        sft: seconds of all epochs.
        step: seconds of a step of GRPO.
        grpo: seconds of all steps.
    """

    sample: float
    direct: float
    completion: float
    sft: float
    step: float
    grpo: float


def duration(profile: str, side: int = 768) -> Duration:
    """The arithmetic for a profile of params.yaml.

    Raises:
        ParamsError: as `critic.params.load`.
    """
    sft, grpo = params.load(params.Sft, profile=profile), params.load(params.Grpo, profile=profile)
    launch = params.load(params.Launch, profile=profile)
    config = config_of(BASES[params.load(params.Model, profile=profile).base])
    contract = load_contract(params.load(params.Prompt, profile=profile).contract)
    width, height = contract.resize(Image.new("RGB", (side, side))).size
    patch = config.vision_config.patch_size
    grids = [[1, height // patch, width // patch]] * 2
    prompt = TEXT + 2 * (width * height) // contract.pixel_unit**2
    gpus, group = launch.nnodes * launch.nproc_per_node, grpo.num_generations

    def tflops(section: params.Training, batch: Batch) -> float:
        return update_flops(config, count_weights(config, section), batch, section) / 1e12

    sample, direct = (tflops(sft, Batch([prompt], [written], grids)) for written in (COMPLETION, DIRECT))
    shared = Batch([prompt] * group, [COMPLETION] * group, grids, group)
    separate = Batch([prompt] * group, [COMPLETION] * group, grids * group)
    completion = tflops(grpo, shared if grpo.share_prompts else separate) / group
    completions = grpo.per_device_train_batch_size * grpo.gradient_accumulation_steps * gpus

    def seconds(training: str, section: params.Training, work: float) -> float:
        return work / (gpus * PEAK * MFU[training, section.lora is not None])

    weights = count_weights(config, sft)
    speed = TOKENS * WEIGHTS / (weights.language + weights.head)
    step = seconds("grpo", grpo, completions * completion) + completions * COMPLETION / (gpus * speed) + SYNC
    return Duration(
        sample=sample,
        direct=direct,
        completion=completion,
        sft=seconds("sft", sft, sft.num_train_epochs * SAMPLES * (sample + direct) / 2),
        step=step,
        grpo=grpo.max_steps * step,
    )


def table(profiles: Sequence[str] = PROFILES) -> str:
    """The table in Markdown."""
    columns = [duration(profile) for profile in profiles]
    rows = [
        ["", *(f"`{profile}`" for profile in profiles)],
        ["---", *["---:"] * len(profiles)],
        ["SFT, TFLOPs of a sample that reasons", *(f"{part.sample:.0f}" for part in columns)],
        ["SFT, TFLOPs of one that doesn't", *(f"{part.direct:.0f}" for part in columns)],
        ["GRPO, TFLOPs of a completion in the update", *(f"{part.completion:.0f}" for part in columns)],
        ["SFT, all epochs", *(f"{part.sft / 60:.0f} min" for part in columns)],
        ["GRPO, a step", *(f"{part.step:.0f} s" for part in columns)],
        ["GRPO, all steps", *(f"{part.grpo / 3600:.1f} h" for part in columns)],
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/duration.py", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--profiles", nargs="+", default=PROFILES, help="of params.yaml")
    print(table(parser.parse_args().profiles))


if __name__ == "__main__":
    main()

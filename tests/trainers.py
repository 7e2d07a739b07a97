"""Trainers that use the service's rewards: TRL's GRPOTrainer, and a caller like flow-GRPO."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value
from datasets import Image as Picture
from PIL import Image
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, set_seed
from trl import GRPOConfig, GRPOTrainer

from critic.client import Critic
from critic.client.reward_functions import TRLReward, flow_reward

TINY = Path(__file__).parents[1] / "assets/tiny-base"


def painted(text: str, row: Any = None) -> Image.Image | None:
    """The edit that a completion describes: the longer, the redder; None if its length is odd."""
    return Image.new("RGB", (112, 112), (len(text) * 8 % 248, 0, 0)) if len(text) % 2 == 0 else None


def train_by_trl(base_url: str, folder: Path) -> GRPOTrainer:
    """Train a small text model for two steps with TRL. Returns the trainer."""
    set_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    rows = {
        "prompt": ["Paint it:"] * 2,
        "source": [Image.new("RGB", (112, 112), colour) for colour in ("blue", "green")],
        "instruction": ["make it red", "make all of it red"],
    }
    features = Features({"prompt": Value("string"), "source": Picture(), "instruction": Value("string")})
    with Critic(base_url) as critic:
        trainer = GRPOTrainer(
            model=Qwen2ForCausalLM(config),
            processing_class=tokenizer,
            reward_funcs=TRLReward(critic, painted),
            train_dataset=Dataset.from_dict(rows, features),
            args=GRPOConfig(
                output_dir=str(folder),
                max_steps=2,
                per_device_train_batch_size=16,
                num_generations=8,
                max_completion_length=8,
                learning_rate=0.01,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                bf16=False,
            ),
        )
        trainer.train()
    return trainer


def reward_as_flow_grpo(base_url: str, folder: Path, images: Any, instruction: str) -> list[float]:
    """Rewards of tensors (N, 3, H, W), requested as flow-GRPO does: in a thread, sources from its dataset."""
    Image.new("RGB", (112, 112), "blue").save(folder / "source.png")
    metadata = [{"prompt": instruction, "image": "source.png"}] * len(images)
    with Critic(base_url) as critic, ThreadPoolExecutor(1) as executor:
        function = flow_reward(critic, folder=folder)
        future = executor.submit(function, images, [instruction] * len(images), metadata, only_strict=True)
        rewards, _ = future.result()
    return rewards

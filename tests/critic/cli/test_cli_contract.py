"""`critic contract learn`: from an SFT set, on the hub or in a file, to the command that uses its contract."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from local_hub import COMMIT
from PIL import Image
from released import SFT_SET, make, user_text
from transformers import AutoProcessor

from critic import cli
from critic.prompts import Contract, load_contract

BASE = Path(__file__).parents[3] / "assets/tiny-base"
CHAT = (
    r"{% for message in messages %}{{ message['role'] }}\n{% for part in message['content'] %}"
    r"{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
    r"{% endif %}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant\n<think>{% endif %}"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a critic that has no contract."""
    (tmp_path / "critic").mkdir()
    for file in BASE.iterdir():
        (tmp_path / "critic" / file.name).write_bytes(file.read_bytes())
    processor = AutoProcessor.from_pretrained(BASE)
    processor.chat_template = CHAT
    processor.save_pretrained(tmp_path / "critic")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.main, words)


def assert_released(contract: Contract) -> None:
    assert contract.marked_text("make it red", "reasoning") == user_text("make it red", "reasoning")
    assert contract.marked_text("make it red", "direct") == user_text("make it red", "direct")
    assert contract.chat_template == CHAT


def test_a_set_on_the_hub_gives_the_contract(hub: Any, here: Path) -> None:
    released = make(sources=3)
    released.push(hub)
    done = run("contract", "learn", SFT_SET, "-m", "critic")
    assert done.exit_code == 0, done.output
    rows = len(released.sft["messages"])
    each = f"{rows // 2} in mode reasoning, {rows // 2} in mode direct"
    assert done.stdout.startswith(f"critic.yaml renders {rows} of {rows} rows byte for byte ({each})\n")
    assert "from the files of critic\nPictures of 3136 to 50176 pixels, from the same files\n" in done.stdout
    assert "IE-Critic-R1 was trained with 262144 to 1048576: choose with --min-pixels" in done.stdout
    contract = load_contract("critic.yaml")
    assert_released(contract)
    assert contract.name == "critic"
    assert f"# Learnt from {SFT_SET} at {COMMIT}, with the chat template of critic," in contract.text


def test_a_critic_without_a_contract_takes_two_commands(here: Path) -> None:
    """`critic score` names the first, which prints the second."""
    for name in ("source", "edited"):
        Image.new("RGB", (56, 56), "red").save(f"{name}.png")
    edit = ("--source", "source.png", "--edited", "edited.png", "--instruction", "a")
    refused = run("score", "-m", "critic", *edit)
    assert refused.exit_code == 1
    assert "`critic contract learn SET -m critic` makes one from the SFT set of its training" in refused.stderr
    Path("set.json").write_text(json.dumps([{"messages": turns} for turns in make(sources=3).sft["messages"]]))
    *_, says, score = run("contract", "learn", "set.json", "-m", "critic").stdout.splitlines()
    assert says == "Score an edit with it:"
    scored = run(*shlex.split(score)[1:], "--engine", "transformers", "--max-tokens", "4")
    assert scored.stdout.startswith("no score (")  # the untrained base answers, with nothing or without an end


def test_a_file_needs_no_pictures_and_the_limits_can_be_chosen(here: Path) -> None:
    rows = [{"messages": turns, "images": ["/a.png", "/b.png"]} for turns in make(sources=6).sft["messages"]]
    rows[3]["messages"][0]["content"] = "How good is it?"
    Path("set.json").write_text(json.dumps(rows))
    limits = ("--min-pixels", "262144", "--max-pixels", "1048576")
    done = run("contract", "learn", "set.json", "-m", "critic", "--out", "mine.yaml", *limits)
    assert done.exit_code == 0, done.output
    assert f"mine.yaml renders {len(rows) - 1} of {len(rows)} rows" in done.output
    assert (
        "\n  not row 4, " in done.output and "begins 'How good is it?', not ' Edit Instruction: '" in done.output
    )
    assert "IE-Critic-R1 was trained" not in done.output
    contract = load_contract("mine.yaml")
    assert_released(contract)
    assert (contract.name, contract.min_pixels, contract.max_pixels) == ("mine", 262144, 1048576)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("set.json -m critic --min-pixels 4", 2, "give both --min-pixels and --max-pixels, or neither"),
        ("set.json -m critic --out contract", 2, "--out contract must end with .yaml"),
        ("nowhere.json -m critic", 1, "nowhere.json doesn't exist"),
        ("set.json -m nowhere/", 1, "the chat template of nowhere/ can't be read: give the folder"),
        ("set.json -m critic --min-pixels 4 --max-pixels 2", 1, "pixels.min is more than pixels.max"),
        ("set.json -m critic --out critic/config.json/c.yaml", 1, "critic/config.json/c.yaml"),
    ],
)
def test_what_goes_wrong_is_an_error_in_one_line(words: str, code: int, message: str, here: Path) -> None:
    rows = [{"messages": turns} for turns in make(sources=2).sft["messages"]]
    Path("set.json").write_text(json.dumps(rows))
    done = run("contract", "learn", *shlex.split(words))
    assert done.exit_code == code
    assert f"Error: {message}" in done.output or message in done.output.splitlines()[-1]
    assert not [*Path().glob("*.yaml")]

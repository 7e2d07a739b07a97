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
from critic.data.learnt_contract import UPSTREAM_PIXELS
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
    assert (
        "from the files of critic\n"
        "Pictures of 262144 to 1048576 pixels, with which IE-Critic-R1 was trained\n"
        "  The files of critic have 3136 to 50176: choose with --min-pixels and --max-pixels\n"
    ) in done.stdout
    contract = load_contract("critic.yaml")
    assert (contract.min_pixels, contract.max_pixels) == UPSTREAM_PIXELS
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
    limits = ("--min-pixels", "3136", "--max-pixels", "50176")
    *_, says, score = run("contract", "learn", "set.json", "-m", "critic", *limits).stdout.splitlines()
    assert says == "Score an edit with it:"
    scored = run(*shlex.split(score)[1:], "--engine", "transformers", "--max-tokens", "4")
    assert scored.stdout.startswith("no score (")  # the untrained base answers, with nothing or without an end


def test_a_file_needs_no_pictures_and_the_limits_can_be_chosen(here: Path) -> None:
    rows = [{"messages": turns, "images": ["/a.png", "/b.png"]} for turns in make(sources=6).sft["messages"]]
    rows[3]["messages"][0]["content"] = "How good is it?"
    Path("set.json").write_text(json.dumps(rows))
    limits = ("--min-pixels", "3136", "--max-pixels", "100352")
    done = run("contract", "learn", "set.json", "-m", "critic", "--out", "mine.yaml", *limits)
    assert done.exit_code == 0, done.output
    assert f"mine.yaml renders {len(rows) - 1} of {len(rows)} rows" in done.output
    assert (
        "\n  not row 4, " in done.output and "begins 'How good is it?', not ' Edit Instruction: '" in done.output
    )
    assert "Pictures of 3136 to 100352 pixels, from --min-pixels and --max-pixels\n" in done.output
    assert "IE-Critic-R1 was trained" not in done.output
    contract = load_contract("mine.yaml")
    assert_released(contract)
    assert (contract.name, contract.min_pixels, contract.max_pixels) == ("mine", 3136, 100352)


def test_the_help_names_the_default_limits() -> None:
    text = run("contract", "learn", "--help").output
    assert [f"[default: {limit}]" in text for limit in UPSTREAM_PIXELS] == [True, True]


def test_errors_about_the_hub_name_nothing_of_the_pipeline(hub: Any, here: Path) -> None:
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in "ab")
    hub.files["lab/two"] = {
        "README.md": f"---\nconfigs:\n{configs}---\n".encode(),
        "a.jsonl": b"{}\n",
        "b.jsonl": b"{}\n",
    }
    hub.files["lab/broken"] = {"train.parquet": b"PAR1"}
    said = {name: run("contract", "learn", name, "-m", "critic") for name in ("lab/two", "lab/broken", "lab/no")}
    hub.stop()
    said["down"] = run("contract", "learn", "lab/two", "-m", "critic")
    assert "lab/two at revision main has several configs; it has a, b: choose one" in said["lab/two"].output
    assert "lab/broken at revision main can't be read by datasets" in said["lab/broken"].output
    assert "the hub has no such data set" in said["lab/no"].output
    assert "can't be reached or answers with a server error" in said["down"].output
    for done in said.values():
        assert done.exit_code == 1
        assert not [word for word in ("params.yaml", "download.", "stage") if word in done.output], done.output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("set.json -m critic --min-pixels 4", 2, "give both --min-pixels and --max-pixels, or neither"),
        ("set.json -m critic --out contract", 2, "--out contract must end with .yaml"),
        ("nowhere.json -m critic", 1, "nowhere.json doesn't exist: give a file of rows of"),
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

"""Which values of -m are folders and which are names on the hub; the network is never asked."""

from pathlib import Path

import pytest

from critic.checkpoints import CheckpointError
from critic.engines.load import contract_of, folder_of, open_engine
from critic.prompts import load_contract


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh clone: assets are there, models aren't."""
    (tmp_path / "assets/tiny-base").mkdir(parents=True)
    (tmp_path / "assets/readme.md").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("model", ["assets/tiny-base", "./assets/tiny-base", "assets"])
def test_a_folder_is_a_folder(model: str) -> None:
    assert folder_of(model) == Path(model)


@pytest.mark.parametrize("model", ["org/critic", "Qwen/Qwen2.5-VL-7B-Instruct", "a.b/c_d", "assets/7b"])
def test_owner_and_name_are_a_name_on_the_hub(model: str) -> None:
    assert folder_of(model) is None


@pytest.mark.parametrize(
    "model",
    ["./org/critic", "/org/critic", "~/critic", "../critic", "org/critic/", "a/b/c", "critic", "org/", "a b/c",
     "assets/readme.md"],
)  # fmt: skip
def test_any_other_value_is_a_path_that_must_be_there(model: str) -> None:
    with pytest.raises(
        CheckpointError, match=r"^there is no folder .*: give the folder of a checkpoint, or the name"
    ):
        folder_of(model)


@pytest.mark.parametrize("model", ["models/grpo", "models", "./models/sft", "models/grpo/"])
def test_before_the_first_run_it_is_named(model: str) -> None:
    with pytest.raises(CheckpointError, match=f"there is no folder {model}: run `make repro` to make"):
        contract_of(model)
    with pytest.raises(CheckpointError, match="run `make repro`"):
        open_engine("transformers", model, load_contract("tiny"), max_tokens=4)


@pytest.mark.parametrize(
    "model",
    [
        "http://127.0.0.1:8000/v1",
        "https://example.com/v1#critic",
        "HTTP://host/v1",
        "localhost:8000/v1",
        "host:8000",
    ],
)
def test_an_address_needs_the_engine_http(model: str) -> None:
    with pytest.raises(CheckpointError, match=r"is the address of a server, .*: begin it with http://"):
        folder_of(model)

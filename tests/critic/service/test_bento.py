"""`bentoml serve` checks its settings before it starts anything."""

import socket
from pathlib import Path

import click
import pytest
from bentoml.exceptions import BentoMLException

from critic.engines import load
from critic.service import bento
from critic.service.bento import check_port, make_app, read_settings

ROOT = Path(__file__).parents[3]
TINY, CONTRACT = ROOT / "assets/tiny-base", ROOT / "critic/contracts/tiny.yaml"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CRITIC_QUEUE", "-1", "CRITIC_QUEUE: Input should be greater than 0"),
        ("CRITIC_MODEL", "nowhere", "CRITIC_MODEL: there is no folder nowhere"),
        ("CRITIC_MODEL", "./models/new", "CRITIC_MODEL: there is no folder ./models/new: run `make repro`"),
        ("CRITIC_MODEL", str(TINY.parent), "has no contract of the prompts .*, or save it there as contract.yaml"),
        ("CRITIC_RECEIPT_KEY", "short", "CRITIC_RECEIPT_KEY has a key of less than 16 characters"),
        ("CRITIC_STUDY", "nowhere.csv", "CRITIC_STUDY: nowhere.csv can't be read"),
        ("CRITIC_KEYS", "short", "CRITIC_KEYS, line 1, key 1 isn't NAME:KEY"),
    ],
)
def test_a_setting_that_cant_be_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BentoMLException, match=said):
        make_app(read_settings({}))


def test_a_port_that_is_taken_is_named() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        click.Context(click.Command("serve"), info_name="serve") as serve,
    ):
        port = taken.getsockname()[1]
        serve.params = {"host": None, "port": port}
        said = f"can't listen on 127.0.0.1:{port}: Address already in use: .* such as BENTOML_PORT=3001"
        with pytest.raises(BentoMLException, match=said):
            check_port()
        taken.close()
        check_port()


def test_a_critic_may_be_a_name_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITIC_MODEL", "org/critic")
    monkeypatch.setattr(load, "hf_hub_download", lambda *_, **__: str(CONTRACT))
    settings = read_settings({})
    assert settings.model == "org/critic"
    monkeypatch.setattr(bento, "settings", settings)
    monkeypatch.setattr(bento, "identify", lambda model: f"{model}@0123456789abcdef0123456789abcdef01234567")
    assert bento.find_critic() == ("org/critic", "critic:0123456789ab")
    monkeypatch.setattr(bento, "identify", lambda model: f"sha256:{'5eed' * 16}")
    assert bento.find_critic() == ("org/critic", "critic:5eed5eed5eed")


def test_the_environment_goes_before_what_a_bento_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITIC_QUEUE", "7")
    settings = read_settings({"queue": "8", "max_pairs": "9"})
    assert (settings.queue, settings.max_pairs) == (7, 9)

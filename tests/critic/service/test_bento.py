"""What `bentoml serve` is told before it starts anything."""

from pathlib import Path

import pytest
from bentoml.exceptions import BentoMLException

from critic.service.bento import read_settings

TINY = Path(__file__).parents[3] / "assets/tiny-base"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CRITIC_QUEUE", "-1", "CRITIC_QUEUE: Input should be greater than 0"),
        ("CRITIC_MODEL", "nowhere", "CRITIC_MODEL nowhere is no critic's folder"),
        ("CRITIC_MODEL", str(TINY.parent), "no contract.yaml in it"),
        ("CRITIC_RECEIPT_KEY", "short", "CRITIC_RECEIPT_KEY has a key of less than 16 characters"),
        ("CRITIC_KEYS", "short", "CRITIC_KEYS, line 1, key 1 is no NAME:KEY"),
    ],
)
def test_a_setting_that_cant_be_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BentoMLException, match=said):
        read_settings({})


def test_the_environment_goes_before_what_a_bento_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITIC_QUEUE", "7")
    settings = read_settings({"queue": "8", "max_pairs": "9"})
    assert (settings.queue, settings.max_pairs) == (7, 9)

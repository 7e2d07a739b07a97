"""The settings are those of the documentation."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from critic.service.settings import Settings

DOCS = (Path(__file__).parents[3] / "docs/serve.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_in_the_documentation_with_its_default(name: str) -> None:
    field = Settings.model_fields[name]
    given = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    default = f"`{given}`" if given else ""
    assert f"| `CRITIC_{name.upper()}` | {default} | {field.description} |" in DOCS


def test_a_value_that_cant_be_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITIC_QUEUE", "many")
    with pytest.raises(ValidationError, match="queue"):
        Settings()

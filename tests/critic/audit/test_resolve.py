"""Every name of a critic leads to its record; forged answers and changed critics have none."""

from pathlib import Path

import pytest
from audited import write_answer

from critic.audit import manifests, trace
from critic.audit.resolve import SubjectError, find, weights_of
from critic.engines.load import identify

ROOT = Path(__file__).parents[3]


def test_an_answer_leads_to_the_training_rows(checkout: Path, tmp_path: Path) -> None:
    subject = find(checkout, str(write_answer(checkout, tmp_path / "answer.json")))
    found = trace.training_tables(subject)
    assert {*found} == {*trace.TRAINING_TABLES}
    for path, digest in found.items():
        assert manifests.fingerprint(checkout / path).sha256 == digest


@pytest.mark.parametrize("field", ["model", "contract"])
def test_a_forged_answer_has_no_record(field: str, checkout: Path, tmp_path: Path) -> None:
    forged = write_answer(checkout, tmp_path / "answer.json", **{field: f"sha256:{'0' * 64}"})
    with pytest.raises(SubjectError, match=r"no record of this checkout|names the prompt contract"):
        find(checkout, str(forged))


def test_weights_are_named_as_the_engines_name_them() -> None:
    files = manifests.fingerprint(ROOT / "assets/tiny-base").files
    assert weights_of(files) == identify(str(ROOT / "assets/tiny-base"))


def test_a_critic_that_was_changed_has_no_record(checkout: Path) -> None:
    (checkout / "models/grpo/tokenizer.json").write_text("{}")
    with pytest.raises(SubjectError, match=r"was changed after the stage grpo made it \(tokenizer\.json\)"):
        find(checkout, "models/grpo")

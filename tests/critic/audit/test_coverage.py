"""Every key of params.yaml has a reader, and runs a stage again."""

from pathlib import Path

from critic.audit.coverage import param_coverage

ROOT = Path(__file__).parents[3]


def test_every_param_reruns_a_stage_or_is_read_by_the_flows() -> None:
    assert [key.key for key in param_coverage(ROOT) if key.fault] == []


def test_a_param_that_nothing_reads_is_at_fault(checkout: Path) -> None:
    text = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(text.replace("gate:\n", "gate:\n  wish: 1\n"))
    faults = {key.key: key.fault for key in param_coverage(checkout)}
    assert faults["gate.wish"] == "no code reads it"
    assert faults["grpo.epsilon_high"] == "no code reads it"  # the training of this checkout is a stand-in
    assert faults["gate.margin"] is None

"""The differences between two critics."""

from pathlib import Path

from audited import commit, dvc, write_answer

from critic.audit import diff, trace
from critic.audit.resolve import find


def test_it_does_after_later_commits(checkout: Path, tmp_path: Path) -> None:
    path, before = write_answer(checkout, tmp_path / "answer.json"), find(checkout, "HEAD")
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("learning_rate: 5.0e-05", "learning_rate: 6.0e-05"))
    dvc(checkout, "repro")
    commit(checkout, "Learn faster")
    then, now = find(checkout, str(path)), find(checkout, "models/grpo")
    assert then.record.commit == before.record.commit and now.record.commit is None
    assert trace.training_tables(then) == trace.training_tables(now)
    changes = [(d.kind, d.where, d.a, d.b) for d in diff.differences(then, now)]
    assert changes == [("params", "grpo profiles.tiny.grpo.learning_rate", "5e-05", "6e-05")]
    gaps = diff.score_gaps(then, now)["gap"].abs()
    assert gaps.max() > 0 and gaps.is_monotonic_decreasing
    assert diff.row_gaps(then.record, now.record) == {}

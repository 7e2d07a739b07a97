"""The flow that audits critics: check their records, and reproduce one.

    prefect deployment run audit/critic
    prefect deployment run audit/critic --param again=v1.2.0

A run that finds a problem fails, so that the notification for failures is sent.
"""

import tempfile
from pathlib import Path

from prefect import State, flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from critic.release.lock import hold_lock
from flows import started
from flows.pipeline import GPU


@flow(name="audit", on_running=[started.note])
def audit(again: str | None = None) -> State[None]:
    """Check the records of the checkout and of all releases.

    Args:
        again: a release or git revision to reproduce: its pipeline runs in a clean clone, from its lock, and the
            outputs are compared.
    """
    repository = Path.cwd()
    with hold_lock(repository, f"audit {flow_run.name}"):
        problems = verify(repository)
    if problems:
        more = f" And {len(problems) - 1} more." if len(problems) > 1 else ""
        return Failed(message=f"The records are inconsistent: {problems[0]}{more}")
    if again is None:
        return Completed(message="The records are consistent.")
    outcome, why = rerun(repository, again)
    if outcome == "not reproduced":
        return Failed(message=f"{again} is not reproduced: {why}")
    return Completed(name=outcome.capitalize(), message=f"{again}: {why}")


@task
def verify(repository: Path) -> list[str]:
    """The problems of the record, one line each. The artifact `audit` is a table of all findings."""
    from critic.audit.releases import check_releases
    from critic.audit.verify import verify as check

    found = [*check(repository), *check_releases(repository)]
    create_table_artifact([vars(finding) for finding in found], key="audit", description="Findings")
    for finding in found:
        get_run_logger().info("%s %s: %s", finding.check, finding.where, finding.what)
    return [f"{finding.where}: {finding.what}." for finding in found if finding.is_problem]


@task
def rerun(repository: Path, revision: str) -> tuple[str, str]:
    """Reproduce a revision; return the outcome and the reason. The artifact `audit-rerun` is the report."""
    from prefect.concurrency.sync import concurrency

    from critic.audit.rerun import rerun as run
    from critic.audit.resolve import revision_of

    commit, log = revision_of(repository, revision), get_run_logger().info
    with tempfile.TemporaryDirectory(prefix="critic-") as scratch, concurrency(GPU, strict=True):
        report = run(repository, commit, Path(scratch) / "clone", log=log)
    create_markdown_artifact(report.markdown(), key="audit-rerun", description=report.outcome)
    return report.outcome, report.why

"""Whether the critics' record holds, and whether they come again.

    prefect deployment run audit/critic
    prefect deployment run audit/critic --param again=v1.2.0

A run that finds a problem fails, so whoever is told of failures is told of it.
"""

import tempfile
from pathlib import Path

from prefect import State, flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from critic.release.checkout import held
from flows import started
from flows.pipeline import GPU


@flow(name="audit", on_running=[started.note])
def audit(again: str | None = None) -> State[None]:
    """Check the record of the checkout and of all releases; run nothing of the pipeline unless `again` is given.

    Args:
        again: a release or git revision to make once more in a clean clone, from the lock, and compare.
    """
    repository = Path.cwd()
    with held(repository, f"audit {flow_run.name}"):
        problems = verify(repository)
    if problems:
        return Failed(message=f"The record doesn't hold: {problems[0]}" + _more(problems))
    if again is None:
        return Completed(message="The record holds.")
    outcome, why = rerun(repository, again)
    if outcome == "not reproduced":
        return Failed(message=f"{again} isn't reproduced: {why}")
    return Completed(name=outcome.capitalize(), message=f"{again}: {why}")


@task
def verify(repository: Path) -> list[str]:
    """The problems of the record, each in a line; all that is found is the table `audit`."""
    from critic.audit.releases import check_releases
    from critic.audit.verify import verify as check

    found = [*check(repository), *check_releases(repository)]
    create_table_artifact([vars(finding) for finding in found], key="audit", description="What was found")
    for finding in found:
        get_run_logger().info("%s %s: %s", finding.check, finding.where, finding.what)
    return [f"{finding.where}: {finding.what}." for finding in found if finding.is_problem]


@task
def rerun(repository: Path, revision: str) -> tuple[str, str]:
    """Make a revision's critic again; gives the outcome and why, and the verdict as the page `audit-rerun`."""
    from prefect.concurrency.sync import concurrency

    from critic.audit.rerun import rerun as run
    from critic.audit.resolve import revision_of

    with tempfile.TemporaryDirectory(prefix="critic-") as scratch, concurrency(GPU, strict=True):
        verdict = run(
            repository, revision_of(repository, revision), Path(scratch) / "clone", say=get_run_logger().info
        )
    create_markdown_artifact(verdict.markdown(), key="audit-rerun", description=verdict.outcome)
    return verdict.outcome, verdict.why


def _more(problems: list[str]) -> str:
    return f" And {len(problems) - 1} more." if len(problems) > 1 else ""

"""A promotion that the gate accepts can wait for the approval of a person, who gives a name."""

import threading
import time
from contextvars import copy_context
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import FlowPauseTimeout
from prefect.runtime import flow_run

from critic.release.promotion_gate import Decision
from flows.retrain import approved

pytestmark = pytest.mark.usefixtures("prefect")
YES = Decision(True, ("Better.",), (), {})


def resume_when_paused(run: UUID, approve: bool) -> None:
    with get_client(sync_client=True) as client:
        while not client.read_flow_run(run).state.is_paused():
            time.sleep(0.1)
        client.resume_flow_run(run, run_input={"approve": approve, "by": "ann"})


def ask(approve: bool) -> Decision:
    @flow
    def once() -> list[Decision]:
        run = UUID(str(flow_run.id))
        person = threading.Thread(target=copy_context().run, args=[resume_when_paused, run, approve])
        person.start()
        decision = approved(YES, hours=0.02)
        person.join()
        return [decision]

    (decision,) = once()
    return decision


def test_an_approval_is_recorded_with_its_name() -> None:
    decision = ask(approve=True)
    assert decision.promote and decision.reasons == ("Better.", "Approved by ann.")


def test_a_rejection_is_a_refusal() -> None:
    decision = ask(approve=False)
    assert not decision.promote and decision.summary == "Refuse: Better. Not approved by ann."


def test_no_answer_is_no_approval() -> None:
    @flow
    def once() -> None:
        approved(YES, hours=3 / 3600)

    with pytest.raises(FlowPauseTimeout):
        once()

"""A promotion that the gate lets through can wait for a person, who says who they are."""

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
        told = approved(YES, hours=0.02)
        person.join()
        return [told]

    (told,) = once()
    return told


def test_a_yes_is_put_down_with_its_name() -> None:
    told = ask(approve=True)
    assert told.promote and told.reasons == ("Better.", "Approved by ann.")


def test_a_no_is_a_refusal() -> None:
    told = ask(approve=False)
    assert not told.promote and told.summary == "Refuse: Better. Not approved by ann."


def test_nobody_is_no_yes() -> None:
    @flow
    def once() -> None:
        approved(YES, hours=3 / 3600)

    with pytest.raises(FlowPauseTimeout):
        once()

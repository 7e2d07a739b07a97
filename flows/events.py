"""What the flows tell the world, and whom: Prefect's events, and automations that send them on.

    promoted("v1.3.0", "+0.021 in main score")

    CRITIC_NOTIFY=slack-webhook/ops python -m flows.register    # the automations, with a channel

A channel is a notification block of Prefect's, named TYPE/NAME as its page in the UI does. Without one the events
are still on the UI's event feed.
"""

import os
from datetime import timedelta
from uuid import UUID

from prefect.automations import (
    Automation,
    ChangeFlowRunState,
    DoNothing,
    EventTrigger,
    Posture,
    ResourceSpecification,
    SendNotification,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound

TAG = "critic"
"""On all deployments of prefect.yaml."""
PROMOTED, DRIFTED = "critic.promoted", "critic.drifted"
SETTING = "CRITIC_NOTIFY"

_BEATS = ("prefect.flow-run.heartbeat",)
_ENDS = tuple(f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut"))
_CRASHED = ChangeFlowRunState(
    name="Crashed", state=StateType.CRASHED, message="Its heartbeats have ceased.", force=False
)
_MISSED = timedelta(seconds=90)
"""Of heartbeats, which come every 30 s (prefect.toml)."""


class NotifyError(ValueError):
    """The channel named in CRITIC_NOTIFY can't be had."""


def promoted(version: str, why: str) -> None:
    """Say that a critic is in service now."""
    resource = {"prefect.resource.id": f"critic.release.{version}", "prefect.resource.name": f"critic {version}"}
    emit_event(PROMOTED, resource=resource, payload={"version": version, "why": why})


def drifted(why: str) -> None:
    """Say that what is served has moved away from what the critic was tested on."""
    resource = {"prefect.resource.id": "critic.service", "prefect.resource.name": "critic"}
    emit_event(DRIFTED, resource=resource, payload={"why": why})


def register_automations() -> list[str]:
    """Make the automations, or bring those of an earlier release up to date; gives their names.

    Raises:
        NotifyError: `CRITIC_NOTIFY` names no block that there is.
    """
    ours = automations(os.environ.get(SETTING))
    for automation in ours:
        try:
            known = Automation.read(name=automation.name)
        except ValueError:
            automation.create()
        else:
            assert isinstance(known, Automation)
            automation.id = known.id
            automation.update()
    return [automation.name for automation in ours]


def automations(channel: str | None) -> list[Automation]:
    """The four automations, which tell a channel (TYPE/NAME of a block) or nobody."""
    tagged = ResourceSpecification({"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"})
    runs = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
    failed = EventTrigger(
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
        match=runs,
        match_related=tagged,
        posture=Posture.Reactive,
    )
    silent = EventTrigger(  # the recipe of Prefect's documentation for runs whose machine is gone
        after={*_BEATS},
        expect={*_BEATS, *_ENDS},
        match=runs,
        match_related=tagged,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,  # fires on fewer
        within=_MISSED,
    )
    block = _block(channel) if channel else None

    def tell(subject: str, body: str) -> list[SendNotification | DoNothing]:
        if block is None:
            return [DoNothing()]
        return [SendNotification(block_document_id=block, subject=subject, body=body)]

    return [
        Automation(
            name="critic: a flow failed",
            description="Failed, crashed or ran out of time.",
            trigger=failed,
            actions=[
                *tell(
                    "{{ flow.name }} {{ flow_run.state.name }}",
                    "{{ flow_run.name }}: {{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
                )
            ],
        ),
        Automation(
            name="critic: promoted",
            description="Another critic is in service.",
            trigger=EventTrigger(expect={PROMOTED}, posture=Posture.Reactive),
            actions=[*tell("The critic is {{ event.payload.version }} now", "{{ event.payload.why }}")],
        ),
        Automation(
            name="critic: drifted",
            description="What is served has moved away from what the critic was tested on.",
            trigger=EventTrigger(expect={DRIFTED}, posture=Posture.Reactive),
            actions=[*tell("The critic's service has drifted", "{{ event.payload.why }}")],
        ),
        Automation(
            name="critic: a flow's machine is gone",
            description="Its heartbeats have ceased: it counts as crashed, and the next one may begin.",
            trigger=silent,
            actions=[_CRASHED],
        ),
    ]


def _block(channel: str) -> UUID:
    kind, _, name = channel.partition("/")
    with get_client(sync_client=True) as client:
        try:
            return client.read_block_document_by_name(name, kind).id
        except ObjectNotFound:
            raise NotifyError(
                f"{SETTING} is {channel}, and Prefect has no such block: make one in its UI under Blocks, "
                "and name it TYPE/NAME, as slack-webhook/ops"
            ) from None

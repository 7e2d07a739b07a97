"""The events that the flows send, and the automations that pass them on to people.

    events.send(events.PROMOTED, "critic.release.v1.3.0", version="v1.3.0", why="+0.021 in main score")

    CRITIC_NOTIFY=slack-webhook/ops python -m flows.register    # register the automations, with a channel

A channel is a Prefect notification block, written TYPE/NAME as in the address of its page in the UI. Without a
channel the events only appear in the UI's event feed.

To notify people of something new, add a row to `NOTIFICATIONS` and call `send` where it happens.
"""

import os
from dataclasses import dataclass
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
"""The tag of all deployments in prefect.yaml."""
SETTING = "CRITIC_NOTIFY"
PROMOTED, REFUSED, DRIFTED = "critic.promoted", "critic.refused", "critic.drifted"


@dataclass(frozen=True)
class Notification:
    """What an event means, and the message about it: Jinja templates that read the event's payload."""

    description: str
    subject: str
    body: str = "{{ event.payload.why }}"


NOTIFICATIONS = {
    PROMOTED: Notification(
        "The critic in service has changed.", "The critic in service is now {{ event.payload.version }}"
    ),
    REFUSED: Notification("The gate refused a critic.", "A new critic was refused"),
    DRIFTED: Notification(
        "The scores or the instructions in service differ from those of the champion's test.",
        "The critic's service has drifted",
    ),
}
"""All events of the flows. Each has an automation of its own."""

_FAILED = Notification(
    "A flow run failed, crashed or ran out of time.",
    "{{ flow.name }} {{ flow_run.state.name }}",
    "{{ flow_run.name }}: {{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
)
_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut")}


class NotifyError(ValueError):
    """The channel named in CRITIC_NOTIFY doesn't exist."""


def send(event: str, about: str, **payload: str) -> None:
    """Send one of the events in `NOTIFICATIONS`; `about` is an id, such as critic.release.v1.3.0."""
    resource = {"prefect.resource.id": about, "prefect.resource.name": "critic"}
    emit_event(event, resource=resource, payload={**payload})


def register_automations() -> list[str]:
    """Create the automations, or update those that differ; return their names."""
    ours = automations(os.environ.get(SETTING))
    for automation in ours:
        try:
            known = Automation.read(name=automation.name)
        except ValueError:
            automation.create()
        else:
            assert isinstance(known, Automation)
            automation.id = known.id
            if automation != known:
                automation.update()
    return [automation.name for automation in ours]


def automations(channel: str | None) -> list[Automation]:
    """The automations. They notify a channel (TYPE/NAME of a block), or nobody."""
    tagged = ResourceSpecification({"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"})
    runs = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
    failed = EventTrigger(
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
        match=runs,
        match_related=tagged,
        posture=Posture.Reactive,
    )
    silent = EventTrigger(  # from Prefect's documentation, for runs whose machine is gone
        after={_HEARTBEAT},
        expect={_HEARTBEAT, *_ENDS},
        match=runs,
        match_related=tagged,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,  # fires if fewer events come
        within=timedelta(seconds=90),  # a heartbeat comes every 30 s (prefect.toml)
    )
    crashed = ChangeFlowRunState(
        name="Crashed", state=StateType.CRASHED, message="Its heartbeats have stopped.", force=False
    )
    block = _block(channel) if channel else None

    def notify(name: str, trigger: EventTrigger, message: Notification) -> Automation:
        action: SendNotification | DoNothing = DoNothing()
        if block:
            action = SendNotification(block_document_id=block, subject=message.subject, body=message.body)
        return Automation(name=name, description=message.description, trigger=trigger, actions=[action])

    return [
        *(
            notify(event.replace(".", ": "), EventTrigger(expect={event}, posture=Posture.Reactive), message)
            for event, message in NOTIFICATIONS.items()
        ),
        notify("critic: a flow failed", failed, _FAILED),
        Automation(
            name="critic: a flow's machine is gone",
            description="The run's heartbeats have stopped. It counts as crashed, and the next one may start.",
            trigger=silent,
            actions=[crashed],
        ),
    ]


def _block(channel: str) -> UUID:
    kind, _, name = channel.partition("/")
    with get_client(sync_client=True) as client:
        try:
            return client.read_block_document_by_name(name, kind).id
        except ObjectNotFound:
            raise NotifyError(
                f"{SETTING} is {channel!r}, but Prefect has no such block. Create it in the UI under Blocks, and "
                f"write it as TYPE/NAME, for example {SETTING}=slack-webhook/ops"
            ) from None

"""The automations, as a server takes them: that they fire is seen in tests/flows/test_outages.py."""

from prefect.server.events.schemas.automations import EventTrigger

from flows.events import automations


def test_one_heartbeat_in_time_is_enough_and_none_is_not() -> None:
    (silent,) = [each for each in automations(None) if "machine is gone" in each.name]
    trigger = EventTrigger.model_validate(silent.trigger.model_dump(mode="json"))
    assert trigger.meets_threshold(0) and not trigger.meets_threshold(1)
    assert trigger.starts_after("prefect.flow-run.heartbeat") and trigger.expects("prefect.flow-run.Completed")

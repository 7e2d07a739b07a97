"""The automations as a server reads them. tests/flows/test_outages.py checks that they fire."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.automations import Automation
from prefect.logging import disable_run_logger
from prefect.server.events.schemas.automations import EventTrigger

from critic.release import promotion
from critic.release.promotion_gate import Decision
from flows import events
from flows.events import NOTIFICATIONS, REFUSED, automations, register_automations
from flows.retrain import conclude


def test_a_run_is_silent_without_a_heartbeat() -> None:
    (silent,) = [each for each in automations(None) if "machine is gone" in each.name]
    trigger = EventTrigger.model_validate(silent.trigger.model_dump(mode="json"))
    assert trigger.meets_threshold(0) and not trigger.meets_threshold(1)
    assert trigger.starts_after("prefect.flow-run.heartbeat") and trigger.expects("prefect.flow-run.Completed")


def test_each_event_has_an_automation() -> None:
    names = [each.name for each in automations(None)]
    assert names[:3] == ["critic: promoted", "critic: refused", "critic: drifted"]
    assert len(names) == len(NOTIFICATIONS) + 2
    for event, automation in zip(NOTIFICATIONS, automations(None), strict=False):
        trigger = EventTrigger.model_validate(automation.trigger.model_dump(mode="json"))
        assert trigger.expects(event)


def test_a_channel_gets_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    block = "7f0c9d3e-0000-4000-8000-000000000000"
    monkeypatch.setattr(events, "_block", lambda channel: block)
    actions = {each.name: each.actions[0] for each in automations("slack-webhook/ops")}
    refused = actions["critic: refused"]
    assert (str(refused.block_document_id), refused.subject) == (block, "A new critic was refused")
    assert refused.body == "{{ event.payload.why }}"
    assert all(action.type == "do-nothing" for action in [each.actions[0] for each in automations(None)][:-1])


def test_only_new_and_changed_automations_are_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: dict[str, Automation] = {}
    saves: list[str] = []

    def read(name: str) -> Automation:
        if name not in saved:
            raise ValueError(name)
        return Automation.model_validate_json(saved[name].model_dump_json())

    def save(automation: Automation) -> None:
        saved[automation.name] = automation.model_copy(update={"id": automation.id or uuid4()})
        saves.append(automation.name)

    monkeypatch.setattr(Automation, "read", read)
    monkeypatch.setattr(Automation, "create", save)
    monkeypatch.setattr(Automation, "update", save)
    names = register_automations()
    assert saves == names
    assert register_automations() == saves, "nothing was saved again"
    saved[names[3]].enabled = False
    register_automations()
    assert saves == [*names, names[3]] and saved[names[3]].enabled


def test_a_refusal_is_an_event(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[tuple[Any, ...]] = []
    monkeypatch.setattr(events, "emit_event", lambda event, resource, payload: sent.append((event, payload)))
    record = tmp_path / "reports/decisions/0001-refused.md"
    monkeypatch.setattr(promotion, "record_refusal", lambda *given: record)
    with disable_run_logger():
        state = conclude.fn(tmp_path, Decision(False, ("Too slow.",), (), {}))
    assert state.name == "Refused" and "See reports/decisions/0001-refused.md" in str(state.message)
    assert sent == [(REFUSED, {"why": "Refuse: Too slow."})]

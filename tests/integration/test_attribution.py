"""Which strategy an event is put down to: the one of the list that it names, once that is logged."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from recsvc.app import Storage
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, TenantKey, UserId
from recsvc.domain.users import UserKind
from recsvc.engine import attribution
from recsvc.engine.attribution import Attribution
from recsvc.storage.shown import ShownList
from recsvc.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def attributing(storage: Storage, metrics: Metrics) -> Attribution:
    return Attribution(storage.shown, metrics)


@pytest.fixture(autouse=True)
async def items(storage: Storage, tenant: TenantKey) -> Sequence[ItemId]:
    found = [ItemId("shown"), ItemId("not shown")]
    await storage.items.upsert_many(tenant, [Item(item_id) for item_id in found])
    return found


async def _show(storage: Storage, tenant: TenantKey, list_id: str, strategy: str) -> None:
    shown = ShownList(list_id, UserKind.USER, None, strategy, "", "", (ItemId("shown"),), datetime.now(UTC))
    await storage.shown.insert(tenant, [shown])


def _an_event(list_id: str, event_type: str = "click", item_id: str = "shown") -> Event:
    return Event(
        EventId("e"), event_type, ItemId(item_id), datetime.now(UTC), user_id=UserId("u"), recommendation_id=list_id
    )


def _attributed(metrics: Metrics, **labels: str) -> float:
    return metrics.registry.get_sample_value("recsvc_attributed_events_total", labels) or 0.0


def _unattributed(metrics: Metrics, reason: str) -> float:
    return metrics.registry.get_sample_value("recsvc_unattributed_events_total", {"reason": reason}) or 0.0


async def test_an_event_is_put_down_to_the_strategy_of_its_list(
    storage: Storage, tenant: TenantKey, attributing: Attribution, metrics: Metrics
) -> None:
    await _show(storage, tenant, "list-1", "AUTO")
    await _show(storage, tenant, "list-2", "POPULAR")
    attributing.note(tenant, [_an_event("list-1"), _an_event("list-1", "purchase"), _an_event("list-2")])
    await attributing.attribute_once()
    assert _attributed(metrics, strategy="AUTO", event_type="click", conversion="false") == 1
    assert _attributed(metrics, strategy="AUTO", event_type="purchase", conversion="true") == 1
    assert _attributed(metrics, strategy="POPULAR", event_type="click", conversion="false") == 1


async def test_an_event_that_comes_before_its_list_is_logged_is_looked_up_again(
    storage: Storage, tenant: TenantKey, attributing: Attribution, metrics: Metrics
) -> None:
    attributing.note(tenant, [_an_event("late")])
    await attributing.attribute_once()
    await _show(storage, tenant, "late", "AUTO")
    await attributing.attribute_once()
    assert _attributed(metrics, strategy="AUTO", event_type="click", conversion="false") == 1
    await attributing.attribute_once()
    assert _attributed(metrics, strategy="AUTO", event_type="click", conversion="false") == 1


async def test_a_list_that_never_was_is_given_up(tenant: TenantKey, attributing: Attribution, metrics: Metrics) -> None:
    attributing.note(tenant, [_an_event("made up")])
    for _ in range(10):
        await attributing.attribute_once()
    assert _unattributed(metrics, "unknown_list") == 1


async def test_an_item_that_the_list_did_not_have_is_not_its_success(
    storage: Storage, tenant: TenantKey, attributing: Attribution, metrics: Metrics
) -> None:
    await _show(storage, tenant, "list-1", "AUTO")
    attributing.note(tenant, [_an_event("list-1", item_id="not shown")])
    await attributing.attribute_once()
    assert _unattributed(metrics, "other_item") == 1
    assert _attributed(metrics, strategy="AUTO", event_type="click", conversion="false") == 0


async def test_what_the_queue_cannot_hold_is_counted_as_dropped(
    tenant: TenantKey, attributing: Attribution, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "_CAPACITY", 2)
    attributing.note(tenant, [_an_event("list-1")] * 3)
    assert _unattributed(metrics, "dropped") == 1

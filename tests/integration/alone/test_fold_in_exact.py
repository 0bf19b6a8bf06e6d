"""However events come, in whatever order and batches, the state of a user is what a computation from scratch gives."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsvc.app import Engine, Storage, build_engine
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, TenantId, TenantKey, UserId, UserKey
from recsvc.domain.tenancy import ServingModel, TenantSettings
from tests.from_scratch import assert_same, newest, read_events, read_formula, read_states, signals, state
from tests.random_model import activate_random_model

_ITEMS = 8
_TYPES = ("view", "like", "purchase", "rate", "dislike", "impression")
_EXAMPLES = 60
_numbers = itertools.count()


@dataclass
class Shop:
    """A tenant with a model; each example has users of its own."""

    storage: Storage
    engine: Engine
    tenant: TenantKey
    model: ServingModel
    url: str


@pytest.fixture(scope="module")
async def shop(storage: Storage, database_url: str) -> AsyncIterator[Shop]:
    tenant = await storage.tenants.create(TenantId("fold-in-exact"), "", TenantSettings())
    await storage.items.upsert_many(tenant.tenant_key, [Item(ItemId(f"i{number}")) for number in range(_ITEMS)])
    for event_type, days in (("view", 7), ("purchase", 90)):
        await storage.event_types.update(
            tenant.tenant_key,
            event_type,
            lambda present, days=days: replace(present, half_life=timedelta(days=days)),  # type: ignore[misc]
            allow_missing=False,
        )
    model = await activate_random_model(storage, tenant.tenant_key, seed=1)
    yield Shop(storage, build_engine(storage), tenant.tenant_key, model, database_url)
    await storage.tenants.delete(tenant.tenant_id)


_EVENTS = st.lists(
    st.builds(
        lambda user, item, kind, value, age_s: {
            "user": user,
            "item_id": ItemId(f"i{item}"),
            "event_type": kind,
            "value": value if kind == "rate" else None,
            "age": timedelta(seconds=age_s),
        },
        st.integers(0, 1),
        st.integers(0, _ITEMS - 1),
        st.sampled_from(_TYPES),
        st.sampled_from((0.5, 2.5, 3.0, 5.0)),
        # Few moments, so that some things happen at once; a few minutes ahead of our clock, as clocks are.
        st.sampled_from((-300, 0, 60, 3600, 86_400, 30 * 86_400)) | st.integers(0, 400 * 86_400),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=_EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=_EVENTS, batches=st.lists(st.integers(1, 8), max_size=10), folds=st.sets(st.integers(0, 10)))
async def test_a_folded_state_is_that_of_a_computation_from_scratch(
    shop: Shop, events: list[dict[str, object]], batches: list[int], folds: set[int]
) -> None:
    example = next(_numbers)
    recorded = _recorded(example, events)
    waiting = list(recorded)
    for number, size in enumerate([*batches, len(recorded)]):
        batch, waiting = waiting[:size], waiting[size:]
        # Every batch comes twice, as after a connection that broke before the acknowledgement.
        await shop.storage.events.write(shop.tenant, batch)
        await shop.storage.events.write(shop.tenant, batch)
        if number in folds:
            await _fold(shop, example)
    users = await _fold(shop, example)
    with psycopg.connect(shop.url) as connection:
        formula = read_formula(connection, shop.tenant, shop.storage.settings.engine.history_items)
        told = read_events(connection, shop.tenant)
        states = read_states(connection, shop.tenant)
    assert sum(len(told[user]) for user in users) == len(recorded)
    for user in users:
        found, fold_time = states[user]
        assert_same(found, state(told[user], formula, fold_time))


@settings(max_examples=_EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=_EVENTS, count=st.integers(1, 12))
async def test_a_history_is_that_of_the_newest_events(shop: Shop, events: list[dict[str, object]], count: int) -> None:
    example = next(_numbers)
    await shop.storage.events.write(shop.tenant, _recorded(example, events))
    now = datetime.now(UTC)
    histories = await shop.storage.states.histories(shop.tenant, await _users(shop, example), count)
    with psycopg.connect(shop.url) as connection:
        told = read_events(connection, shop.tenant)
    assert histories
    for history in histories:
        kept = newest(told[history.user_key], count)
        found = dict(zip(history.item_keys, zip(history.signals, history.seen, strict=True), strict=True))
        seen = {event.item_key for event in kept if event.counts_as_seen}
        # The clock runs on between the two.
        assert {item: signal for item, (signal, _) in found.items()} == pytest.approx(
            signals(kept, now), rel=1e-3, abs=1e-6
        )
        assert {item for item, (_, is_seen) in found.items() if is_seen} == seen


def _recorded(example: int, events: list[dict[str, object]]) -> list[Event]:
    now = datetime.now(UTC)
    return [
        Event(
            event_id=EventId(f"{example}/{number}"),
            event_type=str(event["event_type"]),
            item_id=event["item_id"],  # type: ignore[arg-type]
            event_time=now - event["age"],  # type: ignore[operator]
            user_id=UserId(f"{example}/{event['user']}"),
            value=event["value"],  # type: ignore[arg-type]
        )
        for number, event in enumerate(events)
    ]


async def _fold(shop: Shop, example: int) -> list[UserKey]:
    users = await _users(shop, example)
    await shop.engine.fold_in.refresh(shop.tenant, shop.model, users, by="test")
    return users


async def _users(shop: Shop, example: int) -> list[UserKey]:
    async with shop.storage.database.tenant_transaction(shop.tenant) as connection:
        cursor = await connection.execute(
            b"SELECT user_key FROM users WHERE tenant_key = %s AND user_id LIKE %s", [shop.tenant, f"{example}/%"]
        )
        return [UserKey(row["user_key"]) for row in await cursor.fetchall()]

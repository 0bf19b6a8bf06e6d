"""Lists are right while Redis is away: whoever asks sees what was recorded before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from recsvc.app import Storage, build_engine, open_storage
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, TenantKey, UserId
from recsvc.domain.recommendations import Degradation, RecommendQuery, Strategy
from recsvc.settings import Settings
from tests.random_model import activate_random_model
from tests.rivals import rows

_NOWHERE = "redis://127.0.0.1:1/0"
_ITEMS = 30
_ASKED = RecommendQuery(user_id=UserId("u"), count=_ITEMS)


@pytest.fixture
async def untrained(settings: Settings, tenant: TenantKey) -> AsyncIterator[Storage]:
    """A service's storage without Redis, with a catalogue."""
    async with open_storage(settings.model_copy(update={"redis_url": SecretStr(_NOWHERE)})) as storage:
        await storage.items.upsert_many(tenant, [Item(ItemId(f"i{number}")) for number in range(_ITEMS)])
        yield storage


@pytest.fixture
async def alone(untrained: Storage, tenant: TenantKey) -> Storage:
    """The same with a model."""
    await activate_random_model(untrained, tenant, seed=1)
    return untrained


async def _viewed(storage: Storage, tenant: TenantKey, user_id: str, *item_ids: str) -> None:
    events = [
        Event(EventId(f"{user_id}/{item_id}"), "view", ItemId(item_id), datetime.now(UTC), user_id=UserId(user_id))
        for item_id in item_ids
    ]
    await storage.events.write(tenant, events)


async def _viewed_and_leased(storage: Storage, tenant: TenantKey) -> int:
    """View items until the user is leased here, not by the projector of a service that other tests have started."""
    for number in range(_ITEMS):
        await _viewed(storage, tenant, "u", f"i{number}")
        if tenant in await storage.states.take_dirty_users(1000):
            return number + 1
        await asyncio.sleep(0.05)
    raise TimeoutError("a projector was quicker each time")


async def test_a_list_follows_the_events_of_its_user(alone: Storage, tenant: TenantKey) -> None:
    recommender = build_engine(alone).recommender
    for number in range(3):
        await _viewed(alone, tenant, "u", f"i{number}")
        found = await recommender.find(tenant, _ASKED)
        assert found.strategy is Strategy.AUTO
        assert found.degradation == Degradation()
        listed = {item.item_id for item in found.items}
        assert len(listed) == _ITEMS - number - 1
        assert f"i{number}" not in listed


async def test_the_lists_of_others_follow_too_once_one_could_not_be_announced(
    alone: Storage, tenant: TenantKey
) -> None:
    recommender = build_engine(alone).recommender
    for user_id in "uvw":
        await _viewed(alone, tenant, user_id, "i1", "i2")
        found = await recommender.find(tenant, RecommendQuery(user_id=UserId(user_id)))
        assert found.strategy is Strategy.AUTO


async def test_a_state_that_caches_have_not_heard_of_does_not_count_as_folded(
    untrained: Storage, tenant: TenantKey
) -> None:
    # With a model the projector of another service would renew the state, whoever has leased the user.
    viewed = await _viewed_and_leased(untrained, tenant)
    await build_engine(untrained).recommender.find(tenant, _ASKED)
    state = b"SELECT cardinality(item_keys) AS items, folded_version < version AS lags FROM user_state"
    waiting = b"SELECT count(*) AS users FROM dirty_users WHERE tenant_key = %(tenant)s"
    assert await rows(untrained.database, tenant, state + b" WHERE tenant_key = %(tenant)s") == [
        {"items": viewed, "lags": True}
    ]
    assert await rows(untrained.database, tenant, waiting) == [{"users": 1}]

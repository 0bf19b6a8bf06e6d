"""A cached list is answered only while it reflects all events of its user."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from recsvc.app import Storage, build_engine
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, TenantKey, UserId
from recsvc.domain.recommendations import RecommendQuery, Strategy
from recsvc.storage.user_states import UserState
from tests.random_model import activate_random_model

_ITEMS = 10


@pytest.fixture
async def shop(storage: Storage, tenant: TenantKey) -> TenantKey:
    """A catalogue with a model."""
    await storage.items.upsert_many(tenant, [Item(ItemId(f"i{number}")) for number in range(_ITEMS)])
    await activate_random_model(storage, tenant, seed=1)
    return tenant


async def _view(storage: Storage, tenant: TenantKey, item_id: str) -> None:
    event = Event(EventId(item_id), "view", ItemId(item_id), datetime.now(UTC), user_id=UserId("u"))
    await storage.events.write(tenant, [event])


@pytest.mark.parametrize("strategy", [Strategy.AUTO, Strategy.COLLABORATIVE])
async def test_a_list_is_not_kept_as_one_of_events_that_came_while_it_was_made(
    storage: Storage, shop: TenantKey, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = storage.states.store

    async def store_and_view(tenant: TenantKey, model: Any, states: Sequence[UserState], **options: Any) -> None:
        await store(tenant, model, states, **options)
        monkeypatch.undo()
        await _view(storage, shop, "i1")

    recommender = build_engine(storage).recommender
    query = RecommendQuery(user_id=UserId("u"), count=_ITEMS, strategy=strategy)
    await _view(storage, shop, "i0")
    monkeypatch.setattr(storage.states, "store", store_and_view)
    await recommender.find(shop, query)
    listed = {item.item_id for item in (await recommender.find(shop, query)).items}
    assert listed == {f"i{number}" for number in range(2, _ITEMS)}

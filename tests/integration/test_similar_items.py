"""What is bought together: against PostgreSQL, under the request's role and behind row-level security."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from psycopg import sql
from psycopg.rows import DictRow

from recsvc.app import Storage
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, SessionId, TenantKey, UserId
from recsvc.storage.similar_items import Similar, SimilarQuestion

_NOW = datetime.now(UTC)
_USERS, _BASKETS, _ITEMS = 100, 40, 60


@pytest.fixture
async def shop(storage: Storage, tenant: TenantKey) -> TenantKey:
    """A hundred users with forty baskets of three things each, a day apart."""
    await storage.items.upsert_many(tenant, [Item(ItemId(str(number))) for number in range(_ITEMS)])
    events = [
        Event(
            EventId(f"{user}/{basket}/{part}"),
            "purchase",
            ItemId(str((user + 7 * basket + part) % _ITEMS)),
            _NOW - timedelta(days=2 * basket),
            user_id=UserId(str(user)),
            session_id=SessionId(f"{user}/{basket}"),
        )
        for user in range(_USERS)
        for basket in range(_BASKETS)
        for part in range(3)
    ]
    await storage.events.write(tenant, events)
    await storage.database.analyze()
    return tenant


async def _bought_together(storage: Storage, tenant: TenantKey, item_id: str, limit: int = 10) -> list[Similar]:
    item = await storage.similar_items.item(tenant, ItemId(item_id))
    question = SimilarQuestion(None, limit, (), None, False)
    return await storage.similar_items.bought_together(tenant, None, item, question, _NOW)


async def test_a_basket_is_found_by_its_user_and_its_time(
    storage: Storage, shop: TenantKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[list[str]] = []
    fetch = storage.database.fetch_all

    async def explained(
        _self: object, tenant: TenantKey, query: sql.Composed, params: object, *, setting: None
    ) -> list[DictRow]:
        if "bought_together" in query.as_string():
            plan = await fetch(tenant, sql.SQL("EXPLAIN ") + query, params)  # type: ignore[arg-type]
            plans.append([row["QUERY PLAN"] for row in plan])
        return await fetch(tenant, query, params)  # type: ignore[arg-type]

    item = await storage.similar_items.item(shop, ItemId("5"))
    monkeypatch.setattr(type(storage.database), "fetch_all", explained)
    question = SimilarQuestion(None, 4, (), None, False)
    await storage.similar_items.bought_together(shop, None, item, question, _NOW)
    (plan,) = plans
    lookups = [line for line in plan if "Index Cond" in line and "user_key = b.user_key" in line]
    assert lookups
    assert all("event_time >= b.from_time" in line for line in lookups)


async def test_the_latest_baskets_say_what_is_bought_together(storage: Storage, shop: TenantKey) -> None:
    found = await _bought_together(storage, shop, "5", limit=4)
    # Three things in a row make a basket: the nearest stand in two of an item's three baskets, the next in one.
    assert {similar.item_id for similar in found[:2]} == {"4", "6"}
    assert {similar.item_id for similar in found[2:]} == {"3", "7"}
    assert [similar.score for similar in found] == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3], abs=0.03)


async def test_what_the_same_users_buy_stands_behind_all_baskets(storage: Storage, shop: TenantKey) -> None:
    found = await _bought_together(storage, shop, "5", limit=20)
    assert len(found) == 20
    scores = [similar.score for similar in found]
    assert scores == sorted(scores, reverse=True)
    assert {similar.item_id for similar in found[:4]} == {"3", "4", "6", "7"}
    assert len({similar.item_id for similar in found}) == 20

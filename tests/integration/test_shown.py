"""The log of lists that were shown, against PostgreSQL, under the request's role and behind row-level security."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from recsvc.app import Storage
from recsvc.domain.catalog import Item
from recsvc.domain.ids import ItemId, TenantKey
from recsvc.domain.users import UserKind
from recsvc.settings import Settings
from recsvc.storage.database import Database
from recsvc.storage.shown import ShownList, ShownRepository
from recsvc.storage.statements import load
from recsvc.telemetry.metrics import Metrics
from tests.rivals import rows

_ITEMS = [ItemId(f"film {number}") for number in range(2000)]


@pytest.fixture
async def cinema(storage: Storage, tenant: TenantKey) -> TenantKey:
    for start in range(0, len(_ITEMS), 500):
        await storage.items.upsert_many(tenant, [Item(item_id) for item_id in _ITEMS[start : start + 500]])
    await storage.database.analyze()
    return tenant


def _a_list(list_id: str, item_ids: Sequence[ItemId]) -> ShownList:
    return ShownList(list_id, UserKind.USER, None, "AUTO", "", "", tuple(item_ids), datetime.now(UTC))


async def _logged(storage: Storage, tenant: TenantKey) -> dict[str, list[str]]:
    found = await rows(
        storage.database,
        tenant,
        b"SELECT recommendation_id, array(SELECT item_id FROM unnest(item_keys) WITH ORDINALITY AS k (item_key, place)"
        b" JOIN items USING (item_key) ORDER BY place) AS item_ids FROM shown WHERE tenant_key = %(tenant)s",
    )
    return {row["recommendation_id"]: row["item_ids"] for row in found}


@pytest.fixture(params=["on", "off"])
async def shown(
    request: pytest.FixtureRequest, database_url: str, settings: Settings
) -> AsyncIterator[ShownRepository]:
    """The log, by every kind of plan: a nested loop keeps the items of a list in order even if nobody asks it to."""
    url = make_conninfo(database_url, options=f"-c enable_nestloop={request.param}")
    async with Database(url, settings.postgres, Metrics()) as database:
        yield ShownRepository(database)


async def test_lists_are_logged_with_their_items_in_order_but_for_those_that_are_gone(
    storage: Storage, cinema: TenantKey, shown: ShownRepository
) -> None:
    await shown.insert(
        cinema,
        [
            _a_list("of two", [_ITEMS[7], ItemId("gone"), _ITEMS[3]]),
            _a_list("empty", []),
            _a_list("of odd names", [ItemId('{"a", b}'), _ITEMS[3]]),
            _a_list("of what others have", [_ITEMS[3], _ITEMS[9], _ITEMS[7]]),
        ],
    )
    assert await _logged(storage, cinema) == {
        "of two": [_ITEMS[7], _ITEMS[3]],
        "empty": [],
        "of odd names": [_ITEMS[3]],
        "of what others have": [_ITEMS[3], _ITEMS[9], _ITEMS[7]],
    }


async def test_the_items_of_a_list_are_found_by_an_index(storage: Storage, cinema: TenantKey) -> None:
    async with storage.database.tenant_transaction(cinema) as connection:
        cursor = await connection.execute(
            b"EXPLAIN " + load("shown")["insert_shown"].encode(),
            {"tenant": cinema, "lists": Jsonb([]), "item_ids": _ITEMS[:50]},
        )
        plan = [row["QUERY PLAN"] for row in await cursor.fetchall()]
    assert not [line for line in plan if "Seq Scan on items" in line]
    assert [line for line in plan if "items_tenant_key_item_id_key" in line]

"""The Python client against the real service."""

from __future__ import annotations

import pytest

from recsvc.app import Service
from recsvc_client import Client, RecsvcError


@pytest.fixture
async def client(service: Service, key: str):
    """A client with the test's key."""
    async with Client(f"127.0.0.1:{service.port}", key, timeout_s=30) as connected:
        yield connected


async def test_items_and_events_become_a_list(client: Client) -> None:
    items = [{"item_id": str(n), "title": f"Film {n}", "attributes": {"year": 1990 + n}} for n in range(5)]
    stored = await client.upsert_items(items)
    assert all(result.created for result in stored.results)
    recorded = await client.record_event("view", "0", user_id="u")
    assert not recorded.duplicate
    found = await client.recommend(user_id="u", fields=["title"], strategy="STRATEGY_NEW")
    assert {item.item.title for item in found.items} == {f"Film {n}" for n in range(1, 5)}


async def test_an_import_reports_every_chunk(client: Client) -> None:
    items = ({"item_id": str(n)} for n in range(2500))
    assert [answer.created_count async for answer in client.import_items(items)] == [1000, 1000, 500]


async def test_an_error_says_what_is_wrong(client: Client) -> None:
    with pytest.raises(RecsvcError) as raised:
        await client.recommend(user_id="u", filter="nope = 1")
    assert (raised.value.code, raised.value.reason) == ("INVALID_ARGUMENT", "INVALID_FILTER")
    assert "filter" in raised.value.fields
    assert raised.value.request_id

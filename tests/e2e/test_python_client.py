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


async def test_a_bulk_takes_user_ids_or_requests_of_ones_own(client: Client) -> None:
    await client.upsert_items({"item_id": str(n), "title": f"Film {n}"} for n in range(5))
    users = (f"u{n}" for n in range(50))
    answers = [answer async for answer in client.bulk_recommend(users, count=3, strategy="STRATEGY_NEW")]
    assert sorted(answer.key for answer in answers) == sorted(f"u{n}" for n in range(50))
    assert {len(answer.response.items) for answer in answers} == {3}

    async def own():
        yield "a", {"user_id": "u", "count": 1}
        yield "b", {"user_id": "u", "count": 0}
        yield "c", {"session_item_ids": ["1"]}

    found = {
        answer.key: answer
        async for answer in client.bulk_recommend(own(), count=4, fields=["title"], strategy="STRATEGY_NEW")
    }
    assert {key: answer.status.code for key, answer in found.items()} == {"a": 0, "b": 3, "c": 0}
    assert [len(found[key].response.items) for key in "ac"] == [1, 4]
    assert found["c"].response.items[0].item.title


async def test_a_bulk_that_is_refused_says_why(service: Service) -> None:
    async with Client(f"127.0.0.1:{service.port}", "nonsense") as stranger:
        with pytest.raises(RecsvcError) as raised:
            [answer async for answer in stranger.bulk_recommend(["u"])]
    assert raised.value.code == "UNAUTHENTICATED"


async def test_what_is_missing_is_told(client: Client) -> None:
    with pytest.raises(RecsvcError) as raised:
        await client.similar_users("nobody")
    assert raised.value.reason == "USER_NOT_FOUND"
    await client.upsert_items([{"item_id": "1"}])
    await client.record_event("view", "1", user_id="u")
    with pytest.raises(RecsvcError) as raised:
        await client.similar_users("u")
    assert raised.value.reason == "NO_MODEL"
    assert (await client.explain("u", "1")).score > 0
    with pytest.raises(RecsvcError) as raised:
        await client.explain("u", "2")
    assert raised.value.reason == "ITEM_NOT_FOUND"

"""Lists that a replica searches for are those that the primary would have found: on real streaming replication."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from google.protobuf.duration_pb2 import Duration

from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.gen.v1 import user_service_pb2 as users_pb
from recsvc.settings import Settings
from tests.api import Api
from tests.chaos.served_with_replica import Served, served_with_replica

_ITEMS = [f"i{number}" for number in range(8)]


@pytest.fixture(scope="module")
async def served(settings: Settings) -> AsyncIterator[Served]:
    """A service that asks its replica however far that lags."""
    async with served_with_replica(settings) as running:
        yield running


@pytest.fixture
async def api(served: Served) -> AsyncIterator[Api]:
    """Stubs of a tenant whose items all may be shown, with a replica that has all of it."""
    async with Api.connected(served.service.port, served.key) as connected:
        items = [catalog_pb.Item(item_id=item_id, title="as ever", categories=["films"]) for item_id in _ITEMS]
        await connected.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
        await served.has_replica()
        await served.replica_has_all()
        yield connected


async def _newest(api: Api, user_id: str = "", *fields: str) -> dict[str, pb.RecommendedItem]:
    """A list that no cache and no memory of the process has, by item id."""
    request = pb.RecommendRequest(
        user_id=user_id, strategy=pb.STRATEGY_NEW, count=50, max_staleness=Duration(), item_mask={"paths": fields}
    )
    answer = await api.recommendations.Recommend(request)
    assert answer.degradation.level == pb.Degradation.LEVEL_NONE
    return {item.item_id: item for item in answer.items}


async def _view(api: Api, user_id: str, item_id: str) -> None:
    event = events_pb.Event(event_type="purchase", user_id=user_id, item_id=item_id)
    await api.ingestion.RecordEvent(events_pb.RecordEventRequest(event=event))


async def _update(api: Api, item: catalog_pb.Item, *paths: str) -> None:
    await api.catalog.UpdateItem(catalog_pb.UpdateItemRequest(item=item, update_mask={"paths": paths}))


async def _similar(api: Api) -> set[str]:
    request = pb.SimilarItemsRequest(item_id="i0", by=pb.SIMILARITY_BASIS_CONTENT, count=50)
    return {item.item_id for item in (await api.recommendations.SimilarItems(request)).items}


@contextmanager
def _all_on_the_replica(served: Served, reads: int) -> Iterator[None]:
    """Inside, the replica is asked so often; more often where what trends is renewed meanwhile, as once a minute."""
    before = served.asked("replica1"), served.asked("primary")
    yield
    assert served.asked("replica1") - before[0] >= reads
    assert served.asked("primary") == before[1]


async def test_a_list_is_searched_for_on_the_replica(served: Served, api: Api) -> None:
    with _all_on_the_replica(served, reads=1):
        assert set(await _newest(api)) == set(_ITEMS)


async def test_the_list_of_a_user_whose_state_the_replica_has_is_searched_for_there(served: Served, api: Api) -> None:
    await _view(api, "settled", "i1")
    await _newest(api, "settled")
    await served.replica_has_all()
    with _all_on_the_replica(served, reads=1):
        assert set(await _newest(api, "settled")) == set(_ITEMS) - {"i1"}


async def test_an_event_is_in_the_next_list_though_the_replica_does_not_have_it(served: Served, api: Api) -> None:
    async with served.paused():
        for number, item_id in enumerate(_ITEMS[:4], start=1):
            await _view(api, "buyer", item_id)
            assert set(await _newest(api, "buyer")) == set(_ITEMS[number:])


async def test_an_item_that_was_hidden_is_in_no_list_though_the_replica_still_shows_it(
    served: Served, api: Api
) -> None:
    async with served.paused():
        await _update(api, catalog_pb.Item(item_id="i2", hidden=True), "hidden")
        assert "i2" not in await _newest(api)
        assert "i2" not in await _newest(api, "a stranger")
        assert "i2" not in await _similar(api)


async def test_an_item_that_is_new_is_in_lists_though_the_replica_does_not_have_it(served: Served, api: Api) -> None:
    async with served.paused():
        await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "new", "categories": ["films"]}))
        assert "new" in await _newest(api)
        assert "new" in await _similar(api)
        await api.catalog.DeleteItem(catalog_pb.DeleteItemRequest(item_id="new"))


async def test_of_an_erased_user_nothing_is_known_though_the_replica_remembers(served: Served, api: Api) -> None:
    await _view(api, "erased", "i1")
    assert "i1" not in await _newest(api, "erased")
    async with served.paused():
        await api.users.DeleteUser(users_pb.DeleteUserRequest(user_id="erased"))
        assert "i1" in await _newest(api, "erased")


async def test_details_in_a_list_are_those_of_the_last_change(served: Served, api: Api) -> None:
    async with served.paused():
        await _update(api, catalog_pb.Item(item_id="i3", title="changed"), "title")
        assert (await _newest(api, "", "title"))["i3"].item.title == "changed"


async def test_details_and_similar_items_are_read_on_a_replica_that_is_up_to_date(served: Served, api: Api) -> None:
    with _all_on_the_replica(served, reads=3):
        assert {item.item.title for item in (await _newest(api, "", "title")).values()} == {"as ever"}
        assert await _similar(api) == set(_ITEMS) - {"i0"}


async def test_no_list_is_lost_or_degraded_when_the_replica_dies(served: Served, api: Api) -> None:
    served.pair.kill(served.pair.replica)
    try:
        for number in range(30):
            assert set(await _newest(api, f"stranger {number}")) == set(_ITEMS)
    finally:
        await asyncio.to_thread(served.pair.replica.start)

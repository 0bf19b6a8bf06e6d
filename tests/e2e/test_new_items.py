"""Items created after training, through the API alone: they are recommended within moments, and learn from events."""

from __future__ import annotations

import asyncio
import time

import pytest
from google.protobuf.duration_pb2 import Duration

from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as recommendation_pb
from tests.api import Api
from tests.cinema import PER_GENRE, an_event, an_item, open_cinema, train, watched_by

_PATIENCE_S = 20.0
_UNSEEN = PER_GENRE - 8
"""Films of a user's genre that the user has not seen."""


@pytest.fixture
async def trained(api: Api) -> Api:
    """A cinema with a model."""
    await open_cinema(api)
    await train(api)
    return api


async def _recommended(
    api: Api, user_id: str, count: int = _UNSEEN + 1, **fields: object
) -> list[recommendation_pb.RecommendedItem]:
    request = recommendation_pb.RecommendRequest(user_id=user_id, count=count, explain=True, **fields)
    return list((await api.recommendations.Recommend(request)).items)


async def _waits_for(api: Api, item_id: str, user_id: str, **fields: object) -> float:
    """How long it takes until the item is in the user's list."""
    started = time.monotonic()
    while time.monotonic() - started < _PATIENCE_S:
        if item_id in [item.item_id for item in await _recommended(api, user_id, **fields)]:
            return time.monotonic() - started
        await asyncio.sleep(0.05)
    raise AssertionError(f"{item_id} is not recommended to {user_id} after {_PATIENCE_S} s")


async def test_a_new_film_is_recommended_to_those_who_like_its_genre(trained: Api) -> None:
    await _recommended(trained, "u2")  # a list is in the cache
    await trained.catalog.CreateItem(catalog_pb.CreateItemRequest(item=an_item("Horror", 99)))
    await _waits_for(trained, "Horror-99", "u2")
    others = [item.item_id for item in await _recommended(trained, "u1", 4)]
    assert "Horror-99" not in others


async def test_a_film_of_no_genre_is_recommended_after_its_first_viewers(trained: Api) -> None:
    await trained.catalog.CreateItem(catalog_pb.CreateItemRequest(item=catalog_pb.Item(item_id="nameless")))
    events = [an_event(f"u{user}", "nameless") for user in (3, 7, 11, 15, 19)]
    for event in events:
        event.event_time.GetCurrentTime()
    await trained.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    # A cached list may last a minute: that its item is new outdates it, what the item's viewers tell does not.
    await _waits_for(trained, "nameless", "u23", max_staleness=Duration())


async def test_a_new_film_that_is_deleted_is_never_recommended_again(trained: Api) -> None:
    await trained.catalog.CreateItem(catalog_pb.CreateItemRequest(item=an_item("Horror", 99)))
    await _waits_for(trained, "Horror-99", "u2")
    await trained.catalog.DeleteItem(catalog_pb.DeleteItemRequest(item_id="Horror-99"))
    assert "Horror-99" not in [item.item_id for item in await _recommended(trained, "u2", 50)]


async def test_a_film_that_nobody_has_seen_when_training_runs_is_recommended_at_once(api: Api) -> None:
    await open_cinema(api)
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item=an_item("Western", 99)))
    await train(api)
    found = [item.item_id for item in await _recommended(api, "u3")]
    assert "Western-99" in found
    assert not set(found) & set(watched_by(3))

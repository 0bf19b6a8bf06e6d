"""SimilarItems by what is bought together: baskets first, then what the same users buy at other times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from tests.api import Api

_NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=20)


@pytest.fixture
async def shop(api: Api) -> Api:
    """A shop with a few things."""
    items = [catalog_pb.Item(item_id=name) for name in ("bread", "butter", "jam", "lamp", "rug", "socks")]
    await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
    return api


async def _buy(
    api: Api, user_id: str, *item_ids: str, session_id: str = "", days: float = 0, event_type: str = "purchase"
) -> None:
    events = []
    for item_id in item_ids:
        event = ingestion_pb.Event(event_type=event_type, user_id=user_id, item_id=item_id, session_id=session_id)
        event.event_time.FromDatetime(_NOON + timedelta(days=days))
        events.append(event)
    response = await api.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    assert all(result.status.code == 0 for result in response.results)


async def _together(api: Api, item_id: str, **fields: object) -> dict[str, float]:
    request = pb.SimilarItemsRequest(item_id=item_id, by=pb.SIMILARITY_BASIS_BOUGHT_TOGETHER, **fields)
    response = await api.recommendations.SimilarItems(request)
    assert [item.score for item in response.items] == sorted((item.score for item in response.items), reverse=True)
    return {item.item_id: item.score for item in response.items}


async def test_a_basket_is_a_session(shop: Api) -> None:
    await _buy(shop, "a", "bread", "butter", session_id="a1")
    await _buy(shop, "a", "lamp", session_id="a2")
    await _buy(shop, "b", "bread", "butter", "jam", session_id="b1")
    found = await _together(shop, "bread")
    assert list(found) == ["butter", "jam", "lamp"]
    assert found["butter"] == pytest.approx(1.0)
    assert found["jam"] == pytest.approx(3**-0.5 / (2**-0.5 + 3**-0.5))


async def test_without_sessions_a_basket_is_a_users_day(shop: Api) -> None:
    await _buy(shop, "a", "bread", "butter")
    await _buy(shop, "a", "rug", days=1)
    await _buy(shop, "b", "bread", "butter")
    await _buy(shop, "b", "socks", days=-1)
    assert next(iter(await _together(shop, "bread"))) == "butter"
    assert (await _together(shop, "rug"))["bread"] > 0


async def test_a_large_order_says_little_of_any_two_things_in_it(shop: Api) -> None:
    await _buy(shop, "a", "bread", "butter", "jam", "lamp", "rug", session_id="a1")
    await _buy(shop, "b", "bread", "socks", session_id="b1")
    found = await _together(shop, "bread")
    assert next(iter(found)) == "socks"
    assert found["socks"] > found["jam"] > 0


async def test_what_the_same_users_buy_at_other_times_stands_behind_the_baskets(shop: Api) -> None:
    for user in "abc":
        await _buy(shop, user, "bread", session_id=f"{user}1")
        await _buy(shop, user, "lamp", session_id=f"{user}2", days=3)
    await _buy(shop, "d", "bread", "jam", session_id="d1")
    assert list(await _together(shop, "bread")) == ["jam", "lamp"]
    assert list(await _together(shop, "bread", count=1)) == ["jam"]


async def test_only_conversions_count(shop: Api) -> None:
    await _buy(shop, "a", "bread", "butter", session_id="a1", event_type="view")
    assert await _together(shop, "bread") == {}


async def test_filters_and_exclusions_hold_for_both(shop: Api) -> None:
    await _buy(shop, "a", "bread", "butter", "jam", session_id="a1")
    await _buy(shop, "a", "lamp", "rug", session_id="a2", days=3)
    found = await _together(shop, "bread", filter='NOT item_id IN ["butter", "lamp"]', exclude_item_ids=["rug"])
    assert list(found) == ["jam"]

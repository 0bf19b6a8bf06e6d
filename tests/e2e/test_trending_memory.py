"""What is answered from memory while the database is away is held to what was asked for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from recsvc.app import Service
from recsvc.domain.filters import ITEM_FIELDS, parse
from recsvc.domain.ids import ItemId, TenantKey
from recsvc.domain.recommendations import RecommendQuery
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from tests.api import Api
from tests.cinema import an_item, open_cinema


async def remembered(service: Service, tenant_key: TenantKey) -> None:
    """Have what trends read into memory."""
    engine = service.engine
    engine.trending.keep_up(await engine.profiles.get_current(tenant_key))
    async with asyncio.timeout(10):
        while not found(service, tenant_key, RecommendQuery()):  # noqa: ASYNC110  (it tells nobody when it is done)
            await asyncio.sleep(0.01)


def found(service: Service, tenant_key: TenantKey, query: RecommendQuery, now: datetime | None = None) -> list[str]:
    """Ids of the list that memory has for a query."""
    return [item.item_id for item in service.engine.trending.find(tenant_key, query, now or datetime.now(UTC))]


async def test_memory_has_what_trending_items_answers(service: Service, api: Api, tenant: TenantKey) -> None:
    await open_cinema(api)
    fresh = await service.engine.recommender.find(tenant, RecommendQuery(count=20))
    await remembered(service, tenant)
    assert found(service, tenant, RecommendQuery(count=20)) == [item.item_id for item in fresh.items]


async def test_filters_and_exclusions_hold(service: Service, api: Api, tenant: TenantKey) -> None:
    await open_cinema(api)
    await remembered(service, tenant)
    dramas = RecommendQuery(filter=parse('categories:"Drama"', ITEM_FIELDS), count=100)
    listed = found(service, tenant, dramas)
    assert listed
    assert all(item_id.startswith("Drama-") for item_id in listed)
    without = RecommendQuery(exclude_item_ids=(ItemId(listed[0]),), filter=dramas.filter, count=100)
    assert found(service, tenant, without) == listed[1:]


async def test_an_item_is_gone_when_it_has_expired(service: Service, api: Api, tenant: TenantKey) -> None:
    await open_cinema(api)
    now = datetime.now(UTC)
    soon = an_item("Drama", 0)
    soon.expire_time.FromDatetime(now + timedelta(hours=1))
    await api.catalog.UpdateItem(catalog_pb.UpdateItemRequest(item=soon))
    await remembered(service, tenant)
    everything = RecommendQuery(count=100)
    assert "Drama-0" in found(service, tenant, everything, now)
    assert "Drama-0" not in found(service, tenant, everything, now + timedelta(hours=2))


def test_a_tenant_that_never_asked_has_nothing(service: Service) -> None:
    assert found(service, TenantKey(-1), RecommendQuery()) == []

"""Gauges of what is stored: estimates that follow, models and runs by tenant, coverage of the catalogue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from recsvc.app import Storage
from recsvc.cache.redis_client import RedisClient
from recsvc.domain.catalog import Item
from recsvc.domain.ids import ItemId, TenantKey
from recsvc.domain.models import TrainingState
from recsvc.domain.tenancy import Tenant
from recsvc.engine.census import Census
from recsvc.engine.coverage import CatalogCoverage
from recsvc.settings import CacheSettings, Settings
from recsvc.storage.statistics import StatisticsRepository
from recsvc.telemetry.metrics import Metrics
from tests.random_model import activate_random_model


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def metrics(new_tenant: Tenant) -> Metrics:
    """Of which the tenant of the test is told by name."""
    metrics = Metrics(named_tenants=1)
    metrics.tenant_labels._judged_every_s = 0
    metrics.tenant_labels.of_caller(new_tenant.tenant_id)
    return metrics


@pytest.fixture
def census(storage: Storage, metrics: Metrics) -> Census:
    return Census(StatisticsRepository(storage.database), CatalogCoverage(storage.redis), metrics, every_s=60)


async def test_estimates_follow_what_is_stored_without_being_analysed(
    storage: Storage, tenant: TenantKey, census: Census, metrics: Metrics
) -> None:
    await census.take_once()
    before = _value(metrics, "recsvc_stored_rows", table="items") or 0.0
    await storage.items.upsert_many(tenant, [Item(ItemId(f"i{number}")) for number in range(500)])
    # PostgreSQL tells of what a connection has done some seconds later, once it is idle.
    async with asyncio.timeout(30):
        while (_value(metrics, "recsvc_stored_rows", table="items") or 0.0) < before + 500:
            await asyncio.sleep(0.2)
            await census.take_once()


async def test_the_age_of_a_model_is_told_of_its_tenant(
    storage: Storage, new_tenant: Tenant, census: Census, metrics: Metrics
) -> None:
    await storage.items.upsert_many(new_tenant.tenant_key, [Item(ItemId("i1")), Item(ItemId("i2"))])
    await activate_random_model(storage, new_tenant.tenant_key, seed=1)
    await census.take_once()
    age_s = _value(metrics, "recsvc_model_age_seconds", tenant=new_tenant.tenant_id)
    assert age_s is not None
    assert 0 <= age_s < 60


async def test_the_progress_of_a_run_is_told_until_it_ends(
    storage: Storage, new_tenant: Tenant, census: Census, metrics: Metrics
) -> None:
    run = await storage.training_runs.start(new_tenant.tenant_key, {})
    await storage.training_runs.update(new_tenant.tenant_key, run.training_run_id, "fitting", 0.25)
    await census.take_once()
    assert _value(metrics, "recsvc_training_progress_ratio", tenant=new_tenant.tenant_id) == 0.25
    assert (_value(metrics, "recsvc_training_runs_under_way") or 0) >= 1
    await storage.training_runs.finish(new_tenant.tenant_key, run.training_run_id, TrainingState.FAILED)
    await census.take_once()
    assert _value(metrics, "recsvc_training_progress_ratio", tenant=new_tenant.tenant_id) == 1


@pytest.fixture
async def counted(storage: Storage) -> Callable[[], CatalogCoverage]:
    """Coverages as several processes have them, on a day of their own."""
    keys = await storage.redis._redis.keys("recsvc:shown-items:*")
    if keys:
        await storage.redis._redis.delete(*keys)
    return lambda: CatalogCoverage(storage.redis)


async def test_an_item_counts_once_however_often_and_wherever_it_was_shown(
    tenant: TenantKey, counted: Callable[[], CatalogCoverage]
) -> None:
    one, other = counted(), counted()
    before = await one.items() or 0
    items = [ItemId(f"i{number}") for number in range(200)]
    await one.add(tenant, items)
    await one.add(tenant, items[:50])
    await other.add(tenant, items[100:])
    assert await other.items() == pytest.approx(before + 200, rel=0.05)


async def test_the_same_id_of_two_tenants_is_two_items(
    tenant: TenantKey, counted: Callable[[], CatalogCoverage]
) -> None:
    coverage = counted()
    before = await coverage.items() or 0
    await coverage.add(tenant, [ItemId("i1")])
    await coverage.add(TenantKey(tenant + 1_000_000), [ItemId("i1")])
    assert await coverage.items() == before + 2


async def test_without_redis_nothing_is_known_of_coverage(settings: Settings, tenant: TenantKey) -> None:
    async with RedisClient("unix:///nowhere", CacheSettings(), Metrics()) as away:
        coverage = CatalogCoverage(away)
        await coverage.add(tenant, [ItemId("i1")])
        assert await coverage.items() is None

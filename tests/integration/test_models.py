"""Published models against PostgreSQL: shards, roll-back, and the plans of the statements that every request runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest
from psycopg import sql

from recsvc.app import Storage
from recsvc.domain.catalog import Item
from recsvc.domain.errors import ModelActive, ModelNotFound
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, TenantKey, UserId, UserKey
from recsvc.domain.models import Model, ModelState
from recsvc.domain.tenancy import ServingModel
from recsvc.engine.fold_in import FoldIn
from recsvc.storage.candidates import CandidateQuestion, CandidateRepository
from recsvc.storage.models import ItemWeights
from tests.random_model import a_trained_model

_ITEMS = 6000
_DIMENSION = 16
_NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Large:
    """A tenant with a catalogue past the threshold of exact search, and a model of random vectors."""

    tenant: TenantKey
    model: Model
    vectors: np.ndarray
    item_ids: list[str]


async def _publish(storage: Storage, tenant: TenantKey, *, exact_search_items: int, seed: int = 0) -> Model:
    async with storage.database.tenant_transaction(tenant) as connection:
        cursor = await connection.execute(b"SELECT item_key FROM items ORDER BY item_key")
        keys = np.array([row["item_key"] for row in await cursor.fetchall()], dtype=np.int64)
    rng = np.random.default_rng(seed)
    count = len(keys)
    trained = a_trained_model(
        keys,
        rng.standard_normal((count, _DIMENSION), dtype=np.float32),
        neighbors=ItemWeights(
            indptr=np.arange(0, 2 * count + 1, 2, dtype=np.int64),
            positions=rng.integers(0, count, 2 * count),
            weights=rng.random(2 * count, dtype=np.float32),
        ),
    )
    return await storage.models.publish(
        tenant, trained, exact_search_items=exact_search_items, progress=lambda _stage, _share: None
    )


@pytest.fixture
async def large(storage: Storage, tenant: TenantKey) -> AsyncIterator[Large]:
    """Six thousand items, users with views, and an active model with an index of its own."""
    ids = [f"{number:05}" for number in range(_ITEMS)]
    await storage.items.upsert_many(tenant, [Item(ItemId(item_id)) for item_id in ids])
    model = await _publish(storage, tenant, exact_search_items=1000)
    await storage.models.activate(tenant, model.model_id)
    events = [Event(EventId(item_id), "view", ItemId(item_id), _NOW, user_id=UserId("u")) for item_id in ids[:10]]
    others = [
        Event(
            EventId(f"{user}/{item}"),
            "view",
            ItemId(ids[(20 * user + item) % _ITEMS]),
            _NOW,
            user_id=UserId(f"other{user}"),
        )
        for user in range(1000)
        for item in range(20)
    ]
    await storage.events.write(tenant, [*events, *others])
    await storage.database.analyze()
    vectors = np.random.default_rng(0).standard_normal((_ITEMS, _DIMENSION), dtype=np.float32)
    yield Large(tenant, model, vectors, ids)
    async with storage.database.service_transaction() as connection:
        cursor = await connection.execute(b"SELECT tenant_id FROM tenants WHERE tenant_key = %s", [tenant])
        row = await cursor.fetchone()
    assert row is not None
    await storage.tenants.delete(row["tenant_id"])


async def _serving(storage: Storage, tenant: TenantKey) -> ServingModel:
    model = (await storage.tenants.profile(tenant)).model
    assert model is not None
    return model


async def _folded(storage: Storage, tenant: TenantKey) -> None:
    fold_in = FoldIn(storage.states, storage.changes, storage.metrics, history_events=5000, history_items=500)
    await fold_in.refresh(tenant, await _serving(storage, tenant), [await _user_key(storage, tenant)], by="test")


async def _user_key(storage: Storage, tenant: TenantKey) -> UserKey:
    async with storage.database.tenant_transaction(tenant) as connection:
        cursor = await connection.execute(b"SELECT user_key FROM users WHERE user_id = 'u'")
        row = await cursor.fetchone()
    assert row is not None
    return UserKey(row["user_key"])


async def test_the_index_finds_what_exact_search_finds(storage: Storage, large: Large) -> None:
    await _folded(storage, large.tenant)
    question = CandidateQuestion(user_id="u", limits={"collaborative": 100})
    found = await CandidateRepository(storage.database, storage.replicas).find(
        large.tenant, await _serving(storage, large.tenant), question, _NOW
    )
    scores = large.vectors @ large.vectors[:10].sum(axis=0)
    scores[:10] = -np.inf
    exact = {large.item_ids[position] for position in np.argsort(-scores)[:100]}
    assert len(exact & set(found.item_ids)) >= 97


async def test_the_statements_of_every_request_use_indexes(
    storage: Storage, large: Large, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _folded(storage, large.tenant)
    plans: dict[str, str] = {}
    fetch_all = type(storage.database).fetch_all

    async def explaining(self, tenant_key, query, params, *, setting=None):  # type: ignore[no-untyped-def]
        async with self.tenant_transaction(tenant_key) as connection:
            if setting is not None:
                await connection.execute(setting)
            statement = query if isinstance(query, sql.Composed) else sql.SQL(query)
            cursor = await connection.execute(sql.SQL("EXPLAIN ") + statement, params)
            # A projector may be at work in this process; its statements have other parameters or the same plan.
            kind = "candidates" if "sequence_items" in params else "histories" if "users" in params else "other"
            plans[kind] = "\n".join(row["QUERY PLAN"] for row in await cursor.fetchall())
        return await fetch_all(self, tenant_key, query, params, setting=setting)

    monkeypatch.setattr(type(storage.database), "fetch_all", explaining)
    serving = await _serving(storage, large.tenant)
    question = CandidateQuestion(user_id="u", limits={"collaborative": 50, "neighbors": 50, "trending": 20})
    await CandidateRepository(storage.database, storage.replicas).find(large.tenant, serving, question, _NOW)
    candidates = plans["candidates"]
    assert f"item_factors_{large.model.model_key}_vector_idx" in candidates
    for table in ("items", "item_neighbors", "item_stats", "item_factors", "user_state", "users"):
        assert f"Seq Scan on {table}" not in candidates
    await storage.states.histories(large.tenant, [await _user_key(storage, large.tenant)], 1000)
    # The partitions of other months are empty; this month's holds the events.
    assert f"Seq Scan on events_{_NOW:%Y_%m}" not in plans["histories"]
    assert f"events_{_NOW:%Y_%m}_tenant_key_user_key_event_time_idx" in plans["histories"]


async def test_a_small_model_shares_a_partition(storage: Storage, tenant: TenantKey) -> None:
    await storage.items.upsert_many(tenant, [Item(ItemId(str(number))) for number in range(20)])
    model = await _publish(storage, tenant, exact_search_items=1000)
    assert (model.shard, model.state) == (0, ModelState.READY)


async def test_the_planner_knows_a_model_before_it_serves(storage: Storage, tenant: TenantKey) -> None:
    await storage.items.upsert_many(tenant, [Item(ItemId(str(number))) for number in range(20)])
    async with storage.database.service_transaction() as connection:
        begin = await (await connection.execute(b"SELECT clock_timestamp() AS now")).fetchone()
    model = await _publish(storage, tenant, exact_search_items=10)
    tables = ["item_neighbors", "item_transitions", f"item_factors_{model.model_key}"]
    async with storage.database.service_transaction() as connection:
        cursor = await connection.execute(
            b"SELECT relname, last_analyze FROM pg_stat_user_tables WHERE relname = ANY(%s)", [tables]
        )
        analyzed = {row["relname"]: row["last_analyze"] for row in await cursor.fetchall()}
    assert begin is not None
    assert set(analyzed) == set(tables)
    assert all(moment is not None and moment > begin["now"] for moment in analyzed.values())


async def test_one_model_is_active_and_cannot_be_deleted(storage: Storage, tenant: TenantKey) -> None:
    await storage.items.upsert_many(tenant, [Item(ItemId(str(number))) for number in range(20)])
    first, second = [await _publish(storage, tenant, exact_search_items=10, seed=seed) for seed in (1, 2)]
    for model in (first, second, first):
        await storage.models.activate(tenant, model.model_id)
        listed = await storage.models.list(tenant, None, 10)
        assert [each.model_id for each in listed if each.state is ModelState.ACTIVE] == [model.model_id]
    with pytest.raises(ModelActive):
        await storage.models.delete(tenant, first.model_id)
    await storage.models.delete(tenant, second.model_id)
    with pytest.raises(ModelNotFound):
        await storage.models.get(tenant, second.model_id)
    async with storage.database.service_transaction() as connection:
        cursor = await connection.execute(b"SELECT to_regclass(%s) AS there", [f"item_factors_{second.model_key}"])
        row = await cursor.fetchone()
    assert row == {"there": None}


async def test_surplus_models_are_deleted_oldest_first(storage: Storage, tenant: TenantKey) -> None:
    await storage.items.upsert_many(tenant, [Item(ItemId(str(number))) for number in range(20)])
    models = [await _publish(storage, tenant, exact_search_items=1000, seed=seed) for seed in range(4)]
    await storage.models.activate(tenant, models[0].model_id)
    await storage.models.delete_surplus(tenant, keep=2)
    left = {model.model_id for model in await storage.models.list(tenant, None, 10)}
    assert left == {models[0].model_id, models[2].model_id, models[3].model_id}

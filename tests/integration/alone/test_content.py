"""Items that training has not seen: they enter the lists by their content at once, and move with their first events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pytest

from recsvc.app import Storage, build_engine
from recsvc.domain.arrays import Float32
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, ItemKey, ModelKey, TenantId, TenantKey, UserId
from recsvc.domain.models import Model
from recsvc.domain.recommendations import RecommendQuery, Strategy
from recsvc.domain.tenancy import Tenant, TenantSettings
from recsvc.engine.item_fold_in import BATCH, ItemFoldIn
from recsvc.storage.statements import load
from recsvc.training.algorithms.spectral import Spectral, SpectralConfig
from recsvc.training.catalogue import enrich, read_catalogue
from recsvc.training.dataset import from_signals
from tests.conftest import RecordedChanges
from tests.random_model import a_trained_model

_NOW = datetime.now(UTC)
_GENRES = ("space", "love", "crime", "war")
_PER_GENRE = 15


def _a_film(name: str, *genres: str, **fields: object) -> Item:
    return replace(Item(ItemId(name), item_type="film", categories=genres), **fields)  # type: ignore[arg-type]


def _a_view(user: str, item: str) -> Event:
    return Event(EventId(f"{user}/{item}"), "view", ItemId(item), _NOW, user_id=UserId(user))


@dataclass(frozen=True)
class Cinema:
    """A tenant whose users watch films of one genre each, and a model that was trained on that."""

    storage: Storage
    tenant: TenantKey
    model: Model

    @property
    def item_fold_in(self) -> ItemFoldIn:
        return ItemFoldIn(self.storage.content, RecordedChanges())

    async def create(self, *items: Item) -> None:
        await self.storage.items.upsert_many(self.tenant, items)

    async def watch(self, *views: Event) -> None:
        await self.storage.events.write(self.tenant, views)

    async def settle(self) -> None:
        """Derive until nothing is due."""
        item_fold_in = self.item_fold_in
        for _ in range(100):
            await item_fold_in.refresh(self.tenant)
            if self.tenant not in await self.storage.content.tenants_with_due_items():
                await item_fold_in.refresh(self.tenant)
                return
        raise AssertionError("there is always something due")

    async def recommended(self, user: str, count: int = 20, strategy: Strategy = Strategy.AUTO) -> list[str]:
        recommender = build_engine(self.storage, cached=False).recommender
        query = RecommendQuery(user_id=UserId(user), count=count, strategy=strategy)
        return [item.item_id for item in (await recommender.recommend(self.tenant, query)).items]

    async def vectors(self, model: Model | None = None) -> dict[str, Float32]:
        """Vectors in a model by item id."""
        async with self.storage.database.tenant_transaction(self.tenant) as connection:
            cursor = await connection.execute(
                b"SELECT i.item_id, f.vector FROM item_factors f JOIN items i USING (tenant_key, item_key)"
                b" WHERE f.model_key = %s",
                [(model or self.model).model_key],
            )
            return {row["item_id"]: row["vector"].to_numpy() for row in await cursor.fetchall()}

    async def count(self, query: str) -> int:
        async with self.storage.database.service_transaction() as connection:
            row = await (await connection.execute(query.encode(), {"tenant": self.tenant})).fetchone()
            assert row is not None
            return int(row["count"])

    async def version(self) -> int:
        return await self.count("SELECT version AS count FROM tenant_versions WHERE tenant_key = %(tenant)s")


async def _trained(storage: Storage, tenant: TenantKey, *, with_content: bool = True, exact: int = 5000) -> Model:
    dataset = from_signals(await storage.models.signals(tenant))
    interactions = dataset.interactions()
    factors = Spectral(SpectralConfig(dimension=16)).fit(interactions)
    trained = a_trained_model(
        dataset.item_keys,
        factors.vectors,
        fold_in_scales=factors.fold_in_scales,
        user_count=len(dataset.user_keys),
        event_count=len(dataset.users),
    )
    catalogue = await read_catalogue(storage.content, tenant)
    enriched = enrich(trained, interactions, dataset.rejected, catalogue)
    model = await storage.models.publish(
        tenant,
        enriched.trained if with_content else trained,
        content=enriched.content if with_content else None,
        exact_search_items=exact,
        progress=lambda _stage, _share: None,
    )
    return await storage.models.activate(tenant, model.model_id)


async def _open(storage: Storage, tenant: TenantKey, *untouched: Item, exact: int = 5000) -> Cinema:
    films = [_a_film(f"{genre}-{n}", genre) for genre in _GENRES for n in range(_PER_GENRE)]
    await storage.items.upsert_many(tenant, [*films, *untouched])
    views = [
        _a_view(f"{genre}-fan-{user}", f"{genre}-{(user + 2 * step) % _PER_GENRE}")
        for genre in _GENRES
        for user in range(20)
        for step in range(6)
    ]
    await storage.events.write(tenant, views)
    return Cinema(storage, tenant, await _trained(storage, tenant, exact=exact))


@pytest.fixture
async def cinema(storage: Storage, tenant: TenantKey) -> Cinema:
    """One with a model and nothing due."""
    opened = await _open(storage, tenant)
    await opened.settle()
    return opened


def _cosine(one: Float32, other: Float32) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


async def test_a_new_item_is_recommended_to_users_of_like_items_without_training(cinema: Cinema) -> None:
    await cinema.create(_a_film("new", "space"))
    await cinema.settle()
    assert "new" in await cinema.recommended("space-fan-1", 10, Strategy.COLLABORATIVE)
    assert "new" in await cinema.recommended("space-fan-1", 10)
    assert "new" not in await cinema.recommended("love-fan-1", 3, Strategy.COLLABORATIVE)


async def test_a_batch_of_new_items_larger_than_one_turn_gets_vectors(cinema: Cinema) -> None:
    await cinema.create(*(_a_film(f"new-{number}", "space") for number in range(2 * BATCH + 1)))
    await cinema.settle()
    assert len(await cinema.vectors()) == len(_GENRES) * _PER_GENRE + 2 * BATCH + 1
    assert await cinema.count("SELECT count(*) FROM item_marks WHERE tenant_key = %(tenant)s") == 0


async def test_an_item_that_nobody_touched_has_a_vector_from_training_on(storage: Storage, tenant: TenantKey) -> None:
    cinema = await _open(storage, tenant, _a_film("untouched", "crime"), Item(ItemId("blank")))
    vectors = await cinema.vectors()
    assert "blank" not in vectors
    assert _cosine(vectors["untouched"], vectors["crime-0"]) > _cosine(vectors["untouched"], vectors["war-0"])
    assert "untouched" in await cinema.recommended("crime-fan-1", 10, Strategy.COLLABORATIVE)


async def test_the_same_item_gets_the_same_vector_from_training_and_after_it(
    storage: Storage, tenant: TenantKey
) -> None:
    cinema = await _open(storage, tenant, _a_film("before", "crime"))
    await cinema.create(_a_film("after", "crime"))
    await cinema.settle()
    vectors = await cinema.vectors()
    np.testing.assert_allclose(vectors["after"], vectors["before"], rtol=0.02, atol=0.02)


async def test_an_items_first_users_move_it_to_what_they_like(cinema: Cinema) -> None:
    await cinema.create(_a_film("new", "space"))
    await cinema.settle()
    before = (await cinema.vectors())["new"]
    await cinema.watch(*(_a_view(f"love-fan-{user}", "new") for user in range(10)))
    await cinema.settle()
    vectors = await cinema.vectors()
    assert _cosine(vectors["new"], vectors["love-0"]) > _cosine(before, vectors["love-0"]) + 0.2
    assert "new" in await cinema.recommended("love-fan-15", 10, Strategy.COLLABORATIVE)


async def test_every_one_of_the_first_events_counts(cinema: Cinema) -> None:
    await cinema.create(_a_film("new", "space"))
    await cinema.settle()
    seen = [(await cinema.vectors())["new"]]
    for user in range(3):
        await cinema.watch(_a_view(f"love-fan-{user}", "new"))
        await cinema.settle()
        seen.append((await cinema.vectors())["new"])
    love = (await cinema.vectors())["love-0"]
    nearness = [_cosine(vector, love) for vector in seen]
    assert min(nearness[1:]) > nearness[0]
    assert len(set(nearness)) == 4


async def test_events_of_users_without_a_history_change_no_direction(cinema: Cinema) -> None:
    await cinema.create(_a_film("new", "space"))
    await cinema.settle()
    before = (await cinema.vectors())["new"]
    await cinema.watch(_a_view("stranger", "new"))
    await cinema.settle()
    assert _cosine((await cinema.vectors())["new"], before) > 0.999


async def test_an_item_of_a_category_never_seen_waits_for_its_first_user(cinema: Cinema) -> None:
    await cinema.create(Item(ItemId("new"), categories=("opera",)))
    await cinema.settle()
    assert "new" not in await cinema.vectors()
    await cinema.watch(_a_view("war-fan-1", "new"))
    await cinema.settle()
    vectors = await cinema.vectors()
    assert _cosine(vectors["new"], vectors["war-0"]) > _cosine(vectors["new"], vectors["love-0"])


async def test_an_item_without_content_waits_for_its_first_user(cinema: Cinema) -> None:
    await cinema.create(Item(ItemId("blank")))
    await cinema.settle()
    assert "blank" not in await cinema.vectors()
    await cinema.watch(_a_view("war-fan-1", "blank"))
    await cinema.settle()
    assert "blank" in await cinema.vectors()


async def test_a_change_of_content_moves_a_new_item(cinema: Cinema) -> None:
    await cinema.create(_a_film("new", "space"))
    await cinema.settle()
    await cinema.create(_a_film("new", "war"))
    await cinema.settle()
    vectors = await cinema.vectors()
    assert _cosine(vectors["new"], vectors["war-0"]) > _cosine(vectors["new"], vectors["space-0"])


async def test_an_item_that_says_nothing_any_more_has_no_vector(cinema: Cinema) -> None:
    await cinema.create(_a_film("new", "space"))
    await cinema.settle()
    await cinema.create(Item(ItemId("new")))
    await cinema.settle()
    assert "new" not in await cinema.vectors()


async def test_a_change_that_is_not_of_content_marks_nothing(cinema: Cinema) -> None:
    await cinema.create(_a_film("new", "space"))
    await cinema.settle()
    await cinema.create(_a_film("new", "space", available=False))
    assert await cinema.count("SELECT count(*) FROM item_marks WHERE tenant_key = %(tenant)s") == 0


async def test_what_training_knows_is_never_derived(cinema: Cinema) -> None:
    before = await cinema.vectors()
    await cinema.create(_a_film("space-0", "war"))
    await cinema.watch(*(_a_view(f"war-fan-{user}", "space-0") for user in range(10)))
    await cinema.settle()
    assert np.array_equal((await cinema.vectors())["space-0"], before["space-0"])


def _a_dislike(user: str, item: str) -> Event:
    return _a_view(user, item)._replace(event_id=EventId(f"{user}/{item}/dislike"), event_type="dislike")


async def test_what_users_came_to_and_nobody_liked_has_no_vector(storage: Storage, tenant: TenantKey) -> None:
    await storage.items.upsert_many(tenant, [_a_film("flop", "space"), _a_film("unseen", "space")])
    await storage.events.write(tenant, [_a_dislike(f"space-fan-{user}", "flop") for user in range(5)])
    cinema = await _open(storage, tenant)
    await cinema.settle()
    assert "unseen" in await cinema.vectors()
    assert "flop" not in await cinema.vectors()


async def test_it_has_one_once_somebody_likes_it(storage: Storage, tenant: TenantKey) -> None:
    await storage.items.upsert_many(tenant, [_a_film("flop", "space")])
    await storage.events.write(tenant, [_a_dislike("space-fan-0", "flop")])
    cinema = await _open(storage, tenant)
    await cinema.settle()
    await cinema.watch(_a_view("space-fan-1", "flop"))
    await cinema.settle()
    assert "flop" in await cinema.vectors()


async def test_a_new_item_in_a_history_says_something_about_the_user(cinema: Cinema) -> None:
    await cinema.create(_a_film("new", "space"))
    await cinema.settle()
    await cinema.watch(_a_view("newcomer", "new"))
    top = await cinema.recommended("newcomer", 5, Strategy.COLLABORATIVE)
    assert top
    assert all(item.startswith("space") for item in top)


async def test_cached_lists_are_outdated_once_the_item_has_its_vector(cinema: Cinema) -> None:
    before = await cinema.version()
    await cinema.create(_a_film("new", "space"))
    await cinema.settle()
    assert await cinema.version() == before + 2, "one for the item, one for its vector"


async def test_cached_lists_are_outdated_once_for_all_items_that_were_due(cinema: Cinema) -> None:
    await cinema.create(*(_a_film(f"new-{n}", "space") for n in range(3 * BATCH)))
    before = await cinema.version()
    await cinema.settle()
    assert await cinema.version() == before + 1


async def test_cached_lists_are_outdated_from_time_to_time_while_items_are_due(
    cinema: Cinema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsvc.engine.item_fold_in._OUTDATE_EVERY_S", 0.0)
    await cinema.create(*(_a_film(f"new-{n}", "space") for n in range(3 * BATCH)))
    before = await cinema.version()
    await cinema.settle()
    assert await cinema.version() >= before + 3


async def test_cached_lists_are_outdated_when_another_process_takes_the_last_turn(cinema: Cinema) -> None:
    first = cinema.item_fold_in
    await cinema.create(*(_a_film(f"new-{n}", "space") for n in range(2 * BATCH)))
    await first.refresh_once()
    await cinema.settle()
    before = await cinema.version()
    await first.refresh_once()
    await first.refresh_once()
    assert await cinema.version() == before + 1


async def test_events_outdate_no_cached_lists_while_items_that_training_knows_are_due(cinema: Cinema) -> None:
    await cinema.create(_a_film("new", "space"))
    await cinema.settle()
    await cinema.create(_a_film("space-0", "space", description="seen by training, and due since this change"))
    await cinema.watch(_a_view("love-fan-1", "new"))
    vector = (await cinema.vectors())["new"]
    before = await cinema.version()
    await cinema.settle()
    assert not np.array_equal((await cinema.vectors())["new"], vector)
    assert await cinema.version() == before


async def test_many_processes_at_once_derive_each_item_once_and_lose_none(cinema: Cinema) -> None:
    async def keep_deriving() -> int:
        return sum([await cinema.item_fold_in.refresh(cinema.tenant) for _ in range(20)])

    async def keep_creating() -> int:
        for number in range(60):
            await cinema.create(_a_film(f"new-{number}", "space"))
            await cinema.watch(_a_view(f"love-fan-{number % 20}", f"new-{number}"))
        return 0

    await asyncio.gather(keep_creating(), *(keep_deriving() for _ in range(4)))
    await cinema.settle()
    vectors = await cinema.vectors()
    assert {f"new-{number}" for number in range(60)} <= set(vectors)
    assert await cinema.count("SELECT count(*) FROM item_marks WHERE tenant_key = %(tenant)s") == 0


async def test_an_item_deleted_while_it_is_derived_leaves_nothing_behind(cinema: Cinema) -> None:
    for number in range(10):
        await cinema.create(*(_a_film(f"new-{number}-{n}", "space") for n in range(20)))
        doomed = [ItemId(f"new-{number}-{n}") for n in range(20)]
        await asyncio.gather(
            cinema.item_fold_in.refresh(cinema.tenant), cinema.storage.items.delete(cinema.tenant, doomed)
        )
    await cinema.settle()
    orphans = (
        "SELECT count(*) FROM item_factors f LEFT JOIN items i USING (tenant_key, item_key)"
        " WHERE f.tenant_key = %(tenant)s AND i.item_key IS NULL"
    )
    assert await cinema.count(orphans) == 0
    assert await cinema.count("SELECT count(*) FROM item_marks WHERE tenant_key = %(tenant)s") == 0


async def test_deriving_that_fails_half_way_is_done_again(cinema: Cinema, monkeypatch: pytest.MonkeyPatch) -> None:
    await cinema.create(_a_film("new", "space"))
    with monkeypatch.context() as patched:

        async def fail(*_: object) -> None:
            raise RuntimeError("killed")

        patched.setattr("recsvc.storage.content.raise_version", fail)
        with pytest.raises(RuntimeError, match="killed"):
            await cinema.item_fold_in.refresh(cinema.tenant)
    assert "new" not in await cinema.vectors()
    await cinema.settle()
    assert "new" in await cinema.vectors()


async def test_a_switch_of_models_brings_new_items_along(cinema: Cinema) -> None:
    await cinema.create(_a_film("new", "space"))
    await cinema.watch(_a_view("love-fan-1", "new"))
    await cinema.settle()
    second = await _trained(cinema.storage, cinema.tenant)
    await cinema.create(_a_film("newest", "crime"))
    await cinema.settle()
    assert {"new", "newest"} <= set(await cinema.vectors(second))
    await cinema.storage.models.activate(cinema.tenant, cinema.model.model_id)
    await cinema.watch(*(_a_view(f"war-fan-{user}", "newest") for user in range(5)))
    await cinema.settle()
    vectors = await cinema.vectors(cinema.model)
    assert {"new", "newest"} <= set(vectors)
    assert _cosine(vectors["newest"], vectors["war-0"]) > _cosine(vectors["newest"], vectors["love-0"])


async def test_a_new_item_that_training_has_meanwhile_seen_is_trained(cinema: Cinema) -> None:
    await cinema.create(_a_film("new", "space"))
    await cinema.watch(*(_a_view(f"space-fan-{user}", "new") for user in range(10)))
    await cinema.settle()
    second = await _trained(cinema.storage, cinema.tenant)
    await cinema.settle()
    before = (await cinema.vectors(second))["new"]
    await cinema.watch(*(_a_view(f"war-fan-{user}", "new") for user in range(10)))
    await cinema.settle()
    assert np.array_equal((await cinema.vectors(second))["new"], before)


async def test_a_model_without_content_leaves_new_items_to_the_other_sources(cinema: Cinema) -> None:
    second = await _trained(cinema.storage, cinema.tenant, with_content=False)
    await cinema.create(_a_film("new", "space"))
    await cinema.watch(_a_view("love-fan-1", "new"))
    await cinema.settle()
    assert "new" not in await cinema.vectors(second)


async def test_without_a_model_nothing_stays_due(storage: Storage, tenant: TenantKey) -> None:
    content = storage.content
    await storage.items.upsert_many(tenant, [_a_film("new", "space")])
    await storage.events.write(tenant, [_a_view("u", "new")])
    await ItemFoldIn(content, RecordedChanges()).refresh(tenant)
    assert tenant not in await content.tenants_with_due_items()


async def test_a_model_takes_its_content_along_when_it_is_deleted(cinema: Cinema) -> None:
    await cinema.create(_a_film("new", "space"))
    await cinema.settle()
    await _trained(cinema.storage, cinema.tenant)
    await cinema.storage.models.delete(cinema.tenant, cinema.model.model_id)
    for table in ("content_models", "content_features", "derived_items"):
        query = f"SELECT count(*) FROM {table} WHERE tenant_key = %(tenant)s AND model_key = {cinema.model.model_key}"  # noqa: S608
        assert await cinema.count(query) == 0, table


async def test_new_items_of_a_large_model_go_into_its_index(storage: Storage, tenant: TenantKey) -> None:
    cinema = await _open(storage, tenant, exact=10)
    assert cinema.model.shard
    await cinema.create(_a_film("new", "space"))
    await cinema.settle()
    assert "new" in await cinema.recommended("space-fan-1", 10, Strategy.COLLABORATIVE)
    second = await _trained(storage, tenant)
    await storage.models.delete(tenant, cinema.model.model_id)
    await cinema.settle()
    assert "new" in await cinema.vectors(second)


async def test_what_is_due_is_found_by_indexes_however_many_items_there_are(cinema: Cinema) -> None:
    await cinema.create(*(_a_film(f"f{number}", "space") for number in range(3000)))
    await cinema.watch(*(_a_view("u", f"f{number}") for number in range(3000)))
    async with cinema.storage.database.service_transaction() as connection:
        await connection.execute(
            b"UPDATE item_stats SET derived_event_count = NULL WHERE tenant_key = %s", [cinema.tenant]
        )
        await connection.execute(load("content")["prefer_indexes"].encode())
        plans = []
        for name in ("touched_items", "tenants_with_due_items", "due_marks"):
            params = {"tenant": cinema.tenant, "limit": 100, "oldest": 75, "newest": 25}
            statement = load("content")[name].replace("*/", "*/ EXPLAIN ", 1)
            rows = await (await connection.execute(statement.encode(), params)).fetchall()
            plans.append("\n".join(row["QUERY PLAN"] for row in rows))
    assert "item_stats_due" in plans[0]
    assert plans[1].count("item_stats_due") == 2, plans[1]
    assert "item_stats_pkey" not in plans[0] + plans[1]
    assert not any("Seq Scan" in plan for plan in plans), plans


async def test_another_tenants_items_are_left_alone(cinema: Cinema, storage: Storage, new_tenant: Tenant) -> None:
    other = (await storage.tenants.create(TenantId(f"{new_tenant.tenant_id}-b"), "", TenantSettings())).tenant_key
    await storage.items.upsert_many(other, [_a_film("theirs", "space")])
    await cinema.create(_a_film("ours", "space"))
    await cinema.settle()
    vectors = await cinema.vectors()
    assert "ours" in vectors
    assert "theirs" not in vectors


async def test_the_catalogue_is_read_whole_and_in_parts(cinema: Cinema) -> None:
    catalogue = await read_catalogue(cinema.storage.content, cinema.tenant)
    assert len(catalogue.item_keys) == len(set(catalogue.item_keys.tolist())) == len(_GENRES) * _PER_GENRE
    assert set(catalogue.table.names) == {"type:film", *(f"category:{genre}" for genre in _GENRES)}
    keys: Sequence[ItemKey] = [ItemKey(int(key)) for key in catalogue.item_keys[[3, 0]]]
    assert catalogue.positions(np.array([keys[0], -5, keys[1]])).tolist() == [3, -1, 0]
    assert ModelKey(0) not in keys

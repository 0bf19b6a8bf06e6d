"""Candidates out of a snapshot are those that PostgreSQL finds, and are not used once anything has changed."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from recsvc.app import Engine, Storage, build_engine
from recsvc.domain.errors import StorageUnavailable
from recsvc.domain.ids import ItemId, UserId
from recsvc.domain.recommendations import DegradationLevel, Diversity, RecommendQuery, Strategy
from recsvc.domain.tenancy import TenantProfile
from recsvc.engine.candidate_finder import CandidateFinder
from recsvc.engine.remembered_states import RememberedStates
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.settings import EngineSettings
from recsvc.storage.candidates import Candidates
from recsvc.storage.snapshots import Counters
from tests.api import Api
from tests.cinema import an_event, an_item, open_cinema, watched_by
from tests.cinema import train as train_cinema

_NOW = datetime.now(UTC)
_QUERIES = [
    RecommendQuery(),
    RecommendQuery(count=50),
    RecommendQuery(strategy=Strategy.COLLABORATIVE),
    RecommendQuery(strategy=Strategy.NEIGHBORS, count=3),
    RecommendQuery(strategy=Strategy.SESSION),
    RecommendQuery(include_seen=True),
    RecommendQuery(exclude_item_ids=(ItemId("Drama-1"), ItemId("Horror-3"), ItemId("nothing"))),
    RecommendQuery(diversity=Diversity(trade_off=0.5)),
    RecommendQuery(novelty=0.7, exploration=0.2),
]


@pytest.fixture
async def cinema(api: Api) -> Api:
    """A trained cinema of the test's own, in which some films may not be shown."""
    await open_cinema(api)
    await train_cinema(api)
    gone, future = _NOW - timedelta(days=1), _NOW + timedelta(days=1)
    for fields in (
        {"item_id": "Drama-2", "available": False},
        {"item_id": "Drama-4", "hidden": True},
        {"item_id": "Horror-5", "expire_time": gone},
        {"item_id": "Horror-6", "publish_time": future},
        {"item_id": "Comedy-1", "expire_time": future},
    ):
        request = catalog_pb.UpdateItemRequest(item=fields)
        request.update_mask.paths.append(next(name for name in fields if name != "item_id"))
        await api.catalog.UpdateItem(request)
    return api


def _finder(storage: Storage, **settings: float) -> CandidateFinder:
    states = RememberedStates(limit_bytes=2**20, life_s=3600)
    engine_settings = EngineSettings.model_validate(settings)
    return CandidateFinder(storage.candidates, storage.snapshots, engine_settings, storage.metrics, states)


async def _profile(engine: Engine, tenant: int) -> TenantProfile:
    return await engine.profiles.get_current(tenant)  # type: ignore[arg-type]


async def _until_held(engine: Engine, profile: TenantProfile) -> None:
    """Ask until a snapshot answers."""
    async with asyncio.timeout(20):
        while engine.finder.current(profile) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def _assert_alike(found: Candidates, expected: Candidates) -> None:
    assert found.item_ids == expected.item_ids
    assert found.item_keys == expected.item_keys
    assert found.subject == expected.subject
    assert found.expire_times == expected.expire_times
    assert np.array_equal(found.is_new, expected.is_new)
    assert np.array_equal(found.event_counts, expected.event_counts)
    for name, component in expected.components.items():
        np.testing.assert_allclose(found.components[name], component, rtol=1e-5, atol=1e-6, err_msg=name)
    if expected.vectors is not None:
        assert found.vectors is not None
        np.testing.assert_array_equal(found.vectors, expected.vectors)


async def test_a_snapshot_gives_what_postgresql_finds(storage: Storage, cinema: Api, tenant: int) -> None:
    engine = build_engine(storage)
    profile = await _profile(engine, tenant)
    await _until_held(engine, profile)
    for query, number in itertools.product(_QUERIES, range(0, 40, 7)):
        asked = replace(query, user_id=UserId(f"u{number}"), max_staleness=timedelta(0))
        await engine.recommender.find(profile.tenant_key, asked)  # folds the user in
        question = engine.recommender.question(asked, profile)
        found = await engine.finder.find(profile, question, _NOW)
        expected = await storage.candidates.find(profile.tenant_key, profile.model, question, _NOW)
        assert engine.finder.current(profile) is not None
        assert len(expected) > 0, query
        _assert_alike(found, expected)


async def test_what_changed_is_seen_even_by_who_does_not_know_of_the_change(
    storage: Storage, cinema: Api, tenant: int
) -> None:
    engine = build_engine(storage)
    before = await _profile(engine, tenant)
    await _until_held(engine, before)
    asked = RecommendQuery(user_id=UserId("u1"), max_staleness=timedelta(0))
    top = (await engine.recommender.find(before.tenant_key, asked)).items[0].item_id
    request = catalog_pb.UpdateItemRequest(item={"item_id": top, "available": False})
    request.update_mask.paths.append("available")
    await cinema.catalog.UpdateItem(request)
    found = await engine.finder.find(before, engine.recommender.question(asked, before), _NOW)
    assert top not in found.item_ids


async def test_a_catalogue_that_memory_has_no_room_for_is_searched_in_postgresql(
    storage: Storage, cinema: Api, tenant: int
) -> None:
    engine = build_engine(storage)
    finder = _finder(storage, snapshot_mib=0)
    profile = await _profile(engine, tenant)
    question = engine.recommender.question(RecommendQuery(user_id=UserId("u1")), profile)
    async with finder:
        for _ in range(5):
            found = await finder.find(profile, question, _NOW)
            await asyncio.sleep(0.05)
        assert finder.current(profile) is None
    assert len(found) > 0


async def test_counters_may_be_told_to_be_no_older_than_the_question(
    storage: Storage, cinema: Api, tenant: int
) -> None:
    engine = build_engine(storage)
    finder = _finder(storage, counters_life_s=0.0)
    profile = await _profile(engine, tenant)
    question = engine.recommender.question(RecommendQuery(user_id=UserId("u1"), count=50), profile)
    async with finder, asyncio.timeout(20):
        while finder.current(profile) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        before = await finder.find(profile, question, _NOW)
        events = [an_event(f"fan{fan}", "Western-7") for fan in range(30)]
        await cinema.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
        found = await finder.find(profile, question, _NOW)
    at = found.item_ids.index(ItemId("Western-7"))
    counted = before.event_counts[before.item_ids.index(ItemId("Western-7"))]
    assert found.event_counts[at] == counted + 30


async def test_the_vectors_of_new_items_follow_their_events(storage: Storage, cinema: Api, tenant: int) -> None:
    await cinema.catalog.CreateItem(catalog_pb.CreateItemRequest(item=an_item("Western", 99)))
    new, nobody_else = ItemId("Western-99"), RecommendQuery(user_id=UserId("u1"), count=50)
    engine = build_engine(storage)
    await engine.recommender.find(tenant, nobody_else)  # type: ignore[arg-type]  # folds the user in

    async def searched(profile: TenantProfile) -> float:
        question = replace(engine.recommender.question(nobody_else, profile), given=(new,))
        found = await storage.candidates.find(profile.tenant_key, profile.model, question, _NOW)
        return float(found.components["collaborative"][found.item_ids.index(new)])

    async with asyncio.timeout(20):
        while np.isnan(before := await searched(await _profile(engine, tenant))):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    finder = _finder(storage, counters_life_s=0.0)
    async with finder, asyncio.timeout(30):
        profile = await _profile(engine, tenant)
        while (held := finder.current(profile)) is None:
            await asyncio.sleep(0.02)
            profile = await _profile(engine, tenant)
        events = [an_event(f"u{fan}", new) for fan in range(2, 40, 4)]
        await cinema.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
        while (after := await searched(profile)) == before:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        question = replace(engine.recommender.question(nobody_else, profile), given=(new,))
        found = await finder.find(profile, question, _NOW)
        assert finder.current(profile) is held
    at = found.item_ids.index(new)
    assert found.is_new[at]
    assert found.components["collaborative"][at] == pytest.approx(after, rel=1e-3)


@pytest.mark.parametrize(
    "query",
    [
        RecommendQuery(user_id=UserId("u1"), count=50),
        RecommendQuery(user_id=UserId("u1"), strategy=Strategy.NEIGHBORS, exclude_item_ids=(ItemId("Drama-1"),)),
        RecommendQuery(strategy=Strategy.NEIGHBORS, session_item_ids=(ItemId("Drama-1"), ItemId("Horror-3"))),
        RecommendQuery(
            user_id=UserId("u1"), strategy=Strategy.NEIGHBORS, session_item_ids=(ItemId("Comedy-3"), ItemId("Drama-1"))
        ),
    ],
    ids=["a user", "without an item", "a session", "a user in a session"],
)
async def test_what_memory_recalls_is_what_postgresql_finds(
    storage: Storage, cinema: Api, tenant: int, query: RecommendQuery
) -> None:
    engine = build_engine(storage)
    profile = await _profile(engine, tenant)
    await _until_held(engine, profile)
    await engine.recommender.find(profile.tenant_key, RecommendQuery(user_id=UserId("u1"), max_staleness=timedelta(0)))
    question = engine.recommender.question(query, profile)
    found = await engine.finder.recall(profile.tenant_key, question, _NOW, None)
    expected = await storage.candidates.find(profile.tenant_key, profile.model, question, _NOW)
    assert found is not None
    assert len(expected) > 0
    assert found.item_ids == expected.item_ids
    for name in ("neighbors", "sequence"):
        np.testing.assert_allclose(found.components[name], expected.components[name], rtol=1e-5, atol=1e-6)


async def test_of_known_items_only_those_not_seen_are_recalled(storage: Storage, cinema: Api, tenant: int) -> None:
    engine = build_engine(storage)
    profile = await _profile(engine, tenant)
    await _until_held(engine, profile)
    asked = RecommendQuery(user_id=UserId("u1"), max_staleness=timedelta(0), count=50)
    unseen = [item.item_id for item in (await engine.recommender.find(profile.tenant_key, asked)).items]
    known = [*map(ItemId, watched_by(1)), unseen[0], unseen[1]]
    question = engine.recommender.question(replace(asked, exclude_item_ids=(unseen[0],)), profile)
    found = await engine.finder.recall(profile.tenant_key, question, _NOW, known)
    assert found is not None
    assert found.item_ids == [unseen[1]]


async def test_of_whom_memory_knows_nothing_it_recalls_nothing(storage: Storage, cinema: Api, tenant: int) -> None:
    engine = build_engine(storage)
    profile = await _profile(engine, tenant)
    await _until_held(engine, profile)
    for query in (RecommendQuery(user_id=UserId("u1")), RecommendQuery(session_item_ids=(ItemId("nothing"),))):
        question = engine.recommender.question(query, profile)
        assert await engine.finder.recall(profile.tenant_key, question, _NOW, None) is None


async def test_counters_that_cannot_be_had_cost_the_list_nothing_but_its_name(
    storage: Storage, cinema: Api, tenant: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build_engine(storage)
    profile = await _profile(engine, tenant)
    await _until_held(engine, profile)
    query = RecommendQuery(user_id=UserId("u1"), max_staleness=timedelta(0))
    whole = await engine.recommender.find(profile.tenant_key, query)

    async def fail(*_: object) -> Counters:
        raise StorageUnavailable

    monkeypatch.setattr(storage.snapshots, "counters", fail)
    monkeypatch.setattr("recsvc.engine.candidate_finder._PATIENCE", 0.0)
    partial = await engine.recommender.find(profile.tenant_key, query)
    assert partial.degradation.level is DegradationLevel.PARTIAL
    assert [item.item_id for item in partial.items] == [item.item_id for item in whole.items]
    with pytest.raises(StorageUnavailable):
        await engine.recommender.recommend(profile.tenant_key, query, in_bulk=True)


async def test_of_an_erased_user_neither_a_stale_nor_a_partial_list_is_made(
    storage: Storage, cinema: Api, tenant: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build_engine(storage)
    profile = await _profile(engine, tenant)
    await _until_held(engine, profile)
    kept = RecommendQuery(user_id=UserId("u1"), max_staleness=timedelta(0))
    new = replace(kept, count=7)
    await engine.recommender.recommend(profile.tenant_key, kept)

    async def fail(*_: object) -> list[object]:
        raise StorageUnavailable

    async def level(query: RecommendQuery) -> DegradationLevel | None:
        with suppress(StorageUnavailable):
            return (await engine.recommender.recommend(profile.tenant_key, query)).degradation.level
        return None

    monkeypatch.setattr(storage.snapshots, "subject_states", fail)
    assert [await level(query) for query in (kept, new)] == [DegradationLevel.STALE, DegradationLevel.PARTIAL]
    await storage.users.erase(profile.tenant_key, UserId("u1"))
    assert {await level(query) for query in (kept, new)} <= {None, DegradationLevel.FALLBACK}

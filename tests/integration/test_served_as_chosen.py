"""What is served is what was chosen: the lists of the service against the same model computed exactly."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from recsvc.app import Storage, build_engine
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, ItemKey, TenantKey, UserId
from recsvc.domain.models import Model
from recsvc.domain.recommendations import RecommendQuery
from recsvc.settings import TrainingSettings
from recsvc.training.dataset import from_signals
from recsvc.training.exact import ExactModel
from recsvc.training.pipeline import Pipeline, TrainingOptions

_ITEMS, _USERS, _LENGTH = 120, 150, 14
_NOW = datetime.now(UTC)


@pytest.fixture
async def walkers(storage: Storage, tenant: TenantKey) -> TenantKey:
    """Users who go from item to item in small steps, forth and back; every third event has company at the same time."""
    rng = np.random.default_rng(4)
    await storage.items.upsert_many(tenant, [Item(ItemId(f"{number:03}")) for number in range(_ITEMS)])
    events = []
    for user in range(_USERS):
        place = int(rng.integers(_ITEMS))
        begin = _NOW - timedelta(hours=int(rng.integers(1, 400)))
        for step in range(_LENGTH):
            place = (place + int(rng.integers(-4, 5))) % _ITEMS
            event_id = EventId(f"{user}/{step}")
            time = begin + timedelta(minutes=step - step % 3)
            events.append(Event(event_id, "view", ItemId(f"{place:03}"), time, user_id=UserId(f"{user:03}")))
    await storage.events.write(tenant, events)
    return tenant


@pytest.fixture
async def clickers(storage: Storage, walkers: TenantKey) -> TenantKey:
    """The same users click on anything besides; that says little about where they go, and weighs little."""
    rng = np.random.default_rng(5)
    clicks = [
        Event(
            EventId(f"click/{user}/{number}"),
            "click",
            ItemId(f"{int(rng.integers(_ITEMS)):03}"),
            _NOW - timedelta(hours=500, minutes=number),
            user_id=UserId(f"{user:03}"),
        )
        for user in range(_USERS)
        for number in range(2 * _LENGTH)
    ]
    await storage.events.write(walkers, clicks)
    await storage.event_types.update(walkers, "click", lambda kind: replace(kind, weight=0.02), allow_missing=False)
    return walkers


@pytest.fixture
async def raters(storage: Storage, tenant: TenantKey) -> TenantKey:
    """Users who rate items of their group, each at a time of its own; they are hard to please."""
    rng = np.random.default_rng(6)
    await storage.items.upsert_many(tenant, [Item(ItemId(f"{number:03}")) for number in range(_ITEMS)])
    events = []
    for user in range(_USERS):
        came = np.flatnonzero(rng.random(_ITEMS) < np.where(np.arange(_ITEMS) % 6 == user % 6, 0.8, 0.1))
        for place, item in enumerate(rng.permutation(came).tolist()):
            stars = 4.0 if rng.random() < 0.4 else 1.0
            time = _NOW - timedelta(hours=user + 1, minutes=place)
            about = EventId(f"{user}/{item}"), "rate", ItemId(f"{item:03}"), time
            events.append(Event(*about, user_id=UserId(f"{user:03}"), value=stars))
    await storage.events.write(tenant, events)
    return tenant


@pytest.mark.parametrize("index_from", [0, 10_000], ids=["indexed", "searched exactly"])
async def test_the_served_lists_are_those_of_the_exact_model(
    storage: Storage, walkers: TenantKey, index_from: int
) -> None:
    settings = TrainingSettings(exact_search_items=index_from)
    outcome = await Pipeline(storage.models, storage.content, settings).run(
        walkers, TrainingOptions(force_activation=True), lambda _stage, _share: None
    )
    assert len(outcome.model.blend_weights) > 1
    assert any(recency < 1 for recency in outcome.model.recency.values())
    # Half precision may swap what is nearly equal.
    assert await _share_of_same_places(storage, walkers, outcome.model) > 0.97


async def test_the_served_lists_weigh_signals_as_the_exact_model_does(storage: Storage, clickers: TenantKey) -> None:
    outcome = await Pipeline(storage.models, storage.content, TrainingSettings()).run(
        clickers, TrainingOptions(force_activation=True), lambda _stage, _share: None
    )
    assert outcome.model.signal_power > 0
    assert await _share_of_same_places(storage, clickers, outcome.model) > 0.97


async def test_the_served_lists_count_what_was_disliked_as_the_exact_model_does(
    storage: Storage, raters: TenantKey
) -> None:
    outcome = await Pipeline(storage.models, storage.content, TrainingSettings()).run(
        raters, TrainingOptions(force_activation=True), lambda _stage, _share: None
    )
    assert outcome.model.disliked_strength > 0
    assert await _share_of_same_places(storage, raters, outcome.model) > 0.97


async def test_a_later_run_keeps_what_was_tuned(storage: Storage, walkers: TenantKey) -> None:
    pipeline = Pipeline(storage.models, storage.content, TrainingSettings())
    options = TrainingOptions(force_activation=True)
    tuned = await pipeline.run(walkers, replace(options, tune_budget_s=1.5), lambda _stage, _share: None)
    assert tuned.model.hyperparameters["tuned"]
    again = await pipeline.run(walkers, options, lambda _stage, _share: None)
    for source in ("spectral", "neighbors", "ease", "sequence"):
        assert again.model.hyperparameters[source] == tuned.model.hyperparameters[source]
    assert again.model.hyperparameters["trials"] == 0


async def _share_of_same_places(storage: Storage, tenant: TenantKey, model: Model) -> float:
    """How many places of all users' lists hold the item that the exact model has there."""
    dataset = from_signals(await storage.models.signals(tenant))
    exact = ExactModel.of(dataset, model).lists(dataset.user_keys, 10, datetime.now(UTC).timestamp())
    async with storage.database.tenant_transaction(tenant) as connection:
        cursor = await connection.execute(b"SELECT user_key, user_id FROM users")
        user_ids = {row["user_key"]: row["user_id"] for row in await cursor.fetchall()}
        cursor = await connection.execute(b"SELECT item_key, item_id FROM items")
        item_ids = {ItemKey(row["item_key"]): row["item_id"] for row in await cursor.fetchall()}
    recommender = build_engine(storage, cached=False).recommender
    same_places = []
    for user_key, expected in zip(dataset.user_keys, exact, strict=True):
        found = await recommender.recommend(tenant, RecommendQuery(user_id=UserId(user_ids[int(user_key)]), count=10))
        served = [item.item_id for item in found.items]
        same_places.append(
            np.mean([item_ids[ItemKey(int(key))] == item for key, item in zip(expected, served, strict=True)])
        )
    return float(np.mean(same_places))

"""Training against PostgreSQL: what is learned from, what is published, what serves, and how runs begin and end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from recsvc.app import Storage, build_engine, build_projector
from recsvc.domain.catalog import Item
from recsvc.domain.errors import ModelActive, NotEnoughData, TrainingInProgress, TrainingRunNotFound
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, ItemKey, TenantId, TenantKey, UserId, UserKey
from recsvc.domain.models import Model, ModelState, TrainingRun, TrainingState
from recsvc.domain.tenancy import Tenant, TenantSettings
from recsvc.settings import TrainingSettings
from recsvc.storage.connection import Connection
from recsvc.storage.models import Signals
from recsvc.storage.training_runs import SILENCE_S
from recsvc.training import pipeline
from recsvc.training.pipeline import STAGES, Outcome, Pipeline, TrainingOptions
from recsvc.training.runner import TrainingRunner
from recsvc.training.sources import Recipe
from recsvc.training.tuning import Trial, Tuned

_NOW = datetime.now(UTC)
_TASTES = 4
_ITEMS_PER_TASTE = 15
_ENDED = (TrainingState.SUCCEEDED, TrainingState.FAILED)


def _an_event(
    user: str, item: str, event_type: str = "view", *, age: timedelta = timedelta(0), **fields: object
) -> Event:
    event_id = EventId(f"{user}/{item}/{event_type}/{age.total_seconds():.0f}")
    return Event(event_id, event_type, ItemId(item), _NOW - age, user_id=UserId(user), **fields)  # type: ignore[arg-type]


async def _record(storage: Storage, tenant: TenantKey, events: Sequence[Event]) -> None:
    item_ids = sorted({event.item_id for event in events})
    await storage.items.upsert_many(tenant, [Item(item_id) for item_id in item_ids])
    await storage.events.write(tenant, events)


def _views_by_taste(users: int = 80, views: int = 10) -> list[Event]:
    """Users who each view items of one of four tastes."""
    return [
        _an_event(f"u{user}", f"{user % _TASTES}-{(user // _TASTES + 2 * step) % _ITEMS_PER_TASTE}")
        for user in range(users)
        for step in range(views)
    ]


@pytest.fixture
async def tastes(storage: Storage, tenant: TenantKey) -> TenantKey:
    """A tenant whose events hold a structure that can be learned; no model yet."""
    await _record(storage, tenant, _views_by_taste())
    return tenant


async def _train(storage: Storage, tenant: TenantKey, **options: object) -> Outcome:
    training = Pipeline(storage.models, storage.content, TrainingSettings())
    return await training.run(tenant, TrainingOptions(**options), lambda _stage, _share: None)  # type: ignore[arg-type]


async def _models(storage: Storage, tenant: TenantKey) -> list[Model]:
    return list(await storage.models.list(tenant, None, 100))


async def _run_sql(storage: Storage, statement: bytes, *values: object) -> None:
    async with storage.database.service_transaction() as connection:
        await connection.execute(statement, values)


async def _keys(storage: Storage, tenant: TenantKey) -> tuple[dict[str, int], dict[str, int]]:
    """Keys of users and of items by their ids."""
    async with storage.database.tenant_transaction(tenant) as connection:
        users = await (await connection.execute(b"SELECT user_id, user_key FROM users")).fetchall()
        items = await (await connection.execute(b"SELECT item_id, item_key FROM items")).fetchall()
    return {row["user_id"]: row["user_key"] for row in users}, {row["item_id"]: row["item_key"] for row in items}


def _by_pair(signals: Signals) -> dict[tuple[int, int], float]:
    pairs = zip(signals.user_keys.tolist(), signals.item_keys.tolist(), strict=True)
    return dict(zip(pairs, signals.signals.tolist(), strict=True))


# What is learned from


async def test_signals_add_up_by_pair(storage: Storage, tenant: TenantKey) -> None:
    events = [
        _an_event("u", "a"),
        _an_event("u", "a", "purchase"),
        _an_event("u", "b", "like"),
        _an_event("u", "b", "dislike"),
        _an_event("u", "c", "rate", value=5.0),
        _an_event("v", "c", "rate", value=1.0),
        _an_event("v", "d", "impression"),
    ]
    await _record(storage, tenant, events)
    users, items = await _keys(storage, tenant)
    wanted = {("u", "a"): 4.0, ("u", "b"): 0.0, ("u", "c"): 1.0, ("v", "c"): -0.6, ("v", "d"): 0.0}
    assert _by_pair(await storage.models.signals(tenant)) == pytest.approx(
        {(users[user], items[item]): signal for (user, item), signal in wanted.items()}
    )


async def test_training_and_fold_in_read_the_same_signals(storage: Storage, tenant: TenantKey) -> None:
    day = timedelta(days=1)
    await storage.event_types.update(tenant, "view", lambda kind: replace(kind, half_life=day), allow_missing=False)
    kinds = ("view", "view", "like", "dislike", "purchase", "rate")
    events = [
        _an_event(f"u{number % 7}", f"i{number % 11}", kinds[number % 6], age=day * number, value=float(number % 5 + 1))
        for number in range(200)
    ]
    await _record(storage, tenant, events)
    users, _ = await _keys(storage, tenant)
    folded = {
        (history.user_key, item_key): signal
        for history in await storage.states.histories(tenant, [UserKey(key) for key in users.values()], 1000)
        for item_key, signal in zip(history.item_keys, history.signals, strict=True)
    }
    # The clock runs on between the two statements.
    assert _by_pair(await storage.models.signals(tenant)) == pytest.approx(folded, rel=1e-3)


async def test_another_tenants_events_are_not_learned_from(storage: Storage, tastes: TenantKey, other: Tenant) -> None:
    await _record(storage, other.tenant_key, [_an_event("stranger", "elsewhere")])
    assert len(await _pairs(storage, other.tenant_key)) == 1
    assert not set(await _pairs(storage, other.tenant_key)) & set(await _pairs(storage, tastes))


async def _pairs(storage: Storage, tenant: TenantKey) -> list[tuple[int, int]]:
    return list(_by_pair(await storage.models.signals(tenant)))


@pytest.fixture
async def other(storage: Storage, new_tenant: Tenant) -> Tenant:
    """A second tenant."""
    return await storage.tenants.create(TenantId(f"{new_tenant.tenant_id}-other"), "", TenantSettings())


@pytest.mark.parametrize("evaluate", [True, False])
async def test_too_few_events_leave_no_model(storage: Storage, tenant: TenantKey, evaluate: bool) -> None:
    await _record(storage, tenant, [_an_event("u", str(number)) for number in range(20)])
    with pytest.raises(NotEnoughData, match="at least 2 users"):
        await _train(storage, tenant, evaluate=evaluate)
    assert await _models(storage, tenant) == []


async def test_events_that_nobody_liked_are_too_few(storage: Storage, tenant: TenantKey) -> None:
    dislikes = [event._replace(event_type="dislike") for event in _views_by_taste()]
    await _record(storage, tenant, dislikes)
    with pytest.raises(NotEnoughData):
        await _train(storage, tenant)


# What is published


async def test_a_first_model_beats_popularity_and_serves(storage: Storage, tastes: TenantKey) -> None:
    outcome = await _train(storage, tastes)
    assert outcome.activated
    assert outcome.model.state is ModelState.ACTIVE
    assert (outcome.model.user_count, outcome.model.item_count) == (80, _TASTES * _ITEMS_PER_TASTE)
    assert outcome.model.event_count == 800
    assert outcome.model.metrics["ndcg_at_20"] > 2 * outcome.model.metrics["popularity_ndcg_at_20"]
    serving = (await storage.tenants.profile(tastes)).model
    assert serving is not None
    assert serving.model_id == outcome.model.model_id
    assert serving.blend_weights == outcome.model.blend_weights


async def test_a_projector_never_folds_in_by_the_model_of_before_a_switch(storage: Storage, tastes: TenantKey) -> None:
    engine = build_engine(storage)
    projector = build_projector(storage, engine)
    await engine.profiles.get(tastes)  # remembers that there is no model
    model = (await _train(storage, tastes)).model
    for _ in range(10):
        if not await projector.renew_once():
            break
    async with storage.database.tenant_transaction(tastes) as connection:
        cursor = await connection.execute(b"SELECT DISTINCT model_key FROM user_state")
        assert [row["model_key"] for row in await cursor.fetchall()] == [model.model_key]


async def test_progress_goes_through_the_stages_and_never_back(storage: Storage, tastes: TenantKey) -> None:
    told: list[tuple[int, float]] = []
    training = Pipeline(storage.models, storage.content, TrainingSettings())
    await training.run(
        tastes, TrainingOptions(), lambda stage, share: told.append((STAGES.index(stage), round(share, 6)))
    )
    assert told == sorted(told)
    assert {STAGES[stage] for stage, _ in told} == set(STAGES) - {"tune"}
    assert all(0 <= share <= 1 for _, share in told)


async def test_the_same_events_give_the_same_model(storage: Storage, tastes: TenantKey) -> None:
    first, second = await _train(storage, tastes), await _train(storage, tastes)
    assert second.model.metrics == pytest.approx(first.model.metrics)
    assert second.model.blend_weights == first.model.blend_weights
    keys = [ItemKey(key) for key in (await _keys(storage, tastes))[1].values()]
    vectors = []
    for outcome in (first, second):
        await storage.models.activate(tastes, outcome.model.model_id)
        serving = (await storage.tenants.profile(tastes)).model
        assert serving is not None
        found = await storage.states.fold_in_vectors(tastes, serving, keys)
        vectors.append(dict(zip(found.item_keys.tolist(), found.vectors, strict=True)))
    assert set(vectors[0]) == set(vectors[1]) == set(keys)
    for key in keys:
        assert vectors[0][key] == pytest.approx(vectors[1][key], rel=2e-3, abs=1e-4)


async def test_options_bound_what_is_learned(storage: Storage, tastes: TenantKey) -> None:
    model = (await _train(storage, tastes, dimension=3, neighbors=5)).model
    assert model.dimension <= 3
    async with storage.database.tenant_transaction(tastes) as connection:
        cursor = await connection.execute(
            b"SELECT max(cardinality(neighbor_keys)) AS most FROM item_neighbors WHERE model_key = %s",
            [model.model_key],
        )
        assert await cursor.fetchone() == {"most": 5}


async def test_tuned_parameters_that_do_no_better_are_not_taken(
    storage: Storage, tastes: TenantKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lucky(_dataset: object, _folds: object, recipe: Recipe, **_options: object) -> Tuned:
        spectral = replace(recipe.spectral, user_degree_exponent=0.0, item_degree_exponent=0.6)
        return Tuned(replace(recipe, spectral=spectral, tuned=True), (Trial("collaborative", {}, 1.0),))

    monkeypatch.setattr(pipeline, "tune", lucky)
    saved = (await _train(storage, tastes, tune_budget_s=1.0)).model.hyperparameters
    assert (saved["spectral"]["user_degree_exponent"], saved["spectral"]["item_degree_exponent"]) == (0.3, 0.5)
    assert saved["tuned"]


async def test_without_evaluation_there_are_no_figures(storage: Storage, tastes: TenantKey) -> None:
    outcome = await _train(storage, tastes, evaluate=False)
    assert outcome.activated
    assert outcome.model.metrics == {}
    assert outcome.model.blend_weights


async def test_novelty_does_not_depend_on_how_many_users_are_judged(
    storage: Storage, tastes: TenantKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = (await _train(storage, tastes)).model.metrics
    monkeypatch.setattr("recsvc.training.pipeline._CASES", 20)
    some = (await _train(storage, tastes, force_activation=True)).model.metrics
    assert some["users"] == 10
    assert some["novelty"] == pytest.approx(everybody["novelty"], abs=0.3)


async def test_users_with_too_little_to_hold_out_can_be_learned_from(storage: Storage, tenant: TenantKey) -> None:
    await _record(storage, tenant, _views_by_taste(users=20, views=2))
    outcome = await _train(storage, tenant)
    assert outcome.activated
    assert outcome.model.metrics["users"] == 0


# Which model serves


async def _pretend_ndcg(storage: Storage, model: Model, ndcg: float) -> None:
    await _run_sql(
        storage,
        b"UPDATE models SET metrics = metrics || jsonb_build_object('ndcg_at_20', %s::float8) WHERE model_key = %s",
        ndcg,
        model.model_key,
    )


async def test_a_worse_model_is_kept_but_does_not_serve(storage: Storage, tastes: TenantKey) -> None:
    first = (await _train(storage, tastes)).model
    await _pretend_ndcg(storage, first, 1.0)
    outcome = await _train(storage, tastes)
    assert not outcome.activated
    assert outcome.reason.startswith("MODEL_WORSE")
    assert outcome.model.state is ModelState.READY
    active = await storage.models.active(tastes)
    assert active is not None
    assert active.model_id == first.model_id


async def test_a_worse_model_serves_when_forced(storage: Storage, tastes: TenantKey) -> None:
    await _pretend_ndcg(storage, (await _train(storage, tastes)).model, 1.0)
    outcome = await _train(storage, tastes, force_activation=True)
    assert outcome.activated
    assert outcome.model.state is ModelState.ACTIVE


async def test_a_model_that_was_never_judged_can_be_replaced(storage: Storage, tastes: TenantKey) -> None:
    await _train(storage, tastes, evaluate=False)
    assert (await _train(storage, tastes)).activated


async def test_what_a_dead_run_left_is_never_seen_and_goes_with_the_next_run(
    storage: Storage, tastes: TenantKey
) -> None:
    await _run_sql(
        storage,
        b"INSERT INTO models (tenant_key, model_id, state, algorithm) VALUES (%s, 'half-made', 'BUILDING', '')",
        tastes,
    )
    assert await _models(storage, tastes) == []
    outcome = await _train(storage, tastes)
    async with storage.database.tenant_transaction(tastes) as connection:
        cursor = await connection.execute(b"SELECT model_id FROM models")
        assert await cursor.fetchall() == [{"model_id": outcome.model.model_id}]


async def _half_way_through_activation(connection: Connection, tenant: TenantKey, model: Model) -> None:
    """What `activate` does before its commit."""
    await connection.execute(b"SELECT FROM tenants WHERE tenant_key = %s FOR NO KEY UPDATE", [tenant])
    await connection.execute(b"SELECT FROM models WHERE model_key = %s FOR UPDATE", [model.model_key])
    await connection.execute(
        b"UPDATE tenants SET active_model_key = %s WHERE tenant_key = %s", [model.model_key, tenant]
    )
    await connection.execute(
        b"UPDATE models SET state = CASE WHEN model_key = %s THEN 'ACTIVE' ELSE 'READY' END WHERE tenant_key = %s",
        [model.model_key, tenant],
    )


async def test_a_model_that_is_being_activated_is_not_deleted(storage: Storage, tastes: TenantKey) -> None:
    first, _ = (await _train(storage, tastes)).model, await _train(storage, tastes)
    async with storage.database.service_transaction() as connection:
        await _half_way_through_activation(connection, tastes, first)
        deletion = asyncio.create_task(storage.models.delete(tastes, first.model_id))
        await asyncio.sleep(0.3)
    with pytest.raises(ModelActive):
        await deletion


async def test_a_model_that_is_being_activated_is_not_surplus(storage: Storage, tastes: TenantKey) -> None:
    first, _ = (await _train(storage, tastes)).model, await _train(storage, tastes)
    async with storage.database.service_transaction() as connection:
        await _half_way_through_activation(connection, tastes, first)
        clean_up = asyncio.create_task(storage.models.delete_surplus(tastes, keep=0))
        await asyncio.sleep(0.3)
    await clean_up
    assert [model.model_id for model in await _models(storage, tastes)] == [first.model_id]


async def test_activations_that_cross_leave_one_active_model(storage: Storage, tastes: TenantKey) -> None:
    models = [(await _train(storage, tastes)).model for _ in range(2)]
    for _ in range(10):
        await asyncio.gather(*(storage.models.activate(tastes, model.model_id) for model in models))
        states = sorted(model.state for model in await _models(storage, tastes))
        assert states == [ModelState.ACTIVE, ModelState.READY]


async def test_nobody_waits_while_a_large_model_is_written(
    storage: Storage, tastes: TenantKey, database_url: str
) -> None:
    free: list[str] = []

    def lock_out(stage: str, _share: float) -> None:
        if stage not in ("publish", "index") or stage in free:
            return
        # The strongest lock is to be had, so nobody who waits for it can hold up all that read vectors.
        with psycopg.connect(database_url) as connection:
            connection.execute("LOCK TABLE item_factors IN ACCESS EXCLUSIVE MODE NOWAIT")
        free.append(stage)

    pipeline = Pipeline(storage.models, storage.content, TrainingSettings(exact_search_items=10))
    outcome = await pipeline.run(tastes, TrainingOptions(), lock_out)
    assert outcome.model.shard == outcome.model.model_key
    assert free == ["publish", "index"]


async def test_nobody_waits_while_a_tenant_with_a_large_model_is_deleted(
    storage: Storage, tastes: TenantKey, new_tenant: Tenant
) -> None:
    pipeline = Pipeline(storage.models, storage.content, TrainingSettings(exact_search_items=10))
    await pipeline.run(tastes, TrainingOptions(), lambda _stage, _share: None)
    async with storage.database.service_transaction() as connection:
        # Stands for the minutes that deleting many events takes.
        await connection.execute(b"SELECT FROM events WHERE tenant_key = %s FOR UPDATE", [tastes])
        deletion = asyncio.create_task(storage.tenants.delete(new_tenant.tenant_id))
        await asyncio.sleep(0.3)
        assert not deletion.done()
        async with storage.database.service_transaction() as reader:
            await reader.execute(b"SET LOCAL lock_timeout = '1s'")
            await reader.execute(b"SELECT FROM item_factors LIMIT 1")
    await deletion


# Runs


async def test_one_run_of_a_tenant_at_a_time(storage: Storage, tenant: TenantKey, other: Tenant) -> None:
    first = await storage.training_runs.start(tenant, {})
    with pytest.raises(TrainingInProgress):
        await storage.training_runs.start(tenant, {})
    await storage.training_runs.start(other.tenant_key, {})
    await storage.training_runs.finish(tenant, first.training_run_id, TrainingState.FAILED, error="no")
    await storage.training_runs.start(tenant, {})


async def test_the_end_of_a_run_is_final(storage: Storage, tenant: TenantKey) -> None:
    run_id = (await storage.training_runs.start(tenant, {})).training_run_id
    await storage.training_runs.finish(tenant, run_id, TrainingState.SUCCEEDED, model_id="m", activated=True)
    ended = await storage.training_runs.get(tenant, run_id)
    await storage.training_runs.update(tenant, run_id, "train", 0.5)
    await storage.training_runs.finish(tenant, run_id, TrainingState.FAILED, error="too late")
    assert await storage.training_runs.get(tenant, run_id) == ended
    assert (ended.state, ended.progress, ended.model_id) == (TrainingState.SUCCEEDED, 1.0, "m")


async def test_another_tenants_run_does_not_exist(storage: Storage, tenant: TenantKey, other: Tenant) -> None:
    run_id = (await storage.training_runs.start(other.tenant_key, {})).training_run_id
    with pytest.raises(TrainingRunNotFound):
        await storage.training_runs.get(tenant, run_id)


async def _fall_silent(storage: Storage, run: TrainingRun) -> None:
    await _run_sql(
        storage,
        b"UPDATE training_runs SET state = 'RUNNING', heartbeat_time = now() - make_interval(secs => %s)"
        b" WHERE training_run_id = %s",
        SILENCE_S + 1,
        run.training_run_id,
    )


async def test_a_run_that_died_does_not_block_the_next(storage: Storage, tenant: TenantKey) -> None:
    dead = await storage.training_runs.start(tenant, {})
    await _fall_silent(storage, dead)
    await storage.training_runs.start(tenant, {})
    assert (await storage.training_runs.get(tenant, dead.training_run_id)).state is TrainingState.FAILED


async def test_who_watches_a_run_that_died_is_told(storage: Storage, tenant: TenantKey, runner: TrainingRunner) -> None:
    dead = await storage.training_runs.start(tenant, {})
    await _fall_silent(storage, dead)
    async with asyncio.timeout(5):
        states = [run.state async for run in runner.watch(tenant, dead.training_run_id)]
    assert states == [TrainingState.FAILED]


# Runs in a process of their own


def _runner(storage: Storage) -> TrainingRunner:
    urls = {"RECSVC_DATABASE_URL": storage.urls.database_url, "RECSVC_REDIS_URL": storage.urls.redis_url}
    return TrainingRunner(storage.training_runs, storage.models, urls, storage.metrics)


@pytest.fixture
async def runner(storage: Storage) -> AsyncIterator[TrainingRunner]:
    """What the service starts runs with."""
    async with _runner(storage) as opened:
        yield opened


async def _end(runner: TrainingRunner, tenant: TenantKey, run: TrainingRun) -> TrainingRun:
    async with asyncio.timeout(60):
        seen = [state async for state in runner.watch(tenant, run.training_run_id)]
    assert [state.progress for state in seen] == sorted(state.progress for state in seen)
    assert all(state.state not in _ENDED for state in seen[:-1])
    return seen[-1]


async def test_a_run_trains_publishes_and_activates(
    storage: Storage, tastes: TenantKey, new_tenant: Tenant, runner: TrainingRunner
) -> None:
    run = await runner.start(tastes, new_tenant.tenant_id, {"dimension": 3, "neighbors": None, "force": True})
    assert run.state is TrainingState.QUEUED
    ended = await _end(runner, tastes, run)
    assert (ended.state, ended.error) == (TrainingState.SUCCEEDED, "")
    assert ended.activated
    active = await storage.models.active(tastes)
    assert active is not None
    assert active.model_id == ended.model_id
    assert active.dimension <= 3


async def test_a_run_says_why_its_model_does_not_serve(
    storage: Storage, tastes: TenantKey, new_tenant: Tenant, runner: TrainingRunner
) -> None:
    await _pretend_ndcg(storage, (await _train(storage, tastes)).model, 1.0)
    ended = await _end(runner, tastes, await runner.start(tastes, new_tenant.tenant_id, {}))
    assert ended.state is TrainingState.SUCCEEDED
    assert not ended.activated
    assert ended.error.startswith("MODEL_WORSE")
    assert (await storage.models.get(tastes, ended.model_id)).state is ModelState.READY


async def test_a_run_without_enough_data_fails_and_says_what_is_missing(
    tenant: TenantKey, new_tenant: Tenant, runner: TrainingRunner
) -> None:
    ended = await _end(runner, tenant, await runner.start(tenant, new_tenant.tenant_id, {}))
    assert ended.state is TrainingState.FAILED
    assert "at least 2 users" in ended.error


async def test_a_server_that_stops_takes_its_runs_with_it(
    storage: Storage, tastes: TenantKey, new_tenant: Tenant
) -> None:
    async with _runner(storage) as runner:
        run = await runner.start(tastes, new_tenant.tenant_id, {})
        await asyncio.sleep(0.2)  # the process is there, and still far from its end
    ended = await storage.training_runs.get(tastes, run.training_run_id)
    assert (ended.state, ended.error) == (TrainingState.FAILED, "the server was stopped")
    await storage.training_runs.start(tastes, {})


async def test_a_process_that_cannot_start_fails_the_run_at_once(
    tastes: TenantKey, new_tenant: Tenant, runner: TrainingRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    ended = await _end(runner, tastes, await runner.start(tastes, new_tenant.tenant_id, {}))
    assert ended.state is TrainingState.FAILED
    assert "could not be started" in ended.error

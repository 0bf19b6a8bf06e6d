"""Whole evaluations of small data sets on real servers: every protocol, every guard, and what is left behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from psycopg import sql
from rich.console import Console

from recsvc.app import Service, Storage
from recsvc.cli import evaluation_run
from recsvc.cli.evaluation_plan import NothingToAsk, Plan
from recsvc.cli.evaluation_run import run
from recsvc.cli.questioning import InProcess
from recsvc.cli.replay import Replay
from recsvc.datasets import Dataset
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, SessionId, TenantKey, UserId
from recsvc.domain.recommendations import Strategy
from recsvc.settings import Settings
from recsvc.training.evaluation import Judgement
from recsvc.training.leakage import Leakage
from recsvc.training.protocols import SplitKind, Task
from recsvc.training.report import Report, as_json, as_markdown

_TASTES, _ITEMS_PER_TASTE, _STEPS = 4, 15, 9
_START = datetime(2026, 1, 1, tzinfo=UTC)
_QUIET = Console(quiet=True)


def _events(count: int = 64, *, as_sessions: bool = False, steps: Sequence[int] = range(_STEPS)) -> list[Event]:
    """Visitors who each go round the items of one of four tastes, a step a day."""
    events = []
    for visitor in range(count):
        who = f"v{visitor}"
        for step in steps:
            item = f"{visitor % _TASTES}-{(visitor // _TASTES + step) % _ITEMS_PER_TASTE}"
            moment = _START + timedelta(days=step, minutes=visitor)
            events.append(
                Event(
                    EventId(f"{who}/{item}"),
                    "view",
                    ItemId(item),
                    moment,
                    user_id=None if as_sessions else UserId(who),
                    session_id=SessionId(who) if as_sessions else None,
                )
            )
    return events


def _data(events: Sequence[Event], *, with_items: bool = True) -> Dataset:
    ids = sorted({event.item_id for event in events}) if with_items else []
    items = [Item(item_id, categories=(item_id.partition("-")[0],)) for item_id in ids]
    return Dataset("small", lambda: iter(items), lambda: iter(()), lambda: iter(events))


def _a_plan(split: SplitKind, **changes: Any) -> Plan:
    plan = Plan("small", _data(_events()), split, ks=(3, 5), baselines=("popularity",), test_share=0.25)
    return replace(plan, **changes)


def _models(report: Report) -> dict[str, Judgement]:
    return {model.name: model for model in report.judged.judgements}


async def _tenants(storage: Storage) -> set[str]:
    return {tenant.tenant_id for tenant in await storage.tenants.list("evaluate", 1000)}


@pytest.mark.parametrize("split", list(SplitKind))
async def test_every_protocol_through_a_real_server(settings: Settings, split: SplitKind) -> None:
    plan = _a_plan(split, through_server=True)
    if split is SplitKind.GIVEN:
        plan = replace(plan, data=_data(_events(steps=range(7))), test_part=_data(_events(steps=range(7, 9))))
    report = await run(plan, settings, _QUIET)
    served, popular = _models(report)["AUTO, gRPC"], _models(report)["popularity"]
    assert served.figures["ndcg@5"].mean > popular.figures["ndcg@5"].low
    assert served.figures["recall@5"].mean > 1.5 * popular.figures["recall@5"].mean
    assert report.served[0].agreement == 1.0
    assert report.served[0].degraded == 0
    assert served.totals["list length@5"] == 5.0
    assert "category diversity@5" in served.figures
    assert report.peak_memory_bytes > 10 * 2**20
    assert json.loads(json.dumps(as_json(report)))["split"] == split.value
    assert "| AUTO, gRPC |" in as_markdown(report)


async def test_a_running_server_on_the_same_database_can_be_asked(settings: Settings, service: Service) -> None:
    plan = _a_plan(SplitKind.TEMPORAL, through_server=True, address=f"127.0.0.1:{service.port}")
    report = await run(plan, settings, _QUIET)
    assert report.served[0].agreement == 1.0


async def test_the_lists_are_the_same_with_and_without_a_server(settings: Settings) -> None:
    here = await run(_a_plan(SplitKind.LEAVE_LAST_OUT), settings, _QUIET)
    there = await run(_a_plan(SplitKind.LEAVE_LAST_OUT, through_server=True), settings, _QUIET)
    one, other = _models(here)["AUTO, served"], _models(there)["AUTO, gRPC"]
    for name, interval in one.figures.items():
        assert other.figures[name].mean == pytest.approx(interval.mean, abs=0.02), name


async def test_sessions_of_nobody_known_are_asked_by_session(settings: Settings) -> None:
    plan = _a_plan(SplitKind.LEAVE_LAST_OUT, data=_data(_events(as_sessions=True)), through_server=True)
    report = await run(plan, settings, _QUIET)
    models = _models(report)
    assert report.served[0].agreement == 1.0
    assert models["AUTO, gRPC"].figures["recall@5"].mean > 2 * models["popularity"].figures["recall@5"].mean


async def test_events_need_no_catalogue(settings: Settings) -> None:
    plan = _a_plan(SplitKind.TEMPORAL, data=_data(_events(), with_items=False))
    report = await run(plan, settings, _QUIET)
    assert report.facts["items with events"] == _TASTES * _ITEMS_PER_TASTE
    assert "events and items refused" not in report.facts
    assert "category diversity@5" not in _models(report)["AUTO, served"].figures


async def test_several_strategies_are_compared_with_each_baseline(settings: Settings) -> None:
    plan = _a_plan(
        SplitKind.TEMPORAL, strategies=(Strategy.AUTO, Strategy.POPULAR), baselines=("popularity", "item-knn")
    )
    report = await run(plan, settings, _QUIET)
    assert list(_models(report)) == ["AUTO, served", "POPULAR, served", "popularity", "item-knn"]
    pairs = {(comparison.model, comparison.against) for comparison in report.judged.comparisons}
    assert pairs == {(model, against) for model in list(_models(report))[:2] for against in list(_models(report))[2:]}


@pytest.mark.parametrize("split", list(SplitKind)[1:])
async def test_a_small_catalogue_is_served_as_exactly_as_it_can_be(settings: Settings, split: SplitKind) -> None:
    report = await run(_a_plan(split, exact=True), settings, _QUIET)
    served, exact = _models(report)["AUTO, served"], _models(report)["AUTO, exact"]
    for name in ("recall@3", "ndcg@3", "recall@5", "ndcg@5", "mrr@5"):
        # Neighbours of neighbours score nearly alike here, and half precision may swap two of them.
        assert served.figures[name].mean == pytest.approx(exact.figures[name].mean, abs=0.04), name
    assert "lost against exact search" in as_markdown(report)


@pytest.mark.parametrize("through_server", [False, True])
async def test_a_live_service_is_told_of_everything_before_each_question(
    settings: Settings, through_server: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[int] = []
    ask = InProcess.ask

    async def observed(self: InProcess, task: Task, rows: Sequence[int], *others: Any) -> None:
        known.append(
            len(
                await self._recommender._finder._candidates._database.fetch_all(  # type: ignore[attr-defined]
                    self._tenant_key,
                    sql.SQL("SELECT FROM events WHERE tenant_key = %(tenant)s"),
                    {"tenant": self._tenant_key},
                )
            )
        )
        moment = task.questions.moments[rows[0]]
        assert known[-1] == int((task.table.times < moment).sum())
        await ask(self, task, rows, *others)

    monkeypatch.setattr(InProcess, "ask", observed)
    plan = _a_plan(SplitKind.NEXT_ITEM, live=True, exact=True, through_server=through_server)
    report = await run(plan, settings, _QUIET)
    name = plan.served_name(Strategy.AUTO)
    assert len(set(known)) > 50
    assert report.served[0].agreement in (None, 1.0)
    served, exact = _models(report)[name], _models(report)["AUTO, exact"]
    assert served.figures["ndcg@5"].mean == pytest.approx(exact.figures["ndcg@5"].mean, abs=0.04)


async def test_nothing_is_recorded_before_it_happens(storage: Storage, tenant: TenantKey) -> None:
    events = _events(4)
    await storage.items.upsert_many(tenant, [Item(item_id) for item_id in {event.item_id for event in events}])
    replay = Replay(storage.events, tenant, reversed(events))
    for moment in (_START, _START + timedelta(days=2, minutes=1), _START + timedelta(days=2, minutes=1)):
        await replay.until(moment.timestamp())
        assert replay.loaded.events == sum(event.event_time < moment for event in events)
    assert len((await storage.models.signals(tenant)).item_keys) == 4 * 2 + 1


async def test_held_out_users_are_told_only_after_training(
    settings: Settings, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on: list[int] = []
    train = evaluation_run.train_with_progress

    async def observed(storage: Storage, tenant_key: TenantKey, *others: Any) -> Any:
        trained_on.append(len(np.unique((await storage.models.signals(tenant_key)).user_keys)))
        return await train(storage, tenant_key, *others)

    monkeypatch.setattr(evaluation_run, "train_with_progress", observed)
    report = await run(_a_plan(SplitKind.USER_HELD_OUT), settings, _QUIET)
    assert trained_on == [48]
    assert report.subjects == 16


async def test_a_test_event_that_is_loaded_stops_the_evaluation(
    settings: Settings, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, whole = await _tenants(storage), _data(_events())
    monkeypatch.setattr(evaluation_run, "part_of", lambda *_arguments: whole)
    with pytest.raises(Leakage, match="about to be loaded"):
        await run(_a_plan(SplitKind.TEMPORAL), settings, _QUIET)
    assert await _tenants(storage) == before


@pytest.mark.parametrize("split", [SplitKind.RANDOM, SplitKind.USER_HELD_OUT, SplitKind.NEXT_ITEM])
async def test_a_test_event_that_slipped_in_is_seen_in_the_tenant(
    settings: Settings, split: SplitKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _data(_events())
    monkeypatch.setattr(evaluation_run, "part_of", lambda *_arguments: whole)
    monkeypatch.setattr(evaluation_run, "watched", lambda events, _forbidden: events)
    with pytest.raises(Leakage, match="that are not in the train part"):
        await run(_a_plan(split), settings, _QUIET)


async def test_a_leaking_split_is_not_even_loaded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    split_table = evaluation_run.split_table

    def leaking(*arguments: Any, **options: Any) -> Task:
        task = split_table(*arguments, **options)
        everything = np.ones_like(task.split.train)
        return replace(task, split=replace(task.split, train=everything))

    monkeypatch.setattr(evaluation_run, "split_table", leaking)
    monkeypatch.setattr(evaluation_run, "open_storage", None)
    with pytest.raises(Leakage, match="both in the train part and in the test part"):
        await run(_a_plan(SplitKind.TEMPORAL), settings, _QUIET)


async def test_a_split_that_leaves_nothing_to_ask_says_so(settings: Settings) -> None:
    plan = _a_plan(SplitKind.LEAVE_LAST_OUT, data=_data(_events(steps=[0])))
    with pytest.raises(NothingToAsk, match="leave-last-out"):
        await run(plan, settings, _QUIET)


async def test_a_kept_tenant_can_be_looked_at(settings: Settings, storage: Storage) -> None:
    before = await _tenants(storage)
    await run(_a_plan(SplitKind.TEMPORAL), settings, _QUIET)
    assert await _tenants(storage) == before
    await run(_a_plan(SplitKind.TEMPORAL, keep=True), settings, _QUIET)
    (kept,) = await _tenants(storage) - before
    assert await storage.models.active((await storage.tenants.get(kept)).tenant_key) is not None  # type: ignore[arg-type]

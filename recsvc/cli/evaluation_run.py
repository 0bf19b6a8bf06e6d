"""One evaluation from data set to report: split, load the train part, train, ask the questions, judge the answers.

The service is judged as it serves: bulk import, the training pipeline, and the recommender with its vector index and
half-precision vectors, in this process or through gRPC. Only baselines are computed beside it. Guards against leakage
stand at every door.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from rich.console import Console
from scipy import sparse

from recsvc.app import Storage, build_engine, open_storage
from recsvc.cli.answers import AnswerSheet, agreement
from recsvc.cli.evaluation_plan import NothingToAsk, Plan
from recsvc.cli.loading import load, progress_bar
from recsvc.cli.loading import report as report_loaded
from recsvc.cli.questioning import InProcess, OverGrpc, item_keys, server_on
from recsvc.cli.replay import Replay
from recsvc.cli.tenants import new_key
from recsvc.cli.train import train_with_progress
from recsvc.datasets import Dataset
from recsvc.datasets.masked import ids_of, part_of, with_every_item, without_catalogue
from recsvc.domain.arrays import Codes, Interactions, Mask
from recsvc.domain.events import Event
from recsvc.domain.ids import ItemKey, TenantId, TenantKey
from recsvc.domain.models import Model
from recsvc.domain.recommendations import Strategy
from recsvc.domain.tenancy import Scope, Tenant, TenantSettings
from recsvc.settings import Settings
from recsvc.storage.models import Signals
from recsvc.training.challengers import Advance, baseline_lists
from recsvc.training.dataset import from_signals
from recsvc.training.evaluation import ItemVectors, Judged, Lists, judge
from recsvc.training.exact import ExactModel
from recsvc.training.exact_answers import exact_lists
from recsvc.training.leakage import check_sessions, check_stored_pairs, check_task, watched
from recsvc.training.pipeline import TrainingOptions
from recsvc.training.protocols import SplitKind, Table, Task, read_table, split_table, validation_for
from recsvc.training.report import Report, Served, versions
from recsvc.training.stopwatch import peak_memory_bytes

_DAY_S = 86_400.0
_COMPARED = 2000
"""Lists of a server that are compared with those of this process, evenly spread."""

_DERIVE_S, _PAUSE_S = 600.0, 0.05
"""How long new items may take to get their vectors, and how often is looked when another process is at it."""


@dataclass(slots=True)
class _Found:
    """What the stages of a run leave for the report."""

    lists: list[Lists] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    exact: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)

    def lap(self, stage: str, start: float) -> None:
        self.seconds[stage] = round(time.perf_counter() - start, 3)


@dataclass(frozen=True, slots=True)
class _Learned:
    """A model, and what the tenant knew when it was trained."""

    model: Model
    signals: Signals


async def run(plan: Plan, settings: Settings, console: Console) -> Report:
    """Evaluate. Raises Leakage, NothingToAsk, AnswerFailed, DatasetError, NotEnoughData and what the servers say."""
    found = _Found()
    start = time.perf_counter()
    table = read_table(plan.data.events(), plan.test_part.events() if plan.test_part is not None else ())
    task = split_table(table, plan.split, test_share=plan.test_share, at_most=plan.users, seed=plan.seed)
    if plan.live:
        # What is recorded when it happens need not be sent along.
        task = task.without_sessions()
    check_task(task)
    check_sessions(task)
    if len(task.questions) == 0:
        raise NothingToAsk(plan.split)
    found.facts |= {"train events": int(task.split.train.sum()), "items with events": len(table.item_ids)}
    found.lap("read and split", start)
    async with open_storage(settings) as storage:
        tenant_id = TenantId(f"evaluate-{uuid.uuid4().hex[:12]}")
        tenant = await storage.tenants.create(tenant_id, f"evaluation of {plan.name}", TenantSettings())
        try:
            learned = await _learn(plan, storage, tenant.tenant_key, task, found, console)
            await _ask(plan, settings, storage, tenant, task, found, console)
            if plan.exact and Strategy.AUTO in plan.strategies:
                await _recompute(plan, storage, tenant.tenant_key, learned, task, found)
        finally:
            if plan.keep:
                console.print(f"the tenant {tenant_id} was kept")
            else:
                await storage.tenants.delete(tenant_id)
    _challenge(plan, task, found, console)
    start = time.perf_counter()
    judged = judge(
        task,
        found.lists,
        ks=plan.ks,
        pairs=[(plan.served_name(served), name) for served in plan.strategies for name in plan.baselines],
        vectors=ItemVectors(task.train.T.tocsr(), _categories(plan.data, table)),
        seed=plan.seed,
    )
    found.lap("judge", start)
    return _report(plan, task, found, judged)


async def _learn(
    plan: Plan, storage: Storage, tenant_key: TenantKey, task: Task, found: _Found, console: Console
) -> _Learned:
    """Load the train part and train; only then tell what was kept from training."""
    table, split = task.table, task.split
    streams = [plan.data.events(), *([plan.test_part.events()] if plan.test_part is not None else [])]
    forbidden = ids_of(streams, split.test.tolist(), split.told.tolist())

    async def load_part(data: Dataset, mask: Mask, told: Mask) -> Signals:
        part = part_of(data, mask.tolist(), int(mask.sum()))
        guarded = replace(part, events=lambda: watched(part.events(), forbidden))
        loaded = await load(storage, tenant_key, guarded, console)
        report_loaded(loaded, console)
        if loaded.refused:
            found.facts["events and items refused"] = loaded.refused
        stored = await storage.models.signals(tenant_key)
        check_stored_pairs(table, told, len(stored.item_keys))
        return stored

    start = time.perf_counter()
    signals = await load_part(with_every_item(plan.data, table.item_ids), split.train, split.train)
    found.lap("load", start)
    start = time.perf_counter()
    validation = validation_for(task)
    options = TrainingOptions(
        dimension=plan.dimension, validation=validation, tune_budget_s=plan.tune_budget_s, seed=plan.seed
    )
    model = (await train_with_progress(storage, tenant_key, console, options)).model
    found.lap("train", start)
    found.facts |= {
        "algorithm": model.algorithm,
        "dimension": model.dimension,
        "validation": validation.value,
        "blend": " ".join(f"{source} {weight:.3g}" for source, weight in model.blend_weights.items()),
        "recency": " ".join(f"{source} {model.recency.get(source, 1.0):g}" for source in model.blend_weights),
    }
    if split.known is not None and split.known.any():
        await load_part(without_catalogue(plan.data), split.known, split.told)
    return _Learned(model, signals)


async def _ask(
    plan: Plan,
    settings: Settings,
    storage: Storage,
    tenant: Tenant,
    task: Task,
    found: _Found,
    console: Console,
) -> None:
    """The lists of every strategy; through a server also some of this process, to compare."""
    k, count = max(plan.ks), len(task.questions)
    engine = build_engine(storage, cached=False)
    # Items that training has not seen get their vectors now: who is asked first must not matter.
    async with asyncio.timeout(_DERIVE_S):
        while tenant.tenant_key in await storage.content.tenants_with_due_items():
            if not await engine.item_fold_in.refresh(tenant.tenant_key):
                await asyncio.sleep(_PAUSE_S)  # a server is at it
    here = InProcess(engine.recommender, tenant.tenant_key)
    compared = np.unique(np.linspace(0, count - 1, _COMPARED if plan.through_server else count).astype(np.int64))
    sheets = {
        (is_server, strategy): AnswerSheet(task, k)
        for is_server in {False, plan.through_server}
        for strategy in plan.strategies
    }
    replay = Replay(storage.events, tenant.tenant_key, _after_training(plan, task) if plan.live else ())
    async with AsyncExitStack() as stack:
        server: OverGrpc | None = None
        if plan.through_server:
            key = await new_key(storage, tenant.tenant_id, "evaluate", frozenset({Scope.RECOMMENDATIONS_READ}))
            server = await stack.enter_async_context(server_on(storage, settings, plan.address, key.secret))
        advance = stack.enter_context(_bar(console, "ask", count * len(plan.strategies) * (1 + plan.through_server)))
        for moment, rows in _steps(task, plan.live):
            await replay.until(moment)
            for strategy in plan.strategies:
                if server is not None:
                    await server.ask(task, rows.tolist(), strategy, k, sheets[True, strategy], advance)
                some = np.intersect1d(rows, compared).tolist()
                await here.ask(task, some, strategy, k, sheets[False, strategy], advance)
    if plan.live:
        found.facts["events recorded while asking"] = replay.loaded.events
        if plan.learn_every_s is not None:
            found.facts["baselines learn every"] = f"{plan.learn_every_s / _DAY_S:g} days"
    for strategy in plan.strategies:
        judged, own = sheets[plan.through_server, strategy].answers(), sheets[False, strategy].answers()
        alike = agreement(own, judged, compared.tolist()) if plan.through_server else None
        name = plan.served_name(strategy)
        found.lists.append(Lists(name, judged.items))
        found.served.append(Served(name, judged.seconds, count, judged.degraded, alike))
        found.seconds[f"ask {strategy.value}"] = round(judged.seconds, 3)


def _steps(task: Task, live: bool) -> Iterator[tuple[float, Codes]]:
    """Moments, ascending, with the questions that are asked then; without a live service all at once."""
    moments = task.questions.moments
    if not live:
        yield -np.inf, np.arange(len(moments))
        return
    order = np.argsort(moments, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(moments[order]) != 0))
    for rows in np.split(order, starts[1:]):
        yield float(moments[rows[0]]), rows


def _after_training(plan: Plan, task: Task) -> Iterator[Event]:
    return (event for event, is_told in zip(plan.data.events(), task.split.told.tolist(), strict=True) if not is_told)


async def _recompute(
    plan: Plan, storage: Storage, tenant_key: TenantKey, learned: _Learned, task: Task, found: _Found
) -> None:
    """The lists of AUTO without index and half precision."""
    start = time.perf_counter()
    id_of = await item_keys(storage.candidates, tenant_key, task.table.item_ids)
    code_of = {item_id: code for code, item_id in enumerate(task.table.item_ids)}
    exact = await asyncio.to_thread(ExactModel.of, from_signals(learned.signals), learned.model)
    columns = np.array([code_of[id_of[ItemKey(int(key))]] for key in exact.dataset.item_keys])
    name = f"{Strategy.AUTO.value}, exact"
    found.lists.append(
        Lists(name, await asyncio.to_thread(exact_lists, exact, task, columns, max(plan.ks), live=plan.live))
    )
    found.exact[plan.served_name(Strategy.AUTO)] = name
    found.lap("recompute exactly", start)


def _challenge(plan: Plan, task: Task, found: _Found, console: Console) -> None:
    """The lists of every baseline."""
    count = len(task.questions)
    for name in plan.baselines:
        start = time.perf_counter()
        with _bar(console, name, count) as advance:
            lists = baseline_lists(name, task, max(plan.ks), advance, learn_every_s=plan.learn_every_s)
            found.lists.append(Lists(name, lists))
        found.lap(f"baseline {name}", start)


def _report(plan: Plan, task: Task, found: _Found, judged: Judged) -> Report:
    shares = plan.split not in (SplitKind.GIVEN, SplitKind.LEAVE_LAST_OUT)
    return Report(
        dataset=plan.name,
        split=plan.split.value,
        command=plan.command,
        seed=plan.seed,
        test_share=plan.test_share if shares else None,
        subjects=len(np.unique(task.questions.subjects)),
        questions=len(task.questions),
        judged=judged,
        served=found.served,
        exact=found.exact,
        seconds=found.seconds,
        facts=found.facts,
        peak_memory_bytes=peak_memory_bytes(),
        versions=versions(),
    )


def _categories(data: Dataset, table: Table) -> Interactions | None:
    """(items, categories) of the catalogue; None when it has none."""
    code_of = {item_id: code for code, item_id in enumerate(table.item_ids)}
    columns: dict[str, int] = {}
    places = [
        (code_of[item.item_id], columns.setdefault(category, len(columns)))
        for item in data.items()
        if item.item_id in code_of
        for category in item.categories
    ]
    if not places:
        return None
    rows, cells = np.array(places).T
    return sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, cells)), shape=(len(code_of), len(columns)))


@contextmanager
def _bar(console: Console, what: str, total: int) -> Iterator[Advance]:
    with progress_bar(console) as bars:
        bar = bars.add_task(what[:8], total=total)
        yield lambda count: bars.advance(bar, count)

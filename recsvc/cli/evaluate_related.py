"""`recsvc evaluate-related`: similar items, bought together, similar users, RankItems, each by a question of its own.

As with `recsvc evaluate`, the train part is loaded and trained on, and what serves answers; only the baselines are
computed here. What is asked and how answers are judged is training.related_evaluation's.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import typer
from rich.console import Console
from rich.table import Table as RichTable

from recsvc.app import Engine, Storage, build_engine, build_projector, open_storage
from recsvc.cli.loading import load, progress_bar, report
from recsvc.cli.places import opened
from recsvc.cli.running import run_async
from recsvc.cli.train import train_with_progress
from recsvc.datasets import FORMATS, Dataset
from recsvc.datasets.masked import part_of, with_every_item
from recsvc.domain.arrays import Codes, Float64
from recsvc.domain.evaluation import EMPTY
from recsvc.domain.events import DEFAULT_EVENT_TYPES, Event
from recsvc.domain.ids import ItemId, SessionId, TenantId, TenantKey, UserId
from recsvc.domain.recommendations import RankQuery, SimilarItemsQuery, SimilarityBasis, SimilarUsersQuery
from recsvc.domain.tenancy import TenantSettings
from recsvc.settings import Settings
from recsvc.training import related_evaluation as related
from recsvc.training.algorithms.popularity import item_popularity
from recsvc.training.leakage import check_task
from recsvc.training.pipeline import TrainingOptions
from recsvc.training.protocols import SplitKind, Task, read_table, split_table, validation_for
from recsvc.training.related_evaluation import Judged

_CONCURRENCY = 4
_Answer = TypeVar("_Answer")
_NEGATIVES = 100
_MOST_WANTED = 20


class RelatedCall(StrEnum):
    """What is evaluated."""

    SIMILAR_ITEMS = "similar-items"
    BOUGHT_TOGETHER = "bought-together"
    SIMILAR_USERS = "similar-users"
    RANK_ITEMS = "rank-items"


@dataclass(frozen=True, slots=True)
class _Served:
    """A trained tenant with what answers for it, and what it is asked about."""

    tenant_key: TenantKey
    engine: Engine
    task: Task
    console: Console
    k: int
    at_most: int
    seed: int

    @property
    def popularity(self) -> Float64:
        return np.asarray(item_popularity(self.task.train), dtype=np.float64)

    @property
    def known(self) -> Codes:
        return related.known_items(self.task.table, self.task.split.train)

    def codes(self, ids: Iterable[str], code_of: Mapping[str, int]) -> Codes:
        """(k,) codes of what was answered; what no part of the data set has is a miss."""
        found = np.full(self.k, EMPTY, dtype=np.int64)
        for place, name in enumerate(ids):
            found[place] = code_of.get(name, EMPTY)
        return found


def evaluate_related(
    dataset: Annotated[str, typer.Argument(help=f"One of {', '.join(FORMATS)}.")],
    path: Annotated[Path | None, typer.Option(exists=True, help="Where it is; default: in RECSVC_DATA_DIR.")] = None,
    only: Annotated[list[RelatedCall] | None, typer.Option(help="Repeat for several; default: all.")] = None,
    split: Annotated[SplitKind, typer.Option(help="How to split.")] = SplitKind.TEMPORAL,
    test_share: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of the test part.")] = 0.2,
    k: Annotated[int, typer.Option(min=1, max=500, help="Length of the lists.")] = 10,
    questions: Annotated[int, typer.Option(min=1, help="Questions, or users, at most per call.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the split and of all samples.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there, too.")] = None,
    keep: Annotated[bool, typer.Option(help="Keep the tenant that was made for it.")] = False,
) -> None:
    """Judge SimilarItems, bought-together, SimilarUsers and RankItems against their baselines on a data set."""
    console = Console(stderr=True)
    whole = opened(dataset, path)
    table = read_table(whole.events())
    task = split_table(table, split, test_share=test_share, at_most=questions, seed=seed)
    check_task(task)
    is_train = task.split.train
    train_part = part_of(with_every_item(whole, table.item_ids), is_train.tolist(), int(is_train.sum()))

    async def run() -> Mapping[RelatedCall, Sequence[Judged]]:
        async with open_storage(Settings()) as storage:
            tenant_id = TenantId(f"evaluate-{dataset}-{uuid.uuid4().hex[:8]}")
            tenant_key = (await storage.tenants.create(tenant_id, "", TenantSettings())).tenant_key
            try:
                report(await load(storage, tenant_key, train_part, console), console)
                options = TrainingOptions(validation=validation_for(task), seed=seed)
                await train_with_progress(storage, tenant_key, console, options)
                await storage.database.analyze()
                engine = build_engine(storage, cached=False)
                served = _Served(tenant_key, engine, task, console, k, questions, seed)
                return {call: await _EVALUATIONS[call](storage, served, whole) for call in only or list(RelatedCall)}
            finally:
                if not keep:
                    await storage.tenants.delete(tenant_id)

    judged = run_async(run())
    for call, of_call in judged.items():
        Console().print(_table(f"{call.value} on {dataset}, {split.value} split", of_call))
    if json_file is not None:
        document = {
            "dataset": dataset,
            "split": split.value,
            "seed": seed,
            "calls": {
                call.value: {
                    one.name: {name: [value.mean, value.low, value.high] for name, value in one.figures.items()}
                    for one in of_call
                }
                for call, of_call in judged.items()
            },
        }
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


async def _similar_items(_storage: Storage, served: _Served, _whole: Dataset) -> Sequence[Judged]:
    task = served.task
    asked = related.next_steps(task.table, task.split.train, served.at_most, served.seed)
    return await _item_lists(served, asked, SimilarityBasis.BEHAVIOR)


async def _bought_together(_storage: Storage, served: _Served, whole: Dataset) -> Sequence[Judged]:
    task = served.task
    asked = related.basket_rest(task.table, _baskets(whole.events()), task.split.train, served.at_most, served.seed)
    return await _item_lists(served, asked, SimilarityBasis.BOUGHT_TOGETHER)


async def _item_lists(served: _Served, asked: related.ItemQuestions, basis: SimilarityBasis) -> Sequence[Judged]:
    if not len(asked):
        return []
    item_ids = served.task.table.item_ids
    code_of = {item_id: code for code, item_id in enumerate(item_ids)}

    async def answer(row: int) -> Codes:
        query = SimilarItemsQuery(ItemId(item_ids[asked.items[row]]), by=basis, count=served.k)
        found = await served.engine.similar_items.find(served.tenant_key, query)
        return served.codes((item.item_id for item in found.items), code_of)

    lists = np.array(await _each(len(asked), answer, served.console, basis.value.lower()))
    popular = related.popular_lists(served.popularity, asked, served.k)
    chance = related.random_lists(served.known, asked, served.k, served.seed)
    return [
        related.judge_lists(name, found, asked)
        for name, found in ((f"{basis} (served)", lists), ("popularity", popular), ("random", chance))
    ]


async def _similar_users(storage: Storage, served: _Served, _whole: Dataset) -> Sequence[Judged]:
    task = served.task
    # Without a service nobody else carries users over to the new model.
    engine = served.engine
    projector = build_projector(storage, engine)
    while await projector.fold_once() or await projector.renew_once():
        pass
    table = task.table
    known = [row for row, subject in enumerate(table.subjects) if not subject.is_session]
    pool = np.intersect1d(known, np.flatnonzero(np.diff(task.train.indptr)))
    users = np.intersect1d(pool, task.questions.subjects)
    if not len(users):
        return []
    code_of = {subject.id: row for row, subject in enumerate(table.subjects) if not subject.is_session}

    async def answer(row: int) -> Codes:
        query = SimilarUsersQuery(UserId(table.subjects[int(users[row])].id), count=served.k)
        found = await engine.similar_users.find(served.tenant_key, query)
        return served.codes((user.user_id for user in found.users), code_of)

    held_out = table.matrix(task.split.test & table.liked)
    answers = {
        "SimilarUsers (served)": np.array(await _each(len(users), answer, served.console, "users")),
        "nearest by items": related.nearest_by_items(task.train, pool, users, served.k),
        "most active": related.active_neighbors(task.train, pool, users, served.k),
        "random": related.random_neighbors(pool, users, served.k, served.seed),
    }
    return [related.judge_neighbors(name, found, users, held_out) for name, found in answers.items()]


async def _rank_items(_storage: Storage, served: _Served, _whole: Dataset) -> Sequence[Judged]:
    task = served.task
    table, asked = task.table, task.questions
    candidates = related.mixed_candidates(asked.wanted, asked.seen, served.known, _NEGATIVES, _MOST_WANTED, served.seed)
    rows = asked.subjects[[one.row for one in candidates]]
    if not len(rows):
        return []

    async def answer(number: int) -> Float64:
        subject, items = table.subjects[int(rows[number])], candidates[number].items
        query = RankQuery(
            tuple(ItemId(table.item_ids[item]) for item in items),
            user_id=None if subject.is_session else UserId(subject.id),
            session_id=SessionId(subject.id) if subject.is_session else None,
        )
        found = (await served.engine.recommender.rank_items(served.tenant_key, query)).recommendations
        score_of = {item.item_id: item.score for item in found.items}
        return np.array([score_of.get(ItemId(table.item_ids[item]), -np.inf) for item in items])

    scores = await _each(len(candidates), answer, served.console, "ranking")
    popularity = served.popularity
    answers: Mapping[str, list[Float64]] = {
        "RankItems (served)": scores,
        "popularity": [popularity[one.items] for one in candidates],
        "random": [np.zeros(len(one.items)) for one in candidates],
    }
    return [related.judge_scores(name, found, candidates, rows) for name, found in answers.items()]


_Evaluation = Callable[[Storage, _Served, Dataset], Awaitable[Sequence[Judged]]]
_EVALUATIONS: Mapping[RelatedCall, _Evaluation] = {
    RelatedCall.SIMILAR_ITEMS: _similar_items,
    RelatedCall.BOUGHT_TOGETHER: _bought_together,
    RelatedCall.SIMILAR_USERS: _similar_users,
    RelatedCall.RANK_ITEMS: _rank_items,
}


async def _each(count: int, answer: Callable[[int], Awaitable[_Answer]], console: Console, label: str) -> list[_Answer]:
    """The answers to all questions, some at a time, in order."""
    answers: dict[int, _Answer] = {}
    rows = iter(range(count))
    with progress_bar(console) as progress:
        bar = progress.add_task(label[:8], total=count)

        async def work() -> None:
            for row in rows:
                answers[row] = await answer(row)
                progress.advance(bar)

        async with asyncio.TaskGroup() as group:
            for _ in range(_CONCURRENCY):
                group.create_task(work())
    return [answers[row] for row in range(count)]


def _baskets(events: Iterable[Event]) -> Codes:
    """The basket of each event: a user's session for what is bought in one, negative for anything else."""
    conversions = {kind.event_type for kind in DEFAULT_EVENT_TYPES if kind.conversion}
    numbers: dict[tuple[str | None, str], int] = {}
    return np.array(
        [
            EMPTY
            if event.session_id is None or event.event_type not in conversions
            else numbers.setdefault((event.user_id, event.session_id), len(numbers))
            for event in events
        ],
        dtype=np.int64,
    )


def _table(title: str, judged: Sequence[Judged]) -> RichTable:
    table = RichTable(title=title)
    table.add_column("")
    for name in judged[0].figures if judged else ["nothing to ask in this data set"]:
        table.add_column(name)
    for one in judged:
        cells = [f"{value.mean:.4f}  [{value.low:.4f}, {value.high:.4f}]" for value in one.figures.values()]
        table.add_row(one.name, *cells)
    return table

"""`recsvc evaluate`: a data set split, its train part loaded and trained on, and the serving code judged on the rest.

Everything runs through what serves: bulk import, the training pipeline, and the recommender with its vector index and
half-precision vectors. Only the popularity baseline is computed here.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable

from recsvc.app import build_engine, open_storage
from recsvc.cli.loading import load, progress_bar, report
from recsvc.cli.running import run_async
from recsvc.cli.train import train_with_progress
from recsvc.datasets import FORMATS, Dataset, open_dataset
from recsvc.domain.arrays import Codes
from recsvc.domain.evaluation import EMPTY
from recsvc.domain.events import Event
from recsvc.domain.ids import TenantId, TenantKey, UserId
from recsvc.domain.recommendations import RecommendQuery, Strategy
from recsvc.domain.tenancy import TenantSettings
from recsvc.engine.recommender import Recommender
from recsvc.settings import Settings
from recsvc.training.evaluation import (
    Judgement,
    SplitKind,
    Task,
    judge,
    popularity_lists,
    read_table,
    split_table,
    tested_users,
)
from recsvc.training.pipeline import TrainingOptions

_CONCURRENCY = 4


@dataclass(frozen=True, slots=True)
class _Preset:
    data_format: str
    folder: str
    split: SplitKind
    train_file: str | None = None
    test_file: str | None = None


_PRESETS = {
    "gowalla": _Preset("lightgcn", "gowalla", SplitKind.GIVEN, "train.txt", "test.txt"),
    "movielens": _Preset("movielens", "ml-100k", SplitKind.TEMPORAL),
    "movielens-ua": _Preset("movielens", "ml-100k", SplitKind.GIVEN, "ua.base", "ua.test"),
    "goodbooks": _Preset("goodbooks", "goodbooks-10k", SplitKind.RANDOM),
    "deskdrop": _Preset("deskdrop", "deskdrop", SplitKind.TEMPORAL),
    "online-retail": _Preset("online-retail", "online-retail", SplitKind.TEMPORAL),
}


def evaluate(
    dataset: Annotated[str, typer.Argument(help=f"One of {', '.join(_PRESETS)}; or a format: {', '.join(FORMATS)}.")],
    path: Annotated[Path | None, typer.Option(exists=True, help="Where the data set is; needed for a format.")] = None,
    split: Annotated[SplitKind | None, typer.Option(help="How to split; default: what fits the data set.")] = None,
    test_share: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of the test part.")] = 0.2,
    k: Annotated[int, typer.Option(min=1, max=500, help="Length of the lists.")] = 20,
    users: Annotated[int | None, typer.Option(min=1, help="Judge a sample of so many users; default: all.")] = None,
    strategy: Annotated[list[Strategy] | None, typer.Option(help="Repeat for several; default AUTO.")] = None,
    dimension: Annotated[int | None, typer.Option(min=2, max=4000, help="Length of item vectors at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of the sample.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there, too.")] = None,
    keep: Annotated[bool, typer.Option(help="Keep the tenant that was made for it.")] = False,
) -> None:
    """Train on a part of a data set and print how well the served lists find the rest, against popularity."""
    preset = _PRESETS.get(dataset)
    if preset is None:
        if dataset not in FORMATS or path is None:
            raise typer.BadParameter(f"name one of {', '.join(_PRESETS)}, or a format with --path")
        preset = _Preset(dataset, "", SplitKind.TEMPORAL)
    place = path or _data_dir() / preset.folder
    if not place.exists():
        raise typer.BadParameter(f"{place} is not there; name its place with --path or RECSVC_DATA_DIR")
    console = Console(stderr=True)
    whole = open_dataset(preset.data_format, place, preset.train_file)
    test_part = open_dataset(preset.data_format, place, preset.test_file) if preset.test_file else None
    kind = split or preset.split
    if kind is SplitKind.GIVEN and test_part is None:
        raise typer.BadParameter("this data set has no given split", param_hint="--split")
    table = read_table(whole.events(), test_part.events() if test_part and kind is SplitKind.GIVEN else ())
    task = split_table(table, kind, test_share=test_share, seed=seed)
    tested = tested_users(task, users, seed)

    async def run() -> list[Judgement]:
        async with open_storage(Settings()) as storage:
            tenant_id = TenantId(f"evaluate-{dataset}-{uuid.uuid4().hex[:8]}")
            tenant_key = (await storage.tenants.create(tenant_id, "", TenantSettings())).tenant_key
            try:
                report(await load(storage, tenant_key, _train_part(whole, task), console), console)
                await train_with_progress(storage, tenant_key, console, TrainingOptions(dimension=dimension))
                await storage.database.analyze()
                recommender = build_engine(storage, cached=False).recommender
                judged = []
                for name in strategy or [Strategy.AUTO]:
                    lists = await _served_lists(recommender, tenant_key, task, tested, name, k, console)
                    judged.append(judge(f"{name} (served)", lists, task, tested))
                return [*judged, judge("popularity", popularity_lists(task, tested, k), task, tested)]
            finally:
                if not keep:
                    await storage.tenants.delete(tenant_id)

    judgements = run_async(run())
    title = f"{dataset}, {kind.value} split, {len(tested):,} users"
    Console().print(_table(title, judgements))
    if json_file is not None:
        document = {
            "dataset": dataset,
            "split": kind.value,
            "seed": seed,
            "users": len(tested),
            "models": {
                judged.name: {name: list(value) for name, value in judged.figures.items()} for judged in judgements
            },
        }
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _data_dir() -> Path:
    return Path(os.environ.get("RECSVC_DATA_DIR", "../shared/data"))


def _train_part(whole: Dataset, task: Task) -> Dataset:
    """The data set with the events of the train part only."""

    def events() -> Iterator[Event]:
        # The table may go on with a test part of its own, which is in no file of the whole.
        return (event for event, is_train in zip(whole.events(), task.is_train, strict=False) if is_train)

    return Dataset(whole.name, whole.items, whole.users, events, whole.item_count, int(task.is_train.sum()))


async def _served_lists(
    recommender: Recommender,
    tenant_key: TenantKey,
    task: Task,
    tested: NDArray[np.int64],
    strategy: Strategy,
    k: int,
    console: Console,
) -> Codes:
    """What the service recommends to each tested user, (users, k) item codes."""
    codes = {item_id: code for code, item_id in enumerate(task.table.item_ids)}
    lists = np.full((len(tested), k), EMPTY, dtype=np.int64)
    waiting = iter(enumerate(tested))
    with progress_bar(console) as progress:
        bar = progress.add_task(strategy.value.lower()[:8], total=len(tested))

        async def work() -> None:
            for row, user in waiting:
                query = RecommendQuery(user_id=UserId(task.table.user_ids[user]), count=k, strategy=strategy)
                found = await recommender.recommend(tenant_key, query)
                # An item that no split knows is a miss like any other.
                ranked = [codes.get(item.item_id, len(codes)) for item in found.items]
                lists[row, : len(ranked)] = ranked
                progress.advance(bar)

        async with asyncio.TaskGroup() as group:
            for _ in range(_CONCURRENCY):
                group.create_task(work())
    return np.where(lists == len(codes), EMPTY, lists)


def _table(title: str, judgements: list[Judgement]) -> RichTable:
    table = RichTable(title=title)
    table.add_column("")
    for judged in judgements:
        table.add_column(judged.name)
    for name in judgements[0].figures:
        cells = []
        for judged in judgements:
            mean, low, high = judged.figures[name]
            cells.append(f"{mean:.4f}" if low == high else f"{mean:.4f}  [{low:.4f}, {high:.4f}]")
        table.add_row(name, *cells)
    return table

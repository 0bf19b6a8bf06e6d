"""`recsvc evaluate-cold`: how well items that nobody has touched find their users, and what their first events change.

The command line only: the protocol is training.cold_start's.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as RichTable

from recsvc.app import build_engine, open_storage
from recsvc.cli.loading import progress_bar
from recsvc.cli.places import opened
from recsvc.cli.running import run_async
from recsvc.cli.train import train_with_progress
from recsvc.datasets import FORMATS
from recsvc.domain.ids import TenantId
from recsvc.domain.recommendations import Strategy
from recsvc.domain.tenancy import TenantSettings
from recsvc.settings import Settings
from recsvc.training.cold_start import ColdStart, ServedBy, cold_split, served
from recsvc.training.pipeline import TrainingOptions
from recsvc.training.protocols import read_table


def evaluate_cold(
    dataset: Annotated[str, typer.Argument(help=f"One of {', '.join(FORMATS)}.")],
    path: Annotated[Path | None, typer.Option(exists=True, help="Where it is; default: in RECSVC_DATA_DIR.")] = None,
    share: Annotated[float, typer.Option(min=0.001, max=0.9, help="Of the items that are kept out.")] = 0.1,
    events: Annotated[int, typer.Option(min=1, max=1000, help="First events of each new item.")] = 5,
    users: Annotated[int, typer.Option(min=1, help="Ask for so many users at most.")] = 2000,
    k: Annotated[int, typer.Option(min=1, max=500, help="Length of the lists.")] = 50,
    strategy: Annotated[Strategy, typer.Option(help="Of Recommend.")] = Strategy.AUTO,
    seed: Annotated[int, typer.Option(help="Of what is kept out and who is asked for.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there, too.")] = None,
    keep: Annotated[bool, typer.Option(help="Keep the tenant that was made for it.")] = False,
) -> None:
    """Train without a share of the items, create them as new, and see how often Recommend finds their users."""
    console = Console(stderr=True)
    whole = opened(dataset, path)
    try:
        split = cold_split(read_table(whole.events()), share, seed=seed, events_per_item=events, max_users=users)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    async def run() -> ColdStart:
        async with open_storage(Settings()) as storage:
            tenant_id = TenantId(f"evaluate-{dataset}-{uuid.uuid4().hex[:8]}")
            tenant_key = (await storage.tenants.create(tenant_id, "", TenantSettings())).tenant_key
            engine = build_engine(storage, cached=False)

            bars = progress_bar(console)
            bar = bars.add_task("ask", total=2 * len(split.tested))

            def advance(count: int) -> None:
                bars.start()  # not before: training has bars of its own
                bars.advance(bar, count)

            async def train() -> None:
                await storage.database.analyze()
                await train_with_progress(storage, tenant_key, console, TrainingOptions(seed=seed))

            try:
                by = ServedBy(storage.items, storage.events, engine.item_fold_in, engine.recommender, train)
                return await served(split, whole, tenant_key, by, k=k, strategy=strategy, advance=advance)
            finally:
                bars.stop()
                if not keep:
                    await storage.tenants.delete(tenant_id)

    found = run_async(run())
    Console().print(
        _table(f"{dataset}, {share:.0%} of the items new, recall@{k}, {found.users:,} users", events, found)
    )
    if json_file is not None:
        document = {"dataset": dataset, "share": share, "k": k, "events": events, "seed": seed, **asdict(found)}
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _table(title: str, events: int, found: ColdStart) -> RichTable:
    table = RichTable("of what users like of the new items", "recall", "by chance", "times chance", title=title)
    for name, recall in (("by content alone", found.content), (f"after {events} events each", found.after_events)):
        table.add_row(name, f"{recall.overall:.4f}", f"{recall.chance:.4f}", f"{recall.lift:.1f}")
    return table

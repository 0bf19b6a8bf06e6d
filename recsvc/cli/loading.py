"""Loads a data set into a tenant by the bulk paths of storage, with progress bars; repeating it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from recsvc.app import Storage
from recsvc.datasets import Dataset
from recsvc.domain.errors import DomainError
from recsvc.domain.events import Recorded
from recsvc.domain.ids import TenantKey

_ITEMS = 5_000
_EVENTS = 20_000
_TIMEOUT_S = 600.0
_Element = TypeVar("_Element")


@dataclass(slots=True)
class Loaded:
    """What came of a load."""

    items: int = 0
    users: int = 0
    events: int = 0
    duplicates: int = 0
    refused: int = 0
    first_refusal: str = ""

    def refuse(self, error: DomainError) -> None:
        """Count a refused element and keep the first reason."""
        self.refused += 1
        self.first_refusal = self.first_refusal or error.message


def progress_bar(console: Console) -> Progress:
    """The bar of all long work: what, how far, how long still."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )


async def load(storage: Storage, tenant_key: TenantKey, dataset: Dataset, console: Console) -> Loaded:
    """Load items, users and events, in this order."""
    loaded = Loaded()
    with progress_bar(console) as progress:
        items = progress.add_task("items", total=dataset.item_count)
        for item_chunk in _chunks(dataset.items(), _ITEMS):
            for item_outcome in await storage.items.upsert_many(tenant_key, item_chunk):
                if isinstance(item_outcome, DomainError):
                    loaded.refuse(item_outcome)
                else:
                    loaded.items += 1
            progress.advance(items, len(item_chunk))
        progress.update(items, total=progress.tasks[items].completed)
        users = progress.add_task("users", total=None)
        for user_chunk in _chunks(dataset.users(), _ITEMS):
            refused = await storage.users.upsert_many(tenant_key, user_chunk)
            for error in refused:
                loaded.refuse(error)
            loaded.users += len(user_chunk) - len(refused)
            progress.advance(users, len(user_chunk))
        progress.update(users, total=progress.tasks[users].completed)
        events = progress.add_task("events", total=dataset.event_count)
        for event_chunk in _chunks(dataset.events(), _EVENTS):
            for event_outcome in await storage.events.write(tenant_key, event_chunk, timeout_s=_TIMEOUT_S):
                if not isinstance(event_outcome, Recorded):
                    loaded.refuse(event_outcome)
                elif event_outcome.duplicate:
                    loaded.duplicates += 1
                else:
                    loaded.events += 1
            progress.advance(events, len(event_chunk))
        progress.update(events, total=progress.tasks[events].completed)
    # Plans for the new sizes at once, instead of when autovacuum comes round.
    await storage.database.analyze()
    return loaded


def report(loaded: Loaded, console: Console) -> None:
    """Say what was loaded, and what was not."""
    console.print(
        f"{loaded.items:,} items, {loaded.users:,} users, {loaded.events:,} events"
        + (f", {loaded.duplicates:,} events that were there before" if loaded.duplicates else "")
    )
    if loaded.refused:
        console.print(f"[red]{loaded.refused:,} refused; the first: {loaded.first_refusal}")


def _chunks(elements: Iterable[_Element], size: int) -> Iterator[list[_Element]]:
    iterator = iter(elements)
    while chunk := list(islice(iterator, size)):
        yield chunk

"""`recsvc import` and `recsvc seed`: real or generated data into a tenant."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsvc.app import Storage, open_storage
from recsvc.cli.loading import load, report
from recsvc.cli.running import run_async
from recsvc.datasets import FORMATS, Dataset, open_dataset, seed_dataset
from recsvc.domain.errors import AlreadyExists
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.tenancy import TenantSettings
from recsvc.settings import Settings

TenantOption = Annotated[str, typer.Option("--tenant", "-t", help="The tenant; created when there is none.")]


def import_data(
    data_format: Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of {', '.join(FORMATS)}.")],
    path: Annotated[Path, typer.Argument(exists=True, help="File or folder.")],
    tenant: TenantOption = "demo",
) -> None:
    """Import items, users and events. Repeating an import changes nothing: events carry ids made from their content."""
    if data_format not in FORMATS:
        raise typer.BadParameter(f"there are {', '.join(FORMATS)}", param_hint="FORMAT")
    _load(lambda: open_dataset(data_format, path), tenant)


def seed(
    items: Annotated[int, typer.Option(min=1, help="Items in the catalogue.")] = 2_000,
    users: Annotated[int, typer.Option(min=1, help="Users.")] = 1_000,
    events_per_user: Annotated[float, typer.Option(min=0, help="Events of a user on average.")] = 40.0,
    seed: Annotated[int, typer.Option(help="The same seed on the same day makes the same data.")] = 1,
    tenant: TenantOption = "demo",
) -> None:
    """Generate a believable catalogue and behaviour: Zipf popularity, latent tastes, sessions in time, new items."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    _load(lambda: seed_dataset(items, users, events_per_user, seed, today), tenant)


async def tenant_key_of(storage: Storage, tenant_id: str) -> TenantKey:
    """The tenant, created when there is none."""
    try:
        created = await storage.tenants.create(TenantId(tenant_id), "", TenantSettings())
    except AlreadyExists:
        return (await storage.tenants.get(TenantId(tenant_id))).tenant_key
    return created.tenant_key


def _load(opened: Callable[[], Dataset], tenant: str) -> None:
    console = Console(stderr=True)

    async def run() -> None:
        dataset = opened()
        async with open_storage(Settings()) as storage:
            report(await load(storage, await tenant_key_of(storage, tenant), dataset, console), console)

    run_async(run())

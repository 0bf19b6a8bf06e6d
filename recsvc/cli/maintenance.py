"""`recsvc settings`, `migrate` and `stop`: small commands for whoever runs the service."""

from __future__ import annotations

from typing import Any

import typer
from pydantic import BaseModel, SecretStr
from rich.console import Console
from rich.table import Table

from recsvc.app import open_urls
from recsvc.cli.running import run_async
from recsvc.embedded import stop_servers
from recsvc.settings import Settings
from recsvc.storage import migrator


def settings() -> None:
    """Print every setting with its environment variable, the value in force and what it means."""
    table = Table("variable", "value", "meaning")
    for variable, value, description in _described(Settings(), "RECSVC_"):
        table.add_row(variable, value, description)
    Console().print(table)


def migrate() -> None:
    """Bring the database's schema to this version. Safe to run at any time and from several machines."""

    async def run() -> list[migrator.Migration]:
        async with open_urls(Settings()) as urls:
            return await migrator.migrate(urls.database_url)

    applied = run_async(run())
    for migration in applied:
        typer.echo(f"applied {migration.version:04d} {migration.name}")
    if not applied:
        typer.echo("the schema is current")


def stop() -> None:
    """Stop the embedded PostgreSQL and Redis, unless a process uses them."""
    if stop_servers(Settings().embedded_dir):
        typer.echo("stopped")
    else:
        typer.echo("still in use by another process")
        raise typer.Exit(1)


def _described(model: BaseModel, prefix: str) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for name, field in type(model).model_fields.items():
        value: Any = getattr(model, name)
        variable = f"{prefix}{name.upper()}"
        if isinstance(value, BaseModel):
            rows += _described(value, f"{variable}__")
        else:
            shown = "***" if isinstance(value, SecretStr) else "" if value is None else str(value)
            rows.append((variable, shown, field.description or ""))
    return rows

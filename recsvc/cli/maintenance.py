"""`recsvc settings`, `migrate`, `health` and `stop`: small commands for whoever runs the service."""

from __future__ import annotations

from typing import Annotated, Any

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import BaseModel, SecretStr
from rich.console import Console
from rich.table import Table

from recsvc.app import open_urls
from recsvc.cli.channels import CaOption, CertKeyOption, CertOption, TlsOption, channel
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


def health(
    address: Annotated[str, typer.Argument(help="host:port of the service.")] = "localhost:50051",
    service: Annotated[str, typer.Option(help="'' for alive, readiness, or a service's full name.")] = "readiness",
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 3.0,
    tls: TlsOption = False,
    ca: CaOption = None,
    cert: CertOption = None,
    cert_key: CertKeyOption = None,
) -> None:
    """Ask a running service for its health; exit code 0 when it is serving. Fit for container probes."""
    try:
        with channel(address, tls, ca, cert, cert_key) as connection:
            stub = health_pb2_grpc.HealthStub(connection)
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
    except grpc.RpcError as error:
        typer.secho(f"{address}: {error.code().name}", err=True)
        raise typer.Exit(1) from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    typer.echo(status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(1)


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

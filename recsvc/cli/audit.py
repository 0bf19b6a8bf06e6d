"""`recsvc audit`: reads the audit log; and what other commands write into it."""

from __future__ import annotations

import getpass
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from recsvc.app import Storage, open_storage
from recsvc.cli.running import run_async
from recsvc.domain.audit import AuditEntry, AuditQuestion
from recsvc.domain.errors import DomainError
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.settings import Settings

_SERVICE = "recsvc.v1.AdminService"
_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


def audit(
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="Acted for, or acted upon.")] = "",
    actor: Annotated[str, typer.Option(help="Id of a key, cli:<account>, or configuration.")] = "",
    action: Annotated[str, typer.Option(help="A method: RevokeApiKey, or in full.")] = "",
    outcome: Annotated[str, typer.Option(help="A canonical code: OK, PERMISSION_DENIED, …")] = "",
    since: Annotated[datetime | None, typer.Option(formats=_TIMES, help="From then on (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(formats=_TIMES, help="Before then (UTC).")] = None,
    before: Annotated[int | None, typer.Option(help="Entries before this one: the next page.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Entries on a page.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show administrative actions, newest first."""
    question = AuditQuestion(
        tenant_id=tenant,
        actor=actor,
        action=action if "/" in action or not action else f"{_SERVICE}/{action}",
        outcome=outcome,
        since=since.replace(tzinfo=UTC) if since else None,
        until=until.replace(tzinfo=UTC) if until else None,
        before=before,
        limit=limit,
    )

    async def run() -> None:
        async with open_storage(Settings()) as storage:
            entries = await storage.audit_log.list(question)
        if as_json:
            for entry in entries:
                typer.echo(json.dumps(_document(entry), ensure_ascii=False))
            return
        table = Table("entry", "time", "tenant", "actor", "action", "targets", "outcome", "request")
        for entry in entries:
            document = _document(entry) | {"targets": " ".join(entry.targets)}
            table.add_row(*map(str, document.values()))
        Console().print(table)
        if len(entries) == limit:
            typer.secho(f"older entries: --before {entries[-1].key}", err=True)

    run_async(run())


@asynccontextmanager
async def audited(
    storage: Storage, tenant_key: TenantKey | None, tenant_id: TenantId, method: str, *targets: str
) -> AsyncIterator[AuditEntry]:
    """What a command has to note of an action in the transaction of that action; a refusal is noted here."""
    actor = f"cli:{getpass.getuser()}"
    entry = AuditEntry(tenant_key, tenant_id, actor, f"{_SERVICE}/{method}", targets)
    try:
        yield entry
    except DomainError as error:
        await storage.audit_log.append(replace(entry, outcome=error.code.name))
        raise


def _document(entry: AuditEntry) -> dict[str, object]:
    return {
        "entry": entry.key,
        "time": entry.time.isoformat(timespec="milliseconds") if entry.time else "",
        "tenant": entry.tenant_id,
        "actor": entry.actor,
        "action": entry.action,
        "targets": list(entry.targets),
        "outcome": entry.outcome,
        "request_id": entry.request_id,
    }

"""`recsvc tenants` and `recsvc keys`: administration from the machine itself, for the first key and for emergencies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from recsvc.app import Storage, open_storage
from recsvc.cli.audit import audited
from recsvc.cli.running import run_async
from recsvc.domain.bootstrap_keys import BootstrapKey, parse
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import KEY_ROTATION_OVERLAP, NewApiKey, Scope, TenantSettings
from recsvc.rpc.key_hasher import KeyHasher
from recsvc.settings import Settings

tenants = typer.Typer(help="Create, list and delete tenants.", no_args_is_help=True)
keys = typer.Typer(help="Create, list, rotate and revoke API keys.", no_args_is_help=True)
_MOST = 1000
TenantOption = Annotated[str, typer.Option("--tenant", "-t", help="The tenant's id.")]


@tenants.command("create")
def create_tenant(tenant_id: str, name: Annotated[str, typer.Option(help="A name for people.")] = "") -> None:
    """Create a tenant with the default event types."""

    async def run() -> None:
        async with (
            open_storage(Settings()) as storage,
            audited(storage, None, TenantId(tenant_id), "CreateTenant", tenant_id) as entry,
        ):
            await storage.tenants.create(TenantId(tenant_id), name, TenantSettings(), audit=entry)

    run_async(run())
    typer.echo(f"created tenant {tenant_id}")


@tenants.command("list")
def list_tenants() -> None:
    """List tenants by id."""

    async def run() -> None:
        table = Table("tenant", "name", "created")
        async with open_storage(Settings()) as storage:
            after = ""
            while page := await storage.tenants.list(after, _MOST):
                for tenant in page:
                    table.add_row(tenant.tenant_id, tenant.display_name, f"{tenant.create_time:%Y-%m-%d %H:%M}")
                after = page[-1].tenant_id
        Console().print(table)

    run_async(run())


@tenants.command("delete")
def delete_tenant(tenant_id: str, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete a tenant with all its data and keys."""
    if not yes:
        typer.confirm(f"Delete tenant {tenant_id} with all its data?", abort=True)

    async def run() -> None:
        async with (
            open_storage(Settings()) as storage,
            audited(storage, None, TenantId(tenant_id), "DeleteTenant", tenant_id) as entry,
        ):
            await storage.tenants.delete(TenantId(tenant_id), audit=entry)

    run_async(run())
    typer.echo(f"deleted tenant {tenant_id}")


@keys.command("create")
def create_key(
    tenant: TenantOption,
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    scope: Annotated[
        list[Scope] | None, typer.Option(help="Repeat for several; default: all but admin:service.")
    ] = None,
) -> None:
    """Create an API key and print it; its secret is never shown again."""

    async def run() -> NewApiKey:
        async with open_storage(Settings()) as storage:
            return await new_key(storage, TenantId(tenant), name, _wanted(scope))

    typer.echo(run_async(run()).secret)


@keys.command("list")
def list_keys(tenant: TenantOption) -> None:
    """List a tenant's keys, without secrets."""

    async def run() -> None:
        table = Table("key", "name", "scopes", "created", "last used", "revoked")
        async with open_storage(Settings()) as storage:
            found = await storage.tenants.get(TenantId(tenant))
            for key in await storage.keys.list(found.tenant_key, "", _MOST):
                table.add_row(
                    key.key_id,
                    key.display_name,
                    " ".join(sorted(key.scopes)),
                    f"{key.create_time:%Y-%m-%d %H:%M}",
                    f"{key.last_used_time:%Y-%m-%d %H:%M}" if key.last_used_time else "never",
                    f"{key.revoke_time:%Y-%m-%d %H:%M}" if key.revoke_time else "",
                )
        Console().print(table)

    run_async(run())


@keys.command("revoke")
def revoke_key(tenant: TenantOption, key_id: str) -> None:
    """Revoke a key, for good. Servers that trust it hear of it at once."""

    async def run() -> None:
        async with open_storage(Settings()) as storage:
            found = await storage.tenants.get(TenantId(tenant))
            async with audited(storage, found.tenant_key, found.tenant_id, "RevokeApiKey", key_id) as entry:
                await storage.keys.revoke(found.tenant_key, key_id, audit=entry)
            await _tell_servers(storage)

    run_async(run())
    typer.echo(f"revoked {key_id}")


@keys.command("rotate")
def rotate_key(
    tenant: TenantOption,
    key_id: str,
    overlap_s: Annotated[float, typer.Option("--overlap", min=0, help="Seconds for which the old secret is good.")] = (
        KEY_ROTATION_OVERLAP.total_seconds()
    ),
) -> None:
    """Give a key a new secret and print it; the old one stays good for a while."""

    async def run() -> str:
        async with open_storage(Settings()) as storage:
            found = await storage.tenants.get(TenantId(tenant))
            fresh = await KeyHasher(storage.settings.auth).make(key_id)
            overlap = timedelta(seconds=overlap_s)
            async with audited(storage, found.tenant_key, found.tenant_id, "RotateApiKey", key_id) as entry:
                await storage.keys.rotate(found.tenant_key, key_id, fresh.secret_hash, overlap, audit=entry)
            await _tell_servers(storage)
            return fresh.text

    typer.echo(run_async(run()))


@keys.command("hash")
def hash_key(
    tenant: TenantOption,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="Repeat for several; default: all but admin:service.")
    ] = None,
) -> None:
    """Make a key without a database: prints the key, and the line for RECSVC_AUTH__BOOTSTRAP_KEYS or its file."""
    fresh = run_async(KeyHasher(Settings().auth).make())
    line = BootstrapKey(fresh.key_id, fresh.secret_hash, TenantId(tenant), _wanted(scope)).line
    # What could not be configured is told here, not at the next start.
    parse(line)
    typer.secho("key, which is never shown again:", err=True)
    typer.echo(fresh.text)
    typer.secho("line for the configuration:", err=True)
    typer.echo(line)


def _wanted(scopes: Sequence[Scope] | None) -> frozenset[Scope]:
    return frozenset(scopes or (each for each in Scope if each is not Scope.ADMIN_SERVICE))


async def _tell_servers(storage: Storage) -> None:
    if not await storage.changes.offer_again():
        wait_s = storage.settings.auth.cache_ttl_s
        typer.secho(f"Redis could not be told: servers may trust the key for {wait_s:g} seconds", err=True)


async def new_key(storage: Storage, tenant_id: TenantId, name: str, scopes: frozenset[Scope]) -> NewApiKey:
    """Make and store a key."""
    tenant = await storage.tenants.get(tenant_id)
    fresh = await KeyHasher(storage.settings.auth).make()
    async with audited(storage, tenant.tenant_key, tenant_id, "CreateApiKey", fresh.key_id) as entry:
        stored = await storage.keys.insert(
            tenant.tenant_key, fresh.key_id, fresh.secret_hash, name, scopes, None, audit=entry
        )
    return NewApiKey(stored, fresh.text)

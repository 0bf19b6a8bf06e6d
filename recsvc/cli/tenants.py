"""`recsvc tenants` and `recsvc keys`: administration from the machine itself, for the first key and for emergencies."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from recsvc.app import Storage, open_storage
from recsvc.cli.running import run_async
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import NewApiKey, Scope, TenantSettings
from recsvc.rpc.authentication import KeyHasher
from recsvc.settings import Settings

tenants = typer.Typer(help="Create, list and delete tenants.", no_args_is_help=True)
keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
_MOST = 1000
TenantOption = Annotated[str, typer.Option("--tenant", "-t", help="The tenant's id.")]


@tenants.command("create")
def create_tenant(tenant_id: str, name: Annotated[str, typer.Option(help="A name for people.")] = "") -> None:
    """Create a tenant with the default event types."""

    async def run() -> None:
        async with open_storage(Settings()) as storage:
            await storage.tenants.create(TenantId(tenant_id), name, TenantSettings())

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
        async with open_storage(Settings()) as storage:
            await storage.tenants.delete(TenantId(tenant_id))

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
            wanted = frozenset(scope or (each for each in Scope if each is not Scope.ADMIN_SERVICE))
            return await new_key(storage, TenantId(tenant), name, wanted)

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
    """Revoke a key, for good. Servers that trust it forget it within a minute."""

    async def run() -> None:
        async with open_storage(Settings()) as storage:
            found = await storage.tenants.get(TenantId(tenant))
            await storage.keys.revoke(found.tenant_key, key_id)

    run_async(run())
    typer.echo(f"revoked {key_id}")


async def new_key(storage: Storage, tenant_id: TenantId, name: str, scopes: frozenset[Scope]) -> NewApiKey:
    """Make and store a key."""
    tenant = await storage.tenants.get(tenant_id)
    fresh = await KeyHasher(storage.settings.auth).make()
    stored = await storage.keys.insert(tenant.tenant_key, fresh.key_id, fresh.secret_hash, name, scopes, None)
    return NewApiKey(stored, fresh.text)

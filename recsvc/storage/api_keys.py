"""API keys at rest: their hashes, never their secrets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.rows import DictRow

from recsvc.domain.audit import AuditEntry
from recsvc.domain.bootstrap_keys import BootstrapKey
from recsvc.domain.cleaning import clean_display_name
from recsvc.domain.errors import ApiKeyNotFound
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.tenancy import ApiKey, Scope
from recsvc.storage.audit_log import append
from recsvc.storage.changes import Changes
from recsvc.storage.database import Database, Params, execute
from recsvc.storage.statements import load

_SQL = load("api_keys")


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as authentication needs it."""

    key: ApiKey
    tenant_key: TenantKey
    tenant_id: TenantId
    secret_hash: str
    previous_secret_hash: str | None
    previous_expire_time: datetime | None

    def __repr__(self) -> str:
        """Keep the hashes out of logs and tracebacks."""
        return f"StoredKey({self.key.key_id})"


class ApiKeyRepository:
    """Keys by id (for authentication, over all tenants) and by tenant (for administration)."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def insert(
        self,
        tenant_key: TenantKey,
        key_id: str,
        secret_hash: str,
        display_name: str,
        scopes: Iterable[Scope],
        expire_time: datetime | None,
        *,
        audit: AuditEntry | None = None,
    ) -> ApiKey:
        """Store a new key. Raises InvalidField for a display name with control characters."""
        parameters = {
            "tenant": tenant_key,
            "key_id": key_id,
            "secret_hash": secret_hash,
            "display_name": clean_display_name(display_name, "display_name"),
            "scopes": sorted(scope.value for scope in scopes),
            "expire_time": expire_time,
        }
        async with self._database.tenant_transaction(tenant_key) as connection:
            cursor = await execute(connection, _SQL["insert_key"], parameters)
            row = await cursor.fetchone()
            await append(connection, audit)
        return _key(row)

    async def insert_bootstrap(self, key: BootstrapKey) -> bool:
        """Store a key of the configuration; False when one of its id is there, or its tenant is not."""
        parameters = {
            "key_id": key.key_id,
            "tenant_id": key.tenant_id,
            "secret_hash": key.secret_hash,
            "scopes": sorted(scope.value for scope in key.scopes),
        }
        async with self._database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["insert_bootstrap_key"], parameters)
            row = await cursor.fetchone()
            if row is None:
                return False
            action = "recsvc.v1.AdminService/CreateApiKey"
            entry = AuditEntry(TenantKey(row["tenant_key"]), key.tenant_id, "configuration", action, (key.key_id,))
            await append(connection, entry)
        return True

    async def find(self, key_id: str) -> StoredKey | None:
        """The key of this id, whichever tenant it belongs to, revoked and expired ones too."""
        async with self._database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["find_key"], {"key_id": key_id})
            row = await cursor.fetchone()
        stored = StoredKey(
            key=_key(row),
            tenant_key=TenantKey(row["tenant_key"]),
            tenant_id=TenantId(row["tenant_id"]),
            secret_hash=row["secret_hash"],
            previous_secret_hash=row["previous_secret_hash"],
            previous_expire_time=row["previous_expire_time"],
        )
        return stored if stored.key.key_id == key_id else None

    async def note_use(self, key_id: str, at_most_every: timedelta) -> None:
        """Set last_used_time to now, unless that was done a moment ago."""
        parameters = {"key_id": key_id, "at_most_every_s": at_most_every.total_seconds()}
        async with self._database.service_transaction() as connection:
            await execute(connection, _SQL["note_use"], parameters)

    async def list(self, tenant_key: TenantKey, after: str, limit: int) -> list[ApiKey]:
        """A tenant's keys by id, after the given id."""
        rows = await self._database.fetch_all(
            tenant_key, _SQL["list_keys"], {"tenant": tenant_key, "after": after, "limit": limit}
        )
        return [_key(row) for row in rows]

    async def rotate(
        self,
        tenant_key: TenantKey,
        key_id: str,
        secret_hash: str,
        overlap: timedelta,
        *,
        audit: AuditEntry | None = None,
    ) -> ApiKey:
        """Give a key a new secret. Raises ApiKeyNotFound, for revoked keys too."""
        parameters = {
            "tenant": tenant_key,
            "key_id": key_id,
            "secret_hash": secret_hash,
            "overlap_s": overlap.total_seconds(),
        }
        return await self._change(tenant_key, key_id, _SQL["rotate_key"], parameters, audit)

    async def revoke(self, tenant_key: TenantKey, key_id: str, *, audit: AuditEntry | None = None) -> ApiKey:
        """Revoke a key. Raises ApiKeyNotFound."""
        parameters = {"tenant": tenant_key, "key_id": key_id}
        return await self._change(tenant_key, key_id, _SQL["revoke_key"], parameters, audit)

    async def _change(
        self, tenant_key: TenantKey, key_id: str, statement: str, parameters: Params, audit: AuditEntry | None
    ) -> ApiKey:
        async with self._database.tenant_transaction(tenant_key) as connection:
            cursor = await execute(connection, statement, parameters)
            row = await cursor.fetchone()
            if row is None:
                raise ApiKeyNotFound(key_id)
            await append(connection, audit)
        await self._changes.keys_changed([key_id])
        return _key(row)


def _key(row: DictRow) -> ApiKey:
    return ApiKey(
        key_id=row["key_id"],
        display_name=row["display_name"],
        scopes=frozenset(Scope(scope) for scope in row["scopes"]),
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        revoke_time=row["revoke_time"],
        last_used_time=row["last_used_time"],
    )

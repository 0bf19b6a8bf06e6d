"""Tenants, their settings and attribute schemas, and the version counter that tells caches of changes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from psycopg import sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from recsvc.domain.audit import AuditEntry
from recsvc.domain.catalog import AttributeRule, AttributeType
from recsvc.domain.cleaning import check_name, check_settings, clean_display_name, clean_rule
from recsvc.domain.errors import AlreadyExists, AttributeTypeInUse, TenantNotFound
from recsvc.domain.events import DEFAULT_EVENT_TYPES
from recsvc.domain.ids import ModelKey, TenantId, TenantKey
from recsvc.domain.tenancy import ServingModel, Tenant, TenantProfile, TenantSettings
from recsvc.storage.audit_log import append
from recsvc.storage.changes import Changes
from recsvc.storage.connection import Connection
from recsvc.storage.database import Database, execute
from recsvc.storage.statements import compose, load

_SQL = load("tenants")
# A change of type reads the attributes of every item.
_SCAN_TIMEOUT_S = 60.0


async def raise_version(connection: Connection, tenant_key: TenantKey) -> int:
    """Note in this transaction that the tenant's lists are outdated; returns the version to announce after it."""
    cursor = await execute(connection, _SQL["raise_version"], {"tenant": tenant_key})
    row = await cursor.fetchone()
    return int(row["version"])


class TenantRepository:
    """Runs over all tenants, so it works as the owner of the schema; callers check scopes."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def create(
        self, tenant_id: TenantId, display_name: str, settings: TenantSettings, *, audit: AuditEntry | None = None
    ) -> Tenant:
        """Raises AlreadyExists and InvalidField."""
        check_name(tenant_id, "tenant.tenant_id")
        check_settings(settings.document, "tenant.settings")
        event_types = [
            {
                "event_type": kind.event_type,
                "weight": kind.weight,
                "half_life_s": kind.half_life.total_seconds() if kind.half_life else None,
                "counts_as_seen": kind.counts_as_seen,
                "conversion": kind.conversion,
            }
            for kind in DEFAULT_EVENT_TYPES
        ]
        async with self._database.service_transaction() as connection:
            cursor = await execute(
                connection,
                _SQL["create_tenant"],
                {
                    "tenant_id": tenant_id,
                    "display_name": clean_display_name(display_name, "tenant.display_name"),
                    "settings": settings.document,
                    "event_types": Jsonb(event_types),
                },
            )
            row = await cursor.fetchone()
            if row is None:
                raise AlreadyExists("tenant", tenant_id)
            await append(connection, audit)
        return _tenant(row)

    async def get(self, tenant_id: TenantId) -> Tenant:
        """Raises TenantNotFound."""
        async with self._database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["get_tenant"], {"tenant_id": tenant_id})
            row = await cursor.fetchone()
        if row is None:
            raise TenantNotFound(tenant_id)
        return _tenant(row)

    async def list(self, after: str, limit: int) -> list[Tenant]:
        """Tenants by id, after the given id."""
        async with self._database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["list_tenants"], {"after": after, "limit": limit})
            return [_tenant(row) for row in await cursor.fetchall()]

    async def update(
        self, tenant_id: TenantId, change: Callable[[Tenant], Tenant], *, audit: AuditEntry | None = None
    ) -> Tenant:
        """Apply a change to the tenant as it is now, atomically. Raises TenantNotFound and InvalidField."""
        async with self._database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["lock_tenant"], {"tenant_id": tenant_id})
            row = await cursor.fetchone()
            if row is None:
                raise TenantNotFound(tenant_id)
            changed = change(_tenant(row))
            check_settings(changed.settings.document, "tenant.settings")
            cursor = await execute(
                connection,
                _SQL["update_tenant"],
                {
                    "tenant_id": tenant_id,
                    "display_name": clean_display_name(changed.display_name, "tenant.display_name"),
                    "settings": changed.settings.document,
                },
            )
            stored = _tenant(await cursor.fetchone())
            version = await raise_version(connection, stored.tenant_key)
            await append(connection, audit)
        await self._changes.tenant_changed(stored.tenant_key, version)
        return stored

    async def delete(self, tenant_id: TenantId, *, audit: AuditEntry | None = None) -> None:
        """Delete a tenant with all that is held for it. Raises TenantNotFound."""
        async with self._database.service_transaction(timeout_s=600) as connection:
            cursor = await execute(connection, _SQL["delete_tenant"], {"tenant_id": tenant_id})
            row = await cursor.fetchone()
            if row is None:
                raise TenantNotFound(tenant_id)
            tenant_key = TenantKey(row["tenant_key"])
            for name in (
                "delete_events",
                "delete_event_ids",
                "delete_factors",
                "delete_neighbors",
                "delete_transitions",
                "delete_shown",
            ):
                await execute(connection, _SQL[name], {"tenant": tenant_key})
            await append(connection, audit)
            # Last, since it shuts all readers of vectors out until the commit.
            for partition in row["partitions"] or ():
                await connection.execute(compose(_SQL["drop_partition"], partition=sql.Identifier(partition)))
        await self._changes.keys_changed(row["key_ids"])
        await self._changes.tenant_changed(tenant_key, 0)

    async def profile(self, tenant_key: TenantKey) -> TenantProfile:
        """What serving needs to know of a tenant. Raises TenantNotFound."""
        row = await self._database.fetch_one(tenant_key, _SQL["tenant_profile"], {"tenant": tenant_key})
        if row is None:
            raise TenantNotFound(str(tenant_key))
        model = None
        if row["model_key"] is not None:
            model = ServingModel(
                model_key=ModelKey(row["model_key"]),
                model_id=row["model_id"],
                dimension=row["dimension"],
                shard=row["shard"],
                blend_weights=row["blend_weights"],
                recency=row["recency"],
                signal_power=row["signal_power"],
                disliked_strength=row["disliked_strength"],
            )
        schema = tuple(
            AttributeRule(key, AttributeType(kind), required, filterable)
            for key, kind, required, filterable in row["attribute_schema"]
        )
        return TenantProfile(
            tenant_key=TenantKey(row["tenant_key"]),
            tenant_id=TenantId(row["tenant_id"]),
            version=row["version"],
            settings=TenantSettings(json.dumps(row["settings"], sort_keys=True)),
            attribute_schema=schema,
            model=model,
        )

    async def recent_versions(self, seconds: float) -> Mapping[TenantKey, int]:
        """Versions that were raised within the last `seconds`."""
        async with self._database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["recent_versions"], {"seconds": seconds})
            return {TenantKey(row["tenant_key"]): row["version"] for row in await cursor.fetchall()}

    async def attribute_schema(self, tenant_key: TenantKey) -> Sequence[AttributeRule]:
        """The allow-list of attributes, by key."""
        rows = await self._database.fetch_all(tenant_key, _SQL["get_attribute_schema"], {"tenant": tenant_key})
        return [
            AttributeRule(
                row["key"], AttributeType(row["type"]), row["required"], row["filterable"], row["description"]
            )
            for row in rows
        ]

    async def replace_attribute_schema(
        self, tenant_key: TenantKey, sent: Sequence[AttributeRule]
    ) -> Sequence[AttributeRule]:
        """Put a new allow-list in place of the old one; returns it as it is stored.

        Raises InvalidField, and AttributeTypeInUse when stored items have values of another type than a key is given.
        """
        rules = [clean_rule(rule, f"schema.attributes[{index}]") for index, rule in enumerate(sent)]
        known = {(rule.key, rule.type) for rule in await self.attribute_schema(tenant_key)}
        retyped = {rule.key: rule.type for rule in rules if (rule.key, rule.type) not in known}
        async with self._database.tenant_transaction(tenant_key, timeout_s=_SCAN_TIMEOUT_S) as connection:
            if retyped:
                parameters = {"tenant": tenant_key, "keys": list(retyped), "types": [*map(str, retyped.values())]}
                cursor = await execute(connection, _SQL["mistyped_attributes"], parameters)
                wrong = {row["key"]: row["item_id"] for row in await cursor.fetchall()}
                for index, rule in enumerate(rules):
                    if rule.key in wrong:
                        raise AttributeTypeInUse(
                            f"schema.attributes[{index}].type",
                            f"item {wrong[rule.key]!r} has a value of {rule.key!r} that is no {rule.type}",
                        )
            await execute(connection, _SQL["clear_attribute_schema"], {"tenant": tenant_key})
            for rule in rules:
                parameters = {**asdict(rule), "type": rule.type.value, "tenant": tenant_key}
                await execute(connection, _SQL["insert_attribute_rule"], parameters)
            version = await raise_version(connection, tenant_key)
        await self._changes.tenant_changed(tenant_key, version)
        return rules

    async def service_secret(self, name: str) -> bytes:
        """A random secret of 32 bytes that all processes of the service share."""
        async with self._database.service_transaction() as connection:
            parameters = {"name": name, "secret": secrets.token_bytes(32)}
            for _ in range(2):  # the loser of a race sees the winner's row on its second look
                cursor = await execute(connection, _SQL["service_secret"], parameters)
                row = await cursor.fetchone()
                if row is not None:
                    return bytes(row["secret"])
        raise RuntimeError(f"the service secret {name} can neither be made nor read")


def _tenant(row: DictRow) -> Tenant:
    return Tenant(
        tenant_id=TenantId(row["tenant_id"]),
        tenant_key=TenantKey(row["tenant_key"]),
        display_name=row["display_name"],
        settings=TenantSettings(json.dumps(row["settings"], sort_keys=True)),
        create_time=row["create_time"],
        update_time=row["update_time"],
    )

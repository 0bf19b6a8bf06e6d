"""Tenants, their settings, API keys and scopes: who may do what, and how a tenant wants to be served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from recsvc.domain.catalog import AttributeRule
from recsvc.domain.ids import ModelKey, TenantId, TenantKey


class Scope(StrEnum):
    """What an API key may do."""

    RECOMMENDATIONS_READ = "recommendations:read"
    CATALOG_READ = "catalog:read"
    CATALOG_WRITE = "catalog:write"
    USERS_READ = "users:read"
    USERS_WRITE = "users:write"
    EVENTS_WRITE = "events:write"
    EVENTS_READ = "events:read"
    EXPERIMENTS_WRITE = "experiments:write"
    ADMIN_TENANT = "admin:tenant"
    ADMIN_SERVICE = "admin:service"


@dataclass(frozen=True, slots=True)
class TenantSettings:
    """How a tenant is served, as the JSON of the proto `TenantSettings`.

    document: the message in proto3 JSON, as text: hashable, so that what is parsed from it can be remembered.
    """

    document: str = "{}"


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer of the service, with data of its own."""

    tenant_id: TenantId
    tenant_key: TenantKey
    display_name: str = ""
    settings: TenantSettings = field(default_factory=TenantSettings)
    create_time: datetime | None = None
    update_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class ServingModel:
    """What serving needs to know of the active model.

    recency: by source, signal_power and disliked_strength: as Model has them.
    """

    model_key: ModelKey
    model_id: str
    dimension: int
    shard: int
    blend_weights: Mapping[str, float]
    recency: Mapping[str, float]
    signal_power: float = 0.0
    disliked_strength: float = 0.0


@dataclass(frozen=True, slots=True)
class TenantProfile:
    """What every request needs of its tenant; `version` changes whenever anything that shapes its lists does."""

    tenant_key: TenantKey
    tenant_id: TenantId
    version: int
    settings: TenantSettings
    attribute_schema: tuple[AttributeRule, ...]
    model: ServingModel | None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret."""

    key_id: str
    display_name: str
    scopes: frozenset[Scope]
    create_time: datetime
    expire_time: datetime | None = None
    revoke_time: datetime | None = None
    last_used_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key at the one moment when its secret is known: `rk_<id>_<secret>`."""

    key: ApiKey
    secret: str

    def __repr__(self) -> str:
        """Keep the secret out of logs and tracebacks."""
        return f"NewApiKey({self.key.key_id})"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a call: the tenant it acts for and the scopes of its key."""

    tenant_key: TenantKey
    tenant_id: TenantId
    key_id: str
    scopes: frozenset[Scope]


KEY_ROTATION_OVERLAP = timedelta(hours=24)

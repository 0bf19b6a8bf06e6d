"""Tenant profiles kept in process for a moment: settings and active model are read by every call, written rarely."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from recsvc.cache.lists import ListCache
from recsvc.domain.errors import DeadlinePassed, DomainError, StorageUnavailable
from recsvc.domain.ids import TenantKey
from recsvc.domain.tenancy import TenantProfile
from recsvc.engine.gathering import Gathering
from recsvc.resilience.in_time import in_time
from recsvc.storage.tenants import TenantRepository
from recsvc.telemetry.metrics import Metrics

_LIFE_S = 1.0
_LOAD_S = 1.0
_PATIENT_LOAD_S = 10.0
_ASKED_AT_ONCE = 1000


@dataclass(slots=True)
class _Entry:
    profile: TenantProfile
    loaded: float


class TenantProfiles:
    """Profiles no older than a second, or than a version that is known to exist; one caller at a time loads.

    While the database is slow, one that is older than a second is answered while it is being loaded anew.
    """

    def __init__(
        self,
        tenants: TenantRepository,
        cache: ListCache | None,
        metrics: Metrics,
        is_slow: Callable[[], bool] = lambda: False,
    ) -> None:
        """is_slow: whether the database is at present."""
        self._tenants = tenants
        self._cache = cache
        self._is_slow = is_slow
        self._loading: dict[TenantKey, asyncio.Task[None]] = {}
        self._entries: dict[TenantKey, _Entry] = {}
        self._failures: dict[TenantKey, float] = {}
        self._locks: dict[TenantKey, asyncio.Lock] = {}
        self._versions = Gathering(self._announced, _ASKED_AT_ONCE)
        self._look_ups = metrics.look_ups("profiles")
        metrics.watch_entries("profiles", lambda: len(self._entries))

    async def get(self, tenant_key: TenantKey, at_least: int = 0) -> TenantProfile:
        """The tenant's profile, of version `at_least` or later. Raises TenantNotFound."""
        profile = self._recent(tenant_key, at_least)
        self._look_ups.count(profile is not None)
        if profile is not None:
            return profile
        entry = self._entries.get(tenant_key)
        if entry is not None and entry.profile.version >= at_least and self._is_slow():
            self._load_meanwhile(tenant_key)
            return entry.profile
        async with self._locks.setdefault(tenant_key, asyncio.Lock()):
            profile = self._recent(tenant_key, at_least)
            if profile is not None:
                return profile
            # Who waited while another found the database away must not wait for it once more.
            if time.monotonic() - self._failures.get(tenant_key, -_LIFE_S) >= _LIFE_S:
                try:
                    return await in_time(self._load(tenant_key), _LOAD_S)
                except (StorageUnavailable, DeadlinePassed):
                    self._failures[tenant_key] = time.monotonic()
            # An old profile still leads to the cached lists; whatever needs the database fails by itself.
            if tenant_key in self._entries:
                return self._entries[tenant_key].profile
            raise StorageUnavailable

    def last(self, tenant_key: TenantKey) -> TenantProfile | None:
        """The profile that was loaded last, however long ago."""
        entry = self._entries.get(tenant_key)
        return entry.profile if entry is not None else None

    async def get_current(self, tenant_key: TenantKey) -> TenantProfile:
        """The profile of the version that caches know of: what was changed before this call is in it."""
        version = await self._versions.answer(tenant_key) if self._cache is not None else None
        return await self.get(tenant_key, version or 0)

    async def _announced(self, tenant_keys: Sequence[TenantKey]) -> list[int | None]:
        assert self._cache is not None  # noqa: S101  (else nobody asks)
        versions = {key: await self._cache.tenant_version(key) for key in set(tenant_keys)}
        return [versions[key] for key in tenant_keys]

    def _recent(self, tenant_key: TenantKey, at_least: int) -> TenantProfile | None:
        entry = self._entries.get(tenant_key)
        if entry is None or time.monotonic() - entry.loaded >= _LIFE_S or entry.profile.version < at_least:
            return None
        return entry.profile

    def _load_meanwhile(self, tenant_key: TenantKey) -> None:
        async def load() -> None:
            try:
                # A tenant that is gone is found out about by whoever waits for its profile.
                with suppress(DomainError):
                    await in_time(self._load(tenant_key), _PATIENT_LOAD_S)
            finally:
                del self._loading[tenant_key]

        if tenant_key not in self._loading:
            self._loading[tenant_key] = asyncio.create_task(load())

    async def _load(self, tenant_key: TenantKey) -> TenantProfile:
        started = time.monotonic()
        profile = await self._tenants.profile(tenant_key)
        self._entries[tenant_key] = _Entry(profile, started)
        return profile

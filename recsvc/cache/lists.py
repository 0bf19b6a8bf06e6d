"""Cached lists. A list is served only while the versions that it was computed at are the present ones.

The key is the question (tenant and fingerprint); the value carries the versions of the tenant and of the user. Both
versions come out of Redis in the same round trip as the list, except for a user who is new to this process.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from recsvc.cache import codec
from recsvc.cache.redis_client import RedisClient
from recsvc.cache.versions import GONE, changes_channel, tenant_version_key, user_version_key
from recsvc.domain.ids import TenantKey, UserKey
from recsvc.domain.recommendations import Recommendations
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.spans import CACHE_FIND, CACHE_HIT, CACHE_STORE
from recsvc.telemetry.stages import stage

_REMEMBERED_USERS = 100_000


@dataclass(frozen=True, slots=True)
class Versions:
    """What a list depends on; user_key is None for a list that is not personal."""

    tenant_version: int
    user_key: UserKey | None
    user_version: int


@dataclass(frozen=True, slots=True)
class LookUp:
    """A current list or None, and the tenant's version (0 when Redis does not know it)."""

    found: Recommendations | None
    tenant_version: int


class ListCache:
    """Reads and writes lists."""

    def __init__(self, client: RedisClient, metrics: Metrics) -> None:
        self._client = client
        self._user_keys: OrderedDict[tuple[TenantKey, str], UserKey] = OrderedDict()
        self._lists, self._stale_lists = metrics.look_ups("lists"), metrics.look_ups("stale_lists")
        self._tenant_versions = metrics.look_ups("tenant_versions")
        self._known_users = metrics.look_ups("user_keys")
        metrics.watch_entries("user_keys", lambda: len(self._user_keys))

    @stage(CACHE_FIND, told=lambda looked_up: {CACHE_HIT: looked_up.found is not None})
    async def find(self, tenant_key: TenantKey, who: str, fingerprint: str, max_age: timedelta | None) -> LookUp:
        """Look for a current list.

        who: names the user or session, or is empty for a list that is not personal.
        """
        looked_up = await self._find(tenant_key, who, fingerprint, max_age)
        self._lists.count(looked_up.found is not None)
        return looked_up

    async def _find(self, tenant_key: TenantKey, who: str, fingerprint: str, max_age: timedelta | None) -> LookUp:
        user_key = self._user_keys.get((tenant_key, who))
        keys = [_list_key(tenant_key, fingerprint), tenant_version_key(tenant_key)]
        if user_key is not None:
            keys.append(user_version_key(tenant_key, user_key))
        if who:
            self._known_users.count(user_key is not None)
        answers = await self._client.get_many(keys)
        if answers is None or answers[1] is None:
            return LookUp(None, 0)
        tenant_version = int(answers[1])
        if answers[0] is None:
            return LookUp(None, tenant_version)
        document = json.loads(answers[0])
        known_version = answers[2] if user_key is not None else None
        if document["tenant_version"] != tenant_version or not await self._is_current(
            tenant_key, who, document, user_key, known_version
        ):
            return LookUp(None, tenant_version)
        found = codec.decode(document["list"])
        if document["fresh_until"] < time.time():
            return LookUp(None, tenant_version)
        if max_age is not None and datetime.now(UTC) - found.generate_time > max_age:
            return LookUp(None, tenant_version)
        return LookUp(found, tenant_version)

    async def find_stale(self, tenant_key: TenantKey, fingerprint: str) -> Recommendations | None:
        """The last list that was kept for a question, whatever happened since but that its user was erased; for when no
        other can be had."""
        answers = await self._client.get_many([_list_key(tenant_key, fingerprint)])
        kept = answers[0] if answers else None
        self._stale_lists.count(kept is not None)
        if kept is None:
            return None
        document = json.loads(kept)
        if document["user_key"] is not None and await self.is_gone(tenant_key, UserKey(document["user_key"])):
            return None
        return codec.decode(document["list"])

    async def is_gone(self, tenant_key: TenantKey, user_key: UserKey) -> bool:
        """Whether a user is known to have been erased, or merged into another one."""
        answers = await self._client.get_many([user_version_key(tenant_key, user_key)])
        return answers is not None and answers[0] is not None and int(answers[0]) == GONE

    async def tenant_version(self, tenant_key: TenantKey) -> int | None:
        """The version that was announced last; None when Redis does not know it."""
        answers = await self._client.get_many([tenant_version_key(tenant_key)])
        version = answers[0] if answers else None
        self._tenant_versions.count(version is not None)
        return int(version) if version is not None else None

    async def _is_current(
        self,
        tenant_key: TenantKey,
        who: str,
        document: dict[str, Any],
        known_key: UserKey | None,
        known_version: bytes | None,
    ) -> bool:
        """Whether the user's state is still the one that the list was computed from."""
        if document["user_key"] is None:
            return True
        user_key = UserKey(document["user_key"])
        present = known_version
        if user_key != known_key:
            self._remember(tenant_key, who, user_key)
            answers = await self._client.get_many([user_version_key(tenant_key, user_key)])
            present = answers[0] if answers else None
        return present is not None and int(present) == document["user_version"]

    @stage(CACHE_STORE)
    async def store(
        self,
        tenant_key: TenantKey,
        who: str,
        fingerprint: str,
        value: Recommendations,
        versions: Versions,
        life_s: float,
        stale_s: float,
    ) -> None:
        """Keep a list and the versions that it was computed at.

        life_s: how long it may be served; stale_s: how long it is kept for `find_stale`.
        """
        if versions.user_key is not None:
            self._remember(tenant_key, who, versions.user_key)
        document = {
            "tenant_version": versions.tenant_version,
            "user_key": versions.user_key,
            "user_version": versions.user_version,
            "fresh_until": time.time() + life_s,
            "list": codec.encode(value),
        }
        present = {tenant_version_key(tenant_key): versions.tenant_version}
        if versions.user_key is not None:
            present[user_version_key(tenant_key, versions.user_key)] = versions.user_version
        if await self._client.raise_versions(present, changes_channel(tenant_key)):
            await self._client.put(_list_key(tenant_key, fingerprint), codec.dumps(document), max(life_s, stale_s))

    def _remember(self, tenant_key: TenantKey, who: str, user_key: UserKey) -> None:
        self._user_keys[(tenant_key, who)] = user_key
        self._user_keys.move_to_end((tenant_key, who))
        while len(self._user_keys) > _REMEMBERED_USERS:
            self._user_keys.popitem(last=False)


def _list_key(tenant_key: TenantKey, fingerprint: str) -> str:
    return f"recsvc:{{{tenant_key}}}:answer:{fingerprint}"

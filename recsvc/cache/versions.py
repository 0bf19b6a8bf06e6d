"""Versions of tenants and users in Redis: what lists are checked against before they are served.

Keys carry the tenant as hash tag, so that all keys of a tenant live in one slot of a Redis Cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recsvc.cache.redis_client import RedisClient
from recsvc.domain.ids import TenantKey, UserKey

KEYS_CHANNEL = "recsvc:keys"
"""Where API keys are announced that were rotated, revoked or deleted: their ids, separated by blanks."""

GONE = -1
# More than Redis would take in one call without keeping others waiting.
_CHUNK = 1000
_MAX_UNDELIVERED = 100_000


def tenant_version_key(tenant_key: TenantKey) -> str:
    """Where the version of a tenant is kept."""
    return f"recsvc:{{{tenant_key}}}:version"


def user_version_key(tenant_key: TenantKey, user_key: UserKey) -> str:
    """Where the version of a user's state is kept."""
    return f"recsvc:{{{tenant_key}}}:user:{user_key}"


def user_key_in(key: str) -> UserKey | None:
    """The user whose version a key holds; None for that of a tenant."""
    _, found, user = key.partition(":user:")
    return UserKey(int(user)) if found else None


def changes_channel(tenant_key: TenantKey) -> str:
    """Where new versions of a tenant and its users are announced: version keys, separated by blanks."""
    return f"recsvc:{{{tenant_key}}}:changes"


class VersionAnnouncer:
    """Implements `storage.changes.Changes` on Redis. What Redis did not take is kept and offered again."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._undelivered: dict[TenantKey, dict[str, int]] = {}
        self._undelivered_keys: set[str] = set()

    async def tenant_changed(self, tenant_key: TenantKey, version: int) -> None:
        """Lists of this tenant with a lower version are outdated; 0 means that the tenant is gone."""
        await self._announce(tenant_key, {tenant_version_key(tenant_key): version or GONE})

    async def users_changed(self, tenant_key: TenantKey, versions: Mapping[UserKey, int]) -> None:
        """Lists of these users with lower versions are outdated; 0 means that the user is gone."""
        await self._announce(tenant_key, _user_versions(tenant_key, versions))

    async def keys_changed(self, key_ids: Sequence[str]) -> None:
        """Whoever trusts these API keys must look at them again: they were rotated, revoked or deleted."""
        for start in range(0, len(key_ids), _CHUNK):
            chunk = key_ids[start : start + _CHUNK]
            if not await self._client.publish(KEYS_CHANNEL, " ".join(chunk)):
                # Beyond that the age of what is trusted must do.
                self._undelivered_keys.update(key_ids[start : start + _MAX_UNDELIVERED - len(self._undelivered_keys)])
                return

    async def announce_users(self, tenant_key: TenantKey, versions: Mapping[UserKey, int]) -> bool:
        """The same, telling whether Redis has them now: a state is only called folded once its version is known."""
        return await self._announce(tenant_key, _user_versions(tenant_key, versions))

    async def offer_again(self) -> bool:
        """Deliver what could not be delivered before; returns whether nothing is left."""
        waiting, self._undelivered = self._undelivered, {}
        for tenant_key, versions in waiting.items():
            await self._announce(tenant_key, versions)
        keys, self._undelivered_keys = sorted(self._undelivered_keys), set()
        await self.keys_changed(keys)
        return not self._undelivered and not self._undelivered_keys

    async def _announce(self, tenant_key: TenantKey, versions: Mapping[str, int]) -> bool:
        """Whether Redis has them now; what it has not is kept."""
        entries, delivered = list(versions.items()), True
        for start in range(0, len(entries), _CHUNK):
            chunk = dict(entries[start : start + _CHUNK])
            if not await self._client.raise_versions(chunk, changes_channel(tenant_key)):
                self._keep(tenant_key, chunk)
                delivered = False
        return delivered

    def _keep(self, tenant_key: TenantKey, versions: Mapping[str, int]) -> None:
        kept = self._undelivered.setdefault(tenant_key, {})
        for key, version in versions.items():
            if len(kept) < _MAX_UNDELIVERED or key in kept:
                kept[key] = version if version == GONE else max(version, kept.get(key, 0))


def _user_versions(tenant_key: TenantKey, versions: Mapping[UserKey, int]) -> Mapping[str, int]:
    return {user_version_key(tenant_key, user): version or GONE for user, version in versions.items()}

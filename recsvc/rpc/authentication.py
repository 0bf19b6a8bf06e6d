"""Decides whether an API key is what it claims to be.

argon2id is slow on purpose, so it runs in a thread and once per key and process; after that a keyed digest of the
secret is compared, for a bounded time. An unknown id costs what a wrong secret costs.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from recsvc.domain.errors import CredentialsInvalid
from recsvc.domain.tenancy import Principal
from recsvc.settings import AuthSettings
from recsvc.storage.api_keys import ApiKeyRepository, StoredKey

_KEY = re.compile(r"rk_([a-z0-9]{12})_([A-Za-z0-9_-]{43})")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True)
class FreshKey:
    """A key that was just made: what to store, and the text that its owner gets."""

    key_id: str
    secret_hash: str
    text: str

    def __repr__(self) -> str:
        """Keep the secret out of logs and tracebacks."""
        return f"FreshKey({self.key_id})"


class KeyHasher:
    """Makes keys and checks secrets against hashes, off the event loop."""

    def __init__(self, settings: AuthSettings) -> None:
        self._hasher = PasswordHasher(
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_kib,
            parallelism=settings.argon2_parallelism,
        )
        # What an unknown id is verified against, so that it takes as long as a known one.
        self._decoy = self._hasher.hash(secrets.token_urlsafe(32))

    async def make(self, key_id: str | None = None) -> FreshKey:
        """A key with 256 random bits, `rk_<id>_<secret>`; for an id that exists, a new secret."""
        key_id = key_id or "".join(secrets.choice(_ALPHABET) for _ in range(12))
        secret = secrets.token_urlsafe(32)
        secret_hash = await asyncio.to_thread(self._hasher.hash, secret)
        return FreshKey(key_id, secret_hash, f"rk_{key_id}_{secret}")

    async def matches(self, secret: str, secret_hash: str | None) -> bool:
        """Whether the secret has this hash; takes its time for None, too."""
        verified = await asyncio.to_thread(self._verify, secret, secret_hash or self._decoy)
        return verified and secret_hash is not None

    def _verify(self, secret: str, secret_hash: str) -> bool:
        try:
            return self._hasher.verify(secret_hash, secret)
        except (VerificationError, InvalidHashError):
            return False


@dataclass(slots=True)
class _Trusted:
    digest: bytes
    principal: Principal
    until: float


class Authenticator:
    """Keys to principals, with a bounded memory of those verified lately."""

    def __init__(self, keys: ApiKeyRepository, hasher: KeyHasher, settings: AuthSettings) -> None:
        self._keys = keys
        self._hasher = hasher
        self._settings = settings
        self._digest_key = secrets.token_bytes(32)
        self._trusted: OrderedDict[str, _Trusted] = OrderedDict()

    async def authenticate(self, text: str) -> Principal:
        """Who holds this key. Raises CredentialsInvalid, without saying why."""
        match = _KEY.fullmatch(text)
        if match is None:
            raise CredentialsInvalid
        key_id, secret = match.groups()
        digest = hmac.digest(self._digest_key, secret.encode(), "sha256")
        trusted = self._trusted.get(key_id)
        if trusted is not None and trusted.until > time.monotonic() and hmac.compare_digest(trusted.digest, digest):
            return trusted.principal
        return await self._verify(key_id, secret, digest)

    def forget(self, key_id: str) -> None:
        """Drop what is remembered of a key: it was revoked or rotated."""
        self._trusted.pop(key_id, None)

    async def _verify(self, key_id: str, secret: str, digest: bytes) -> Principal:
        stored = await self._keys.find(key_id)
        now = datetime.now(UTC)
        valid = await self._hasher.matches(secret, stored.secret_hash if stored else None)
        if stored and not valid and stored.previous_secret_hash and _later(stored.previous_expire_time, now):
            valid = await self._hasher.matches(secret, stored.previous_secret_hash)
        if stored is None or not valid or stored.key.revoke_time or not _not_expired(stored, now):
            raise CredentialsInvalid
        principal = Principal(stored.tenant_key, stored.tenant_id, key_id, stored.key.scopes)
        self._remember(key_id, digest, principal, self._trust_s(stored, now))
        return principal

    def _trust_s(self, stored: StoredKey, now: datetime) -> float:
        limits = [self._settings.cache_ttl_s]
        limits += [
            (moment - now).total_seconds()
            for moment in (stored.key.expire_time, stored.previous_expire_time)
            if moment is not None and moment > now
        ]
        return min(limits)

    def _remember(self, key_id: str, digest: bytes, principal: Principal, trust_s: float) -> None:
        self._trusted[key_id] = _Trusted(digest, principal, time.monotonic() + trust_s)
        self._trusted.move_to_end(key_id)
        while len(self._trusted) > self._settings.cache_size:
            self._trusted.popitem(last=False)


def _later(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and moment > now


def _not_expired(stored: StoredKey, now: datetime) -> bool:
    return stored.key.expire_time is None or stored.key.expire_time > now

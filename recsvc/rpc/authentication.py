"""Decides whether an API key is what it claims to be, and remembers for a while what it found.

The hash is computed once per key and process. After that a keyed digest of the key is compared, and the stored key
is looked at again when it was announced as changed, when it was last looked at too long ago, and about every second
while nothing is heard of changes. Only successes are remembered: what is wrong is looked up and hashed each time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from recsvc.domain.errors import CredentialsInvalid, DeadlinePassed, Overloaded, StorageUnavailable
from recsvc.domain.tenancy import Principal
from recsvc.resilience.in_time import in_time
from recsvc.rpc.key_hasher import HASHES_PER_KEY, KEY_LENGTH, KeyHasher, key_id_in, parsed
from recsvc.settings import AuthSettings
from recsvc.storage.api_keys import ApiKeyRepository, StoredKey
from recsvc.telemetry.metrics import Metrics

_UNHEARD_S = 1.0
"""While changes are not heard of, a key is looked at again after so long: a revocation must hold within two seconds."""

_LOOK_S = 1.6
"""All calls of a key wait while it is looked at again, so that this must not take all of their time: a database that
does not answer is an outage. A little longer than the breaker's patience, so that it counts there."""

_PATIENT_LOOK_S = 10.0
"""The same while the database is slow: most calls wait for nothing then, and it would answer in the end."""

_VOUCHED = b"by a certificate"
"""Stands for the digest of a secret; shorter than any."""

_DIGEST_BYTES = 32

_USE_NOTED_EVERY = timedelta(minutes=1)


@dataclass(slots=True)
class _Trusted:
    """A key whose secret was verified. secret_hash: what it was verified against; the times are monotonic.

    until: when it is to be looked at again; expires: when it is good no more. is_doubtful: it was announced as changed.
    """

    digest: bytes
    secret_hash: str
    principal: Principal
    looked_at: float
    until: float
    expires: float
    is_doubtful: bool = False

    def doubt(self) -> None:
        """It is good for nothing until it has been looked at again."""
        self.until = 0.0
        self.is_doubtful = True


class Authenticator:
    """Keys to principals, with a bounded memory of those verified lately."""

    def __init__(
        self,
        keys: ApiKeyRepository,
        hasher: KeyHasher,
        is_heard: Callable[[], bool],
        settings: AuthSettings,
        metrics: Metrics,
        is_slow: Callable[[], bool] = lambda: False,
    ) -> None:
        """is_heard: whether `forget` is sure to be called at present when a key changes. is_slow: whether the database
        is at present; then a key is trusted while it is looked at again, as it is while the database is away."""
        self._keys = keys
        self._hasher = hasher
        self._is_heard = is_heard
        self._is_slow = is_slow
        self._settings = settings
        self._digest_key = secrets.token_bytes(_DIGEST_BYTES)
        # Of one key several: while a rotation overlaps both of its secrets are in use.
        self._trusted: OrderedDict[str, list[_Trusted]] = OrderedDict()
        self._under_way: dict[tuple[str, bytes], asyncio.Task[Principal]] = {}
        self._verifying = 0
        self._forgotten = 0
        self._look_ups = metrics.look_ups("api_keys")
        metrics.watch_entries("api_keys", lambda: len(self._trusted))
        metrics.watch_queue("key_verifications", lambda: self._verifying, settings.verifications_waiting)

    def at_hand(self, text: str) -> Principal | None:
        """Who holds this key, if that was found out lately; None when it must be waited for, or the key is wrong."""
        trusted = self._known(key_id_in(text), self._digest_of(text)) if len(text) == KEY_LENGTH else None
        is_hit = trusted is not None and self._is_fresh(trusted)
        self._look_ups.count(is_hit)
        return trusted.principal if trusted is not None and is_hit else None

    async def authenticate(self, text: str) -> Principal:
        """Who holds this key. Raises CredentialsInvalid, without saying why, and Overloaded."""
        parts = parsed(text)
        if parts is None:
            raise CredentialsInvalid
        key_id, secret = parts
        digest = self._digest_of(text)
        trusted = self._known(key_id, digest)
        if trusted is None:
            return await self._shared((key_id, digest), lambda: self._verified(key_id, secret, digest))
        if self._is_fresh(trusted):
            return trusted.principal
        return await self._anew((key_id, digest), trusted, lambda: self._looked_at_again(key_id, secret, trusted))

    async def vouched(self, key_id: str) -> Principal:
        """Who holds this key, when something else than its secret proves it. Raises CredentialsInvalid."""
        trusted = self._known(key_id, _VOUCHED)
        is_hit = trusted is not None and self._is_fresh(trusted)
        self._look_ups.count(is_hit)
        if trusted is not None and is_hit:
            return trusted.principal
        return await self._anew((key_id, _VOUCHED), trusted, lambda: self._looked_at(key_id))

    def forget(self, key_id: str) -> None:
        """Look at a key again before it is trusted: it was rotated, revoked or deleted."""
        self._forgotten += 1
        for trusted in self._trusted.get(key_id, ()):
            trusted.doubt()

    def forget_all(self) -> None:
        """Look at every key again before it is trusted, if that is possible: something may have changed unheard."""
        self._forgotten += 1
        for of_key in self._trusted.values():
            for trusted in of_key:
                trusted.until = 0.0

    def _digest_of(self, text: str) -> bytes:
        # Keyed BLAKE2 is a MAC by itself (RFC 7693); HMAC of the standard library takes twice as long, on every call.
        return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES, key=self._digest_key).digest()

    def _is_fresh(self, trusted: _Trusted) -> bool:
        now = time.monotonic()
        return now < trusted.until and (self._is_heard() or now < trusted.looked_at + _UNHEARD_S)

    def _known(self, key_id: str, digest: bytes) -> _Trusted | None:
        for trusted in self._trusted.get(key_id, ()):
            if hmac.compare_digest(trusted.digest, digest):
                return trusted
        return None

    async def _anew(
        self, key: tuple[str, bytes], trusted: _Trusted | None, look: Callable[[], Awaitable[Principal]]
    ) -> Principal:
        """What a look at the key finds, or what was known before it while the database is slow."""
        looking = self._begun(key, look)
        # It does answer in the end, so what may have been missed is waited for.
        if self._is_slow() and self._is_heard() and trusted is not None and trusted.until:
            with suppress(StorageUnavailable):
                return self._despite_outage(trusted)
        return await asyncio.shield(looking)

    async def _shared(self, key: tuple[str, bytes], work: Callable[[], Awaitable[Principal]]) -> Principal:
        """The outcome of work that is under way for all who show the same key at once."""
        # Whoever leaves does not take the answer of the others along.
        return await asyncio.shield(self._begun(key, work))

    def _begun(self, key: tuple[str, bytes], work: Callable[[], Awaitable[Principal]]) -> asyncio.Task[Principal]:
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(_awaited(work))
            self._under_way[key] = task
            task.add_done_callback(lambda ended: self._ended(key, ended))
        return task

    def _ended(self, key: tuple[str, bytes], task: asyncio.Task[Principal]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()

    async def _verified(self, key_id: str, secret: str, digest: bytes) -> Principal:
        # Counted before the look-up, so that wrong secrets keep neither the threads nor the database busy.
        if self._verifying >= self._settings.verifications_waiting:
            raise Overloaded("too many keys are being verified at this server")
        self._verifying += 1
        try:
            forgotten = self._forgotten
            stored = await self._keys.find(key_id)
            matched = await self._hasher.match(secret, _good_hashes(stored))
            if stored is None or matched is None:
                raise CredentialsInvalid
            trusted = self._trust(stored, digest, matched)
            if self._forgotten != forgotten:
                # Changed while it was being verified: good for this call, and to be looked at again by the next.
                trusted.doubt()
            self._remember(key_id, trusted)
        finally:
            self._verifying -= 1
        await self._note_use(stored)
        return trusted.principal

    async def _looked_at_again(self, key_id: str, secret: str, trusted: _Trusted) -> Principal:
        forgotten = self._forgotten
        try:
            stored = await in_time(self._keys.find(key_id), self._look_s())
        except (StorageUnavailable, DeadlinePassed):
            return self._despite_outage(trusted)
        if stored is None or trusted.secret_hash not in _good_hashes(stored):
            self._drop(key_id, trusted.digest)
            # Refused at the price of any other wrong secret.
            return await self._verified(key_id, secret, trusted.digest)
        anew = self._trust(stored, trusted.digest, trusted.secret_hash)
        if self._forgotten == forgotten:
            self._remember(key_id, anew)
        await self._note_use(stored)
        return anew.principal

    async def _looked_at(self, key_id: str) -> Principal:
        forgotten = self._forgotten
        try:
            stored = await in_time(self._keys.find(key_id), self._look_s())
        except (StorageUnavailable, DeadlinePassed):
            return self._despite_outage(self._known(key_id, _VOUCHED))
        if stored is None or not _good_hashes(stored):
            self._drop(key_id, _VOUCHED)
            raise CredentialsInvalid
        trusted = self._trust(stored, _VOUCHED, "")
        if self._forgotten == forgotten:
            self._remember(key_id, trusted)
        await self._note_use(stored)
        return trusted.principal

    def _despite_outage(self, trusted: _Trusted | None) -> Principal:
        """Trust a key for another while: without the database nobody can change it, unless only we cannot reach it, and
        then it opens nothing but lists that are cached.

        Raises StorageUnavailable for a key that was announced as changed, and when this has gone on for too long.
        """
        now = time.monotonic()
        if trusted is None or trusted.is_doubtful:
            raise StorageUnavailable
        if now >= min(trusted.expires, trusted.looked_at + self._settings.outage_ttl_s):
            raise StorageUnavailable
        trusted.until = min(trusted.expires, now + _UNHEARD_S)
        return trusted.principal

    async def _note_use(self, stored: StoredKey) -> None:
        last = stored.key.last_used_time
        if last is None or datetime.now(UTC) - last >= _USE_NOTED_EVERY:
            # Whether a key is good does not depend on this.
            with suppress(StorageUnavailable, DeadlinePassed):
                await in_time(self._keys.note_use(stored.key.key_id, _USE_NOTED_EVERY), _LOOK_S)

    def _trust(self, stored: StoredKey, digest: bytes, secret_hash: str) -> _Trusted:
        now, moment = time.monotonic(), datetime.now(UTC)
        ends = [stored.key.expire_time]
        if secret_hash == stored.previous_secret_hash:
            ends.append(stored.previous_expire_time)
        expires = min((now + (end - moment).total_seconds() for end in ends if end is not None), default=math.inf)
        principal = Principal(stored.tenant_key, stored.tenant_id, stored.key.key_id, stored.key.scopes)
        return _Trusted(digest, secret_hash, principal, now, min(expires, now + self._settings.cache_ttl_s), expires)

    def _remember(self, key_id: str, trusted: _Trusted) -> None:
        self._drop(key_id, trusted.digest)
        self._trusted.setdefault(key_id, []).append(trusted)
        self._trusted.move_to_end(key_id)
        del self._trusted[key_id][: -HASHES_PER_KEY - 1]
        while len(self._trusted) > self._settings.cache_size:
            self._trusted.popitem(last=False)

    def _look_s(self) -> float:
        return _PATIENT_LOOK_S if self._is_slow() else _LOOK_S

    def _drop(self, key_id: str, digest: bytes) -> None:
        if left := [trusted for trusted in self._trusted.pop(key_id, ()) if trusted.digest != digest]:
            self._trusted[key_id] = left


async def _awaited(work: Callable[[], Awaitable[Principal]]) -> Principal:
    """The work as the coroutine that a task wants."""
    return await work()


def _good_hashes(stored: StoredKey | None) -> list[str]:
    """The hashes of the secrets that a key may be used with at this moment."""
    now = datetime.now(UTC)
    if stored is None or stored.key.revoke_time is not None:
        return []
    if stored.key.expire_time is not None and stored.key.expire_time <= now:
        return []
    hashes = [stored.secret_hash]
    if stored.previous_secret_hash and stored.previous_expire_time is not None and stored.previous_expire_time > now:
        hashes.append(stored.previous_secret_hash)
    return hashes

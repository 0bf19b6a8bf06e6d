"""Makes API keys and checks secrets against their hashes, in threads of its own.

argon2id is slow on purpose. Two threads of low priority do it, so that somebody who sends wrong secrets all day slows
first calls with other keys, and neither the event loop nor anything else that runs in threads.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from recsvc.settings import AuthSettings

HASHES_PER_KEY = 2
"""A key has at most so many secrets at once: the present one, and while a rotation overlaps the one before."""

KEY_LENGTH = 59
"""Of a key's text."""

_KEY = re.compile(r"rk_([a-z0-9]{12})_([A-Za-z0-9_-]{43})")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_NICENESS = 10


@dataclass(frozen=True, slots=True)
class FreshKey:
    """A key that was just made: what to store, and the text that its owner gets."""

    key_id: str
    secret_hash: str
    text: str

    def __repr__(self) -> str:
        """Keep the secret out of logs and tracebacks."""
        return f"FreshKey({self.key_id})"


def parsed(text: str) -> tuple[str, str] | None:
    """Id and secret of a key as `KeyHasher.make` writes it; None for whatever else."""
    match = _KEY.fullmatch(text)
    return (match[1], match[2]) if match else None


def key_id_in(text: str) -> str:
    """Id of a key, provided that the text is one."""
    return text[3:15]


class KeyHasher:
    """Hashes with argon2id."""

    def __init__(self, settings: AuthSettings) -> None:
        self._hasher = PasswordHasher(
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_kib,
            parallelism=settings.argon2_parallelism,
        )
        # What is verified in place of hashes that a key does not have, so that it takes as long.
        self._decoy = self._hasher.hash(secrets.token_urlsafe(32))
        self._threads = ThreadPoolExecutor(settings.verification_threads, "argon2", initializer=_step_back)

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def make(self, key_id: str | None = None) -> FreshKey:
        """A key with 256 random bits, `rk_<id>_<secret>`; for an id that exists, a new secret."""
        key_id = key_id or "".join(secrets.choice(_ALPHABET) for _ in range(12))
        secret = secrets.token_urlsafe(32)
        secret_hash = await asyncio.get_running_loop().run_in_executor(self._threads, self._hasher.hash, secret)
        return FreshKey(key_id, secret_hash, f"rk_{key_id}_{secret}")

    async def match(self, secret: str, secret_hashes: Sequence[str]) -> str | None:
        """Which of at most HASHES_PER_KEY hashes the secret has.

        None costs HASHES_PER_KEY verifications, however many hashes there are: a caller must not learn by the clock
        whether a key exists, was revoked, or is being rotated.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._match, secret, secret_hashes)

    def _match(self, secret: str, secret_hashes: Sequence[str]) -> str | None:
        decoys = [None] * (HASHES_PER_KEY - len(secret_hashes))
        for secret_hash in (*secret_hashes, *decoys):
            if self._is_of(secret, secret_hash or self._decoy) and secret_hash is not None:
                return secret_hash
        return None

    def _is_of(self, secret: str, secret_hash: str) -> bool:
        try:
            return self._hasher.verify(secret_hash, secret)
        except (VerificationError, InvalidHashError):
            return False


def _step_back() -> None:
    if sys.platform == "linux":  # elsewhere priorities belong to processes, not to threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)

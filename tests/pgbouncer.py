"""A real PgBouncer with the configuration of deploy/pgbouncer in front of a PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from configparser import ConfigParser
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import temporary_folder

_BINARY = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
_CONFIGURATION = Path(__file__).parents[1] / "deploy" / "pgbouncer" / "pgbouncer.ini"
_START_S = 10.0

needs_pgbouncer = pytest.mark.skipif(_BINARY is None, reason="pgbouncer is not installed (Debian's package pgbouncer)")


@asynccontextmanager
async def running_pgbouncer(database_url: str, pool_size: int) -> AsyncIterator[str]:
    """The URL of the same database through PgBouncer, which opens so many connections to it."""
    assert _BINARY is not None
    folder = temporary_folder()
    target = conninfo_to_dict(database_url)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    configuration = ConfigParser(interpolation=None)
    configuration.read(_CONFIGURATION, encoding="utf-8")
    configuration["databases"]["recsvc"] = f"host={target['host']} dbname={target['dbname']} user={target['user']}"
    # Everybody is let in, as at the embedded PostgreSQL's socket.
    configuration["pgbouncer"].update(
        {
            "listen_addr": "127.0.0.1",
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "auth_file": "",
            "default_pool_size": str(pool_size),
            # A thousand callers at once may have to wait longer on a busy machine.
            "query_wait_timeout": "60",
        }
    )
    with (folder / "pgbouncer.ini").open("w", encoding="utf-8") as file:
        configuration.write(file)
    command = [_BINARY, str(folder / "pgbouncer.ini")]
    if os.geteuid() == 0:
        # It refuses to be root, and the embedded PostgreSQL's socket is for the account that owns it.
        command.insert(1, f"--user={pwd.getpwuid(os.stat(str(target['host'])).st_uid).pw_name}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220
    try:
        await _ready(port, process)
        yield f"postgresql://{target['user']}@127.0.0.1:{port}/recsvc"
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


async def _ready(port: int, process: subprocess.Popen[bytes]) -> None:
    url = f"postgresql://nobody@127.0.0.1:{port}/recsvc"
    async with asyncio.timeout(_START_S):
        while True:
            assert process.poll() is None, "pgbouncer did not start"
            try:
                async with await psycopg.AsyncConnection.connect(url, connect_timeout=2):
                    return
            except psycopg.OperationalError:
                await asyncio.sleep(0.05)

"""A PostgreSQL cluster with the schema in it, made once and then copied: initdb waits for the disk, for seconds."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import subprocess
from functools import cache
from pathlib import Path

from recsvc.embedded.postgres import EmbeddedPostgres
from recsvc.storage.migrator import migrate
from tests.conftest import temporary_folder


async def put_cluster(data_dir: Path) -> None:
    """Give a data directory a stopped, migrated PostgreSQL."""
    await asyncio.to_thread(_put_cluster, data_dir)


def _put_cluster(data_dir: Path) -> None:
    subprocess.run(["cp", "-a", str(_template() / "postgres"), str(data_dir)], check=True)


@cache
def _template() -> Path:
    folder = temporary_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = EmbeddedPostgres(folder, {"fsync": "off"})
    server.start()
    try:
        asyncio.run(migrate(server.url))
    finally:
        server.stop()
    return folder

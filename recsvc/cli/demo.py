"""`recsvc demo`: from nothing to a service that recommends real films. What `make run` runs.

The first time it loads MovieLens 100K (out of the PyPI wheel of recbole, which carries it), or generated data where
that cannot be had, trains a model and makes a key; later it finds all that in place and serves at once.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.console import Console

from recsvc.app import Storage, open_storage
from recsvc.cli.importing import tenant_key_of
from recsvc.cli.loading import load, report
from recsvc.cli.running import run_async
from recsvc.cli.serve import serve_until_stopped
from recsvc.cli.tenants import new_key
from recsvc.cli.train import train_with_progress
from recsvc.datasets import Dataset, open_dataset, seed_dataset
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.tenancy import Scope
from recsvc.rpc import calls
from recsvc.settings import Settings
from recsvc.storage.listing import PageQuestion
from recsvc.storage.users import BY_ID
from recsvc.telemetry.logging import configure

_TENANT = TenantId("demo")
# The wheel that carries MovieLens 100K with titles; pinned so that a demo is the same everywhere.
_WHEEL = "recbole==1.2.1"
_DOWNLOAD_TIMEOUT_S = 90


def demo() -> None:
    """Load data if there is none, train, make a key and serve; Ctrl-C stops it and keeps the data."""
    settings = Settings()
    configure(settings.log_level, settings.log_format, calls.about)
    console = Console(stderr=True)
    run_async(_run(settings, console))


async def _run(settings: Settings, console: Console) -> None:
    async with open_storage(settings) as storage:
        tenant_key = await tenant_key_of(storage, _TENANT)
        if not await storage.items.any_of(tenant_key):
            dataset = await asyncio.to_thread(_dataset, settings.embedded_dir, console)
            report(await load(storage, tenant_key, dataset, console), console)
        if (await storage.tenants.profile(tenant_key)).model is None:
            await train_with_progress(storage, tenant_key, console)
        key = await _key(storage, settings.embedded_dir)
        user_id = await _some_user(storage, tenant_key)
        _explain(console, settings, key, user_id)
        # Still inside: the embedded servers stay up from here to the service.
        await serve_until_stopped(settings)


def _dataset(data_dir: Path, console: Console) -> Dataset:
    wheels = sorted(data_dir.glob("recbole-*.whl"))
    if not wheels:
        console.print(f"fetching MovieLens 100K ({_WHEEL} from PyPI) …")
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, _WHEEL]
            try:
                subprocess.run(command, check=True, timeout=_DOWNLOAD_TIMEOUT_S, capture_output=True)  # noqa: S603
            except (subprocess.SubprocessError, OSError):
                console.print("[yellow]it cannot be had; generating data instead")
                today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
                return seed_dataset(items=2_000, users=1_000, events_per_user=60, seed=1, now=today)
            for wheel in Path(folder).glob("*.whl"):
                (data_dir / wheel.name).write_bytes(wheel.read_bytes())
        wheels = sorted(data_dir.glob("recbole-*.whl"))
    return open_dataset("movielens", wheels[-1])


async def _key(storage: Storage, data_dir: Path) -> str:
    """The demo's key. It is kept in a file, since the service itself only keeps its hash."""
    file = data_dir / "demo.key"
    if file.exists():
        return file.read_text(encoding="utf-8").strip()
    key = await new_key(storage, _TENANT, "demo", frozenset(Scope))
    file.touch(mode=0o600)
    file.write_text(key.secret + "\n", encoding="utf-8")
    return key.secret


async def _some_user(storage: Storage, tenant_key: TenantKey) -> str:
    found = await storage.users.list(tenant_key, PageQuestion(None, BY_ID, None, 1, datetime.now(UTC)))
    return found[0].user_id if found else "1"


def _explain(console: Console, settings: Settings, key: str, user_id: str) -> None:
    address = f"localhost:{settings.server.port}"
    who = f'"user_id": "{user_id}", "count": 10'
    method = "recsvc.v1.RecommendationService/Recommend"
    with_grpcurl = f'{{{who}, "item_mask": {{"paths": ["title"]}}}}'
    with_call = f'{{{who}, "item_mask": "title"}}'
    typer.echo(
        f"""
API key (kept in {settings.embedded_dir}/demo.key):  {key}

Ten recommendations for user {user_id}, from another terminal:

  grpcurl -plaintext -H 'authorization: Bearer {key}' -d '{with_grpcurl}' {address} {method}

or, without grpcurl:

  .venv/bin/recsvc call {address} {method} --key {key} -d '{with_call}'

Metrics: http://localhost:{settings.server.metrics_port}/metrics
Stop with Ctrl-C; the data stays in {settings.embedded_dir}/
"""
    )
    console.file.flush()

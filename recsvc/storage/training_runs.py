"""Training runs: at most one of a tenant is under way, and one that has died does not block the next for long."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from recsvc.domain.audit import AuditEntry
from recsvc.domain.errors import TrainingInProgress, TrainingRunNotFound
from recsvc.domain.ids import TenantKey
from recsvc.domain.models import TrainingRun, TrainingState
from recsvc.storage.audit_log import append
from recsvc.storage.database import Database, execute
from recsvc.storage.statements import load

_SQL = load("training_runs")
# Progress is written every second or so; a long index build writes none, but its heartbeat goes on.
SILENCE_S = 120.0


class TrainingRunRepository:
    """The runs of a tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(
        self, tenant_key: TenantKey, parameters: Mapping[str, object], *, audit: AuditEntry | None = None
    ) -> TrainingRun:
        """Queue a run. Raises TrainingInProgress while another one is under way."""
        run_id = uuid.uuid4().hex[:16]
        async with self._database.tenant_transaction(tenant_key) as connection:
            await execute(connection, _SQL["abandon_silent_runs"], {"tenant": tenant_key, "silence_s": SILENCE_S})
            cursor = await execute(
                connection,
                _SQL["insert_run"],
                {"tenant": tenant_key, "run_id": run_id, "parameters": Jsonb(dict(parameters))},
            )
            row = await cursor.fetchone()
            if row is not None and audit is not None:
                await append(connection, audit.about(run_id))
        if row is None:
            raise TrainingInProgress("a training run of this tenant is under way; wait for it to end")
        return _run(row)

    async def get(self, tenant_key: TenantKey, run_id: str) -> TrainingRun:
        """The run as it stands; one that has died has failed. Raises TrainingRunNotFound."""
        async with self._database.tenant_transaction(tenant_key) as connection:
            await execute(connection, _SQL["abandon_silent_runs"], {"tenant": tenant_key, "silence_s": SILENCE_S})
            cursor = await execute(connection, _SQL["get_run"], {"tenant": tenant_key, "run_id": run_id})
            row = await cursor.fetchone()
        if row is None:
            raise TrainingRunNotFound(run_id)
        return _run(row)

    async def update(self, tenant_key: TenantKey, run_id: str, stage: str, progress: float) -> None:
        """Tell how far a run is; repeat it at least every minute."""
        parameters = {"tenant": tenant_key, "run_id": run_id, "stage": stage, "progress": progress}
        async with self._database.tenant_transaction(tenant_key) as connection:
            await execute(connection, _SQL["update_run"], parameters)

    async def finish(
        self,
        tenant_key: TenantKey,
        run_id: str,
        state: TrainingState,
        *,
        model_id: str = "",
        activated: bool = False,
        error: str = "",
    ) -> None:
        """Note the end of a run; a run that has ended is left as it is."""
        async with self._database.tenant_transaction(tenant_key) as connection:
            await execute(
                connection,
                _SQL["finish_run"],
                {
                    "tenant": tenant_key,
                    "run_id": run_id,
                    "state": state.value,
                    "model_id": model_id,
                    "activated": activated,
                    "error": error,
                },
            )


def _run(row: Mapping[str, Any]) -> TrainingRun:
    return TrainingRun(
        training_run_id=row["training_run_id"],
        state=TrainingState(row["state"]),
        stage=row["stage"],
        progress=row["progress"],
        model_id=row["model_id"],
        activated=row["activated"],
        error=row["error"],
        parameters=row["parameters"],
        create_time=row["create_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
    )

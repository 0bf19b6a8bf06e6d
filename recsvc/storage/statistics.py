"""What is stored for all tenants, in estimates that cost the same however much it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recsvc.domain.ids import TenantId
from recsvc.storage.database import Database, execute
from recsvc.storage.statements import load
from recsvc.storage.training_runs import SILENCE_S

_SQL = load("statistics")
_TENANTS = 10_000


@dataclass(frozen=True, slots=True)
class Statistics:
    """rows: by table, estimated; model_ages_s and progress: by tenant, of serving models and of runs under way."""

    rows: Mapping[str, float]
    model_ages_s: Mapping[TenantId, float]
    progress: Mapping[TenantId, float]


class StatisticsRepository:
    """Reads them, as the owner of the schema."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> Statistics:
        """The present numbers. Raises StorageUnavailable."""
        async with self._database.service_transaction() as connection:
            rows = await execute(connection, _SQL["stored_rows"])
            ages = await execute(connection, _SQL["model_ages"], {"limit": _TENANTS})
            runs = await execute(connection, _SQL["runs_under_way"], {"silence_s": SILENCE_S, "limit": _TENANTS})
            return Statistics(
                rows={row["table_name"]: row["estimate"] for row in await rows.fetchall()},
                model_ages_s={TenantId(row["tenant_id"]): row["age_s"] for row in await ages.fetchall()},
                progress={TenantId(row["tenant_id"]): row["progress"] for row in await runs.fetchall()},
            )

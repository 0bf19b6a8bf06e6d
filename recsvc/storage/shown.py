"""The log of what was shown: written in batches off the request path, read for attribution and erasure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg.types.json import Jsonb

from recsvc.domain.events import Event
from recsvc.domain.ids import ItemId, TenantKey
from recsvc.domain.users import UserKind
from recsvc.storage.database import Database, execute
from recsvc.storage.statements import load

_SQL = load("shown")


class ShownList(NamedTuple):
    """One list as it went out."""

    recommendation_id: str
    kind: UserKind
    user_id: str | None
    strategy: str
    placement: str
    model_id: str
    item_ids: tuple[ItemId, ...]
    create_time: datetime


@dataclass(frozen=True, slots=True)
class ListOfEvent:
    """The list that an event names. has_item: whether the event's item was in it; is_conversion: of its type."""

    strategy: str
    has_item: bool
    is_conversion: bool


class ShownRepository:
    """Writes the log, finds in it what events came of, and forgets what is old."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, tenant_key: TenantKey, lists: Sequence[ShownList]) -> None:
        """Log some lists."""
        places: dict[ItemId, int] = {}
        documents = [
            {
                "recommendation_id": shown.recommendation_id,
                "kind": shown.kind.value,
                "user_id": shown.user_id,
                "strategy": shown.strategy,
                "placement": shown.placement,
                "model_id": shown.model_id,
                "items": [places.setdefault(item_id, len(places) + 1) for item_id in shown.item_ids],
                "create_time": shown.create_time.isoformat(),
            }
            for shown in lists
        ]
        async with self._database.tenant_transaction(tenant_key) as connection:
            params = {"tenant": tenant_key, "lists": Jsonb(documents), "item_ids": list(places)}
            await execute(connection, _SQL["insert_shown"], params)

    async def delete_older(self, days: int, limit: int) -> int:
        """Delete up to so many lists, of all tenants, older than this; returns how many there were."""
        async with self._database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["delete_old_shown"], {"days": days, "limit": limit})
            return int(cursor.rowcount)

    async def lists_of(self, tenant_key: TenantKey, events: Sequence[Event]) -> list[ListOfEvent | None]:
        """The list that each of the events names, in their order; None where there is none in the log."""
        rows = await self._database.fetch_all(
            tenant_key,
            _SQL["lists_of_events"],
            {
                "tenant": tenant_key,
                "recommendation_ids": [event.recommendation_id for event in events],
                "item_ids": [event.item_id for event in events],
                "event_types": [event.event_type for event in events],
            },
        )
        found: list[ListOfEvent | None] = [None] * len(events)
        for row in rows:
            found[row["position"] - 1] = ListOfEvent(row["strategy"], row["has_item"], row["is_conversion"])
        return found

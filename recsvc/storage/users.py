"""Users: profiles, erasure, export, and the merge of an anonymous history into a known one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from recsvc.domain.cleaning import check_name, clean_user
from recsvc.domain.consistency import STRONG, Consistency
from recsvc.domain.errors import DomainError, UserNotFound
from recsvc.domain.events import StoredEvent
from recsvc.domain.filters import Comparison, Field, FieldType, Operator
from recsvc.domain.ids import TenantKey, UserId, UserKey
from recsvc.domain.order_by import Order
from recsvc.domain.users import Erasure, User, UserKind
from recsvc.storage.changes import Changes
from recsvc.storage.database import Database, execute
from recsvc.storage.events import EventRepository
from recsvc.storage.filter_sql import USER_COLUMNS
from recsvc.storage.listing import PageQuestion, fetch_page
from recsvc.storage.replicas import Replicas
from recsvc.storage.retries import despite_deadlocks
from recsvc.storage.statements import load

_SQL = load("users")
_ERASE_TIMEOUT_S = 120.0
_EXPORT_CHUNK = 1000
BY_ID = (Order("user_id"),)


@dataclass(frozen=True, slots=True)
class ShownRecommendation:
    """A list that was shown to a user."""

    recommendation_id: str
    strategy: str
    item_ids: Sequence[str]
    create_time: datetime


@dataclass(frozen=True, slots=True)
class UserExport:
    """A part of all that is held of a user."""

    user: User | None = None
    events: Sequence[StoredEvent] = ()
    shown: Sequence[ShownRecommendation] = ()


@dataclass(frozen=True, slots=True)
class Merge:
    """What a merge did."""

    user: User
    moved_events: int


class UserRepository:
    """Reads and writes the users of a tenant."""

    def __init__(self, database: Database, replicas: Replicas, changes: Changes, events: EventRepository) -> None:
        self._database = database
        self._replicas = replicas
        self._changes = changes
        self._events = events

    async def get(self, tenant_key: TenantKey, user_id: UserId, consistency: Consistency = STRONG) -> User:
        """Raises UserNotFound."""
        params = {"tenant": tenant_key, "user_id": user_id}
        row = await self._replicas.read_as(
            consistency, lambda database: database.fetch_one(tenant_key, _SQL["get_user"], params)
        )
        if row is None:
            raise UserNotFound(user_id)
        return _user(row)

    async def list(
        self, tenant_key: TenantKey, question: PageQuestion, consistency: Consistency = STRONG
    ) -> list[User]:
        """A page of users that match."""
        rows = await self._replicas.read_as(
            consistency, lambda database: fetch_page(database, tenant_key, _SQL["list_users"], USER_COLUMNS, question)
        )
        return [_user(row) for row in rows]

    async def change(
        self, tenant_key: TenantKey, user_id: UserId, change: Callable[[User], User], *, allow_missing: bool
    ) -> User:
        """Apply a change to the profile as it is now, or to a blank one. Raises UserNotFound and InvalidField."""
        check_name(user_id, "user.user_id")
        async with self._database.tenant_transaction(tenant_key) as connection:
            cursor = await execute(
                connection,
                _SQL["lock_user"],
                {"tenant": tenant_key, "kind": UserKind.USER.value, "user_id": user_id},
            )
            row = await cursor.fetchone()
            if row is None and not allow_missing:
                raise UserNotFound(user_id)
            if row is None:
                # Made before it is changed: another may do the same, and neither change may undo the other.
                cursor = await execute(connection, _SQL["ensure_user"], {"tenant": tenant_key, "user_id": user_id})
                row = await cursor.fetchone()
            changed = clean_user(change(_user(row)), "user")
            cursor = await execute(
                connection,
                _SQL["upsert_user"],
                {
                    "tenant": tenant_key,
                    "user_id": user_id,
                    "attributes": Jsonb(dict(changed.attributes)),
                    "labels": list(changed.labels),
                },
            )
            return _user(await cursor.fetchone())

    async def upsert_many(self, tenant_key: TenantKey, users: Sequence[User]) -> Sequence[DomainError]:
        """Create or replace profiles; of a user who stands twice the last one counts.

        Returns why which of them were refused (InvalidField); those never fail their neighbours.
        """
        documents: dict[UserId, dict[str, object]] = {}
        refused: list[DomainError] = []
        for position, sent in enumerate(users):
            try:
                user = clean_user(sent, f"users[{position}]")
            except DomainError as error:
                refused.append(error)
            else:
                documents[user.user_id] = {
                    "user_id": user.user_id,
                    "attributes": dict(user.attributes),
                    "labels": user.labels,
                }
        async with self._database.tenant_transaction(tenant_key) as connection:
            await execute(
                connection, _SQL["upsert_users"], {"tenant": tenant_key, "users": Jsonb(list(documents.values()))}
            )
        return refused

    async def erase(self, tenant_key: TenantKey, user_id: UserId) -> Erasure:
        """Delete everything that is held of a user; all counts are 0 when there is no such user."""
        subject = {"tenant": tenant_key, "kind": UserKind.USER.value, "user_id": user_id}

        async def erase() -> DictRow | None:
            async with self._database.tenant_transaction(tenant_key, timeout_s=_ERASE_TIMEOUT_S) as connection:
                cursor = await execute(connection, _SQL["lock_user"], subject)
                row = await cursor.fetchone()
                if row is None:
                    return None
                await execute(connection, _SQL["lock_states"], {"tenant": tenant_key, "users": [row["user_key"]]})
                cursor = await execute(connection, _SQL["erase_user"], subject)
                erased: DictRow = await cursor.fetchone()
                return erased

        row = await despite_deadlocks(self._database, "erase_user", erase)
        if row is None:
            return Erasure(events=0, shown=0, states=0, users=0)
        await self._changes.users_changed(tenant_key, {UserKey(row["user_key"]): 0})
        return Erasure(events=row["events"], shown=row["shown"], states=row["states"], users=row["users"])

    async def export(self, tenant_key: TenantKey, user_id: UserId, now: datetime) -> AsyncIterator[UserExport]:
        """All that is held of a user: profile, events, shown lists. Raises UserNotFound."""
        user = await self.get(tenant_key, user_id)
        yield UserExport(user=user)
        of_user = Comparison(Field("user_id", FieldType.STRING), Operator.EQ, user_id)
        async for _, chunk in self._events.export(tenant_key, of_user, None, now, may_lag=False):
            if chunk:
                yield UserExport(events=chunk)
        async with self._database.tenant_transaction(tenant_key, snapshot=True) as connection:
            cursor = await execute(connection, _SQL["get_user"], {"tenant": tenant_key, "user_id": user_id})
            row = await cursor.fetchone()
            if row is None:
                return
            async with connection.cursor("shown_to_user") as rows:
                await rows.execute(_SQL["shown_to_user"].encode(), {"tenant": tenant_key, "user": row["user_key"]})
                while found := await rows.fetchmany(_EXPORT_CHUNK):
                    yield UserExport(shown=[_shown(entry) for entry in found])

    async def merge(self, tenant_key: TenantKey, kind: UserKind, source_id: str, user_id: UserId) -> Merge:
        """Move the history of a session or anonymous user to a known user, once; a second time moves nothing.

        Raises UserNotFound when neither the source nor the user exists, and InvalidField for an id that none can have.
        """
        check_name(user_id, "user_id")
        subjects = {"tenant": tenant_key, "kind": kind.value, "source_id": source_id, "user_id": user_id}

        async def merge() -> tuple[Merge, dict[UserKey, int]]:
            async with self._database.tenant_transaction(tenant_key, timeout_s=_ERASE_TIMEOUT_S) as connection:
                cursor = await execute(connection, _SQL["lock_subjects"], subjects)
                found = {(row["kind"], row["user_id"]): row for row in await cursor.fetchall()}
                source = found.get((kind.value, source_id))
                if source is None:
                    # Read anew: who merged the source meanwhile may have created the user.
                    cursor = await execute(connection, _SQL["get_user"], subjects)
                    present = await cursor.fetchone()
                    if present is None:
                        raise UserNotFound(user_id)
                    return Merge(_user(present), 0), {}
                cursor = await execute(connection, _SQL["ensure_user"], subjects)
                target = await cursor.fetchone()
                keys = {"tenant": tenant_key, "source": source["user_key"], "target": target["user_key"]}
                both = [source["user_key"], target["user_key"]]
                await execute(connection, _SQL["lock_states"], {"tenant": tenant_key, "users": both})
                cursor = await execute(connection, _SQL["merge_users"], keys)
                moved = await cursor.fetchone()
                await execute(connection, _SQL["forget_subject"], keys)
                versions = {UserKey(source["user_key"]): 0, UserKey(target["user_key"]): moved["version"]}
                return Merge(_user(target), moved["moved"]), versions

        merged, versions = await despite_deadlocks(self._database, "merge_users", merge)
        if versions:
            await self._changes.users_changed(tenant_key, versions)
        return merged


def _user(row: Mapping[str, Any]) -> User:
    return User(
        user_id=UserId(row["user_id"]),
        attributes=row["attributes"],
        labels=tuple(row["labels"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
    )


def _shown(row: Mapping[str, Any]) -> ShownRecommendation:
    return ShownRecommendation(row["recommendation_id"], row["strategy"], row["item_ids"], row["create_time"])

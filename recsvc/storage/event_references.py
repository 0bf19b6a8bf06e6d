"""What stands in for the foreign keys that events do not have: a lock of the tenant.

A foreign key would lock a row for every event, and write that down. Instead, whoever writes events shares the lock
(`keep_referenced`) before looking up what they name, and whoever deletes items or event types holds it alone before
looking for events of these. One lock, however many events there are, and nothing to be written down. Users need none: a
batch touches the state of each of its users, and that has a foreign key.
"""

from __future__ import annotations

from psycopg.errors import LockNotAvailable

from recsvc.domain.errors import StorageUnavailable
from recsvc.storage.connection import Connection
from recsvc.storage.database import execute
from recsvc.storage.statements import load

_SQL = load("events")


async def await_event_writers(connection: Connection) -> None:
    """Let the next statements of the transaction see all events of the tenant, and none be written until the commit.

    Whoever calls this must not hold the state of a user: writers wait for that. Raises StorageUnavailable when a
    writer is stuck.
    """
    try:
        await execute(connection, _SQL["await_event_writers"])
    except LockNotAvailable as error:
        raise StorageUnavailable from error

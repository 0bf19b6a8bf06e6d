"""Sees to it that every administrative action of a known caller ends up in the audit log, whatever its outcome.

What succeeds is written by storage, in the transaction of the action itself (`calls.audit`). What is refused changed
nothing and is written here. A call without a valid key is nobody's: it stands in the access log, since a table that
anybody can fill would be a weapon.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import replace

import structlog
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from recsvc.domain.errors import Code, DomainError
from recsvc.domain.ids import MAX_ID_LENGTH
from recsvc.rpc import calls
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.methods import MethodPolicy
from recsvc.storage.audit_log import AuditLog
from recsvc.telemetry.redaction import redacted

_log = structlog.get_logger("recsvc.audit")
_READS = ("Get", "List", "Watch")


class Auditing:
    """Surrounds authentication, so that it sees refusals too."""

    def __init__(self, audit_log: AuditLog, scopes: Mapping[str, str]) -> None:
        """scopes: of each method. Those of admin:… that do not merely read are administrative actions."""
        self._audit_log = audit_log
        self._audited = frozenset(method for method, scope in scopes.items() if is_audited(method, scope))

    def concerns(self, policy: MethodPolicy) -> bool:
        """Administrative actions only."""
        return policy.path in self._audited

    def enter(self, call: Call, context: Context) -> None:
        """Nothing has happened yet."""

    def leave(self, call: Call, error: DomainError | None) -> Awaitable[None] | None:
        """Note how the call ended. Raises StorageUnavailable."""
        if call.principal is None:
            return None
        if error is not None:
            return self._note_refusal(call, error.code)
        if call.code == Code.OK.name and not call.is_audited:
            return self._audit_log.append(calls.audit(*targets_of(call.request)))
        return None

    async def _note_refusal(self, call: Call, code: Code) -> None:
        entry = replace(calls.audit(*targets_of(call.request)), outcome=code.name)
        try:
            await self._audit_log.append(entry)
        except DomainError as error:
            # The caller is told what was wrong with the call, not that nobody could write it down.
            _log.error(
                "audit.refusal_not_stored",
                tenant=entry.tenant_id,
                actor=entry.actor,
                action=entry.action,
                targets=entry.targets,
                outcome=entry.outcome,
                request_id=entry.request_id,
                error=error.reason,
            )


def is_audited(method: str, scope: str) -> bool:
    """Whether a method, by its full path and scope, is an administrative action."""
    return scope.startswith("admin:") and not method.rpartition("/")[2].startswith(_READS)


def targets_of(request: Message | None) -> list[str]:
    """The ids that a request names, cut to the longest that an id may be."""
    if request is None:
        return []
    # PostgreSQL has no way to store a NUL.
    return [redacted(value)[:MAX_ID_LENGTH].replace("\x00", "\ufffd") for value in _ids(request)]


def _ids(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING and field.name.endswith("_id") and isinstance(value, str):
            yield value
        elif field.type == FieldDescriptor.TYPE_MESSAGE and isinstance(value, Message):
            yield from _ids(value)

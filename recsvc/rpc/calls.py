"""The call at hand: who makes it, its request id, and what validation found wrong with single elements.

Set by the pipeline, read by servicers; carried by a context variable, since gRPC's context object takes no fields.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from recsvc.domain.audit import AuditEntry
from recsvc.domain.consistency import STRONG, Consistency
from recsvc.domain.errors import CredentialsMissing, FieldViolation
from recsvc.domain.ids import TenantKey
from recsvc.domain.tenancy import Principal
from recsvc.rpc.methods import MethodPolicy

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(slots=True)
class Call:
    """One call in the course of being answered.

    cost: what it counts against its tenant's limits, 0 for a stream whose messages count instead; pace: waits until so
    many elements of its stream may go on, None when they are not limited; headers: what goes into the initial metadata
    besides the request id; request: None of a stream of requests, and of what could not be read; response: None of a
    stream of responses, of which there were so many (responses) by now; deadline_s: what its caller gave it;
    wants_token: where the caller is told how new a read must be to see what this call wrote, if it asked for that.
    """

    method: str
    policy: MethodPolicy
    request_id: str
    # Holds the key, which no log and no traceback may show.
    metadata: Mapping[str, str] = field(repr=False)
    started_s: float
    cost: int = 1
    pace: Callable[[int], Awaitable[None]] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    are_headers_sent: bool = False
    principal: Principal | None = None
    request: Message | None = field(default=None, repr=False)
    is_audited: bool = False
    consistency: Consistency = STRONG
    wants_token: Context | None = None
    element_violations: dict[int, list[FieldViolation]] = field(default_factory=dict)
    code: str = "OK"
    # Kept, since of a stream whose caller has gone gRPC's context must not be asked for anything.
    deadline_s: float | None = None
    # For the access log, which alone looks at them.
    request_bytes: int = 0
    response: Message | None = field(default=None, repr=False)
    responses: int = 0
    # Tasks that it began may outlive it.
    has_ended: bool = False

    def caller(self) -> Principal:
        """Who makes the call. Raises CredentialsMissing for a method without authentication."""
        if self.principal is None:
            raise CredentialsMissing
        return self.principal


_current: ContextVar[Call] = ContextVar("recsvc_call")


def enter(call: Call) -> None:
    """Make it the call at hand of this task."""
    _current.set(call)


def current() -> Call:
    """The call at hand."""
    return _current.get()


def about() -> Mapping[str, str]:
    """What log lines say of the call at hand; nothing outside of one."""
    call = _current.get(None)
    if call is None or call.has_ended:
        return {}
    if call.principal is None:
        return {"request_id": call.request_id}
    return {"request_id": call.request_id, "tenant": call.principal.tenant_id}


def principal() -> Principal:
    """Who makes the call. Raises CredentialsMissing for a method without authentication."""
    return _current.get().caller()


def consistency() -> Consistency:
    """How new what the call reads must be."""
    return _current.get().consistency


def audit(*targets: str) -> AuditEntry:
    """What the audit log has to say of the call once it has succeeded; for the transaction in which it does."""
    call, caller = _current.get(), principal()
    call.is_audited = True
    return AuditEntry(
        caller.tenant_key,
        caller.tenant_id,
        caller.key_id,
        call.method.removeprefix("/"),
        targets,
        request_id=call.request_id,
    )


def tenant() -> TenantKey:
    """The tenant that the call acts for."""
    return principal().tenant_key

"""The one place that turns errors into `google.rpc.Status`: for a call's trailer and for the elements of a batch.

Errors repeat what the caller sent, which may be long. A status is kept small, since clients take 8 KiB of trailers and
tell of nothing but the size of larger ones; the message is in there three times, once with every byte as `%XX`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import structlog
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from recsvc.domain.errors import Code, DomainError, FieldViolation, InvalidFields, Reason
from recsvc.rpc.calls import Call, Context

_log = structlog.get_logger(__name__)
DOMAIN = "recsvc"
_MESSAGE_BYTES = 512
_NAME_BYTES = 256
_VIOLATIONS_BYTES = 2048
OK = status_pb2.Status(code=Code.OK)


class InternalError(DomainError):
    """Occurs when the service itself fails. What went wrong stands in the log, under the request id."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"internal error; the log has it under request id {request_id}", metadata={"request_id": request_id}
        )


def status_of(error: DomainError) -> status_pb2.Status:
    """The status with all details that belong to the error."""
    status = status_pb2.Status(code=int(error.code), message=_within(error.message, _MESSAGE_BYTES))
    for detail in _details(error, status.message):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def violations_status(violations: list[FieldViolation]) -> status_pb2.Status:
    """The status of a batch's element with wrong fields."""
    return status_of(InvalidFields(violations))


def unforeseen(call: Call) -> InternalError:
    """What to tell of an exception that nobody foresaw; the exception being handled goes into the log."""
    _log.exception("call.failed", method=call.method)
    return InternalError(call.request_id)


async def abort(context: Context, error: DomainError) -> None:
    """End the call with the error."""
    status = rpc_status.to_status(status_of(error))
    await context.abort(status.code, status.details, status.trailing_metadata)


def _details(error: DomainError, message: str) -> list[Message]:
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=error.metadata)
    ]
    if error.fields:
        details.append(_bad_request(error.fields))
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        # Rounded up: who repeats after exactly that time must find the way free.
        retry.retry_delay.FromMilliseconds(math.ceil(error.retry_after_s * 1000))
        details.append(retry)
    if error.resource is not None:
        kind, name = error.resource
        details.append(
            error_details_pb2.ResourceInfo(
                resource_type=kind, resource_name=_within(name, _NAME_BYTES), description=message
            )
        )
    if error.code is Code.FAILED_PRECONDITION:
        details.append(
            error_details_pb2.PreconditionFailure(
                violations=[
                    error_details_pb2.PreconditionFailure.Violation(type=error.reason.value, description=message)
                ]
            )
        )
    if error.reason in (Reason.RATE_LIMITED, Reason.LIMIT_EXCEEDED):
        details.append(
            error_details_pb2.QuotaFailure(
                violations=[
                    error_details_pb2.QuotaFailure.Violation(
                        subject=error.metadata.get("subject", ""), description=message
                    )
                ]
            )
        )
    return details


def _bad_request(fields: Sequence[FieldViolation]) -> error_details_pb2.BadRequest:
    """The first wrong field, and as many more as there is room for."""
    bad = error_details_pb2.BadRequest()
    for violation in fields:
        bad.field_violations.add(
            field=_within(violation.field, _NAME_BYTES), description=_within(violation.description, _NAME_BYTES)
        )
        if bad.ByteSize() > _VIOLATIONS_BYTES:
            break
    return bad


def _within(text: str, limit_bytes: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= limit_bytes else encoded[:limit_bytes].decode(errors="ignore") + "…"

"""The one place that turns errors into `google.rpc.Status`: for a call's trailer and for the elements of a batch."""

from __future__ import annotations

import math

import structlog
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from recsvc.domain.errors import Code, DomainError, FieldViolation, InvalidFields, Reason
from recsvc.rpc.calls import Call, Context

_log = structlog.get_logger(__name__)
DOMAIN = "recsvc"
OK = status_pb2.Status(code=Code.OK)


class InternalError(DomainError):
    """Occurs when the service itself fails. What went wrong stands in the log, under the request id."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"internal error; the log has it under request id {request_id}", metadata={"request_id": request_id}
        )


def status_of(error: DomainError) -> status_pb2.Status:
    """The status with all details that belong to the error."""
    status = status_pb2.Status(code=int(error.code), message=error.message)
    for detail in _details(error):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def violations_status(violations: list[FieldViolation]) -> status_pb2.Status:
    """The status of a batch's element with wrong fields."""
    return status_of(InvalidFields(violations))


def unforeseen(call: Call) -> InternalError:
    """What to tell of an exception that nobody foresaw; the exception being handled goes into the log."""
    _log.exception("call.failed", method=call.method, request_id=call.request_id)
    return InternalError(call.request_id)


async def abort(context: Context, error: DomainError) -> None:
    """End the call with the error."""
    status = rpc_status.to_status(status_of(error))
    await context.abort(status.code, status.details, status.trailing_metadata)


def _details(error: DomainError) -> list[Message]:
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=error.metadata)
    ]
    if error.fields:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description
                    )
                    for violation in error.fields
                ]
            )
        )
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        # Rounded up: who repeats after exactly that time must find the way free.
        retry.retry_delay.FromMilliseconds(math.ceil(error.retry_after_s * 1000))
        details.append(retry)
    if error.resource is not None:
        kind, name = error.resource
        details.append(
            error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name, description=error.message)
        )
    if error.code is Code.FAILED_PRECONDITION:
        details.append(
            error_details_pb2.PreconditionFailure(
                violations=[
                    error_details_pb2.PreconditionFailure.Violation(type=error.reason.value, description=error.message)
                ]
            )
        )
    if error.reason in (Reason.RATE_LIMITED, Reason.LIMIT_EXCEEDED):
        details.append(
            error_details_pb2.QuotaFailure(
                violations=[
                    error_details_pb2.QuotaFailure.Violation(
                        subject=error.metadata.get("subject", ""), description=error.message
                    )
                ]
            )
        )
    return details

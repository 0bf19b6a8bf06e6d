"""A failed call as an exception with everything that the service said about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2


class RecsvcError(Exception):
    """Occurs when a call fails.

    code: the canonical code (`NOT_FOUND`). reason: the service's own (`ITEM_NOT_FOUND`). fields: what is wrong with
    which field. retry_after_s: when to try again, if that may help. request_id: finds the call in the service's log.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        message: str,
        fields: Mapping[str, str],
        retry_after_s: float | None,
        request_id: str,
    ) -> None:
        super().__init__(f"{code} ({reason}): {message}" if reason else f"{code}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.fields = dict(fields)
        self.retry_after_s = retry_after_s
        self.request_id = request_id


def broken(message: str) -> RecsvcError:
    """A connection that is of no use any more, though gRPC does not say so."""
    return RecsvcError("UNAVAILABLE", "", message, {}, None, "")


@contextmanager
def explained() -> Iterator[None]:
    """Turn gRPC's errors into RecsvcError."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _from_grpc(error) from None


def _from_grpc(error: grpc.aio.AioRpcError) -> RecsvcError:
    packed = _metadata(error.trailing_metadata()).get("grpc-status-details-bin")
    status = status_pb2.Status.FromString(packed) if isinstance(packed, bytes) else status_pb2.Status()
    reason, retry_after_s, fields = "", None, {}
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields = {violation.field: violation.description for violation in bad.field_violations}
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    request_id = _metadata(error.initial_metadata()).get("x-request-id", "")
    return RecsvcError(error.code().name, reason, error.details() or "", fields, retry_after_s, str(request_id))


def _metadata(pairs: Any) -> dict[str, str | bytes]:
    return dict(pairs or ())

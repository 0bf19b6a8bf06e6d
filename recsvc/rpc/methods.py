"""What the protos say of each method besides its messages: the scope that it demands, its class, and its size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FileDescriptor

from recsvc.domain.limits import CallClass
from recsvc.gen.v1 import options_pb2
from recsvc.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class MethodPolicy:
    """One method. path: as gRPC names it; element_field: of its request, what counts one by one, if it is a batch."""

    path: str
    call_class: CallClass
    max_bytes: int
    element_field: str | None
    is_request_stream: bool
    is_stream: bool

    def elements(self, request: Any) -> int:
        """What a request, or a message of a stream, counts for: the elements of a batch, else one."""
        return max(1, len(getattr(request, self.element_field))) if self.element_field else 1


def policies(files: Iterable[FileDescriptor], settings: ServerSettings) -> Mapping[str, MethodPolicy]:
    """All methods by their full gRPC path."""
    found = {}
    for file in files:
        for service in file.services_by_name.values():
            for method in service.methods:
                options = method.GetOptions()
                path = f"/{service.full_name}/{method.name}"
                is_bulk = options.Extensions[options_pb2.bulk]
                found[path] = MethodPolicy(
                    path=path,
                    call_class=_class_of(options.Extensions[options_pb2.required_scope], is_bulk=is_bulk),
                    max_bytes=settings.max_bulk_request_bytes if is_bulk else settings.max_request_bytes,
                    element_field=per_element_field(method.input_type) if is_bulk else None,
                    is_request_stream=method.client_streaming,
                    is_stream=method.client_streaming or method.server_streaming,
                )
    return found


@cache
def per_element_field(descriptor: Descriptor) -> str | None:
    """The repeated field whose elements are judged one by one; None where a message has no such field."""
    for candidate in descriptor.fields:
        if candidate.GetOptions().Extensions[options_pb2.per_element]:
            return str(candidate.name)
    return None


def _class_of(scope: str, *, is_bulk: bool) -> CallClass:
    if is_bulk:
        return CallClass.BULK
    if scope.startswith("admin:"):
        return CallClass.ADMIN
    return CallClass.WRITE if scope.endswith(":write") else CallClass.READ

"""The verbs and paths that the protos declare."""

from __future__ import annotations

from collections.abc import Iterator

from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor


def bindings(method: MethodDescriptor) -> Iterator[tuple[str, str, str]]:
    """Verb, path and body of each rule of a method."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        verb = binding.WhichOneof("pattern")
        yield (verb, getattr(binding, verb), binding.body) if verb else ("", "", "")

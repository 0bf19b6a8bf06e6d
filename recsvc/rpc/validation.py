"""Checks messages against the limits that the protos state: protovalidate's rules and our own Struct limits.

The protos are the only statement of limits. What cannot be said there (a known event type, an allowed attribute) is
checked where it is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import protovalidate
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from recsvc.domain.errors import FieldViolation, InvalidFields
from recsvc.gen.v1 import options_pb2
from recsvc.rpc.methods import per_element_field

_MAX_VIOLATIONS = 20


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong with a message: with itself, and with the elements that are judged one by one."""

    violations: list[FieldViolation] = field(default_factory=list)
    by_element: dict[int, list[FieldViolation]] = field(default_factory=dict)


class RequestValidator:
    """Compiles the rules of each message type once."""

    def __init__(self) -> None:
        self._rules = protovalidate.Validator()

    def examine(self, message: Message) -> Findings:
        """Everything that is wrong with a message."""
        findings = Findings()
        element_field = per_element_field(message.DESCRIPTOR)
        for violation in self._rules.collect_violations(message):
            elements = violation.proto.field.elements if violation.proto.field else ()
            description = violation.proto.message or violation.proto.rule_id
            self._sort_in(findings, element_field, _path(elements), description)
        for path, struct, limits in _structs(message, ""):
            for at, description in _struct_violations(struct, limits, path):
                self._sort_in(findings, element_field, at, description)
        return findings

    def check(self, message: Message) -> dict[int, list[FieldViolation]]:
        """Raise InvalidFields for what is wrong with the message; return what is wrong with single elements."""
        findings = self.examine(message)
        if findings.violations:
            raise InvalidFields(findings.violations[:_MAX_VIOLATIONS])
        return findings.by_element

    @staticmethod
    def _sort_in(findings: Findings, element_field: str | None, path: str, description: str) -> None:
        violation = FieldViolation(path, description)
        if element_field is not None and path.startswith(element_field + "["):
            index = int(path[len(element_field) + 1 : path.index("]")])
            findings.by_element.setdefault(index, []).append(violation)
        else:
            findings.violations.append(violation)


def _path(elements: Any) -> str:
    parts: list[str] = []
    for element in elements:
        subscript = element.subscript
        name = element.field_name
        if subscript is not None:
            key = f'"{subscript.value}"' if isinstance(subscript.value, str) else subscript.value
            name = f"{name}[{key}]"
        parts.append(name)
    return ".".join(parts)


class _StructField(NamedTuple):
    """What a descriptor says of a field, which is slow to ask. limits: None for one that leads to limited Structs."""

    name: str
    is_repeated: bool
    limits: options_pb2.StructLimits | None


@cache
def _struct_plan(descriptor: Descriptor) -> tuple[_StructField, ...]:
    """Fields of a message type that are limited Structs, or lead to some."""
    plan: list[_StructField] = []
    for candidate in descriptor.fields:
        if candidate.message_type is None:
            continue
        options = candidate.GetOptions()
        if options.HasExtension(options_pb2.struct_limits):
            plan.append(_StructField(candidate.name, False, options.Extensions[options_pb2.struct_limits]))
        elif (
            candidate.message_type.file.package == "recsvc.v1"
            and not candidate.message_type.GetOptions().map_entry
            and _struct_plan(candidate.message_type)
        ):
            plan.append(_StructField(candidate.name, candidate.is_repeated, None))
    return tuple(plan)


def _structs(message: Message, prefix: str) -> Iterator[tuple[str, Struct, options_pb2.StructLimits]]:
    for name, is_repeated, limits in _struct_plan(message.DESCRIPTOR):
        if is_repeated:
            for index, element in enumerate(getattr(message, name)):
                yield from _structs(element, f"{prefix}{name}[{index}].")
        elif message.HasField(name):
            child = getattr(message, name)
            if limits is not None:
                yield prefix + name, child, limits
            else:
                yield from _structs(child, f"{prefix}{name}.")


def _struct_violations(struct: Struct, limits: options_pb2.StructLimits, path: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if struct.ByteSize() > limits.max_bytes:
        # Not looked into any further: that is what the bound is for.
        return [(path, f"must encode to at most {limits.max_bytes} bytes")]
    keys = 0

    def walk_struct(node: Struct, at: str, depth: int) -> None:
        nonlocal keys
        if depth > limits.max_depth:
            found.append((at, f"must nest at most {limits.max_depth} levels"))
            return
        for key, value in node.fields.items():
            keys += 1
            if not key or "\x00" in key:
                found.append((at, "keys must not be empty or contain the character NUL"))
            walk_value(value, f"{at}.{key}", depth)

    def walk_value(value: Value, at: str, depth: int) -> None:
        match value.WhichOneof("kind"):
            case "number_value" if not math.isfinite(value.number_value):
                found.append((at, "must be finite"))
            case "string_value" if "\x00" in value.string_value:
                found.append((at, "must not contain the character NUL"))
            case "struct_value":
                walk_struct(value.struct_value, at, depth + 1)
            case "list_value":
                walk_list(value.list_value, at, depth)
            case None:
                found.append((at, "must have a value"))

    def walk_list(node: ListValue, at: str, depth: int) -> None:
        for index, value in enumerate(node.values):
            # A list of lists is a level as an object is one.
            nested = value.WhichOneof("kind") == "list_value"
            if nested and depth + 1 > limits.max_depth:
                found.append((at, f"must nest at most {limits.max_depth} levels"))
                return
            walk_value(value, f"{at}[{index}]", depth + 1 if nested else depth)

    walk_struct(struct, path, 1)
    if keys > limits.max_keys:
        found.append((path, f"must have at most {limits.max_keys} keys"))
    return found

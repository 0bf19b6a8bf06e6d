"""Checks messages against the limits that the protos state: protovalidate's rules and our own Struct limits.

The protos are the only statement of limits. What cannot be said there (a known event type, an allowed attribute) is
checked where it is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import protovalidate
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from recsvc.domain.errors import FieldViolation, InvalidFields
from recsvc.gen.buf.validate import validate_pb2
from recsvc.gen.v1 import options_pb2
from recsvc.rpc.columns import NOTHING_READ, Columns
from recsvc.rpc.methods import per_element_field
from recsvc.rpc.plain_messages import is_plainly_valid
from recsvc.rpc.struct_limits import MAX_VIOLATIONS, struct_violations

# After so many each further element of a batch is told of one violation only.
_MAX_TOLD_OF_ELEMENTS = 1000


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
        """Everything that is wrong with a message, but of one that is wrong all over only the beginning.

        To tell of a violation costs more than to check hundreds of fields: a few megabytes of wrong elements only would
        hold the event loop for minutes.
        """
        findings = Findings()
        element_field = per_element_field(message.DESCRIPTOR)
        if self._rules.collect_violations(message, fail_fast=True):
            # Fields with too many elements first: what is in those is not looked at.
            findings.violations.extend(islice(_oversized(message, "", element_field), MAX_VIOLATIONS))
            if findings.violations:
                return findings
            self._find(message, element_field, findings)
        for path, struct, limits in _structs(message, ""):
            for at, description in struct_violations(struct, limits, path):
                self._sort_in(findings, element_field, at, description)
        return findings

    def _find(self, message: Message, element_field: str | None, findings: Findings) -> None:
        elements = getattr(message, element_field) if element_field is not None else ()
        if not elements or not isinstance(elements[0], Message):
            for path, description in self._violations(message, ""):
                self._sort_in(findings, element_field, path, description)
            return
        told = 0
        for index, element in enumerate(elements):
            at = f"{element_field}[{index}]."
            found = [(each.field, each.description) for each in islice(_oversized(element, at, None), MAX_VIOLATIONS)]
            found = found or self._violations(element, at, fail_fast=told >= _MAX_TOLD_OF_ELEMENTS)
            told += len(found)
            for path, description in found:
                self._sort_in(findings, element_field, path, description)
        alone = type(message)()
        alone.CopyFrom(message)
        alone.ClearField(element_field)
        for path, description in self._violations(alone, ""):
            # That there are no elements is not so.
            if path != element_field:
                self._sort_in(findings, element_field, path, description)

    def _violations(self, message: Message, prefix: str, *, fail_fast: bool = False) -> list[tuple[str, str]]:
        """Paths and descriptions of all that breaks a rule."""
        return [
            (
                prefix + _path(violation.proto.field.elements if violation.proto.field else ()),
                violation.proto.message or violation.proto.rule_id,
            )
            for violation in self._rules.collect_violations(message, fail_fast=fail_fast)
        ]

    def check(
        self, message: Message, read: Mapping[str, Columns[Any]] = NOTHING_READ
    ) -> dict[int, list[FieldViolation]]:
        """Raise InvalidFields for what is wrong with the message; return what is wrong with single elements.

        read: by name of a repeated field its messages, for whoever reads them next.
        """
        if is_plainly_valid(message, read):
            return {}
        findings = self.examine(message)
        if findings.violations:
            raise InvalidFields(findings.violations[:MAX_VIOLATIONS])
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


class _RepeatedField(NamedTuple):
    """A field with a bound on its elements (0 for none), or one that leads to such fields."""

    name: str
    max_items: int
    is_repeated: bool
    is_map: bool
    leads_on: bool


@cache
def _repeated_plan(descriptor: Descriptor) -> tuple[_RepeatedField, ...]:
    plan: list[_RepeatedField] = []
    for candidate in descriptor.fields:
        rules = candidate.GetOptions().Extensions[validate_pb2.field]
        inner = candidate.message_type
        is_map = False
        if inner is not None and inner.GetOptions().map_entry:
            is_map = True
            inner = inner.fields_by_name["value"].message_type
        max_items = int(rules.map.max_pairs if is_map else rules.repeated.max_items)
        leads_on = inner is not None and inner.file.package == "recsvc.v1" and bool(_repeated_plan(inner))
        if max_items or leads_on:
            plan.append(_RepeatedField(candidate.name, max_items, candidate.is_repeated, is_map, leads_on))
    return tuple(plan)


def _oversized(message: Message, prefix: str, unopened: str | None) -> Iterator[FieldViolation]:
    """The fields that have more elements than they may; what is in `unopened` is not looked at."""
    for name, max_items, is_repeated, is_map, leads_on in _repeated_plan(message.DESCRIPTOR):
        if not is_repeated:
            if message.HasField(name):
                yield from _oversized(getattr(message, name), f"{prefix}{name}.", None)
            continue
        elements = getattr(message, name)
        if max_items and len(elements) > max_items:
            yield FieldViolation(prefix + name, f"must contain no more than {max_items} item(s)")
        elif leads_on and name != unopened:
            entries = ((f'"{key}"', elements[key]) for key in elements) if is_map else enumerate(elements)
            for key, element in entries:
                yield from _oversized(element, f"{prefix}{name}[{key}].", None)


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

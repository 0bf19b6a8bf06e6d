"""Tells of the messages that most callers send that they break no rule, without asking protovalidate.

The rules stay those of the protos, read once per message type. What is said here is "valid" or nothing: a field with a
rule that is not known here, text that is not plain ASCII, and whatever is wrong are left to `validation.py`, which says
what is wrong. To ask protovalidate costs a unary call more than authentication does (`bench/interceptors.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import compress
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from recsvc.gen.buf.validate import validate_pb2
from recsvc.gen.v1 import options_pb2
from recsvc.rpc.columns import NOTHING_READ, Columns
from recsvc.rpc.struct_limits import struct_violations

_Check = Callable[[Any], bool]
_ColumnCheck = Callable[[Columns[Any]], bool]
_NO_CONTROL_CHARACTERS = r"^\P{Cc}*$"
_INTEGERS = ("int32", "int64", "uint32", "uint64")


class _Plan(NamedTuple):
    """checks: by number of field; needed: numbers of the fields without which a message may break a rule.

    columns: the same as checks of one field each of many messages.
    """

    checks: dict[int, _Check]
    needed: frozenset[int]
    columns: tuple[_ColumnCheck, ...]


def is_plainly_valid(message: Message, read: Mapping[str, Columns[Any]] = NOTHING_READ) -> bool:
    """Whether it is sure that a message breaks no rule and no limit of a Struct; False says nothing.

    read: by name of a repeated field its messages, for whoever reads them next.
    """
    plan = _plan_of(message.DESCRIPTOR)
    if plan is None:
        return False
    needed = len(plan.needed)
    for field, value in message.ListFields():
        check = plan.checks.get(field.number)
        if check is None or not check(read.get(field.name, value)):
            return False
        if needed and field.number in plan.needed:
            needed -= 1
    return not needed


@cache
def _plan_of(descriptor: Descriptor) -> _Plan | None:
    """None for a type with rules beyond those of single fields."""
    if descriptor.GetOptions().HasExtension(validate_pb2.message):
        return None
    if any(oneof.GetOptions().HasExtension(validate_pb2.oneof) for oneof in descriptor.oneofs):
        return None
    checks, needed, columns = {}, set(), []
    for field in descriptor.fields:
        rules = field.GetOptions().Extensions[validate_pb2.field]
        check = _check_of_field(field, rules)
        if check is not None:
            checks[field.number] = check
        if rules.required or not _may_be_unset(field, rules, check):
            needed.add(field.number)
        if check is not None and rules.WhichOneof("type") == "string" and not field.has_presence:
            columns.append(_column_of_texts(field, rules.string))
        else:
            columns.append(_column_of(field, check, is_needed=field.number in needed))
    return _Plan(checks, frozenset(needed), tuple(columns))


def _column_of(field: FieldDescriptor, check: _Check | None, *, is_needed: bool) -> _ColumnCheck:
    """The check of one field as one of many messages."""
    name = field.name

    def is_set(columns: Columns[Any]) -> list[Any]:
        return columns.presence(name) if field.has_presence else columns.values(name)

    if check is None:
        return lambda columns: not is_needed and not any(is_set(columns))
    if is_needed:
        return lambda columns: all(is_set(columns)) and all(map(check, columns.values(name)))
    if check is _anything:
        return _anything
    return lambda columns: not any(is_set(columns)) or all(map(check, compress(columns.values(name), is_set(columns))))


def _column_of_texts(field: FieldDescriptor, rules: validate_pb2.StringRules) -> _ColumnCheck:
    """The same for texts, which are looked at as one."""
    name, least, most, is_free = field.name, rules.min_len, rules.max_len or sys.maxsize, not rules.pattern

    def check(columns: Columns[Any]) -> bool:
        texts = columns.values(name)
        together = "".join(texts)
        if not together:
            return not least
        return (
            (is_free or (together.isascii() and together.isprintable()))
            and max(map(len, texts)) <= most
            and (not least or least <= min(map(len, texts)))
        )

    return check


def _may_be_unset(field: FieldDescriptor, rules: validate_pb2.FieldRules, check: _Check | None) -> bool:
    if field.has_presence:
        return True
    if field.is_repeated:
        return _names(rules) <= {"repeated"} and not rules.repeated.min_items
    return check is not None and check(field.default_value)


def _check_of_field(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> _Check | None:
    kind = rules.WhichOneof("type")
    if _names(rules) - {kind, "required"}:
        return None
    if field.is_repeated:
        return _check_of_repeated(field, rules) if kind in (None, "repeated") else None
    if field.message_type is not None:
        if kind is not None:
            return None
        if field.GetOptions().HasExtension(options_pb2.struct_limits):
            limits = field.GetOptions().Extensions[options_pb2.struct_limits]
            return lambda struct: not struct_violations(struct, limits, "")
        # Messages of others have no rules of their own.
        return is_plainly_valid if field.message_type.file.package == "recsvc.v1" else _anything
    return _check_of_scalar(field, rules)


def _check_of_repeated(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> _Check | None:
    of_repeated = rules.repeated
    if _names(of_repeated) - {"min_items", "max_items", "items"}:
        return None
    least, most = of_repeated.min_items, of_repeated.max_items or sys.maxsize
    if field.message_type is not None:
        element = field.message_type
        if _names(of_repeated.items) or element.GetOptions().map_entry or element.file.package != "recsvc.v1":
            return None
        return lambda messages: least <= len(messages) <= most and _are_plainly_valid(messages, element)
    each = _check_of_scalar(field, of_repeated.items)
    return None if each is None else lambda values: least <= len(values) <= most and all(map(each, values))


def _are_plainly_valid(messages: Sequence[Message] | Columns[Any], descriptor: Descriptor) -> bool:
    plan = _plan_of(descriptor)
    columns = messages if isinstance(messages, Columns) else Columns(messages)
    return plan is not None and (not messages or all(column(columns) for column in plan.columns))


def _check_of_scalar(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> _Check | None:
    kind = rules.WhichOneof("type")
    if kind is None:
        return None if _names(rules) else _anything
    of_kind = getattr(rules, kind)
    names = _names(of_kind)
    if kind == "string" and names <= {"min_len", "max_len", "pattern"}:
        return _check_of_string(of_kind)
    if kind in _INTEGERS and names <= {"gt", "gte", "lte"}:
        least = of_kind.gte if "gte" in names else of_kind.gt + 1 if "gt" in names else -sys.maxsize
        most = of_kind.lte if "lte" in names else sys.maxsize
        return lambda number: bool(least <= number <= most)
    if kind == "double" and names <= {"gte", "lte", "finite"}:
        lowest = of_kind.gte if "gte" in names else -sys.float_info.max
        highest = of_kind.lte if "lte" in names else sys.float_info.max
        return lambda number: bool(lowest <= number <= highest)
    if kind == "enum" and names <= {"defined_only"} and field.enum_type is not None:
        return frozenset(field.enum_type.values_by_number).__contains__
    return None


def _check_of_string(rules: validate_pb2.StringRules) -> _Check | None:
    least, most = rules.min_len, rules.max_len or sys.maxsize
    if not rules.pattern:
        return lambda text: least <= len(text) <= most
    if rules.pattern != _NO_CONTROL_CHARACTERS:
        return None
    # Whatever else is no control character is protovalidate's to find.
    return lambda text: least <= len(text) <= most and text.isascii() and text.isprintable()


def _names(rules: Message) -> set[str]:
    return {field.name for field, _ in rules.ListFields()}


def _anything(_value: object) -> bool:
    return True

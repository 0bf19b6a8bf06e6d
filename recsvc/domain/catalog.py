"""Items and the tenant's attribute schema: what a catalogue is made of.

Values here are already valid: limits of single fields are checked at the door (`rpc.validation`), and what needs the
tenant's settings (schema, embedding length) is checked by the functions below, before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from recsvc.domain.errors import AttributeNotAllowed
from recsvc.domain.ids import ItemId

Attributes = Mapping[str, object]
"""Free attributes: JSON values as decoded by `json` (str, float, bool, None, list, dict)."""


class AttributeType(StrEnum):
    """The types that an attribute schema may ask for."""

    STRING = "STRING"
    NUMBER = "NUMBER"
    BOOL = "BOOL"
    TIMESTAMP = "TIMESTAMP"
    STRING_LIST = "STRING_LIST"
    NUMBER_LIST = "NUMBER_LIST"
    STRUCT = "STRUCT"


@dataclass(frozen=True, slots=True)
class AttributeRule:
    """One line of a tenant's attribute schema."""

    key: str
    type: AttributeType
    required: bool = False
    filterable: bool = True
    description: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be recommended. `etag` is empty until it is stored."""

    item_id: ItemId
    item_type: str = ""
    title: str = ""
    description: str = ""
    categories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    attributes: Attributes = field(default_factory=dict)
    embedding: tuple[float, ...] | None = None
    available: bool = True
    hidden: bool = False
    publish_time: datetime | None = None
    expire_time: datetime | None = None
    etag: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None


def check_attributes(attributes: Attributes, schema: Sequence[AttributeRule], path: str) -> None:
    """Check attributes against the tenant's schema; an empty schema allows everything.

    path: where the attributes stand in the request (`item.attributes`), for the error.
    Raises AttributeNotAllowed for a key that the schema lacks, a missing required key or a value of another type.
    """
    if not schema:
        return
    rules = {rule.key: rule for rule in schema}
    for key, value in attributes.items():
        rule = rules.get(key)
        if rule is None:
            raise AttributeNotAllowed(f"{path}.{key}", "is not in the attribute schema")
        if not _matches(value, rule.type):
            raise AttributeNotAllowed(f"{path}.{key}", f"must be of type {rule.type}")
    for rule in schema:
        if rule.required and attributes.get(rule.key) is None:
            raise AttributeNotAllowed(f"{path}.{rule.key}", "is required by the attribute schema")


def _matches(value: object, wanted: AttributeType) -> bool:
    match wanted:
        case _ if value is None:
            return True
        case AttributeType.STRING:
            return isinstance(value, str)
        case AttributeType.NUMBER:
            return _is_number(value)
        case AttributeType.BOOL:
            return isinstance(value, bool)
        case AttributeType.TIMESTAMP:
            return isinstance(value, str) and _is_timestamp(value)
        case AttributeType.STRING_LIST:
            return isinstance(value, list) and all(isinstance(element, str) for element in value)
        case AttributeType.NUMBER_LIST:
            return isinstance(value, list) and all(_is_number(element) for element in value)
        case AttributeType.STRUCT:
            return isinstance(value, dict)
    return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_timestamp(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False

"""Which fields a filter may use, and of which type each is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class FieldType(StrEnum):
    """The type of a field. DYNAMIC is an attribute whose type only its stored value knows."""

    STRING = "string"
    NUMBER = "number"
    BOOL = "bool"
    TIMESTAMP = "timestamp"
    AGE = "duration"
    STRING_LIST = "list of strings"
    DYNAMIC = "attribute"


@dataclass(frozen=True, slots=True)
class FilterSchema:
    """The fields of one resource.

    ages: pseudo-fields such as `publish_age`, the time since the timestamp that they name; `create_age < 72h`.
    attribute_keys: the keys that may be used; None allows all.
    """

    resource: str
    fields: Mapping[str, FieldType]
    ages: Mapping[str, str]
    has_attributes: bool = False
    attribute_keys: frozenset[str] | None = None


ITEM_FIELDS = FilterSchema(
    resource="item",
    fields={
        "item_id": FieldType.STRING,
        "item_type": FieldType.STRING,
        "title": FieldType.STRING,
        "categories": FieldType.STRING_LIST,
        "tags": FieldType.STRING_LIST,
        "available": FieldType.BOOL,
        "hidden": FieldType.BOOL,
        "publish_time": FieldType.TIMESTAMP,
        "expire_time": FieldType.TIMESTAMP,
        "create_time": FieldType.TIMESTAMP,
        "update_time": FieldType.TIMESTAMP,
    },
    ages={"publish_age": "publish_time", "create_age": "create_time", "update_age": "update_time"},
    has_attributes=True,
)

USER_FIELDS = FilterSchema(
    resource="user",
    fields={
        "user_id": FieldType.STRING,
        "labels": FieldType.STRING_LIST,
        "create_time": FieldType.TIMESTAMP,
        "update_time": FieldType.TIMESTAMP,
    },
    ages={"create_age": "create_time", "update_age": "update_time"},
    has_attributes=True,
)

EVENT_FIELDS = FilterSchema(
    resource="event",
    fields={
        "event_id": FieldType.STRING,
        "event_type": FieldType.STRING,
        "user_id": FieldType.STRING,
        "session_id": FieldType.STRING,
        "item_id": FieldType.STRING,
        "value": FieldType.NUMBER,
        "recommendation_id": FieldType.STRING,
        "event_time": FieldType.TIMESTAMP,
        "create_time": FieldType.TIMESTAMP,
    },
    ages={"event_age": "event_time", "create_age": "create_time"},
)

"""Items and attribute schemas between messages and the domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recsvc.domain.catalog import AttributeRule, AttributeType, Item
from recsvc.domain.errors import InvalidField, InvalidUpdateMask, ItemNotFound, StaleEtag
from recsvc.domain.ids import ItemId
from recsvc.gen.v1 import catalog_service_pb2 as pb
from recsvc.rpc.convert.values import mask_paths, moment, plain, struct, timestamp
from recsvc.storage.items import ItemActivity

_UPDATABLE = (
    "item_type",
    "title",
    "description",
    "categories",
    "tags",
    "attributes",
    "embedding",
    "available",
    "hidden",
    "publish_time",
    "expire_time",
)


def item(message: pb.Item, path: str) -> Item:
    """The item in a message. Raises InvalidField for a time that no calendar holds."""
    return Item(
        item_id=ItemId(message.item_id),
        item_type=message.item_type,
        title=message.title,
        description=message.description,
        categories=tuple(message.categories),
        tags=tuple(message.tags),
        attributes=plain(message.attributes),
        embedding=tuple(message.embedding) or None,
        available=message.available if message.HasField("available") else True,
        hidden=message.hidden,
        publish_time=moment(message.publish_time, f"{path}.publish_time") if message.HasField("publish_time") else None,
        expire_time=moment(message.expire_time, f"{path}.expire_time") if message.HasField("expire_time") else None,
        etag=message.etag,
    )


def item_change(request: pb.UpdateItemRequest, present: Item | None) -> Item:
    """The item after the update.

    Raises ItemNotFound (unless allow_missing), StaleEtag and InvalidUpdateMask.
    """
    wanted = item(request.item, "item")
    paths = _update_paths(request)
    if present is None:
        if not request.allow_missing:
            raise ItemNotFound(wanted.item_id)
        if wanted.etag:
            raise StaleEtag(wanted.item_id)
        present = Item(wanted.item_id)
    if wanted.etag and wanted.etag != present.etag:
        raise StaleEtag(wanted.item_id)
    changed = replace(present, **{path: getattr(wanted, path) for path in paths if "." not in path})
    keys = [path.removeprefix("attributes.") for path in paths if path.startswith("attributes.")]
    if keys:
        attributes = dict(changed.attributes)
        for key in keys:
            if key in wanted.attributes:
                attributes[key] = wanted.attributes[key]
            else:
                attributes.pop(key, None)
        changed = replace(changed, attributes=attributes)
    return changed


def _update_paths(request: pb.UpdateItemRequest) -> tuple[str, ...]:
    if request.HasField("update_mask"):
        if "item_id" in request.update_mask.paths:
            raise InvalidUpdateMask("item_id cannot be changed")
        return mask_paths(request.update_mask, _UPDATABLE, nested="attributes")
    return tuple(field.name for field, _ in request.item.ListFields() if field.name in _UPDATABLE)


def item_proto(source: Item) -> pb.Item:
    """The message for an item."""
    return pb.Item(
        item_id=source.item_id,
        item_type=source.item_type,
        title=source.title,
        description=source.description,
        categories=source.categories,
        tags=source.tags,
        attributes=struct(source.attributes) if source.attributes else None,
        embedding=source.embedding or (),
        available=source.available,
        hidden=source.hidden,
        publish_time=timestamp(source.publish_time),
        expire_time=timestamp(source.expire_time),
        etag=source.etag,
        create_time=timestamp(source.create_time),
        update_time=timestamp(source.update_time),
    )


def activity_proto(source: ItemActivity) -> pb.ItemActivity:
    """The message for an item's live counters."""
    return pb.ItemActivity(
        item_id=source.item_id,
        viewers_now=source.viewers_now,
        user_count=source.user_count,
        event_counts=source.event_counts,
    )


def attribute_rules(message: pb.AttributeSchema) -> list[AttributeRule]:
    """The schema in a message. Raises InvalidField for a key that stands twice."""
    rules: list[AttributeRule] = []
    for index, definition in enumerate(message.attributes):
        if any(rule.key == definition.key for rule in rules):
            raise InvalidField(f"schema.attributes[{index}].key", f"{definition.key!r} stands twice")
        name = pb.AttributeType.Name(definition.type).removeprefix("ATTRIBUTE_TYPE_")
        rules.append(
            AttributeRule(
                key=definition.key,
                type=AttributeType(name),
                required=definition.required,
                filterable=definition.filterable if definition.HasField("filterable") else True,
                description=definition.description,
            )
        )
    return rules


def attribute_schema_proto(rules: Sequence[AttributeRule]) -> pb.AttributeSchema:
    """The message for a schema."""
    return pb.AttributeSchema(
        attributes=[
            pb.AttributeDefinition(
                key=rule.key,
                type=pb.AttributeType.Value(f"ATTRIBUTE_TYPE_{rule.type}"),
                required=rule.required,
                filterable=rule.filterable,
                description=rule.description,
            )
            for rule in rules
        ]
    )

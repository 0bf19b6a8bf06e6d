"""Users between messages and the domain."""

from __future__ import annotations

from dataclasses import replace

from recsvc.domain.ids import UserId
from recsvc.domain.users import User
from recsvc.gen.v1 import user_service_pb2 as pb
from recsvc.rpc.convert.events import event_proto
from recsvc.rpc.convert.values import mask_paths, plain, struct, timestamp
from recsvc.storage.users import UserExport

_UPDATABLE = ("attributes", "labels")


def user_change(request: pb.UpdateUserRequest, present: User) -> User:
    """The user after the update. Raises InvalidUpdateMask."""
    message = request.user
    if request.HasField("update_mask"):
        paths = mask_paths(request.update_mask, _UPDATABLE, nested="attributes")
    else:
        paths = tuple(field.name for field, _ in message.ListFields() if field.name in _UPDATABLE)
    wanted = plain(message.attributes)
    changed = present
    if "attributes" in paths:
        changed = replace(changed, attributes=wanted)
    if "labels" in paths:
        changed = replace(changed, labels=tuple(message.labels))
    attributes = dict(changed.attributes)
    for path in paths:
        if path.startswith("attributes."):
            key = path.removeprefix("attributes.")
            if key in wanted:
                attributes[key] = wanted[key]
            else:
                attributes.pop(key, None)
    return replace(changed, user_id=UserId(message.user_id), attributes=attributes)


def user_proto(source: User) -> pb.User:
    """The message for a user."""
    return pb.User(
        user_id=source.user_id,
        attributes=struct(source.attributes) if source.attributes else None,
        labels=source.labels,
        create_time=timestamp(source.create_time),
        update_time=timestamp(source.update_time),
    )


def export_proto(part: UserExport) -> pb.ExportUserResponse:
    """The message for a part of what is held of a user."""
    return pb.ExportUserResponse(
        user=user_proto(part.user) if part.user else None,
        events=[event_proto(stored) for stored in part.events],
        shown=[
            pb.ShownRecommendation(
                recommendation_id=shown.recommendation_id,
                item_ids=shown.item_ids,
                strategy=shown.strategy,
                create_time=timestamp(shown.create_time),
            )
            for shown in part.shown
        ],
    )

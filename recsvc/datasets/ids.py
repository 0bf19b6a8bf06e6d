"""Event ids made of what an event is, so that a second import is harmless."""

from __future__ import annotations

from hashlib import blake2b

from recsvc.domain.ids import MAX_ID_LENGTH, EventId


def event_id(*parts: object) -> EventId:
    """The same id for the same parts, always: the parts themselves, or a digest when they are too long for an id."""
    text = ":".join(map(str, parts))
    return EventId(
        text if len(text) <= MAX_ID_LENGTH else f"{parts[0]}:{blake2b(text.encode(), digest_size=16).hexdigest()}"
    )

"""Ids in data sets: what may be one, and event ids made of what an event is, so that a second import is harmless."""

from __future__ import annotations

import re
from hashlib import blake2b

from recsvc.domain.ids import MAX_ID_LENGTH, EventId

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def id_fault(text: str) -> str | None:
    """What keeps the text from being an id, or None."""
    if not text:
        return "is empty"
    if len(text) > MAX_ID_LENGTH:
        return f"is longer than {MAX_ID_LENGTH} characters"
    # isprintable is by far the faster test and lets through nothing that the expression would find.
    if not text.isprintable() and _CONTROL.search(text):
        return "holds control characters"
    return None


def event_id(*parts: object) -> EventId:
    """The same id for the same parts, always: the parts themselves, or a digest when they are too long for an id."""
    text = ":".join(map(str, parts))
    return EventId(
        text if len(text) <= MAX_ID_LENGTH else f"{parts[0]}:{blake2b(text.encode(), digest_size=16).hexdigest()}"
    )

"""Distinct types for the ids and keys that pass through the house, so that one cannot go where another belongs.

`…Id` is the caller's own string; `…Key` is the surrogate integer that storage maps it to and that no caller sees.
"""

from __future__ import annotations

from typing import NewType

TenantId = NewType("TenantId", str)
ItemId = NewType("ItemId", str)
UserId = NewType("UserId", str)
SessionId = NewType("SessionId", str)
EventId = NewType("EventId", str)
RecommendationId = NewType("RecommendationId", str)

TenantKey = NewType("TenantKey", int)
ItemKey = NewType("ItemKey", int)
UserKey = NewType("UserKey", int)
ModelKey = NewType("ModelKey", int)

MAX_ID_LENGTH = 128

"""Messages that say the same up to rounding: one list may come out of a snapshot, the other out of PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message


def approximately(messages: Sequence[Message]) -> list[Any]:
    """What other messages compare as equal to: the same but for the last digits of numbers."""
    return [_rounded(MessageToDict(message)) for message in messages]


def _rounded(value: Any) -> Any:
    match value:
        case dict():
            return {key: _rounded(inner) for key, inner in value.items()}
        case list():
            return [_rounded(inner) for inner in value]
        case float():
            return pytest.approx(value, rel=1e-5, abs=1e-7)
    return value


def plainly(messages: Sequence[Message]) -> list[Any]:
    """Messages as they are, to be compared with `approximately`."""
    return [MessageToDict(message) for message in messages]

"""The fields of many messages of one type, each read once, whoever asks: reading is most of what an event costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

_Message = TypeVar("_Message", bound=Message)


class Columns(Generic[_Message]):
    """Lists of one entry a message, in the order of the messages."""

    __slots__ = ("_presence", "_values", "messages")

    def __init__(self, messages: Sequence[_Message]) -> None:
        self.messages = list(messages)
        self._values: dict[str, list[Any]] = {}
        self._presence: dict[str, list[bool]] = {}

    def __len__(self) -> int:
        return len(self.messages)

    def values(self, name: str) -> list[Any]:
        """The values of a field; its default where it is not set."""
        if name not in self._values:
            self._values[name] = list(map(attrgetter(name), self.messages))
        return self._values[name]

    def presence(self, name: str) -> list[bool]:
        """Whether a field that knows it is set."""
        if name not in self._presence:
            # Of the class: to look the method up in each message costs three times as much as the question.
            each = map(type(self.messages[0]).HasField, self.messages, repeat(name)) if self.messages else ()
            self._presence[name] = list(each)
        return self._presence[name]


NOTHING_READ: Mapping[str, Columns[Any]] = MappingProxyType({})
"""By name of a repeated field its messages, of a request of which nobody has read any."""

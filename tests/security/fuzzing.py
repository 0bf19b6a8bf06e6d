"""Makes hostile inputs: valid ones with something broken, and messages whose every field may hold the unexpected.

Tens of thousands a second, so that a run reaches the numbers that random search needs; every input follows from a seed.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

ROUNDS = int(os.environ.get("RECSVC_SECURITY_ROUNDS", "1"))
# In the environment, so that it is the same in all processes of a run.
SEED = os.environ.setdefault("RECSVC_SECURITY_SEED", secrets.token_hex(4))

_DEEPEST = 6
# What has broken parsers, encoders, databases and terminals before.
_TEXTS = (
    "", " ", "\x00", "\x1b[31m", "\u202e", "\ufeff", "\ufffe", "é", "e\u0301", "\U0001f600", "\r\n", "a\nb", "\\", '"',
    "'", "';DROP TABLE items;--", "%s%n", "{}", "${x}", "../../etc", "\\u0000", "null", "true", "NaN", "-0", "1e999",
    "*", "-1", "attributes.", "attributes.\x00", "settings.placements", "settings.", "a" * 129, "x" * 5000, "é" * 3000,
    "[" * 1000, "2026-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "0001-01-01T00:00:00-23:59", "rk_", "view",
    "purchase", 'item_id = "a"', "NOT " * 50 + "available", "(" * 40 + "available" + ")" * 40,
    "title IN [" + '"a",' * 200 + '"a"]',
)  # fmt: skip
_INTEGERS = (0, 1, -1, 2, 100, 1000, 1001, 2**31 - 1, -(2**31), 2**53, 2**63 - 1, -(2**63), 253402300799, -62135596800)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-320, 1e308, -1e308, 1e15, float("inf"), float("-inf"), float("nan"))
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class Fuzzer:
    """Inputs out of one source of chance."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def text(self) -> str:
        """A text that somebody has stumbled over, or several of them joined."""
        return "".join(self.dice.choices(_TEXTS, k=self.dice.choice((1, 1, 1, 2, 3))))

    def mutated_text(self, seed: str, words: Sequence[str] = ()) -> str:
        """The seed with a few places deleted, doubled, swapped or overwritten. words: of the language it is in."""
        dice, text = self.dice, seed
        for _ in range(dice.randint(1, 4)):
            start = dice.randint(0, len(text))
            end = min(len(text), start + dice.randint(0, 8))
            chosen = dice.choice((words or _TEXTS, _TEXTS))
            match dice.randint(0, 4):
                case 0:
                    text = text[:start] + text[end:]
                case 1:
                    text = text[:end] + text[start:]
                case 2:
                    text = text[:start] + dice.choice(chosen) + text[end:]
                case 3:
                    text = text[:start] + chr(dice.choice((dice.randint(0, 127), dice.randint(0, 0xD7FF)))) + text[end:]
                case _:
                    text = text[:start] + dice.choice(chosen) + text[start:]
        return text

    def mutated(self, seed: bytes) -> bytes:
        """The seed with a few bytes flipped, cut out, doubled or put in."""
        dice, raw = self.dice, bytearray(seed or b"\x0a\x00")
        for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
            start = dice.randrange(len(raw) + 1)
            end = min(len(raw), start + dice.choice((1, 1, 2, 4, 16)))
            match dice.randint(0, 5):
                case 0 if start < len(raw):
                    raw[start] ^= 1 << dice.randint(0, 7)
                case 1 if start < len(raw):
                    raw[start] = dice.choice((0, 0x7F, 0x80, 0xFF, dice.randrange(256)))
                case 2:
                    del raw[start:end]
                case 3:
                    raw[start:start] = raw[start:end] * dice.choice((1, 2, 50))
                case 4:
                    raw[start:start] = dice.randbytes(dice.choice((1, 2, 8)))
                case _:
                    del raw[start:]
        return bytes(raw)

    def disturbed(self, seed: Message) -> Message:
        """A copy of a valid message with some fields, at whatever depth, replaced by the unexpected."""
        copy = type(seed)()
        copy.CopyFrom(seed)
        for _ in range(self.dice.choice((1, 1, 2, 3))):
            self._disturb(copy)
        return copy

    def message(self, descriptor: Descriptor, depth: int = 0) -> Message:
        """A message with random fields set to random values."""
        made = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if self.dice.random() < (0.5 if depth < 2 else 0.3):
                self._set(made, field, depth)
        return made

    def _disturb(self, message: Message) -> None:
        fields = message.DESCRIPTOR.fields
        if not fields:
            return
        field = self.dice.choice(fields)
        inner = field.message_type
        if inner is not None and not inner.GetOptions().map_entry and self.dice.random() < 0.7:
            children = getattr(message, field.name) if field.is_repeated else [getattr(message, field.name)]
            if children:
                self._disturb(self.dice.choice(children))
                return
        if self.dice.random() < 0.2:
            message.ClearField(field.name)
        else:
            self._set(message, field, 1)

    def _set(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        if depth > _DEEPEST:
            return
        if not field.is_repeated:
            if field.message_type is None:
                setattr(message, field.name, self._scalar(field))
            else:
                getattr(message, field.name).CopyFrom(self.message(field.message_type, depth + 1))
            return
        target, count = getattr(message, field.name), self.dice.choice((1, 1, 2, 3, 3, 120 if depth < 2 else 3))
        if field.message_type is None:
            target.extend(self._scalar(field) for _ in range(count))
        elif field.message_type.GetOptions().map_entry:
            self._fill_map(target, field.message_type, min(count, 3), depth)
        else:
            target.extend(self.message(field.message_type, depth + 1) for _ in range(min(count, 3)))

    def _fill_map(self, target: Any, entry: Descriptor, count: int, depth: int) -> None:
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        for _ in range(count):
            if value.message_type is None:
                target[self._scalar(key)] = self._scalar(value)
            else:
                target[self._scalar(key)].CopyFrom(self.message(value.message_type, depth + 1))

    def _scalar(self, field: FieldDescriptor) -> Any:
        dice = self.dice
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return dice.randbytes(dice.choice((0, 1, 100)))
            case FieldDescriptor.CPPTYPE_STRING:
                return self.text()
            case FieldDescriptor.CPPTYPE_BOOL:
                return dice.random() < 0.5
            case FieldDescriptor.CPPTYPE_DOUBLE:
                return dice.choice(_FLOATS)
            case FieldDescriptor.CPPTYPE_FLOAT:
                return dice.choice([each for each in _FLOATS if abs(each) < 1e38 or abs(each) > 1e309 or each != each])
            case FieldDescriptor.CPPTYPE_ENUM:
                return dice.choice((*(value.number for value in field.enum_type.values), 999, -1))
        lowest, highest = _RANGES[field.cpp_type]
        return dice.choice([each for each in _INTEGERS if lowest <= each <= highest])

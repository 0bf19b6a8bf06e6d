"""Anybody's csv files: `items.csv`, `users.csv` and `events.csv`, whose headers are the field names of the contract.

- Lists (`categories tags labels embedding`) are separated by `|`. Times are ISO 8601 or seconds since 1970.
- A column that is no field becomes an attribute of an item or user, or a property of an event; `attributes.year`,
  `context.device` and `properties.page` say the same in the words of the filter language.
- Such a column may name its type: `year:number`, `isbn:string`, `sale:bool`, `actors:string_list`, `sizes:number_list`.
  Without one, a value that is written like a JSON number or `true`/`false` is taken as that, one with a `|` in it as
  a list of strings, any other as a string.
- An empty cell is a missing value. Any of the files may be missing, or gzipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from recsvc.datasets import records
from recsvc.datasets.files import TextFile, parts
from recsvc.datasets.rows import Row, finite, headed_rows
from recsvc.datasets.source import Dataset

T = TypeVar("T")

LIST_SEPARATOR = "|"
STRUCTS = ("attributes", "context", "properties")
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_FLAGS = {"true": True, "false": False, "1": True, "0": False}


def csv_files(path: Path) -> Dataset:
    """The files in the folder or zip archive `path`, or the one file of these names that `path` is."""
    found = parts(path, ".csv")
    items, users, events = found.get("items"), found.get("users"), found.get("events")
    return Dataset(
        "csv",
        items=lambda: _read(items, "item_id", records.ITEM_FIELDS, "attributes", records.item),
        users=lambda: _read(users, "user_id", records.USER_FIELDS, "attributes", records.user),
        events=lambda: _read(events, "item_id", records.EVENT_FIELDS, "properties", records.event),
        item_count=items.row_count() if items else 0,
        event_count=events.row_count() if events else 0,
    )


def _read(
    file: TextFile | None,
    key: str,
    fields: frozenset[str],
    rest: str,
    element: Callable[[records.Record], T],
) -> Iterator[T]:
    """rest: the struct that takes the columns which are no fields."""
    if file is None:
        return
    for row in headed_rows(file, (key,)):
        values: dict[str, object] = {}
        for column, cell in row.cells.items():
            if not (text := cell.strip()):
                continue
            if column in fields and column not in STRUCTS:
                values[column] = _field(row, column, text)
                continue
            struct, name, kind = _column(column, rest)
            inner = values.setdefault(struct, {})
            if isinstance(inner, dict):
                inner[name] = _free(row, column, text, kind)
        yield element(records.Record(row.path, row.line, values))


def _column(column: str, rest: str) -> tuple[str, str, str]:
    """A free column's struct, its name in there, and its type, which may be empty."""
    name, _, kind = column.partition(":")
    struct, dot, key = name.partition(".")
    return (struct, key, kind) if dot and key and struct in STRUCTS else (rest, name, kind)


def _field(row: Row, column: str, text: str) -> object:
    match column:
        case "categories" | "tags" | "labels":
            return _list(text)
        case "embedding":
            return _numbers(row, column, text)
        case "available" | "hidden":
            return _flag(row, column, text)
        case "value":
            return row.number(column)
        case "event_time" | "publish_time" | "expire_time" if finite(text) is not None:
            return row.epoch(column).isoformat()
    return text


def _free(row: Row, column: str, text: str, kind: str) -> object:
    match kind:
        case "string":
            return text
        case "number":
            return row.number(column)
        case "bool":
            return _flag(row, column, text)
        case "string_list":
            return _list(text)
        case "number_list":
            return _numbers(row, column, text)
        case "":
            return _guess(text)
        case _:
            return row.fail(
                f"the column {column!r} names none of the types string, number, bool, string_list, number_list"
            )


def _guess(text: str) -> object:
    # What merely starts like a number (a code 007, an ISBN of 16 digits) would lose digits as one.
    if _NUMBER.fullmatch(text) and (number := finite(text)) is not None:
        return number
    if text in ("true", "false"):
        return text == "true"
    return _list(text) if LIST_SEPARATOR in text else text


def _list(text: str) -> list[str]:
    return [stripped for element in text.split(LIST_SEPARATOR) if (stripped := element.strip())]


def _numbers(row: Row, column: str, text: str) -> list[float]:
    numbers = [finite(element) for element in _list(text)]
    if None in numbers:
        row.fail(f"{column} {text[:40]!r} is not a list of numbers")
    return [number for number in numbers if number is not None]


def _flag(row: Row, column: str, text: str) -> bool:
    if (flag := _FLAGS.get(text.lower())) is None:
        row.fail(f"{column} {text!r} is neither true nor false")
    return flag

"""One JSON object a line, in `items.jsonl`, `users.jsonl` and `events.jsonl`, with the field names of the contract.

This is proto3 JSON with snake_case names, as the exports write it. Any of the files may be missing, or gzipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from recsvc.datasets import records
from recsvc.datasets.files import TextFile, parts
from recsvc.datasets.source import Dataset, DatasetError

T = TypeVar("T")


def jsonl(path: Path) -> Dataset:
    """The files in the folder or zip archive `path`, or the one file of these names that `path` is."""
    found = parts(path, ".jsonl")
    items, events = found.get("items"), found.get("events")
    return Dataset(
        "jsonl",
        items=lambda: _read(items, records.item),
        users=lambda: _read(found.get("users"), records.user),
        events=lambda: _read(events, records.event),
        item_count=items.line_count() if items else 0,
        event_count=events.line_count() if events else 0,
    )


def _read(file: TextFile | None, element: Callable[[records.Record], T]) -> Iterator[T]:
    if file is None:
        return
    for number, line in enumerate(file.lines(), start=1):
        if line.isspace():
            continue
        try:
            fields = json.loads(line, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise DatasetError(file.place, number, f"is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise DatasetError(file.place, number, "is not a JSON object")
        yield element(records.Record(file.place, number, fields))


def _no_number(name: str) -> NoReturn:
    """Python reads NaN and Infinity; JSON has neither."""
    raise ValueError(f"{name} is not allowed")

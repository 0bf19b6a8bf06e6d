"""Tables in text files, row by row, and cells turned into values.

A row knows its file and its line, so that every wrong cell is told with both. Which columns there are and what they
mean is the readers' knowledge.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from recsvc.datasets.files import TextFile
from recsvc.datasets.source import DatasetError
from recsvc.domain.text import name_fault


@dataclass(slots=True)
class Row:
    """One row of a table: cells by column, and the line on which the row ends."""

    path: Path
    line: int
    cells: dict[str, str]

    def fail(self, what: str) -> NoReturn:
        """Raise DatasetError for this row."""
        raise DatasetError(self.path, self.line, what)

    def text(self, column: str) -> str:
        """The cell without surrounding blanks; empty is fine."""
        return self.cells[column].strip()

    def id(self, column: str) -> str:
        """The cell as an id."""
        text = self.cells[column].strip()
        if fault := name_fault(text):
            self.fail(f"{column} {fault}")
        return text

    def number(self, column: str) -> float:
        """The cell as a finite number."""
        value = finite(self.cells[column])
        if value is None:
            self.fail(f"{column} {self.cells[column]!r} is not a number")
        return value

    def epoch(self, column: str) -> datetime:
        """The cell, seconds since 1970, as a time."""
        try:
            return datetime.fromtimestamp(self.number(column), UTC)
        except (OverflowError, ValueError, OSError):
            self.fail(f"{column} {self.cells[column]!r} is not a time in seconds since 1970")

    def time(self, column: str) -> datetime:
        """The cell, ISO 8601, as a time; one without a zone is taken as UTC."""
        moment = iso_time(self.cells[column])
        if moment is None:
            self.fail(f"{column} {self.cells[column]!r} is not an ISO 8601 time")
        return moment


def finite(text: str) -> float | None:
    """The number that the text is, or None when it is no finite number (`1_000` is Python's, not a number here)."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def iso_time(text: str) -> datetime | None:
    """The time that the text is in ISO 8601, or None; one without a zone is taken as UTC."""
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def headed_rows(file: TextFile, required: Sequence[str], delimiter: str = ",", quoted: bool = True) -> Iterator[Row]:
    """The rows of a table whose first line names the columns; empty lines are passed over.

    Raises DatasetError when a required column is missing, a column stands twice or a row has another number of cells.
    """
    rows = _split(file, delimiter, quoted)
    line, columns = next(rows, (1, []))
    columns = [column.strip() for column in columns]
    for column in required:
        if column not in columns:
            raise DatasetError(file.place, line, f"the header lacks the column {column!r}")
    if len(set(columns)) < len(columns):
        raise DatasetError(file.place, line, "the header names a column twice")
    yield from _named(file.place, rows, columns)


def bare_rows(file: TextFile, columns: Sequence[str], delimiter: str) -> Iterator[Row]:
    """The rows of an unquoted table without a header, whose columns the reader knows; empty lines are passed over."""
    yield from _named(file.place, _split(file, delimiter, quoted=False), list(columns))


def _split(file: TextFile, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file.lines(), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise DatasetError(file.place, reader.line_num, str(error)) from error


def _named(path: Path, rows: Iterator[tuple[int, list[str]]], columns: list[str]) -> Iterator[Row]:
    width = len(columns)
    for line, cells in rows:
        if len(cells) != width:
            raise DatasetError(path, line, f"has {len(cells)} cells instead of {width}")
        yield Row(path, line, dict(zip(columns, cells, strict=True)))

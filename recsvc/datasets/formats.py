"""The formats by name: what `recsvc import --format` takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recsvc.datasets.csv_files import csv_files
from recsvc.datasets.deskdrop import deskdrop
from recsvc.datasets.goodbooks import goodbooks
from recsvc.datasets.jsonl import jsonl
from recsvc.datasets.lightgcn import lightgcn
from recsvc.datasets.movielens import movielens
from recsvc.datasets.online_retail import online_retail
from recsvc.datasets.source import Dataset, DatasetError

_PLAIN: dict[str, Callable[[Path], Dataset]] = {
    "csv": csv_files,
    "deskdrop": deskdrop,
    "goodbooks": goodbooks,
    "jsonl": jsonl,
    "online-retail": online_retail,
}
_WITH_SPLITS: dict[str, Callable[[Path, str | None], Dataset]] = {"lightgcn": lightgcn, "movielens": movielens}

FORMATS: tuple[str, ...] = tuple(sorted((*_PLAIN, *_WITH_SPLITS)))
"""Every name that `open_dataset` takes."""


def open_dataset(name: str, path: Path, events_file: str | None = None) -> Dataset:
    """The data set at `path` in the format `name`.

    events_file: for `movielens` and `lightgcn`, which of the set's files holds the events (`ua.base`, `test.txt`).
    Raises DatasetError when the format is unknown or `path` does not hold it; wrong lines are told when they are read.
    """
    if name in _WITH_SPLITS:
        return _WITH_SPLITS[name](path, events_file)
    if name not in _PLAIN:
        raise DatasetError(path, None, f"{name!r} is none of the formats {', '.join(FORMATS)}")
    if events_file is not None:
        raise DatasetError(path, None, f"the format {name!r} has one file of events, so that none can be chosen")
    return _PLAIN[name](path)

"""Where data sets for evaluation lie: named on the command line, or in the folder that RECSVC_DATA_DIR names."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from recsvc.datasets import FORMATS, Dataset, open_dataset

_FOLDERS = {"movielens": "ml-100k", "goodbooks": "goodbooks-10k"}
"""Where a format's data set is, if its folder is not named like the format."""


def data_place(folder: str, path: Path | None) -> Path:
    """The path, or the folder among the data sets. Raises typer.BadParameter when it is not there."""
    place = path or Path(os.environ.get("RECSVC_DATA_DIR", "../shared/data")) / folder
    if not place.exists():
        raise typer.BadParameter(f"{place} is not there; name its place with --path or RECSVC_DATA_DIR")
    return place


def opened(data_format: str, path: Path | None) -> Dataset:
    """The data set of a format. Raises typer.BadParameter when there is no such format, or it is not there."""
    if data_format not in FORMATS:
        raise typer.BadParameter(f"name one of {', '.join(FORMATS)}")
    return open_dataset(data_format, data_place(_FOLDERS.get(data_format, data_format), path))

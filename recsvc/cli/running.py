"""Runs a command's coroutine, and turns what went wrong into one clear line and an exit code."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import typer
import uvloop

from recsvc.cli.supervisor import WorkersFailed
from recsvc.datasets import DatasetError
from recsvc.domain.errors import DomainError
from recsvc.embedded import EmbeddedServerError
from recsvc.resilience.arrival import NotThereInTime
from recsvc.storage.migrator import MigrationError

_Result = TypeVar("_Result")


def run_async(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run to the end. Errors that a person can act on become a message and exit code 1; the rest stay tracebacks."""
    try:
        return uvloop.run(work)
    except DomainError as error:
        typer.secho(f"error: {error.message}", err=True, fg=typer.colors.RED)
    except (
        DatasetError,
        EmbeddedServerError,
        MigrationError,
        NotThereInTime,
        WorkersFailed,
        FileNotFoundError,
        PermissionError,
    ) as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
    raise typer.Exit(1)

"""The trace that calls belong to, where the caller's program uses OpenTelemetry; it is not needed for anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_inject: Callable[[Any], None] | None
try:
    from opentelemetry.propagate import inject as _inject
except ImportError:
    _inject = None


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata that tells of the caller's present span, as its program is set up to tell: W3C traceparent by default.

    Empty without OpenTelemetry, and outside of any span.
    """
    if _inject is None:
        return ()
    carrier: dict[str, str] = {}
    _inject(carrier)
    return tuple((name.lower(), value) for name, value in carrier.items())

"""Structured logs: JSON in production, readable colours on a terminal; one chain for our lines and those of libraries.

What gets into a line is decided in `telemetry/redaction.py`, and what there is to tell in `telemetry/log_events.py`.
Lines are made where something is told, and written by a thread (`telemetry/line_writer.py`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from opentelemetry import trace

from recsvc.telemetry.exceptions import described
from recsvc.telemetry.line_writer import LineWriter
from recsvc.telemetry.redaction import Event, bounded, declared_only, from_library

_OURS: Final = "recsvc"
_STDERR: Final = 2


def configure(level: str, log_format: str, about_call: Callable[[], Mapping[str, str]] = dict) -> None:
    """Set up structlog and let the standard library's loggers write through it.

    log_format: json, console, or auto for console on a terminal. about_call: what lines say of the call at hand, as
    `rpc.calls.about` has it; asked for each line, so that calls cost nothing that nobody tells of.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = LineWriter(_STDERR)
    handler.setFormatter(formatter(about_call, console=console))
    logging.getLogger().handlers[:] = [handler]
    logging.captureWarnings(True)
    set_level(level)


def formatter(about_call: Callable[[], Mapping[str, str]], *, console: bool) -> logging.Formatter:
    """Makes lines of what is told."""
    render: Callable[[Any, str, Event], str | bytes] = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=(),
        use_get_message=False,
        pass_foreign_args=True,
        processors=[
            from_library,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _about(about_call),
            _with_exception,
            declared_only,
            bounded(render),
        ],
    )


def set_level(level: str) -> None:
    """Have less said, or more, from now on; level: as the logging module names it.

    Libraries speak from WARNING on: below that they tell of single messages and connections.
    """
    root = logging.getLogger()
    logging.getLogger(_OURS).setLevel(level)
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    # Some libraries set levels of their own.
    for handler in root.handlers:
        handler.setLevel(level)


def flush() -> None:
    """Wait, a second at most, until all that was told is written: before an end that nothing else comes before."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def _about(about_call: Callable[[], Mapping[str, str]]) -> structlog.typing.Processor:
    """Names the call, unless the line does so itself, and the trace."""

    def added(_logger: Any, _method: str, event: Event) -> Event:
        about = about_call()
        for name, value in about.items():
            event.setdefault(name, value)
        span = trace.get_current_span()
        # Tasks that a call began may outlive it, and its span.
        if (about or span.is_recording()) and span.get_span_context().is_valid:
            event["trace_id"] = trace.format_trace_id(span.get_span_context().trace_id)
        return event

    return added


def _with_exception(_logger: Any, _method: str, event: Event) -> Event:
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else sys.exc_info()[1]
    if given and error is not None:
        for name, value in described(error).items():
            event.setdefault(name, value)
    return event

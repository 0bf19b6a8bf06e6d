"""What may get into a log: declared fields of their types, without secrets, and no longer than a line may be.

Nothing is looked for that must not be said; what may be said is declared (`telemetry/log_events.py`), and the rest is
left out. Patterns are a second net, for text that is declared and that somebody else wrote.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias

from recsvc.telemetry.exceptions import type_of
from recsvc.telemetry.log_events import EVERY_LINE, FIELD_TYPES, LOG_EVENTS, WHILE_ANSWERING, WITH_EXCEPTION

Event: TypeAlias = MutableMapping[str, Any]

LINE_BYTES = 4096
"""PIPE_BUF of Linux: workers share a pipe, and only writes up to this size are not torn apart."""
_TEXT_LENGTH = 512
_ELEMENTS = 100
_KEY = re.compile(r"\brk_([a-z0-9]{1,12})_[A-Za-z0-9_-]+")
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@/\s]+@")
_BEARER = re.compile(r"(?i)\b(bearer\s+)\S+")
_EMAIL = re.compile(r"[^\s@:/'\"<>(]{1,64}@[^\s@'\"<>)]{1,255}\.[A-Za-z]{2,}")
# A caller's control characters could forge lines, and colours on a terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Of most text it is plain at a glance that no pattern finds anything.
_SUSPECT = re.compile(r"[@\x00-\x1f\x7f-\x9f\u2028\u2029]|rk_|://|(?i:bearer)")
# Made here, the exception's in several lines, and of nothing but names out of the code.
_OF_NAMES_ONLY = {*EVERY_LINE, "exception"}
_ON_ANY_LINE = {*EVERY_LINE, *WHILE_ANSWERING, *WITH_EXCEPTION}


def redacted(text: str) -> str:
    """The text without the secrets of API keys and the passwords of URLs."""
    return _URL_PASSWORD.sub(r"\1:***@", _KEY.sub(r"rk_\1_***", text))


def declared_only(_logger: Any, _method: str, event: Event) -> Event:
    """A processor of structlog: leaves out every field that is not declared for the event, or does not apply."""
    declared = LOG_EVENTS[event["event"]].fields if event["event"] in LOG_EVENTS else {}
    told = {}
    for name in dict.fromkeys((*EVERY_LINE, *event)):
        value = event.get(name)
        if name in declared or name in _ON_ANY_LINE:
            safe = value if name in _OF_NAMES_ONLY else _safe(value, FIELD_TYPES[name])
            if safe is not None:
                told[name] = safe
    return told


def from_library(_logger: Any, _method: str, event: Event) -> Event:
    """A processor of structlog: what a library says through the standard library's loggers, as an event of ours.

    Of its values only numbers and the types of exceptions are told: a library logs whatever it is handed.
    """
    if event.get("_from_structlog"):
        return event
    template, values = event["event"], event.pop("positional_args", ())
    if event["_record"].name == "py.warnings":
        # Formatted by Python: file, line and text of the warning.
        template, values = str(values[0] if values else template), ()
    try:
        message = template % tuple(map(_harmless, values)) if values and isinstance(values, tuple) else template
    except (TypeError, ValueError):
        message = template
    # What libraries put into further lines is mostly the repr of something.
    event["event"], event["message"] = "library", message.strip().partition("\n")[0]
    return event


def bounded(render: Callable[[Any, str, Event], str | bytes]) -> Callable[[Any, str, Event], str]:
    """The renderer, with its longest values cut until the line, its end included, is no longer than LINE_BYTES."""

    def rendered(logger: Any, method: str, event: Event) -> str:
        while True:
            line = render(logger, method, dict(event))
            text = line if isinstance(line, str) else line.decode()
            if len(text.encode(errors="backslashreplace")) < LINE_BYTES:
                return text
            longest = max(event, key=lambda name: len(str(event[name])))
            event[longest] = _half(event[longest])

    return rendered


def _safe(value: Any, kind: type) -> Any:
    """The value as JSON takes it; of one of another type than declared, the type."""
    if value is None:
        return None
    if kind is float and isinstance(value, int | float):
        return value if math.isfinite(value) else None
    if kind is int and isinstance(value, int):
        return int(value)
    if kind is str and isinstance(value, str):
        return _clean(str(value))
    if kind is list and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_clean(str(each)) for each in value[:_ELEMENTS] if isinstance(each, str)]
    if kind is dict and isinstance(value, Mapping):
        return {_clean(str(name)): _clean(str(each)) for name, each in value.items()}
    return f"<{type(value).__name__}>"


def _clean(text: str) -> str:
    # Twice of what is told, so that nothing is cut in the middle of what a pattern would find.
    clean = text[: 2 * _TEXT_LENGTH]
    if _SUSPECT.search(clean):
        clean = _EMAIL.sub("***@***", _BEARER.sub(r"\1***", redacted(_CONTROL.sub("\ufffd", clean))))
    return clean if len(clean) <= _TEXT_LENGTH else clean[:_TEXT_LENGTH] + "…"


def _harmless(value: object) -> object:
    if isinstance(value, int | float):
        return value
    return type_of(value) if isinstance(value, BaseException) else "…"


def _half(value: Any) -> Any:
    if isinstance(value, str):
        return value[: len(value) // 2 - 1] + "…" if len(value) > 2 else ""
    if isinstance(value, list):
        return value[: len(value) // 2]
    return dict(list(value.items())[: len(value) // 2])

"""What a log line looks like, and what never gets into one."""

from __future__ import annotations

import io
import itertools
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace

from recsvc.domain.errors import UserNotFound
from recsvc.domain.ids import TenantId
from recsvc.rpc import calls
from recsvc.telemetry.exceptions import described
from recsvc.telemetry.log_events import EVERY_LINE, FIELD_TYPES, LOG_EVENTS
from recsvc.telemetry.logging import formatter
from recsvc.telemetry.redaction import LINE_BYTES

_numbers = itertools.count()
_SAMPLES: Mapping[type, Any] = {str: "text", int: 7, float: 0.5, list: ["a", "b"], dict: {"a": "b -> c"}}
_JSON_TYPES: Mapping[type, Any] = {str: str, int: int, float: int | float, list: list, dict: dict}


def _written(
    say: Callable[[Any], object],
    about_call: Callable[[], Mapping[str, str]] = dict,
    *,
    console: bool = False,
    library: bool = False,
) -> str:
    """What is written of what is said to a logger of ours, or of a library."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(about_call, console=console))
    logger = logging.getLogger(f"{'library' if library else 'recsvc'}.test{next(_numbers)}")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    ours = structlog.wrap_logger(
        logger,
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    say(logger if library else ours)
    return stream.getvalue()


def _line(say: Callable[[Any], object], about_call: Callable[[], Mapping[str, str]] = dict, **how: bool) -> Any:
    return json.loads(_written(say, about_call, **how))


def _raised(error: BaseException) -> Callable[[Any], None]:
    def say(log: Any) -> None:
        try:
            raise error
        except BaseException:
            log.exception("call.failed")

    return say


@pytest.mark.parametrize("event", sorted(LOG_EVENTS))
def test_a_line_is_json_with_the_declared_fields_and_their_types(event: str) -> None:
    fields = {name: _SAMPLES[FIELD_TYPES[name]] for name in LOG_EVENTS[event].fields}
    line = _line(lambda log: log.warning(event, **fields))
    assert set(line) == {*EVERY_LINE, *fields}
    assert [name for name, value in line.items() if not isinstance(value, _JSON_TYPES[FIELD_TYPES[name]])] == []
    assert (line["event"], line["level"]) == (event, "warning")


def test_a_field_that_is_not_declared_is_left_out() -> None:
    assert "user" not in _line(lambda log: log.info("service.stopped", user="u-1"))


def test_of_a_value_of_another_type_only_the_type_is_told() -> None:
    line = _line(lambda log: log.info("start.arrived", waited_for={"user": "u-1"}, after_s="u-1"))
    assert (line["waited_for"], line["after_s"]) == ("<dict>", "<str>")


def test_what_does_not_apply_is_left_out() -> None:
    line = _line(lambda log: log.info("replica.left", replica=None, lag_s=float("inf")))
    assert set(line) == set(EVERY_LINE)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("key rk_abc123_S3cr-et_x is", "key rk_abc123_*** is"),
        ("postgresql://recsvc:hush@db:5432/x", "postgresql://recsvc:***@db:5432/x"),
        ("authorization: Bearer abc.def", "authorization: Bearer ***"),
        ("of alice.b+c@shop.example.com, who", "of ***@***, who"),
        ("red \x1b[31m\nforged", "red \ufffd[31m\ufffdforged"),
    ],
)
def test_declared_text_is_told_without_secrets_and_control_characters(text: str, told: str) -> None:
    assert _line(lambda log: log.warning("start.waiting", reason=text))["reason"] == told


@given(
    text=st.text(st.characters(codec=None), max_size=3000) | st.just("\U0001f600" * 3000) | st.just("\\" * 3000),
    repeated=st.integers(0, 500),
)
def test_no_line_is_longer_than_what_a_pipe_takes_at_once(text: str, repeated: int) -> None:
    fields: dict[str, Any] = dict.fromkeys(LOG_EVENTS["audit.refusal_not_stored"].fields, text)
    written = _written(lambda log: log.error("audit.refusal_not_stored", **fields | {"targets": [text] * repeated}))
    assert len(written.encode(errors="backslashreplace")) <= LINE_BYTES
    assert json.loads(written)["event"] == "audit.refusal_not_stored"
    assert len(written.splitlines()) == 1 or "\x85" in text


def test_an_exception_is_told_by_type_and_place_and_not_by_its_message() -> None:
    def say(log: Any) -> None:
        try:
            try:
                _ = {}["alice"]
            except KeyError as cause:
                raise UserNotFound("alice") from cause
        except UserNotFound:
            log.exception("call.failed", method="/m")

    line = _line(say)
    assert line["error"] == "recsvc.domain.errors.UserNotFound"
    first, place, cause, _ = line["exception"].splitlines()
    assert (first, cause) == ("recsvc.domain.errors.UserNotFound", "KeyError")
    assert place.startswith("  tests.unit.test_logging:")
    assert "alice" not in str(line)


def test_a_group_of_exceptions_is_told_by_the_types_in_it() -> None:
    line = _line(_raised(ExceptionGroup("of alice", [ValueError("alice"), KeyError("alice")])))
    assert line["exception"].startswith("ExceptionGroup of ValueError, KeyError\n")
    assert "alice" not in str(line)


def test_a_deep_stack_and_a_long_chain_stay_short() -> None:
    def deep(levels: int, cause: BaseException) -> None:
        if levels:
            deep(levels - 1, cause)
        raise ValueError("again") from cause

    error: BaseException = KeyError("first")
    for _ in range(10):
        with pytest.raises(ValueError, match="again") as caught:
            deep(50, error)
        error = caught.value
    assert len(described(error)["exception"].splitlines()) == 4 * (1 + 8)


def test_what_a_library_says_is_told_without_its_values() -> None:
    error = ValueError("of alice")
    line = _line(lambda log: log.warning("%s of %r: %s, %d times\nmore of alice", "x", "alice", error, 3), library=True)
    assert (line["event"], line["message"]) == ("library", "… of '…': ValueError, 3 times")


def test_an_exception_that_a_library_logs_is_told_without_its_message() -> None:
    line = _line(_raised(ValueError("of alice")), library=True)
    assert line["error"] == "ValueError"
    assert "alice" not in str(line)


@pytest.mark.parametrize("arguments", [("%d of them", "three"), ("%s",), ({"alice": 1},), ("%(a)s", {"a": "alice"})])
def test_a_library_that_logs_nonsense_is_told_of_all_the_same(arguments: tuple[Any, ...]) -> None:
    line = _line(lambda log: log.warning(*arguments), library=True)
    assert line["event"] == "library"


def test_a_line_of_a_call_names_the_call_until_it_has_ended() -> None:
    policy: Any = None
    call = calls.Call("/m", policy, "r-1", {}, 0.0)
    calls.enter(call)
    assert _line(lambda log: log.info("service.stopped"), calls.about)["request_id"] == "r-1"
    call.principal = SimpleNamespace(tenant_id=TenantId("shop"))  # type: ignore[assignment]
    assert _line(lambda log: log.info("service.stopped"), calls.about)["tenant"] == "shop"
    call.has_ended = True
    assert set(_line(lambda log: log.info("service.stopped"), calls.about)) == set(EVERY_LINE)


def test_a_line_of_a_traced_call_names_the_trace() -> None:
    span = trace.NonRecordingSpan(trace.SpanContext(0xABC, 1, is_remote=False))
    with trace.use_span(span):
        inside = _line(lambda log: log.info("service.stopped"), lambda: {"request_id": "r-1"})
        # Of a call that has ended, since its trace has, too.
        after = _line(lambda log: log.info("service.stopped"))
    assert inside["trace_id"] == f"{0xABC:032x}"
    assert "trace_id" not in after


def test_on_a_terminal_a_line_is_in_colours_and_its_exception_below_it() -> None:
    written = _written(_raised(ValueError("of alice")), console=True)
    first, second, *_ = written.splitlines()
    assert "\x1b[" in first
    assert "call.failed" in first
    assert second == "ValueError"
    assert "alice" not in written


_LEVELS = """
import logging, sys, structlog
from recsvc.telemetry.logging import configure, set_level
configure("ERROR", "json")
set_level(sys.argv[1])
for name in ("debug", "info", "warning", "error"):
    getattr(structlog.get_logger("recsvc.test"), name)("service.stopped")
    getattr(logging.getLogger(sys.argv[2]), name)("said")
"""


@pytest.mark.parametrize(
    ("level", "ours", "of_libraries"),
    [
        ("DEBUG", ["debug", "info", "warning", "error"], ["warning", "error"]),
        ("INFO", ["info", "warning", "error"], ["warning", "error"]),
        ("ERROR", ["error"], ["error"]),
    ],
)
@pytest.mark.parametrize("library", ["asyncio", "psycopg"])  # which sets a level of its own
def test_the_level_is_that_of_our_lines_and_libraries_speak_from_warning_on(
    level: str, ours: list[str], of_libraries: list[str], library: str
) -> None:
    command = [sys.executable, "-c", _LEVELS, level, library]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["level"] for line in lines if line["event"] == "service.stopped"] == ours
    assert [line["level"] for line in lines if line["event"] == "library"] == of_libraries

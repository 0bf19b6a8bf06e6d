"""What the code logs is what is declared: no event, no field and no level beyond it, and nothing declared in vain."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import recsvc
from recsvc.telemetry.log_events import EVERY_LINE, FIELD_TYPES, LOG_EVENTS, WHILE_ANSWERING, WITH_EXCEPTION

_LEVELS = {"debug", "info", "warning", "error", "critical", "exception", "log"}
_FOUND_BY_ITSELF = {"library"}
_NAME = re.compile(r"[a-z_]+(\.[a-z_]+)*")
_ROOT = Path(recsvc.__file__).parent
_MODULES = [path for path in sorted(_ROOT.rglob("*.py")) if "gen" not in path.relative_to(_ROOT).parts]


@dataclass(frozen=True)
class Line:
    """A place in the code that logs. event: None where it is no constant text."""

    place: str
    level: str | None
    event: str | None
    fields: frozenset[str | None]


def _loggers(tree: ast.Module) -> set[str]:
    return {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("structlog.get_logger(")
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _is_said(call: ast.Call, loggers: set[str]) -> bool:
    said = call.func
    return isinstance(said, ast.Attribute) and isinstance(said.value, ast.Name) and said.value.id in loggers


def _line(place: str, call: ast.Call) -> Line:
    assert isinstance(call.func, ast.Attribute)
    method = call.func.attr
    assert method in _LEVELS, place
    said = call.args[1] if method == "log" else call.args[0]
    event = said.value if isinstance(said, ast.Constant) and isinstance(said.value, str) else None
    level = {"exception": "error", "log": None}.get(method, method)
    return Line(place, level, event, frozenset(keyword.arg for keyword in call.keywords))


def lines_of(source: str, name: str) -> Iterator[Line]:
    """All that a module logs. A logger that is used in any other way is a line without an event."""
    tree = ast.parse(source)
    loggers = _loggers(tree)
    said = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_said(node, loggers)]
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    if len([node for node in used if node.id in loggers]) != len(said):
        yield Line(f"{name}: a logger that is passed on", None, None, frozenset())
    for call in said:
        yield _line(f"{name}:{call.lineno}", call)


_LINES = [line for path in _MODULES for line in lines_of(path.read_text("utf-8"), str(path.relative_to(_ROOT)))]


@pytest.mark.parametrize(
    "code",
    ['_log.info(f"{item} is gone")', "say = _log.info", '_log.bind(user="u")', '_log.info("a", **values)'],
)
def test_what_cannot_be_read_from_the_code_is_noticed(code: str) -> None:
    try:
        (line,) = lines_of(f"_log = structlog.get_logger(__name__)\n{code}\n", "module")
    except AssertionError:
        return
    assert line.event is None or None in line.fields


def test_every_event_is_a_constant_name_that_is_declared() -> None:
    assert [line.place for line in _LINES if line.event not in LOG_EVENTS] == []


def test_every_declared_event_is_logged_somewhere() -> None:
    assert set(LOG_EVENTS) - {line.event for line in _LINES} == _FOUND_BY_ITSELF


def test_every_field_is_declared_for_its_event() -> None:
    undeclared = [
        (line.place, field)
        for line in _LINES
        for field in line.fields
        if field not in {*LOG_EVENTS[line.event or ""].fields, *WHILE_ANSWERING}
    ]
    assert undeclared == []


def test_every_declared_field_is_logged_somewhere() -> None:
    logged: dict[str, set[str | None]] = defaultdict(set)
    for line in _LINES:
        logged[line.event or ""] |= line.fields
    by_name = {name: LOG_EVENTS[name] for name in set(LOG_EVENTS) - _FOUND_BY_ITSELF}
    assert [(name, field) for name, event in by_name.items() for field in set(event.fields) - logged[name]] == []


def test_the_level_is_the_declared_one() -> None:
    # Where the level is computed, which is rare, the declaration says so in words.
    assert [line.place for line in _LINES if line.level and line.level != LOG_EVENTS[line.event or ""].level] == []


def test_names_are_dotted_and_in_order() -> None:
    assert [name for name in LOG_EVENTS if not _NAME.fullmatch(name)] == []
    assert list(LOG_EVENTS) == sorted(LOG_EVENTS)


def test_every_field_has_a_type() -> None:
    common = {*EVERY_LINE, *WHILE_ANSWERING, *WITH_EXCEPTION}
    assert common | {field for event in LOG_EVENTS.values() for field in event.fields} == set(FIELD_TYPES)


def test_nobody_logs_past_the_declared_events() -> None:
    """By the standard library's loggers, or by printing, outside of commands."""
    past = re.compile(r"logging\.getLogger|^\s*print\(|sys\.std(out|err)\.write", re.MULTILINE)
    served = [path for path in _MODULES if path.relative_to(_ROOT).parts[0] not in ("cli", "telemetry")]
    assert [str(path.relative_to(_ROOT)) for path in served if past.search(path.read_text("utf-8"))] == []

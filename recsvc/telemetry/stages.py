"""Marks what traces tell of: a stage of a call, one function each. While tracing is off a mark is a note and no more.

Nothing is wrapped at import. `traced` replaces the marked functions of the classes and modules that it is given while
its block runs, as OpenTelemetry's own instrumentations do with the libraries they know; before and after it the code is
what it is without tracing, to the last byte. A stage becomes a span only within a recorded call, and costs next to
nothing in another: the instrumentation of redis, which makes an empty span there, cost each of them more than that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from functools import wraps
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, get_current_span

from recsvc.telemetry.spans import ERROR_TYPE, SPANS

Told: TypeAlias = Mapping[str, str | bool | int | float]
_Function = TypeVar("_Function", bound=Callable[..., Any])
_MARK = "_recsvc_stage"
_LINKS = 32
_KINDS = {name: SpanKind[declared.kind.upper()] for name, declared in SPANS.items()}


@dataclass(frozen=True, slots=True)
class Stage:
    """A mark. named: the span's name, "" for none, and what is told of it at first, from the function's arguments;
    told: what is told of its result; others: contexts of the calls that it also works for, from its arguments.
    """

    span: str
    named: Callable[..., tuple[str, Told]] | None = None
    told: Callable[[Any], Told] | None = None
    others: Callable[..., Sequence[Context]] | None = None


def stage(
    span: str,
    *,
    named: Callable[..., tuple[str, Told]] | None = None,
    told: Callable[[Any], Told] | None = None,
    others: Callable[..., Sequence[Context]] | None = None,
) -> Callable[[_Function], _Function]:
    """Mark a function as a stage; see `Stage`. Returns the very function."""
    if span not in SPANS:
        raise ValueError(f"{span} is not among the spans of telemetry/spans.py")

    def mark(function: _Function) -> _Function:
        setattr(function, _MARK, Stage(span, named, told, others))
        return function

    return mark


@contextmanager
def traced(tracer: Tracer, owners: Iterable[type | ModuleType]) -> Iterator[None]:
    """Have the marked functions of these classes and modules make spans until the block is left.

    Raises RuntimeError when they do already.
    """
    replaced: list[tuple[type | ModuleType, str, Any]] = []
    try:
        for owner in owners:
            for name, found in list(vars(owner).items()):
                function = found.__func__ if isinstance(found, staticmethod) else found
                mark = getattr(function, _MARK, None)
                if isinstance(mark, Stage):
                    if hasattr(function, "__wrapped__"):
                        raise RuntimeError("tracing is on in this process already")
                    wrapped = _wrapped(tracer, mark, function)
                    setattr(owner, name, staticmethod(wrapped) if isinstance(found, staticmethod) else wrapped)
                    replaced.append((owner, name, found))
        yield
    finally:
        for owner, name, found in replaced:
            setattr(owner, name, found)


@contextmanager
def opened(
    tracer: Tracer, span: str, name: str = "", told: Told | None = None, others: Sequence[Context] = ()
) -> Iterator[Span]:
    """A span of this kind around the block; what the block raises is told by its type alone.

    name: where it is not that of the kind; others: contexts whose spans it is linked to, up to 32 of them.
    """
    linked = (context.run(get_current_span) for context in others[:_LINKS])
    with tracer.start_as_current_span(
        name or span,
        kind=_KINDS[span],
        attributes=told,
        links=[Link(other.get_span_context()) for other in linked if other.is_recording()],
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            kind = type(error).__name__
            current.set_attribute(ERROR_TYPE, kind)
            current.set_status(Status(StatusCode.ERROR, kind))
            raise


def _wrapped(tracer: Tracer, mark: Stage, function: Callable[..., Any]) -> Callable[..., Any]:
    def begun(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        name, told = mark.named(*arguments, **named) if mark.named is not None else (mark.span, None)
        others = mark.others(*arguments, **named) if mark.others is not None else ()
        return opened(tracer, mark.span, name, told, others) if name else None

    def tell(span: Span, result: Any) -> None:
        if mark.told is not None:
            span.set_attributes(mark.told(result))

    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def asynchronous(*arguments: Any, **named: Any) -> Any:
            block = begun(arguments, named) if get_current_span().is_recording() else None
            if block is None:
                return await function(*arguments, **named)
            with block as span:
                result = await function(*arguments, **named)
                tell(span, result)
                return result

        return asynchronous

    @wraps(function)
    def synchronous(*arguments: Any, **named: Any) -> Any:
        block = begun(arguments, named) if get_current_span().is_recording() else None
        if block is None:
            return function(*arguments, **named)
        with block as span:
            result = function(*arguments, **named)
            tell(span, result)
            return result

    return synchronous

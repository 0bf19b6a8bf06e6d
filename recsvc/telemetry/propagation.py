"""What is taken from callers about the trace that a call belongs to: W3C traceparent, tracestate, and two of baggage.

A traceparent that is not to the letter is as good as none. Of baggage only the names of an experiment and its variant
are kept, and only where they look like names: everything else may be about people, and nobody here needs it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter, Setter, TextMapPropagator, default_getter, default_setter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

KEPT: Mapping[str, str] = {"experiment": "recsvc.experiment", "variant": "recsvc.variant"}
"""Entries of baggage that are kept, and the attributes that tell of them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# More than that is nobody's list of experiments.
_HEADER_CHARACTERS, _ENTRIES = 2048, 32


class AllowedBaggage(TextMapPropagator):
    """Baggage, cut down to the entries that are kept."""

    def extract(self, carrier: Any, context: Context | None = None, getter: Getter[Any] = default_getter) -> Context:
        """The context with the entries of the carrier that are kept; a header that is too long has none."""
        context = context if context is not None else Context()
        header = ",".join(getter.get(carrier, "baggage") or ())
        if not header or len(header) > _HEADER_CHARACTERS:
            return context
        for entry in header.split(",")[:_ENTRIES]:
            name, _, value = entry.partition(";")[0].partition("=")
            name, value = name.strip(), unquote(value.strip())
            if name in KEPT and _NAME.fullmatch(value):
                context = baggage.set_baggage(name, value, context)
        return context

    def inject(self, carrier: Any, context: Context | None = None, setter: Setter[Any] = default_setter) -> None:
        """Pass on what there is."""
        W3CBaggagePropagator().inject(carrier, context, setter)

    @property
    def fields(self) -> set[str]:
        """The header."""
        return {"baggage"}


def propagator() -> TextMapPropagator:
    """Of all that is taken and passed on."""
    return CompositePropagator([TraceContextTextMapPropagator(), AllowedBaggage()])


def kept_baggage(context: Context | None) -> Mapping[str, str]:
    """Attributes of what a context has of it."""
    found = {attribute: baggage.get_baggage(name, context) for name, attribute in KEPT.items()}
    return {attribute: str(value) for attribute, value in found.items() if value is not None}

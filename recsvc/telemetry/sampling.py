"""Which spans are recorded: what the caller of a call decided, else what was drawn; of each call a bounded number.

Drawing comes first (`Draw`): a call that nobody records, nine of ten and more, is spared all the rest. A stream may
last for days and do thousands of things: what exceeds the bound is not recorded, and counted. Nor is what goes on after
the call has ended. What belongs to no call has no spans anyway (`telemetry/stages.py`).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState, get_current_span
from opentelemetry.trace import Span as AnySpan
from opentelemetry.util.types import Attributes
from prometheus_client import Counter

from recsvc.telemetry.propagation import kept_baggage

# No laxer than the propagator: what that takes for none would be recorded as a trace that begins here, undrawn.
_DECIDED = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f](?P<flags>[0-9a-f])")


class Draw:
    """Which calls are looked at: those whose caller has decided whether they are recorded, and a share of the rest.

    To record a call costs as much as half of it: so that no caller makes all of them dearer, there is a most, which
    comes back with time and of which a second's worth may come at once.
    """

    def __init__(self, ratio: float, calls_per_s: float) -> None:
        self._ratio = ratio
        self._calls_per_s = calls_per_s
        self._left = max(calls_per_s, 1.0)
        self._looked_s = time.monotonic()

    def takes(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether a call with this metadata is looked at. One that is not to be recorded only gets its trace's id."""
        given: str | bytes = ""
        for name, value in metadata:
            if name == "traceparent":
                # Of several the last one counts for the propagator, too.
                given = value
        decided = _DECIDED.fullmatch(given) if isinstance(given, str) else None
        if decided is not None:
            return not int(decided["flags"], 16) & 1 or self._has_room()
        return random.random() < self._ratio and self._has_room()  # noqa: S311  (spreads load)

    def _has_room(self) -> bool:
        now_s = time.monotonic()
        self._left = min(max(self._calls_per_s, 1.0), self._left + (now_s - self._looked_s) * self._calls_per_s)
        self._looked_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class _Budget:
    left: int


class Budgets(SpanProcessor):
    """How many spans each call may still have. Also tells of the caller's baggage on the first of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: WeakKeyDictionary[AnySpan, _Budget] = WeakKeyDictionary()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """A span of the budget of its parent; without one in this process it is the first of a call."""
        budget = self._of.get(get_current_span(parent_context))
        if budget is None:
            budget = _Budget(self._most - 1)
            span.set_attributes(kept_baggage(parent_context))
        self._of[span] = budget

    def on_end(self, span: ReadableSpan) -> None:
        """The budget goes with its last span."""

    def take(self, parent: AnySpan) -> bool | None:
        """Take one span out of the budget of a parent; False when there is none left, None for no parent of ours."""
        budget = self._of.get(parent)
        if budget is None:
            return None
        budget.left -= 1
        return budget.left >= 0 and parent.is_recording()


class CallSampler(Sampler):
    """Decides on each span of a call that is looked at."""

    def __init__(self, budgets: Budgets, over_budget: Counter) -> None:
        self._by_caller = ParentBased(ALWAYS_ON)
        self._budgets = budgets
        self._over_budget = over_budget

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Whether a span is recorded."""
        parent = get_current_span(parent_context)
        state = parent.get_span_context().trace_state
        has_room = self._budgets.take(parent)
        if has_room is not None:
            if has_room:
                return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, state)
            self._over_budget.inc()
            return SamplingResult(Decision.DROP, None, state)
        return self._by_caller.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """For those who debug."""
        return "CallSampler"

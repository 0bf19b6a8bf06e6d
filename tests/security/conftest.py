"""Counts the hostile inputs of a run, and says the sum at its end."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from tests.security.fuzzing import ROUNDS, SEED, Fuzzer

_inputs: Counter[str] = Counter()
_began = time.monotonic()


@pytest.fixture(scope="session")
def inputs() -> Counter[str]:
    """How many inputs there were, by kind."""
    return _inputs


@pytest.fixture
def fuzzer(request: pytest.FixtureRequest) -> Fuzzer:
    """Makes inputs that repeat with the seed, whichever other tests run; a failing test prints the seed."""
    print(f"repeat with RECSVC_SECURITY_SEED={SEED} RECSVC_SECURITY_ROUNDS={ROUNDS}")
    return Fuzzer(random.Random(f"{SEED}/{request.node.name}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was tried."""
    if _inputs:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(_inputs.items()))
        seconds = time.monotonic() - _began
        terminalreporter.write_line(
            f"fuzzed {sum(_inputs.values()):,} inputs in {seconds:.0f} s with seed {SEED}: {kinds}"
        )

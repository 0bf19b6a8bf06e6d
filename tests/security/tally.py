"""Counts the hostile inputs of a run, whichever of its processes made them, and says the sum at its end."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from tests.security.fuzzing import SEED

_inputs: Counter[str] = Counter()
_began = time.monotonic()


@pytest.fixture(scope="session")
def inputs() -> Counter[str]:
    """How many inputs there were, by kind."""
    return _inputs


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that sums up, where this is not the one."""
    if (told := getattr(session.config, "workeroutput", None)) is not None:
        told["inputs"] = dict(_inputs)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what another process has told; one that died has told nothing."""
    _inputs.update(getattr(node, "workeroutput", {}).get("inputs", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was tried."""
    if _inputs:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(_inputs.items()))
        seconds = time.monotonic() - _began
        terminalreporter.write_line(
            f"fuzzed {sum(_inputs.values()):,} inputs in {seconds:.0f} s with seed {SEED}: {kinds}"
        )

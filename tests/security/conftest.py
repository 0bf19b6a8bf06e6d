"""Hostile inputs that can be made again."""

from __future__ import annotations

import random

import pytest

from tests.security.fuzzing import ROUNDS, SEED, Fuzzer


@pytest.fixture
def fuzzer(request: pytest.FixtureRequest) -> Fuzzer:
    """Makes inputs that repeat with the seed, whichever other tests run; a failing test prints the seed."""
    print(f"repeat with RECSVC_SECURITY_SEED={SEED} RECSVC_SECURITY_ROUNDS={ROUNDS}")
    return Fuzzer(random.Random(f"{SEED}/{request.node.name}"))

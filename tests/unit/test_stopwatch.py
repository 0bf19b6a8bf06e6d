"""A run is told what each of its stages took."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from recsvc.training.stopwatch import Stopwatch

_LARGE = 300 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_the_memory_of_a_stage_is_its_own() -> None:
    watch = Stopwatch()
    large = np.ones(_LARGE // 8)
    watch.lap("large")
    del large
    watch.lap("freed")
    watch.lap("small")
    assert watch.peak_bytes["large"] > watch.peak_bytes["small"] + _LARGE // 2


def test_a_stage_that_comes_again_adds_its_seconds() -> None:
    watch = Stopwatch()
    watch.lap("stage")
    first = watch.seconds["stage"]
    watch.lap("stage")
    assert watch.seconds["stage"] > first

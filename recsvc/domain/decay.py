"""Exponentially decayed counters that never need to be decayed again.

A counter with half-life h is kept as L = log2 Σ w·2^((t − t0)/h), t0 a fixed epoch. The decayed count at time `now`
is 2^(L − (now − t0)/h): the same factor for every item, so the order by L is the order by decayed count at any later
time, a B-tree on L serves trending lists, and an event touches only its own item. −inf is the empty counter; storage
keeps it as NULL. In double precision L of 2100 (h = 1 day, six years on) still resolves 5·10^-13.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from numpy.typing import ArrayLike

from recsvc.domain.arrays import Codes, Float64

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
EMPTY = float("-inf")


def seconds_since_epoch(moment: datetime) -> float:
    """t − t0 of an aware time."""
    return (moment - EPOCH).total_seconds()


def log2_value(weight: ArrayLike, time_s: ArrayLike, half_life_s: float) -> Float64:
    """L of a single event, or of many one by one; a weight ≤ 0 counts as nothing."""
    weights = np.asarray(weight, dtype=np.float64)
    counted = weights > 0
    logarithms = np.where(counted, np.log2(np.where(counted, weights, 1.0)), EMPTY)
    return np.asarray(logarithms + np.asarray(time_s, dtype=np.float64) / half_life_s)


def log2_add(a: ArrayLike, b: ArrayLike) -> Float64:
    """log2(2^a + 2^b) without overflow: adds two counters, element by element."""
    return np.asarray(np.logaddexp2(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)))


def log2_sum(log2_values: Float64, codes: Codes, size: int) -> Float64:
    """(size,): one counter per code, from the values of single events (n,) and the code of each (n,)."""
    largest = np.full(size, EMPTY)
    np.maximum.at(largest, codes, log2_values)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    sums = np.bincount(codes, weights=np.exp2(log2_values - shift[codes]), minlength=size)
    return np.where(sums > 0, shift + np.log2(np.where(sums > 0, sums, 1.0)), EMPTY)


def decayed_count(log2_value: ArrayLike, now_s: float, half_life_s: float) -> Float64:
    """The count as it stands at `now_s` (seconds since EPOCH); 0 for the empty counter."""
    return np.asarray(np.exp2(np.asarray(log2_value, dtype=np.float64) - now_s / half_life_s))

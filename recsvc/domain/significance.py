"""How sure a figure is: bootstrap intervals over users, and whether one model is better than another beyond chance.

Users, not questions, are resampled: what one user is asked more than once is not independent. All figures of all
models see the same resamples, so that a difference between two models is a paired one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsvc.domain.arrays import Codes, Float64

_BLOCK_COUNTS = 8_000_000
"""Upper bound on the counts of one block of resamples: 64 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with the bounds between which it lies with the stated confidence."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much one model's figure is above another's over the same users; p: two-sided."""

    interval: Interval
    p: float


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Resamples of users. groups: (n,), whose question each one is; the same seed gives the same resamples."""

    groups: Codes
    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def estimates(self, numerators: Float64, denominators: Float64) -> tuple[Float64, Float64]:
        """Σ numerators / Σ denominators of each column (n, m): as observed (m,), and of each resample (resamples, m).

        With denominators of 1 that is a mean, with 1 and 0 the mean over a part; 0 where all denominators are 0.
        """
        _, group_of = np.unique(self.groups, return_inverse=True)
        group_count = int(group_of.max(initial=-1)) + 1
        columns = numerators.shape[1]
        if group_count == 0:
            return np.zeros(columns), np.zeros((self.resamples, columns))
        sums = np.zeros((group_count, 2 * columns))
        np.add.at(sums, group_of, np.hstack([numerators, denominators]))
        rng = np.random.default_rng(self.seed)
        drawn = np.empty((self.resamples, 2 * columns))
        block = max(1, _BLOCK_COUNTS // group_count)
        for start in range(0, self.resamples, block):
            rows = min(block, self.resamples - start)
            # One draw with replacement is how often each user came up.
            counts = np.stack(
                [np.bincount(rng.integers(0, group_count, group_count), minlength=group_count) for _ in range(rows)]
            )
            drawn[start : start + rows] = counts.astype(np.float64) @ sums
        observed = sums.sum(axis=0)
        return _ratio(observed[:columns], observed[columns:]), _ratio(drawn[:, :columns], drawn[:, columns:])

    def interval(self, observed: float, resampled: Float64) -> Interval:
        """The percentile interval (Efron 1979) of one figure."""
        tail = (1.0 - self.confidence) / 2.0
        low, high = np.quantile(resampled, (tail, 1.0 - tail)) if len(resampled) else (0.0, 0.0)
        return Interval(float(observed), float(low), float(high))

    def difference(self, one: tuple[float, Float64], other: tuple[float, Float64]) -> Difference:
        """Of two figures, each as observed and as resampled (Efron & Tibshirani 1993, chapter 16).

        p is the share of resamples that, centred on no difference, lie as far out as what was observed; it cannot be
        below 1 / (resamples + 1).
        """
        observed, resampled = one[0] - other[0], one[1] - other[1]
        as_far = np.abs(resampled - observed) >= abs(observed) - 1e-15
        p = (1 + int(as_far.sum())) / (len(resampled) + 1)
        return Difference(self.interval(observed, resampled), p)


def bootstrap_interval(values: Float64, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Interval:
    """The mean over users with its percentile bootstrap interval, one value per user."""
    bootstrap = Bootstrap(np.arange(len(values)), resamples, confidence, seed)
    observed, resampled = bootstrap.estimates(values[:, np.newaxis], np.ones((len(values), 1)))
    return bootstrap.interval(float(observed[0]), resampled[:, 0])


def _ratio(numerators: Float64, denominators: Float64) -> Float64:
    return np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0)

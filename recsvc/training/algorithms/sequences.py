"""Directional item–item weights: what users go on to after an item.

Sequential rules (Ludewig & Jannach 2018, "SR"): each pair of items that one user touched in this order, at most
`window` steps apart, is evidence of weight 1/steps for the later one to follow. A step is a distinct time: what was
done at once has no order among itself, and counts as one step apart in both directions, or not at all. Old evidence may
count less (as sessions do in STAN, Garg et al. 2019). First-order transitions are the special case of window 1.

With M the steps × items matrix, in the order of users and times, and M_d the same with its rows d steps earlier, the
evidence is Σ_d M'M_d / d: a sparse product, made in blocks of items, so that memory stays bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsvc.domain.arrays import Codes, Float64, Interactions
from recsvc.training.algorithms.cooccurrence import StrongestWeights, row_blocks
from recsvc.training.algorithms.interface import ItemNeighbors, Progress, no_progress
from recsvc.training.algorithms.normalisation import degrees, power_or_zero, scaled

_BLOCK_ENTRIES = 8_000_000
"""Upper bound on the pairs of events of one block: about 300 MB while they are summed."""

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Sequences:
    """Who touched what one after another: entries sorted by user, then time, then item; all arrays (n_events,).

    steps: for each entry the number of distinct earlier times of the same user. times: seconds.
    """

    users: Codes
    items: Codes
    steps: Codes
    times: Float64
    item_count: int

    @classmethod
    def of(cls, users: Codes, items: Codes, times: Float64, item_count: int) -> Self:
        """Sequences of events in any order; equal times of one user are one step, with every item once."""
        order = np.lexsort((items, times, users))
        users, items, times = users[order], items[order], times[order]
        new_user = _differs_from_previous(users)
        new_step = new_user | _differs_from_previous(times)
        first = new_step | _differs_from_previous(items)
        counted = np.cumsum(new_step)
        steps: NDArray[np.int64] = counted - np.maximum.accumulate(np.where(new_user, counted, 0))
        return cls(users[first], items[first], steps[first], times[first], item_count)


@dataclass(frozen=True, slots=True)
class SequentialRulesConfig:
    """Hyper-parameters of the rules."""

    k: int = 100
    """Successors kept per item."""

    window: int = 10
    """So many steps back an item can still be evidence."""

    source_degree_exponent: float = 0.5
    """α: how much an item with much evidence is damped; 1 makes the weights of its successors add up to one."""

    target_degree_exponent: float = 0.0
    """β: how much an item that occurs often is damped as a suggestion."""

    longest_pause_s: float | None = None
    """What comes after a longer pause than this does not follow from what was before it. None = it always does."""

    half_life_days: float | None = None
    """Evidence this much older than the newest event counts half. None = age does not matter."""

    links_same_step: bool = True
    """Whether items of one step follow from each other."""


@dataclass(frozen=True, slots=True)
class SequentialRules:
    """The algorithm; `fit` has no state."""

    config: SequentialRulesConfig = SequentialRulesConfig()

    def fit(self, sequences: Sequences, progress: Progress = no_progress) -> ItemNeighbors:
        """Row j of the result lists what follows item j."""
        config = self.config
        steps = _Steps.of(sequences, config.longest_pause_s)
        by_item = steps.contents.T.tocsr()
        damping = power_or_zero(np.diff(by_item.indptr).astype(np.float64), -config.target_degree_exponent)
        worth = steps.recency(config.half_life_days)
        distances = np.arange(0 if config.links_same_step else 1, config.window + 1)
        kept = StrongestWeights(config.k)
        for start, stop in row_blocks(steps.pairs_per_item(config.window), _BLOCK_ENTRIES):
            rules = _evidence(by_item[start:stop], steps, worth, distances) @ steps.contents
            rules = _without_itself(rules, start)
            as_source, _ = degrees(rules)
            kept.add_rows(scaled(rules, power_or_zero(as_source, -config.source_degree_exponent), damping))
            progress(stop / sequences.item_count)
        progress(1.0)
        return kept.neighbors()


@dataclass(frozen=True, slots=True)
class MarkovTransitions:
    """First-order transitions: which share of what came in the very next step of an item's users each item is."""

    config: SequentialRulesConfig = SequentialRulesConfig()

    def fit(self, sequences: Sequences, progress: Progress = no_progress) -> ItemNeighbors:
        """Row j of the result lists what follows item j; of the configuration, window and α are given."""
        first_order = replace(self.config, window=1, source_degree_exponent=1.0, links_same_step=False)
        return SequentialRules(first_order).fit(sequences, progress)


@dataclass(frozen=True, slots=True)
class _Steps:
    """contents: (n_steps, n_items), 1 for an item of the step; ends, times: (n_steps,), ends: one past the last step
    of the same sequence."""

    contents: Interactions
    ends: NDArray[np.int64]
    times: Float64

    @classmethod
    def of(cls, sequences: Sequences, longest_pause_s: float | None) -> Self:
        new_user = _differs_from_previous(sequences.users)
        starts = np.flatnonzero(new_user | _differs_from_previous(sequences.steps))
        times = sequences.times[starts]
        new_sequence = new_user[starts]
        if longest_pause_s is not None:
            new_sequence = new_sequence | (np.diff(times, prepend=times[:1]) > longest_pause_s)
        bounds = np.append(np.flatnonzero(new_sequence), len(starts))
        contents: Interactions = sparse.csr_matrix(
            (
                np.ones(len(sequences.items), dtype=np.float32),
                sequences.items.astype(np.int32),
                np.append(starts, len(sequences.items)),
            ),
            shape=(len(starts), sequences.item_count),
        )
        return cls(contents, np.repeat(bounds[1:], np.diff(bounds)), times)

    def recency(self, half_life_days: float | None) -> Float64:
        """(n_steps,): what evidence of each step is worth, 1 for the newest."""
        if half_life_days is None or len(self.times) == 0:
            return np.ones(len(self.times))
        worth: Float64 = np.exp2((self.times - self.times.max()) / (half_life_days * _DAY_S))
        return worth

    def pairs_per_item(self, window: int) -> Float64:
        """(n_items,): how many pairs of events each item is the earlier part of."""
        events_before = self.contents.indptr.astype(np.int64)
        steps = np.arange(len(self.ends))
        following = events_before[np.minimum(steps + window + 1, self.ends)] - events_before[steps]
        entries = np.repeat(following, np.diff(self.contents.indptr)).astype(np.float64)
        return np.bincount(self.contents.indices, weights=entries, minlength=self.contents.shape[1]).astype(np.float64)


def _evidence(items: Interactions, steps: _Steps, worth: Float64, distances: NDArray[np.int64]) -> Interactions:
    """(n_items, n_steps): how much each step says about what follows an item, from its occurrences in `items`."""
    following = items.indices[:, np.newaxis].astype(np.int64) + distances
    is_same_sequence = following < steps.ends[items.indices][:, np.newaxis]
    counts = np.concatenate(([0], np.cumsum(is_same_sequence.sum(axis=1))))
    columns = following[is_same_sequence]
    weights = np.broadcast_to(1.0 / np.maximum(distances, 1), following.shape)[is_same_sequence] * worth[columns]
    return sparse.csr_matrix((weights.astype(np.float32), columns, counts[items.indptr]), shape=items.shape)


def _without_itself(rules: Interactions, first: int) -> Interactions:
    """The rows of items `first` and following, without what leads back to the same item."""
    rows = np.repeat(np.arange(first, first + rules.shape[0]), np.diff(rules.indptr))
    rules.data[rules.indices == rows] = 0.0
    rules.eliminate_zeros()
    return rules


def _differs_from_previous(values: Codes | Float64) -> NDArray[np.bool_]:
    """(n,): whether a value is another one than that before it; the first is."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]

"""Questions with known answers, held out of a tenant's own data: what models are chosen and judged by.

A model should be chosen by the question that it will be asked. With times, that is "what comes next"; without them
nothing tells the future from the past, and a random draw would reward remembering near-duplicates, so whole
neighbourhoods of a history are held out instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from scipy import sparse

from recsvc.domain.arrays import Codes, Float64, Interactions, Mask
from recsvc.training.algorithms.spectral import Spectral, SpectralConfig
from recsvc.training.dataset import Dataset
from recsvc.training.splits import random_split

_LEAST_CASES = 50
"""With fewer cases by time, a choice would be a guess: interactions are drawn at random instead."""

_ENOUGH_CASES, _MOST_FOLDS, _FOLDED_PAIRS = 4000, 5, 1_000_000
"""With fewer cases there are more folds, as long as all folds together have no more pairs than these."""

_MOST_PERIODS = 3
"""Of those by time: each reaches back further, to what says less of the present."""

_INFORMATIVE = 0.5
"""The share of users with several items who must have several times, for the times to be of use."""

_NEIGHBOURHOOD = SpectralConfig(dimension=64, output_exponent=0.0, power_iterations=2)


class ValidationKind(StrEnum):
    """What is held out."""

    AUTO = "auto"
    """NEXT_ITEM where times tell one event from the next, BLOCKED where they do not."""

    NEXT_ITEM = "next-item"
    """Events of the last part of the time, each asked for with all that the user did before, as a live service is."""

    TEMPORAL = "temporal"
    """All that users did in the last part of the time, asked for at its beginning."""

    RANDOM = "random"
    """A random part of each user's items: right when what is to be found was drawn at random, too."""

    BLOCKED = "blocked"
    """A random item of each user together with those most like it (blocked cross-validation, Roberts et al. 2017)."""


_BY_TIME = (ValidationKind.NEXT_ITEM, ValidationKind.TEMPORAL)


@dataclass(frozen=True, slots=True)
class Cases:
    """n questions, in the order of their moments.

    ages: (n, items), for every item of the history 1 + the number of distinct times after it: 1 is the newest.
    wanted: (n, items), 1 for what must be found. moments: (n,), seconds since 1970 at which is asked. signals: (n,
    items), where `ages` has entries, what the events about the item add up to, negative where it is disliked;
    signal_power, disliked_strength: as Dataset has them.
    """

    ages: Interactions
    wanted: Interactions
    moments: Float64
    signals: Interactions
    signal_power: float = 0.0
    disliked_strength: float = 0.0

    def __len__(self) -> int:
        """How many there are."""
        return len(self.moments)

    @classmethod
    def joined(cls, parts: Sequence[Cases]) -> Cases:
        """The cases of several folds, one after another."""

        def stacked(matrices: Sequence[Interactions]) -> Interactions:
            return sparse.csr_matrix(sparse.vstack(matrices, format="csr"))

        return cls(
            stacked([part.ages for part in parts]),
            stacked([part.wanted for part in parts]),
            np.concatenate([part.moments for part in parts]),
            stacked([part.signals for part in parts]),
            parts[0].signal_power,
            parts[0].disliked_strength,
        )

    def take(self, positions: Codes | slice) -> Cases:
        """Some of the cases."""
        return replace(
            self,
            ages=self.ages[positions],
            wanted=self.wanted[positions],
            moments=self.moments[positions],
            signals=self.signals[positions],
        )

    def history(self, recency: float, at_most: int | None = None) -> Interactions:
        """The histories as strength · recency^(age − 1), so that the newest counts most.

        at_most: so many distinct times back.
        """
        ages = self.ages
        values = np.power(np.float32(recency), ages.data - 1, dtype=np.float32)
        signals = self.signals.data
        liked = signals > 0
        if self.signal_power:
            values[liked] *= np.power(signals[liked], np.float32(self.signal_power))
        values[~liked] *= np.float32(self.disliked_strength)
        if at_most is not None:
            values[ages.data > at_most] = 0.0
        history = sparse.csr_matrix((values, ages.indices, ages.indptr), shape=ages.shape)
        if not values.all():
            history = history.copy()
            history.eliminate_zeros()
        return history


@dataclass(frozen=True, slots=True)
class HoldOut:
    """fitting: mask over the liked pairs, what to learn from; live: those that counters may know by the time.

    until: seconds since 1970, the latest that may be learned from otherwise.
    """

    kind: ValidationKind
    fitting: Mask
    live: Mask
    cases: Cases
    until: float = np.inf


def hold_out(
    dataset: Dataset, kind: ValidationKind, *, share: float = 0.1, max_cases: int = 4000, seed: int = 1
) -> HoldOut:
    """Hold out `share` of the interactions, asked for in at most `max_cases` cases; by time half as many again."""
    if kind is ValidationKind.AUTO:
        kind = ValidationKind.NEXT_ITEM if has_informative_times(dataset) else ValidationKind.BLOCKED
    if kind in _BY_TIME:
        held = _by_time(dataset, kind, share, max_cases, seed)
        if len(held.cases) >= _LEAST_CASES:
            return held
        kind = ValidationKind.RANDOM
    if kind is ValidationKind.BLOCKED:
        fitting = ~_neighbourhoods(dataset, share, seed)
    else:
        fitting = random_split(dataset.users, dataset.items, share, seed).train
    users = np.unique(dataset.users[~fitting])
    users = _sample(users, max_cases, seed)
    case_of = np.full(len(dataset.user_keys), -1)
    case_of[users] = np.arange(len(users))
    moments = np.full(len(users), dataset.times.max(initial=0.0) + 1.0)
    counted, _ = dataset.counted
    known = np.append(fitting, np.ones(len(counted.users) - len(fitting), dtype=np.bool_))
    asked = np.flatnonzero(case_of[counted.users] >= 0)
    cases = _assemble(dataset, case_of[counted.users[asked]], asked, known[asked], ~known[asked], moments)
    return HoldOut(kind, fitting, fitting, cases)


def hold_out_folds(
    dataset: Dataset, kind: ValidationKind, *, share: float = 0.1, max_cases: int = 4000, seed: int = 1
) -> list[HoldOut]:
    """The same, again and again with other draws where a single one asks too little to choose by.

    Repeated random sub-sampling (Picard & Cook 1984). What is held out by time is the same at every draw: there,
    further folds hold out the period before, and know nothing of what came after it (rolling origin, Tashman 2000).
    Blocks of one size only would speak for one distance between what is known and what is asked for, so there are at
    least two folds of these, and every other one holds out twice as much.
    """
    first = hold_out(dataset, kind, share=share, max_cases=max_cases, seed=seed)
    if len(first.cases) == 0:
        return [first]
    count = min(_MOST_FOLDS, -(-_ENOUGH_CASES // len(first.cases)), _FOLDED_PAIRS // max(len(dataset.users), 1))
    if first.kind in _BY_TIME:
        periods = range(1, min(count, _MOST_PERIODS))
        earlier = [_by_time(dataset, first.kind, share, max_cases // 2, seed, period) for period in periods]
        return [first, *(fold for fold in earlier if len(fold.cases) >= _LEAST_CASES)]
    shares = (share, 2 * share) if first.kind is ValidationKind.BLOCKED else (share,)
    return [first] + [
        hold_out(
            dataset,
            first.kind,
            share=shares[fold % len(shares)],
            max_cases=max(max_cases // 2, 1),
            seed=seed + 1000 * fold,
        )
        for fold in range(1, max(count, len(shares)))
    ]


def has_informative_times(dataset: Dataset) -> bool:
    """Whether most users who touched several items did so at several times."""
    counts = np.bincount(dataset.users, minlength=len(dataset.user_keys))
    first = np.full(len(counts), np.inf)
    last = np.full(len(counts), -np.inf)
    np.minimum.at(first, dataset.users, dataset.times)
    np.maximum.at(last, dataset.users, dataset.times)
    several = counts > 1
    return bool(several.any() and np.mean(last[several] > first[several]) > _INFORMATIVE)


def _by_time(
    dataset: Dataset, kind: ValidationKind, share: float, max_cases: int, seed: int, period: int = 0
) -> HoldOut:
    """What was done in the last `share` of the time, or so many such periods before."""
    cut, end = np.quantile(dataset.times, (1.0 - (period + 1) * share, 1.0 - period * share), method="lower").tolist()
    fitting = dataset.times <= cut
    held = ~fitting & (dataset.times <= end)
    # Most questions by time have one answer, others have several: it takes more of them to say as much.
    max_cases = max_cases * 3 // 2
    if kind is ValidationKind.TEMPORAL:
        users = np.intersect1d(np.unique(dataset.users[fitting]), np.unique(dataset.users[held]))
        users = _sample(users, max_cases, seed)
        moments = np.full(len(users), cut)
    else:
        # One question per user and moment after the cut, if the user did anything before that moment.
        first = np.full(len(dataset.user_keys), np.inf)
        np.minimum.at(first, dataset.users, dataset.times)
        asked = np.flatnonzero(held & (dataset.times > first[dataset.users]))
        pairs = np.unique(np.stack([dataset.users[asked].astype(np.float64), dataset.times[asked]], axis=1), axis=0)
        pairs = pairs[_sample(np.arange(len(pairs)), max_cases, seed)]
        pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
        users, moments = pairs[:, 0].astype(np.int64), pairs[:, 1]
    counted, signals = dataset.counted
    order = np.argsort(counted.users, kind="stable")
    starts = np.searchsorted(counted.users[order], np.arange(len(dataset.user_keys) + 1))
    lengths = starts[users + 1] - starts[users]
    entries = order[np.repeat(starts[users], lengths) + _counting(lengths)]
    case_of_entry = np.repeat(np.arange(len(users)), lengths)
    times, moment = counted.times[entries], moments[case_of_entry]
    before = times <= moment if kind is ValidationKind.TEMPORAL else times < moment
    asked_for = (times > moment) & (times <= end) if kind is ValidationKind.TEMPORAL else times == moment
    wanted = asked_for & (signals[entries] > 0)
    cases = _assemble(dataset, case_of_entry, entries, before, wanted, moments)
    live = fitting if kind is ValidationKind.TEMPORAL else np.ones(len(dataset.users), dtype=np.bool_)
    return HoldOut(kind, fitting, live, cases, until=cut)


def _neighbourhoods(dataset: Dataset, share: float, seed: int) -> Mask:
    """For each user a random item and those most like it, `share` of the history rounded; at least one item stays."""
    vectors = Spectral(_NEIGHBOURHOOD).fit(dataset.liked()).vectors
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.asarray(vectors / np.where(norms > 0, norms, 1.0), dtype=np.float32)
    rng = np.random.default_rng(seed)
    held = np.zeros(len(dataset.users), dtype=np.bool_)
    order = np.argsort(dataset.users, kind="stable")
    sizes = np.bincount(dataset.users, minlength=len(dataset.user_keys))
    for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        count = min(int(share * size + 0.5), size - 1)
        if count < 1:
            continue
        entries = order[start : start + size]
        history = unit[dataset.items[entries]]
        likeness = history @ history[rng.integers(size)]
        held[entries[np.argsort(-likeness, kind="stable")[:count]]] = True
    return held


def _assemble(
    dataset: Dataset, case_of_entry: Codes, entries: Codes, before: Mask, wanted: Mask, moments: Float64
) -> Cases:
    """Cases of entries (positions among the counted pairs), each entry in one case."""
    counted, signals = dataset.counted
    shape = (len(moments), len(dataset.item_keys))
    rows, pairs = case_of_entry[before], entries[before]
    ages = ages_by_time(rows, counted.times[pairs]).astype(np.float32)
    history = sparse.csr_matrix((ages, (rows, counted.items[pairs])), shape=shape)
    strength = sparse.csr_matrix((signals[pairs].astype(np.float32), (rows, counted.items[pairs])), shape=shape)
    ones = np.ones(int(wanted.sum()), dtype=np.float32)
    found = sparse.csr_matrix((ones, (case_of_entry[wanted], counted.items[entries[wanted]])), shape=shape)
    liked = np.bincount(rows[signals[pairs] > 0], minlength=len(moments))
    answerable = np.flatnonzero((liked > 0) & (np.diff(found.indptr) > 0))
    return Cases(
        history[answerable],
        found[answerable],
        moments[answerable],
        strength[answerable],
        dataset.signal_power,
        dataset.disliked_strength,
    )


def ages_by_time(groups: Codes, times: Float64) -> Codes:
    """For each entry 1 + the number of distinct later times in its group: what was done at once has one age."""
    if len(groups) == 0:
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort((-times, groups))
    new_group = np.append(True, np.diff(groups[order]) != 0)
    new_time = new_group | np.append(True, np.diff(times[order]) != 0)
    steps = np.cumsum(new_time)
    ages = np.empty(len(groups), dtype=np.int64)
    ages[order] = steps - np.maximum.accumulate(np.where(new_group, steps, 0)) + 1
    return ages


def _counting(lengths: Codes) -> Codes:
    """0, 1, … length − 1 for each length, one after another."""
    ends = np.cumsum(lengths)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def _sample(values: Codes, at_most: int, seed: int) -> Codes:
    if len(values) <= at_most:
        return values
    return np.sort(np.random.default_rng(seed).choice(values, at_most, replace=False))

"""The sources of a model as they are fitted and as they score: the offline twin of what serving computes in SQL.

A source is asked with the history of each case, every item weighted by recency^age with the source's own recency. What
comes out has the same scale as the served component, so that weights chosen here hold there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np

from recsvc.domain.arrays import Codes, Float32, Float64, Interactions, Mask
from recsvc.domain.recommendations import POPULARITY_HALF_LIFE, TREND_HALF_LIVES, Source
from recsvc.training.algorithms.ease import Ease, EaseConfig
from recsvc.training.algorithms.interface import ItemFactors, ItemNeighbors, Progress, no_progress
from recsvc.training.algorithms.neighbors import Neighbors, NeighborsConfig
from recsvc.training.algorithms.popularity import item_popularity
from recsvc.training.algorithms.sequences import Sequences, SequentialRules, SequentialRulesConfig
from recsvc.training.algorithms.spectral import Decomposition, SpectralConfig
from recsvc.training.dataset import Dataset
from recsvc.training.validation import Cases, HoldOut

COLLABORATIVE, NEIGHBORS, SEQUENCE = Source.COLLABORATIVE.value, Source.NEIGHBORS.value, Source.SEQUENCE.value
TRENDING, POPULAR = Source.TRENDING.value, Source.POPULAR.value

RP3BETA, EASE = "rp3beta", "ease"
"""What item–item weights can come from."""

SEQUENCE_ITEMS = 10
"""So many distinct times back the items of a history speak for what comes next."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyper-parameters of all sources. tuned: whether they were searched for on the tenant's own data."""

    spectral: SpectralConfig = field(default_factory=SpectralConfig)
    neighbors: NeighborsConfig = field(default_factory=NeighborsConfig)
    ease: EaseConfig = field(default_factory=EaseConfig)
    sequence: SequentialRulesConfig = field(default_factory=SequentialRulesConfig)
    neighbor_algorithms: tuple[str, ...] = (EASE, RP3BETA)
    with_sequence: bool = True
    tuned: bool = False


@dataclass(frozen=True, slots=True)
class Sources:
    """Fitted sources. factors: by `spectral` from the decomposition; neighbors: by algorithm; popularity: (items,),
    users per item; counters: None: nobody asks."""

    spectral: SpectralConfig
    decomposition: Decomposition
    factors: ItemFactors
    neighbors: Mapping[str, ItemNeighbors]
    transitions: ItemNeighbors | None
    popularity: Float64
    counters: Counters | None = None

    def with_spectral(self, **changes: Any) -> Sources:
        """The same with other parameters of the spectral embedding that need no other decomposition."""
        spectral = replace(self.spectral, **changes)
        return replace(self, spectral=spectral, factors=self.decomposition.factors(spectral))

    def collaborative(self, cases: Cases, recency: float) -> Float32:
        """(cases, items), as serving has it: the history folded in, by inner product."""
        return self.factors.scores(cases.history(recency))

    def by_neighbors(self, cases: Cases, algorithm: str, recency: float) -> Float32:
        """(cases, items): the weights of the history's neighbours, summed."""
        return self.neighbors[algorithm].scores(cases.history(recency)).toarray()

    def by_sequence(self, cases: Cases, recency: float) -> Float32:
        """(cases, items): what follows the last items, summed."""
        if self.transitions is None:
            return np.zeros(cases.wanted.shape, dtype=np.float32)
        return self.transitions.scores(cases.history(recency, SEQUENCE_ITEMS)).toarray()

    def popular(self, cases: Cases) -> Float32:
        """(cases, items): slowly decaying counts at the moment of each case."""
        if self.counters is None:
            return np.broadcast_to(self.popularity.astype(np.float32), cases.wanted.shape).copy()
        return self.counters.at(cases.moments, POPULARITY_HALF_LIFE)

    def trending(self, cases: Cases) -> Float32:
        """(cases, items): decayed counts at the moment of each case."""
        if self.counters is None:
            return np.zeros(cases.wanted.shape, dtype=np.float32)
        return self.counters.at(cases.moments, TREND_HALF_LIVES[0])


@dataclass(frozen=True, slots=True)
class Counters:
    """Exponentially decayed counts of items over time, as the live counters of serving have them.

    items, times, signals: one entry per event, ascending by time, and what it counts.
    """

    items: Codes
    times: Float64
    signals: Float64
    item_count: int

    @classmethod
    def of(cls, dataset: Dataset, live: Mask) -> Counters:
        """Counters that know the pairs in `live`."""
        entries = np.flatnonzero(live)
        order = entries[np.argsort(dataset.times[entries], kind="stable")]
        return cls(dataset.items[order], dataset.times[order], dataset.signals[order], len(dataset.item_keys))

    def at(self, moments: Float64, half_life: timedelta) -> Float32:
        """(moments, items) counts of what was before each moment; moments ascend."""
        half_life_s = half_life.total_seconds()
        counts = np.zeros((len(moments), self.item_count), dtype=np.float32)
        present = np.zeros(self.item_count)
        known, last = 0, float(moments[0]) if len(moments) else 0.0
        for row, moment in enumerate(moments):
            upto = int(np.searchsorted(self.times, moment, side="left"))
            present *= 0.5 ** ((moment - last) / half_life_s)
            ages = (moment - self.times[known:upto]) / half_life_s
            counts_for = self.signals[known:upto] * 0.5**ages
            present += np.bincount(self.items[known:upto], weights=counts_for, minlength=self.item_count)
            counts[row] = present
            known, last = upto, float(moment)
        return counts


def fit_sources(
    dataset: Dataset, recipe: Recipe, held_out: HoldOut | None = None, progress: Progress = no_progress
) -> Sources:
    """Fit every source of a recipe, on what `held_out` leaves or on everything."""
    fitting = held_out.fitting if held_out is not None else np.ones(len(dataset.users), dtype=np.bool_)
    interactions = dataset.interactions(fitting, held_out.until if held_out is not None else np.inf)
    decomposition = Decomposition.of(interactions, recipe.spectral, lambda share: progress(0.5 * share))
    neighbors: dict[str, ItemNeighbors] = {}
    for step, algorithm in enumerate(recipe.neighbor_algorithms):
        neighbors[algorithm] = fit_neighbors(interactions, recipe, algorithm)
        progress(0.5 + 0.4 * (step + 1) / len(recipe.neighbor_algorithms))
    transitions = None
    if recipe.with_sequence:
        transitions = SequentialRules(recipe.sequence).fit(sequences_of(dataset, fitting))
    progress(1.0)
    return Sources(
        spectral=recipe.spectral,
        decomposition=decomposition,
        factors=decomposition.factors(recipe.spectral),
        neighbors=neighbors,
        transitions=transitions,
        popularity=item_popularity(dataset.liked(fitting)),
        counters=Counters.of(dataset, held_out.live) if held_out is not None else None,
    )


def fit_neighbors(
    interactions: Interactions, recipe: Recipe, algorithm: str, progress: Progress = no_progress
) -> ItemNeighbors:
    """Item–item weights by one of the algorithms, cut to what serving reads."""
    if algorithm == EASE:
        return Ease(replace(recipe.ease, k=recipe.neighbors.k)).fit(interactions, progress)
    return Neighbors(recipe.neighbors).fit(interactions, progress)


def sequences_of(dataset: Dataset, fitting: Mask) -> Sequences:
    """What users did one after another."""
    return Sequences.of(dataset.users[fitting], dataset.items[fitting], dataset.times[fitting], len(dataset.item_keys))

"""Chooses, on held-out cases, what each source is and how much it counts.

Data sets differ more in this than in anything else: dense small ones want few dimensions, sparse large ones many; where
behaviour has an order the last items say most, elsewhere they say no more than the first. Item factors are ordered by
singular value, so one fit serves every dimension tried. Scores are blended by the function that serves. Whatever is not
clearly better than the default leaves the default in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from recsvc.domain.arrays import Codes, Float32, Float64, Interactions
from recsvc.domain.evaluation import rank_metrics, top_k
from recsvc.domain.ranking.blend import best_first, scaled_by_maximum
from recsvc.training.algorithms.interface import ItemNeighbors, Progress, no_progress
from recsvc.training.algorithms.spectral import SMALLEST_DIMENSION
from recsvc.training.dataset import Dataset
from recsvc.training.sources import (
    COLLABORATIVE,
    NEIGHBORS,
    POPULAR,
    RP3BETA,
    SEQUENCE,
    TRENDING,
    Recipe,
    Sources,
    fit_neighbors,
)
from recsvc.training.validation import Cases, HoldOut

T = TypeVar("T")
Label = TypeVar("Label", str, float)

SIGNAL_POWERS = (0.0, 0.5, 1.0)

RECENCIES = (1.0, 0.97, 0.9, 0.8, 0.65, 0.5)
"""How much an item counts against the one touched after it."""

DEFAULT_WEIGHTS: Mapping[str, float] = {COLLABORATIVE: 2 / 3, NEIGHBORS: 1 / 3}
"""Without held-out data."""

DEFAULT_RECENCY: Mapping[str, float] = {COLLABORATIVE: 1.0, NEIGHBORS: 1.0, SEQUENCE: 0.8}

SINGULAR_VALUE_POWERS = (0.0, 0.5, 1.0)
"""How much leading directions count more than others."""

_DIMENSION_SHARES = (0.75, 0.5, 0.25)

_SHARES = (2 / 3, 1 / 2, 1 / 3)
"""How much another source may count while what stands beside it is chosen: by the best of these."""

_DISLIKED_SHARE = 0.5

_ALIKE = 0.01
"""Signals whose standard deviation is below this share of their mean are all the same."""

_WEIGHT_STEPS = (0.0, 0.03, 0.07, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0, 1.4, 2.0, 3.0)
_SWEEPS = 4
_BLOCK_CASES = 256
_CANDIDATES = 200
"""Per source, as serving has it."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Sources fitted on what came before, or without, what the cases ask for."""

    sources: Sources
    cases: Cases


@dataclass(frozen=True, slots=True)
class Choice:
    """What serves.

    dimension, singular_value_power: of the spectral embedding; recency: by source; weights: by source, adding up to
    one; ndcgs: NDCG@k of each case; tried: what was compared, with its mean.
    """

    dimension: int
    singular_value_power: float
    neighbor_algorithm: str = RP3BETA
    recency: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_RECENCY))
    weights: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    ndcg: float = 0.0
    standard_error: float = 0.0
    tried: Sequence[tuple[str, float]] = ()
    ndcgs: Float64 = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)


def choose(folds: Sequence[Fold], *, k: int = 20, progress: Progress = no_progress) -> Choice:
    """The dimension, neighbours, recencies and weights with the best mean NDCG@k over the cases of all folds.

    Without cases the defaults.
    """
    sources = folds[0].sources
    default = Choice(sources.factors.dimension, sources.spectral.singular_value_power, next(iter(sources.neighbors)))
    folds = [fold for fold in folds if len(fold.cases)]
    if not folds:
        return default
    tried: list[tuple[str, float]] = []
    chosen = _parts(folds, default, k, tried, lambda share: progress(0.6 * share))
    tables = [
        BlendTable.of(embedded(fold.sources, chosen), fold.cases, chosen, k, lambda share: progress(0.6 + 0.3 * share))
        for fold in folds
    ]
    table = BlendTable.joined(tables)
    weights, ndcgs = table.climb()
    tried.extend((f"{name} alone", float(table.ndcg({name: 1.0}).mean())) for name in table.sources)
    tried.append(("blend", float(ndcgs.mean())))
    progress(1.0)
    return replace(
        chosen,
        weights=weights,
        ndcg=float(ndcgs.mean()),
        standard_error=_standard_error(ndcgs),
        tried=tuple(tried),
        ndcgs=ndcgs,
    )


def choose_signal_power(dataset: Dataset, held_out: Sequence[HoldOut], recipe: Recipe, *, k: int = 20) -> float:
    """How much the strength of signals counts: 0 unless another of SIGNAL_POWERS gives clearly better neighbours."""
    if not any(len(one.cases) for one in held_out) or dataset.signals.std() < _ALIKE * dataset.signals.mean():
        return 0.0

    def ndcgs(power: float) -> Float64:
        weighted = replace(dataset, signal_power=power)
        found = []
        for one in held_out:
            neighbors = fit_neighbors(weighted.interactions(one.fitting, one.until), recipe, RP3BETA)
            found.append(_ndcgs(neighbors, replace(one.cases, signal_power=power), k))
        return np.concatenate(found)

    return _clearly_best({power: ndcgs(power) for power in SIGNAL_POWERS})


def choose_disliked_strength(dataset: Dataset, held_out: Sequence[HoldOut], recipe: Recipe, *, k: int = 20) -> float:
    """What a disliked item counts: 0 unless _DISLIKED_SHARE of a liked one gives clearly better neighbours.

    Whoever came to an item and did not like it chose it before they knew (ratings: Steck 2010, "missing not at
    random"), so that it may tell what they come to next. held_out: with the disliked items in the histories.
    """
    if not any(len(one.cases) for one in held_out):
        return 0.0

    def ndcgs(strength: float) -> Float64:
        counted = replace(dataset, disliked_strength=strength)
        found = []
        for one in held_out:
            neighbors = fit_neighbors(
                counted.interactions(one.fitting, one.until), recipe, recipe.neighbor_algorithms[0]
            )
            found.append(_ndcgs(neighbors, replace(one.cases, disliked_strength=strength), k))
        return np.concatenate(found)

    strength = disliked_strength_of(dataset)
    return _clearly_best({0.0: ndcgs(0.0), strength: ndcgs(strength)})


def disliked_strength_of(dataset: Dataset) -> float:
    """What a disliked item counts if it counts."""
    return float(_DISLIKED_SHARE * np.power(dataset.signals, dataset.signal_power).mean())


def _ndcgs(neighbors: ItemNeighbors, cases: Cases, k: int) -> Float64:
    found = []
    for _, block in _blocks(cases):
        scores = unseen(neighbors.scores(block.history(1.0)).toarray(), block.ages)
        found.append(rank_metrics(top_k(scores, k, block.ages), block.wanted).ndcg)
    return np.concatenate(found) if found else np.zeros(0)


def blended_lists(
    sources: Sources, cases: Cases, choice: Choice, k: int, excluded: Interactions | None = None
) -> Codes:
    """(cases, k): the lists that the choice would serve, exactly: every item is a candidate.

    excluded: (cases, items), what must not come; default: the history.
    """
    known = cases.ages if excluded is None else excluded
    lists = np.empty((len(cases), k), dtype=np.int64)
    for start, block in _blocks(cases):
        components = _components(sources, block, choice, choice.weights)
        scores = sum(
            choice.weights[name] * scaled_by_maximum(unseen(component, known[start : start + len(block)]))
            for name, component in components.items()
        )
        lists[start : start + len(block)] = top_k(np.asarray(scores), k, known[start : start + len(block)])
    return lists


@dataclass(frozen=True, slots=True)
class BlendTable:
    """Candidates of every case with their scaled components: what weights are tried on.

    components: (sources, cases, candidates); hits: (cases, candidates); ideal: (cases,), the best attainable DCG.
    """

    sources: Sequence[str]
    components: Float32
    hits: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
    ideal: Float64
    k: int

    @classmethod
    def of(cls, sources: Sources, cases: Cases, choice: Choice, k: int, progress: Progress = no_progress) -> BlendTable:
        """The best candidates of each source, each with what all sources say of it."""
        names = [COLLABORATIVE, NEIGHBORS, POPULAR]
        if sources.transitions is not None:
            names.append(SEQUENCE)
            if sources.counters is not None:
                names.append(TRENDING)
        width = _CANDIDATES * len(names)
        components = np.zeros((len(names), len(cases), width), dtype=np.float32)
        hits = np.zeros((len(cases), width), dtype=np.bool_)
        for start, block in _blocks(cases):
            scaled = [
                scaled_by_maximum(unseen(component, block.ages)).astype(np.float32)
                for component in _components(sources, block, choice, names).values()
            ]
            for row in range(len(block)):
                best = [best_first(component[row], _CANDIDATES) for component in scaled]
                candidates = np.unique(np.concatenate(best))
                for position, component in enumerate(scaled):
                    components[position, start + row, : len(candidates)] = component[row, candidates]
                wanted = block.wanted.indices[block.wanted.indptr[row] : block.wanted.indptr[row + 1]]
                hits[start + row, : len(candidates)] = np.isin(candidates, wanted)
            progress((start + len(block)) / len(cases))
        attainable = np.minimum(np.diff(cases.wanted.indptr), k)
        return cls(names, components, hits, np.concatenate(([0.0], np.cumsum(_discounts(k))))[attainable], k)

    @classmethod
    def joined(cls, tables: Sequence[BlendTable]) -> BlendTable:
        """The cases of several tables of the same sources."""
        first = tables[0]
        return cls(
            first.sources,
            np.concatenate([table.components for table in tables], axis=1),
            np.concatenate([table.hits for table in tables]),
            np.concatenate([table.ideal for table in tables]),
            first.k,
        )

    def ndcg(self, weights: Mapping[str, float]) -> Float64:
        """NDCG@k of each case under these weights."""
        factors = np.array([weights.get(name, 0.0) for name in self.sources], dtype=np.float32)
        scores = np.tensordot(factors, self.components, axes=1)
        k = min(self.k, scores.shape[1])
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        # A candidate without a score is in no list.
        hits = np.take_along_axis(self.hits, best, axis=1) & (np.take_along_axis(values, order, axis=1) > 0)
        return np.asarray(hits @ _discounts(k) / self.ideal)

    def climb(self) -> tuple[Mapping[str, float], Float64]:
        """Weights by coordinate ascent from the default, one source at a time, and their NDCG of each case.

        A weight moves no further than to where it is within a standard error of the best.
        """
        weights = {name: DEFAULT_WEIGHTS.get(name, 0.0) for name in self.sources}
        best = self.ndcg(weights)
        for _ in range(_SWEEPS):
            moved = False
            for name in self.sources:
                tried = {weights[name]: best}
                for step in _WEIGHT_STEPS:
                    trial = {**weights, name: step}
                    if sum(trial.values()) > 0 and step != weights[name]:
                        tried[step] = self.ndcg(trial)
                highest = max(tried.values(), key=lambda ndcgs: float(ndcgs.mean()))
                good = [step for step, ndcgs in tried.items() if not better(highest, ndcgs, 1.0)]
                nearest = min(good, key=lambda step: abs(step - weights[name]))
                if nearest != weights[name]:
                    weights, best, moved = {**weights, name: nearest}, tried[nearest], True
            if not moved:
                break
        whole = sum(weights.values())
        return {name: weight / whole for name, weight in weights.items() if weight > 0}, best


def better(one: Float64, other: Float64, errors: float) -> bool:
    """Whether the mean over the same cases is higher by more than so many standard errors of the difference.

    The rule of one standard error (Breiman et al. 1984): the best of many is best by luck more often than not.
    """
    if len(one) < 2:
        return False
    difference = one - other
    return bool(difference.mean() > errors * _standard_error(difference))


def _parts(
    folds: Sequence[Fold], default: Choice, k: int, tried: list[tuple[str, float]], progress: Progress
) -> Choice:
    """Each source by itself: dimension, algorithm, recency."""
    sources = folds[0].sources
    has_order = max(float(fold.cases.ages.data.max(initial=1.0)) for fold in folds) > 1
    recencies = RECENCIES if has_order else RECENCIES[:1]
    search = _Search(folds, k, tried)
    # The collaborative source and the neighbours are there for what one adds to the other: which ones do best alone is
    # another question.
    algorithm = search.beside(lambda sources, block: sources.collaborative(block, 1.0)).best(
        {f"{NEIGHBORS} by {name}": name for name in sources.neighbors},
        lambda sources, block, name: sources.by_neighbors(block, name, 1.0),
        errors=0.0,
    )
    progress(0.15)
    besides = search.beside(lambda sources, block: sources.by_neighbors(block, algorithm, 1.0))
    fewer = {int(default.dimension * share) for share in _DIMENSION_SHARES}
    dimensions = [
        default.dimension,
        *sorted((each for each in fewer if SMALLEST_DIMENSION <= each < default.dimension), reverse=True),
    ]
    dimension = besides.best(
        {f"{COLLABORATIVE}, {dimension} dimensions": dimension for dimension in dimensions},
        lambda changed, block, _dimension: changed.collaborative(block, 1.0),
        lambda sources, dimension: sources.with_spectral(dimension=dimension),
    )
    besides = besides.on(lambda sources: sources.with_spectral(dimension=dimension))
    progress(0.3)
    power = besides.best(
        {
            f"{COLLABORATIVE}, singular values^{power:g}": power
            for power in dict.fromkeys((default.singular_value_power, *SINGULAR_VALUE_POWERS))
        },
        lambda changed, block, _power: changed.collaborative(block, 1.0),
        lambda sources, power: sources.with_spectral(singular_value_power=power),
    )
    chosen = replace(default, dimension=dimension, singular_value_power=power, neighbor_algorithm=algorithm)
    progress(0.45)
    search = search.on(lambda sources: embedded(sources, chosen))
    recency = dict(default.recency)
    recency[COLLABORATIVE] = search.best(
        {f"{COLLABORATIVE}, recency {value}": value for value in recencies},
        lambda sources, block, value: sources.collaborative(block, value),
    )
    progress(0.65)
    besides = search.beside(lambda sources, block: sources.collaborative(block, recency[COLLABORATIVE]))
    recency[NEIGHBORS] = besides.best(
        {f"{NEIGHBORS} by {algorithm}, recency {value}": value for value in recencies},
        lambda sources, block, value: sources.by_neighbors(block, algorithm, value),
    )
    progress(0.8)
    if sources.transitions is not None:
        recency[SEQUENCE] = search.best(
            {
                f"{SEQUENCE}, recency {value}": value
                for value in (DEFAULT_RECENCY[SEQUENCE], *(value for value in recencies if value < 1.0))
            },
            lambda sources, block, value: sources.by_sequence(block, value),
        )
    progress(1.0)
    return replace(chosen, recency=recency)


@dataclass(frozen=True, slots=True)
class _Search:
    """Compares options on the cases of all folds. other: what they are blended with."""

    folds: Sequence[Fold]
    k: int
    tried: list[tuple[str, float]]
    other: Callable[[Sources, Cases], Float32] | None = None

    def on(self, cut: Callable[[Sources], Sources]) -> _Search:
        """The same with other sources."""
        return replace(self, folds=[replace(fold, sources=cut(fold.sources)) for fold in self.folds])

    def beside(self, other: Callable[[Sources, Cases], Float32]) -> _Search:
        """The same for a source that is blended with another."""
        return replace(self, other=other)

    def best(
        self,
        options: Mapping[str, T],
        scores: Callable[[Sources, Cases, T], Float32],
        cut: Callable[[Sources, T], Sources] = lambda sources, _option: sources,
        errors: float = 1.0,
    ) -> T:
        """The option with the best mean NDCG@k; the first one unless another is better by so many standard errors.

        scores: (cases, items), of what `cut` makes of the sources for an option.
        """
        first = next(iter(options.values()))
        if len(options) == 1:
            return first
        found: dict[str, list[list[Float64]]] = {label: [] for label in options}
        for fold in self.folds:
            cuts = {label: cut(fold.sources, option) for label, option in options.items()}
            for _, block in _blocks(fold.cases):
                other = None
                if self.other is not None:
                    other = scaled_by_maximum(unseen(self.other(fold.sources, block), block.ages)).astype(np.float32)
                for label, option in options.items():
                    own = unseen(scores(cuts[label], block, option), block.ages)
                    found[label].append(
                        [rank_metrics(top_k(mix, self.k, block.ages), block.wanted).ndcg for mix in _mixes(own, other)]
                    )
        ndcgs = {label: _best_mix(blocks) for label, blocks in found.items()}
        self.tried.extend((label, float(values.mean())) for label, values in ndcgs.items())
        return options[_clearly_best(ndcgs, errors)]


def _mixes(own: Float32, other: Float32 | None) -> Iterator[Float32]:
    """A source alone, or beside another by each of _SHARES."""
    if other is None:
        yield own
        return
    scaled = scaled_by_maximum(own).astype(np.float32)
    for share in _SHARES:
        yield np.float32(1.0 - share) * scaled + np.float32(share) * other


def _best_mix(blocks: Sequence[Sequence[Float64]]) -> Float64:
    """NDCG of each case by the mix that does best on the whole."""
    by_mix = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    return max(by_mix, key=lambda ndcgs: float(ndcgs.mean()))


def _clearly_best(ndcgs: Mapping[Label, Float64], errors: float = 1.0) -> Label:
    """The label with the best mean; the first one unless another is better by so many standard errors."""
    first = next(iter(ndcgs))
    best = max(ndcgs, key=lambda label: float(ndcgs[label].mean()))
    return best if better(ndcgs[best], ndcgs[first], errors) else first


def embedded(sources: Sources, choice: Choice) -> Sources:
    """The sources with the spectral embedding that was chosen."""
    return sources.with_spectral(dimension=choice.dimension, singular_value_power=choice.singular_value_power)


def _components(
    sources: Sources, block: Cases, choice: Choice, names: Sequence[str] | Mapping[str, float]
) -> dict[str, Float32]:
    scorers: dict[str, Callable[[], Float32]] = {
        COLLABORATIVE: lambda: sources.collaborative(block, choice.recency[COLLABORATIVE]),
        NEIGHBORS: lambda: sources.by_neighbors(block, choice.neighbor_algorithm, choice.recency[NEIGHBORS]),
        SEQUENCE: lambda: sources.by_sequence(block, choice.recency[SEQUENCE]),
        TRENDING: lambda: sources.trending(block),
        POPULAR: lambda: sources.popular(block),
    }
    return {name: scorers[name]() for name in names}


def unseen(scores: Float32, known: Interactions) -> Float32:
    """The scores with 0 for what the user has: it is not recommended, so it must not set the maximum."""
    scores[np.repeat(np.arange(known.shape[0]), np.diff(known.indptr)), known.indices] = 0.0
    return scores


def _blocks(cases: Cases) -> Iterator[tuple[int, Cases]]:
    for start in range(0, len(cases), _BLOCK_CASES):
        yield start, cases.take(slice(start, start + _BLOCK_CASES))


def _discounts(k: int) -> Float64:
    return np.asarray(1.0 / np.log2(np.arange(2, k + 2)))


def _standard_error(values: Float64) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0

"""Content in the space of behaviour: ridge regression from TF-IDF rows of items to the directions of their vectors.

    B = argmin Σ_i w_i |x_i B + ȳ − y_i|² + λ |B|²

with x_i the unit TF-IDF row of item i, y_i its behaviour vector scaled to unit length, ȳ the weighted mean of those and
w_i = min(degree_i, cap): the direction of an item that two people touched is mostly chance. This is the attribute-to-
feature mapping of Gantner et al. 2010 (ICDM, "Learning attribute-to-feature mappings for cold-start recommendations",
linear case), for directions. The normal equations of all d columns are solved at once by conjugate gradients.

λ, how many users outweigh a prediction, and how long a new item's vector is, are chosen on items that the fit did not
see, as a new item will be. The length is such that these items come into users' lists as often by their content as they
do by behaviour: shorter, and new items would never be shown; longer, and they would crowd out what is known to be good.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg

from recsvc.domain.arrays import Float32, Float64, Interactions
from recsvc.domain.content import Features
from recsvc.domain.content_vectors import Calibration, ContentModel, derived_vectors
from recsvc.training.algorithms.interface import ItemFactors, Progress, no_progress
from recsvc.training.algorithms.normalisation import degrees, positive

_NOTHING = 1e-12
_K = 10
# The length that gives new items their places lies within this factor of the typical one, found to a few percent.
_FURTHEST = 8.0
_HALVINGS = 7


@dataclass(frozen=True, slots=True)
class ContentConfig:
    """Hyper-parameters of the mapping."""

    least_items: int = 2
    """A feature of one item says nothing about another."""

    most_features: int = 20_000
    """The most frequent ones; each costs a vector."""

    most_items: int = 50_000
    """Items that the regression learns from, at most, those with the highest weight."""

    degree_cap: float = 20.0
    """An item weighs as many users as it has, up to so many."""

    penalties: tuple[float, ...] = (30.0, 10.0, 3.0, 1.0, 0.3)
    """λ tried, falling; relative to the mean weight of an item."""

    content_weights: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """κ tried. On goodbooks-10k and ml-100k, 4 was best both by cosine and by recall of cold items."""

    evidence_users: int = 5
    """κ is judged with so many users per item."""

    held_out: float = 0.1
    most_held_out: int = 1000

    list_users: int = 300
    list_length: int = 50
    list_items: int = 20_000
    """Lists of so many users and items say how long a vector must be; shorter ones where there are few items."""

    choosing_items: int = 8000
    """λ is chosen on at most so many items."""

    new_item_length: float = 1.0
    """The length of a new item's vector, as a multiple of the typical one: above 1 new items are pushed."""

    tolerance: float = 1e-3
    iterations: int = 60
    seed: int = 0


_DEFAULT_PENALTY = 3.0
_DEFAULT_CONTENT_WEIGHT = 4.0
_LEAST_TO_EXPOSE = 20
"""Held-out items below which the places they get are chance."""

_SHORTEST_LIST, _LISTS_PER_CATALOGUE = 5, 20
_LEAST_TO_CHOOSE = 50
"""Items with behaviour and content below which nothing is held out."""


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """The features of a catalogue: strengths (items × names), CSR."""

    names: tuple[str, ...]
    strengths: sparse.csr_matrix[np.float32]

    @staticmethod
    def of(features: Iterable[Features]) -> FeatureTable:
        """The table of items in the order given."""
        builder = FeatureTableBuilder()
        builder.add(features)
        return builder.table()

    def rows(self, positions: NDArray[np.int64]) -> FeatureTable:
        """The items at these positions; -1 stands for an item without features."""
        known = np.flatnonzero(positions >= 0)
        chosen = sparse.csr_matrix(
            (np.ones(len(known), dtype=np.float32), (known, positions[known])),
            shape=(len(positions), self.strengths.shape[0]),
        )
        return FeatureTable(self.names, (chosen @ self.strengths).tocsr())


class FeatureTableBuilder:
    """Takes items part by part, so that no part's features are kept as Python objects."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._counts: list[int] = []
        self._parts: list[tuple[NDArray[np.int32], Float32]] = []

    def add(self, features: Iterable[Features]) -> None:
        """More items."""
        codes, strengths = array("i"), array("f")
        for of_item in features:
            self._counts.append(len(of_item))
            codes.extend(self._codes.setdefault(name, len(self._codes)) for name in of_item)
            strengths.extend(of_item.values())
        self._parts.append((np.array(codes, dtype=np.int32), np.array(strengths, dtype=np.float32)))

    def table(self) -> FeatureTable:
        """All that was added."""
        indptr = np.concatenate(([0], np.cumsum(self._counts))).astype(np.int64)
        indices = np.concatenate([np.zeros(0, np.int32), *(codes for codes, _ in self._parts)])
        data = np.concatenate([np.zeros(0, np.float32), *(strengths for _, strengths in self._parts)])
        shape = (len(self._counts), len(self._codes))
        return FeatureTable(tuple(self._codes), sparse.csr_matrix((data, indices, indptr), shape=shape))


@dataclass(frozen=True, slots=True)
class ContentFit:
    """The mapping with what chose it; metrics are of held-out items and empty when there were too few."""

    model: ContentModel
    penalty: float
    metrics: Mapping[str, float]

    def predicted(self, table: FeatureTable) -> tuple[NDArray[np.int64], Float32]:
        """Positions of the items of `table` that have a known feature, and their predicted directions, (n, d)."""
        rows = _tf_idf(_of_vocabulary(table, self.model.names), self.model.idf)
        described = np.flatnonzero(np.diff(rows.indptr) > 0).astype(np.int64)
        return described, np.asarray(rows[described] @ self.model.vectors + self.model.mean, dtype=np.float32)

    def vectors(self, table: FeatureTable) -> tuple[NDArray[np.int64], Float32, Float32]:
        """As `predicted`, but item vectors (n, d) and fold-in scales (n,), as publication stores them."""
        described, directions = self.predicted(table)
        kept = np.linalg.norm(directions, axis=1) > _NOTHING
        vectors, scales = derived_vectors(directions[kept], self.model.calibration)
        return described[kept], vectors, scales


@dataclass(frozen=True, slots=True)
class Content:
    """The algorithm; `fit` has no state."""

    config: ContentConfig = ContentConfig()

    def fit(
        self,
        table: FeatureTable,
        factors: ItemFactors,
        interactions: Interactions,
        progress: Progress = no_progress,
    ) -> ContentFit | None:
        """The mapping, or None when no item with behaviour has a feature that another one has, too.

        table: features of the items (columns of `interactions`); factors: fitted on `interactions`.
        """
        config = self.config
        lengths = np.linalg.norm(factors.vectors, axis=1)
        _, item_degrees = degrees(positive(interactions))
        touched = (item_degrees > 0) & (lengths > _NOTHING)
        names, idf = _vocabulary(table, touched, config)
        rows = _tf_idf(_of_vocabulary(table, names), idf)
        usable = np.flatnonzero(touched & (np.diff(rows.indptr) > 0))
        if not len(names) or not len(usable):
            return None
        weights = np.minimum(item_degrees, config.degree_cap)
        rng = np.random.default_rng(config.seed)
        usable = _heaviest(usable, weights, config.most_items, rng)
        problem = _Problem(
            rows[usable],
            (factors.vectors[usable] / lengths[usable, np.newaxis]).astype(np.float32),
            (weights[usable] / weights[usable].mean()).astype(np.float32),
        )
        progress(0.1)
        typical = float(np.median(lengths[touched]))
        chosen: _Chosen | None = None
        if len(usable) >= _LEAST_TO_CHOOSE:
            test, rest = _held_out(usable, config, rng)
            judge = _Judge(
                problem.part(rest[: config.choosing_items]),
                problem.part(test),
                _evidence(usable[test], factors, interactions, config.evidence_users, rng),
                config,
            )
            chosen = judge.choose()
            if len(test) >= _LEAST_TO_EXPOSE:
                exposure = _Exposure.of(
                    usable[test], np.flatnonzero(touched), chosen.predicted, factors, interactions, config, rng
                )
                typical = exposure.length(typical / chosen.confidence) * chosen.confidence
        progress(0.6)
        penalty = chosen.penalty if chosen is not None else _DEFAULT_PENALTY
        coefficients = problem.solve(penalty, config)
        confidence = chosen.confidence if chosen is not None else _mean_length(problem.predicted(coefficients))
        progress(1.0)
        calibration = Calibration(
            length=typical * config.new_item_length,
            fold_in_length=float(np.median((lengths * factors.fold_in_scales)[touched])),
            confidence=max(confidence, _NOTHING),
            content_weight=chosen.content_weight if chosen is not None else _DEFAULT_CONTENT_WEIGHT,
            typical_degree=float(np.median(item_degrees[touched])),
            growth=_growth(lengths[touched], item_degrees[touched]),
        )
        model = ContentModel(names, idf, coefficients, problem.mean, calibration)
        return ContentFit(model, penalty, chosen.metrics if chosen is not None else {})


@dataclass(frozen=True, slots=True)
class _Problem:
    """rows: (n, m) unit TF-IDF; targets: (n, d) unit; weights: (n,), mean 1."""

    rows: sparse.csr_matrix[np.float32]
    targets: Float32
    weights: Float32

    @property
    def mean(self) -> Float32:
        return np.asarray(np.average(self.targets, axis=0, weights=self.weights), dtype=np.float32)

    def predicted(self, coefficients: Float32) -> Float32:
        """Directions of the rows by coefficients of this problem, (n, d)."""
        return np.asarray(self.rows @ coefficients + self.mean, dtype=np.float32)

    def part(self, chosen: NDArray[np.int64]) -> _Problem:
        return _Problem(self.rows[chosen], self.targets[chosen], self.weights[chosen])

    def solve(self, penalty: float, config: ContentConfig, start: Float32 | None = None) -> Float32:
        """B, (m, d). One system for all columns: I ⊗ (X'WX + λI), whose conditioning is that of one column."""
        features, dimension = self.rows.shape[1], self.targets.shape[1]
        weighted = sparse.csr_matrix(sparse.diags(self.weights) @ self.rows, dtype=np.float32).T.tocsr()

        def apply(flat: Float32) -> Float32:
            matrix = flat.reshape(features, dimension)
            return np.asarray(weighted @ (self.rows @ matrix) + np.float32(penalty) * matrix, np.float32).ravel()

        size = features * dimension
        wanted = np.asarray(weighted @ (self.targets - self.mean), dtype=np.float32).ravel()
        operator = LinearOperator((size, size), matvec=apply, dtype=np.float32)
        # A tolerance that was not met in time is still the best there is.
        found, _ = cg(
            operator,
            wanted,
            x0=None if start is None else start.ravel(),
            rtol=config.tolerance,
            maxiter=config.iterations,
        )
        return np.asarray(found, dtype=np.float32).reshape(features, dimension)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """predicted: (n, d) directions of the held-out items; confidence: their mean length."""

    penalty: float
    content_weight: float
    predicted: Float32
    confidence: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Judge:
    """Held-out items, and the evidence that some of their users would give, (n, d)."""

    fitting: _Problem
    testing: _Problem
    evidence: Float32
    config: ContentConfig

    def choose(self) -> _Chosen:
        """λ and κ by the mean cosine of direction and prediction, weighted as in the fit."""
        tried: list[tuple[float, float, Float32]] = []
        start: Float32 | None = None
        for penalty in self.config.penalties:
            start = self.fitting.solve(penalty, self.config, start)
            predicted = np.asarray(self.testing.rows @ start + self.fitting.mean, dtype=np.float32)
            tried.append((self._cosine(predicted), penalty, predicted))
        cosine, penalty, predicted = max(tried, key=lambda one: one[0])
        blended = {kappa: self._cosine(kappa * predicted + self.evidence) for kappa in self.config.content_weights}
        kappa = max(blended, key=lambda weight: blended[weight])
        ranks = _ranks(predicted, self.testing.targets)
        metrics = {
            "content_cosine": cosine,
            "content_cosine_with_users": blended[kappa],
            f"content_recall_at_{_K}": float((ranks < _K).mean()),
            f"content_random_recall_at_{_K}": min(1.0, _K / len(ranks)),
        }
        return _Chosen(penalty, kappa, predicted, max(_mean_length(predicted), _NOTHING), metrics)

    def _cosine(self, vectors: Float32) -> float:
        products = (vectors * self.testing.targets).sum(axis=1)
        lengths = np.maximum(np.linalg.norm(vectors, axis=1), _NOTHING)
        return float(np.average(products / lengths, weights=self.testing.weights))


@dataclass(frozen=True, slots=True)
class _Exposure:
    """Lists of some users: the best scores of the known items, (users, k), and of the held-out ones by direction.

    wanted: how many places the held-out items would have in these lists by their behaviour if nobody had them.
    """

    known: Float32
    predicted: Float32
    wanted: float

    @staticmethod
    def of(
        held_out: NDArray[np.int64],
        items: NDArray[np.intp],
        predicted: Float32,
        factors: ItemFactors,
        interactions: Interactions,
        config: ContentConfig,
        rng: np.random.Generator,
    ) -> _Exposure:
        others = np.setdiff1d(items, held_out)
        others = others[rng.permutation(len(others))[: config.list_items]]
        users = np.flatnonzero(np.diff(interactions.indptr) > 0)
        users = users[rng.permutation(len(users))[: config.list_users]]
        histories = interactions[users]
        vectors = factors.fold_in(histories)
        k = min(config.list_length, max(_SHORTEST_LIST, len(others) // _LISTS_PER_CATALOGUE))
        known = _best(vectors @ factors.vectors[others].T, histories[:, others], k)
        # As if nobody had them: without what an item itself adds to the score that its own users give it.
        own = factors.fold_in_scales[held_out] * (factors.vectors[held_out] ** 2).sum(axis=1)
        scores = vectors @ factors.vectors[held_out].T - histories[:, held_out].toarray() * own
        by_behaviour = _best(scores, None, k)
        by_content = _best(vectors @ predicted.T, None, k)
        return _Exposure(known, by_content, _places(known, by_behaviour))

    def length(self, start: float) -> float:
        """What the directions must be multiplied with to get as many places, within a factor of `start`."""
        if self.wanted <= 0:
            return start
        low, high = start / _FURTHEST, start * _FURTHEST
        for _ in range(_HALVINGS):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if _places(self.known, self.predicted * middle) < self.wanted else (low, middle)
        return math.sqrt(low * high)


def _best(scores: Float32, excluded: Interactions | None, k: int) -> Float32:
    """(users, ≤ k): the highest scores above 0 of what is not excluded, best first; 0 elsewhere."""
    if excluded is not None:
        rows = np.repeat(np.arange(excluded.shape[0]), np.diff(excluded.indptr))
        scores[rows, excluded.indices] = 0.0
    return np.maximum(-np.sort(-scores, axis=1)[:, :k], 0.0)


def _places(known: Float32, new: Float32) -> float:
    """How many of the k best of both, in the mean over the users, are new."""
    k = known.shape[1]
    scores = np.concatenate([known, new], axis=1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(((best >= k) & (np.take_along_axis(scores, best, axis=1) > 0)).sum(axis=1).mean())


def _mean_length(vectors: Float32) -> float:
    return float(np.linalg.norm(vectors, axis=1).mean())


def _held_out(
    items: NDArray[np.int64], config: ContentConfig, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the held-out items and of the rest, both shuffled."""
    order = rng.permutation(len(items))
    count = max(1, min(int(len(items) * config.held_out), config.most_held_out))
    return order[:count], order[count:]


def _evidence(
    items: NDArray[np.int64], factors: ItemFactors, interactions: Interactions, users: int, rng: np.random.Generator
) -> Float32:
    """Sums of the unit vectors of some users of each item, (n, d), as they would be without the item itself."""
    by_item = interactions[:, items].tocsc()
    sums = np.zeros((len(items), factors.dimension), dtype=np.float32)
    for row, item in enumerate(items):
        likers = by_item.indices[by_item.indptr[row] : by_item.indptr[row + 1]]
        chosen = rng.choice(likers, min(users, len(likers)), replace=False)
        own = factors.vectors[item] * factors.fold_in_scales[item]
        vectors = factors.fold_in(interactions[chosen]) - own
        sums[row] = (vectors / np.maximum(np.linalg.norm(vectors, axis=1), _NOTHING)[:, np.newaxis]).sum(axis=0)
    return sums


def _ranks(predicted: Float32, targets: Float32) -> NDArray[np.int64]:
    """For each item, how many other held-out ones are nearer to its prediction than itself."""
    similarity = predicted @ targets.T
    return np.asarray((similarity > np.diag(similarity)[:, np.newaxis]).sum(axis=1), dtype=np.int64)


def _vocabulary(
    table: FeatureTable, touched: NDArray[np.bool_], config: ContentConfig
) -> tuple[tuple[str, ...], Float32]:
    """Names of the features that enough items with behaviour have, most frequent first, and their smoothed idf."""
    known = table.strengths[np.flatnonzero(touched)]
    counts = np.bincount(known.indices, minlength=len(table.names))
    frequent = np.flatnonzero(counts >= config.least_items)
    # Ties by name, so that the same catalogue gives the same model in whatever order it comes.
    chosen = sorted(frequent.tolist(), key=lambda code: (-int(counts[code]), table.names[code]))[: config.most_features]
    idf = np.log((1.0 + known.shape[0]) / (1.0 + counts[chosen])) + 1.0
    return tuple(table.names[code] for code in chosen), idf.astype(np.float32)


def _of_vocabulary(table: FeatureTable, names: Sequence[str]) -> sparse.csr_matrix[np.float32]:
    """The strengths of these features, (items × names)."""
    codes = {name: code for code, name in enumerate(table.names)}
    wanted = [(codes[name], position) for position, name in enumerate(names) if name in codes]
    rows, columns = (np.array(wanted, dtype=np.int64).reshape(-1, 2)).T
    chosen = sparse.csr_matrix(
        (np.ones(len(wanted), dtype=np.float32), (rows, columns)), shape=(len(table.names), len(names))
    )
    return sparse.csr_matrix(table.strengths @ chosen, dtype=np.float32)


def _tf_idf(strengths: sparse.csr_matrix[np.float32], idf: Float32) -> sparse.csr_matrix[np.float32]:
    """Rows of unit length; items without a feature keep an empty one."""
    weighted = sparse.csr_matrix(strengths @ sparse.diags(idf), dtype=np.float32)
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    inverse = np.where(lengths > 0, 1.0 / np.where(lengths > 0, lengths, 1.0), 0.0)
    return sparse.csr_matrix(sparse.diags(inverse) @ weighted, dtype=np.float32)


def _heaviest(items: NDArray[np.intp], weights: Float64, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most so many items, those with the highest weights; among equals by chance."""
    if len(items) <= most:
        return items.astype(np.int64)
    shuffled = rng.permutation(items)
    return np.sort(shuffled[np.argsort(-weights[shuffled], kind="stable")[:most]]).astype(np.int64)


def _growth(lengths: Float32, item_degrees: Float64) -> float:
    """c of length ~ degree^c, by least squares of the logarithms, within what makes sense."""
    logs = np.log(item_degrees)
    if float(np.ptp(logs)) < _NOTHING:
        return 0.0
    slope = np.polyfit(logs, np.log(lengths), 1)[0]
    return float(np.clip(slope, 0.0, 1.0))

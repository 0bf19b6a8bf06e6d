"""Searches the hyper-parameters of the sources under a time budget, on held-out cases.

Sources are searched one after another, each by what it adds to a blend (Bayesian optimisation with a tree of Parzen
estimators, Bergstra et al. 2011, through optuna). The first trial of each is the present recipe, which stays unless
another one is clearly better. Never sees what the result is judged by.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna

from recsvc.domain.arrays import Codes, Float32, Float64, Interactions
from recsvc.domain.evaluation import rank_metrics, top_k
from recsvc.domain.ranking.blend import scaled_by_maximum
from recsvc.training.algorithms.interface import Progress
from recsvc.training.algorithms.sequences import Sequences, SequentialRules
from recsvc.training.algorithms.spectral import Decomposition
from recsvc.training.dataset import Dataset
from recsvc.training.selection import DEFAULT_RECENCY, better, unseen
from recsvc.training.sources import (
    COLLABORATIVE,
    EASE,
    RP3BETA,
    SEQUENCE,
    SEQUENCE_ITEMS,
    Recipe,
    fit_neighbors,
    sequences_of,
)
from recsvc.training.validation import Cases, HoldOut

_LEAST_CASES = 2
_SCORES = 65_000_000
"""Scores of one source that are held: so many cases times items, 260 MB."""

_K = 20

_SHARES = {COLLABORATIVE: 0.45, RP3BETA: 0.1, EASE: 0.35, SEQUENCE: 0.1}
"""Of the budget, by what is searched."""

_WEIGHTS = (np.float32(2 / 3), np.float32(1 / 3))
"""How much the collaborative source may count against the other one while either is searched: the better of these."""

_TRIAL_POWER_ITERATIONS = 2
"""A rough decomposition tells good exponents from bad ones in half the time."""

_TRIAL_SUPPORT = 100
"""So does a smaller support: a third of the equations is solved in a tenth of the time."""

_KEPT_FITS = 6
_MOST_TRIALS = 200
_REGULARISATIONS = (1.0, 3.0, 10.0, 30.0, 100.0, 200.0, 500.0, 1000.0)
_DROPOUTS = (0.0, 0.3, 0.5, 0.7)

Parameters = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of hyper-parameters of a source, and the mean NDCG@20 of the blend with it."""

    source: str
    parameters: Mapping[str, Any]
    ndcg: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """The recipe that was found; what was tried; and, by source, the NDCG@20 of the recipe before and after."""

    recipe: Recipe
    trials: Sequence[Trial] = ()
    gains: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def tune(
    dataset: Dataset, folds: Sequence[HoldOut], recipe: Recipe, *, budget_s: float, seed: int, progress: Progress
) -> Tuned:
    """The best recipe found within about `budget_s` seconds: a trial that has begun is finished."""
    folds = [fold for fold in folds if len(fold.cases)]
    if sum(len(fold.cases) for fold in folds) < _LEAST_CASES:
        return Tuned(recipe)
    return _Search(dataset, folds, budget_s, seed, progress).run(recipe)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What sources learn from in one fold, and the histories that they are asked with."""

    interactions: Interactions
    sequences: Sequences
    history: Interactions
    last: Interactions


class _Search:
    def __init__(
        self, dataset: Dataset, folds: Sequence[HoldOut], budget_s: float, seed: int, progress: Progress
    ) -> None:
        most = max(_LEAST_CASES, _SCORES // max(len(dataset.item_keys), 1) // len(folds))
        parts = [fold.cases.take(_evenly(len(fold.cases), most)) for fold in folds]
        self._cases = Cases.joined(parts)
        self._folds = [
            _Asked(
                dataset.interactions(fold.fitting, fold.until),
                sequences_of(dataset, fold.fitting),
                cases.history(1.0),
                cases.history(DEFAULT_RECENCY[SEQUENCE], SEQUENCE_ITEMS),
            )
            for fold, cases in zip(folds, parts, strict=True)
        ]
        self._started, self._budget_s, self._share = time.monotonic(), budget_s, 0.0
        self._seed, self._progress = seed, progress
        self._trials: list[Trial] = []
        self._gains: dict[str, tuple[float, float]] = {}

    def run(self, recipe: Recipe) -> Tuned:
        """Search one source after another."""
        recipe, collaborative = self._spectral(recipe)
        recipe = self._rp3beta(recipe, collaborative)
        if EASE in recipe.neighbor_algorithms:
            recipe = self._ease(recipe, collaborative)
        if recipe.with_sequence:
            recipe = self._rules(recipe, collaborative)
        self._progress(1.0)
        return Tuned(replace(recipe, tuned=True), tuple(self._trials), dict(self._gains))

    def _spectral(self, recipe: Recipe) -> tuple[Recipe, Float32]:
        present = recipe.spectral
        neighbors = self._by_neighbors(recipe, RP3BETA)
        fits: dict[tuple[float, float], list[Decomposition]] = {}

        def scores(parameters: Parameters) -> Float32:
            config = replace(present, power_iterations=_TRIAL_POWER_ITERATIONS, **parameters)
            exponents = config.user_degree_exponent, config.item_degree_exponent
            if exponents not in fits:
                if len(fits) == _KEPT_FITS:
                    fits.pop(next(iter(fits)))
                fits[exponents] = [Decomposition.of(fold.interactions, config) for fold in self._folds]
            found = zip(fits[exponents], self._folds, strict=True)
            return self._scaled([fit.factors(config).scores(fold.history) for fit, fold in found])

        def suggest(trial: optuna.Trial) -> Parameters:
            return {
                "user_degree_exponent": trial.suggest_float("user_degree_exponent", 0.0, 0.6, step=0.15),
                "item_degree_exponent": trial.suggest_float("item_degree_exponent", 0.2, 0.6, step=0.1),
                "output_exponent": trial.suggest_float("output_exponent", 0.0, 0.6, step=0.1),
                "singular_value_power": trial.suggest_float("singular_value_power", 0.0, 1.5, step=0.25),
            }

        found = self._search(
            COLLABORATIVE,
            {name: getattr(present, name) for name in _SPECTRAL},
            suggest,
            lambda parameters: (scores(parameters), neighbors),
        )
        return replace(recipe, spectral=replace(present, **found)), scores(found)

    def _rp3beta(self, recipe: Recipe, collaborative: Float32) -> Recipe:
        present = recipe.neighbors

        def suggest(trial: optuna.Trial) -> Parameters:
            return {
                "source_degree_exponent": trial.suggest_float("source_degree_exponent", 0.3, 1.0, step=0.1),
                "user_degree_exponent": trial.suggest_float("user_degree_exponent", 0.0, 1.0, step=0.2),
                "target_degree_exponent": trial.suggest_float("target_degree_exponent", 0.0, 0.6, step=0.1),
            }

        def changed(parameters: Parameters) -> Recipe:
            return replace(recipe, neighbors=replace(present, **parameters))

        return changed(
            self._search(
                RP3BETA,
                {name: getattr(present, name) for name in _RP3BETA},
                suggest,
                lambda parameters: (
                    collaborative,
                    self._by_neighbors(changed(parameters), RP3BETA),
                ),
            )
        )

    def _ease(self, recipe: Recipe, collaborative: Float32) -> Recipe:
        def changed(parameters: Parameters) -> Recipe:
            return replace(recipe, ease=replace(recipe.ease, **parameters))

        def roughly(parameters: Parameters) -> Recipe:
            ease = changed(parameters).ease
            return replace(recipe, ease=replace(ease, support=min(ease.support, _TRIAL_SUPPORT)))

        return changed(
            self._search(
                EASE,
                {name: getattr(recipe.ease, name) for name in _EASE},
                lambda trial: {
                    "regularisation": trial.suggest_categorical("regularisation", _REGULARISATIONS),
                    "dropout": trial.suggest_categorical("dropout", _DROPOUTS),
                    "user_degree_exponent": trial.suggest_float("user_degree_exponent", 0.0, 0.6, step=0.1),
                    "output_exponent": trial.suggest_float("output_exponent", -0.3, 0.3, step=0.1),
                },
                lambda parameters: (
                    collaborative,
                    self._by_neighbors(roughly(parameters), EASE),
                ),
            )
        )

    def _rules(self, recipe: Recipe, collaborative: Float32) -> Recipe:
        present = recipe.sequence

        def scores(parameters: Parameters) -> tuple[Float32, Float32]:
            rules = SequentialRules(replace(present, **parameters))
            found = [rules.fit(fold.sequences).scores(fold.last).toarray() for fold in self._folds]
            return collaborative, self._scaled(found)

        def suggest(trial: optuna.Trial) -> Parameters:
            return {
                "window": trial.suggest_categorical("window", (1, 3, 10, 30)),
                "source_degree_exponent": trial.suggest_float("source_degree_exponent", 0.0, 1.0, step=0.25),
                "target_degree_exponent": trial.suggest_float("target_degree_exponent", 0.0, 0.6, step=0.1),
            }

        found = self._search(SEQUENCE, {name: getattr(present, name) for name in _RULES}, suggest, scores)
        return replace(recipe, sequence=replace(present, **found))

    def _search(
        self,
        source: str,
        present: Parameters,
        suggest: Callable[[optuna.Trial], Parameters],
        scores: Callable[[Parameters], tuple[Float32, Float32]],
    ) -> Parameters:
        """The best parameters of one source; the present ones unless others are clearly better.

        scores: of the collaborative source and of the one beside it.
        """
        begin, self._share = self._share, self._share + _SHARES[source]
        deadline = self._started + self._share * self._budget_s
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=self._seed))
        study.enqueue_trial(present)
        known: dict[str, tuple[Parameters, Float64]] = {}
        for _ in range(_MOST_TRIALS):
            trial = study.ask()
            parameters = suggest(trial)
            key = json.dumps(parameters, sort_keys=True)
            if key not in known:
                known[key] = parameters, self._ndcg(*scores(parameters))
                self._trials.append(Trial(source, parameters, float(known[key][1].mean())))
            study.tell(trial, float(known[key][1].mean()))
            elapsed = time.monotonic() - self._started
            self._progress(min(self._share, max(begin, elapsed / self._budget_s)))
            if time.monotonic() >= deadline:
                break
        first = next(iter(known.values()))
        best = max(known.values(), key=lambda tried: float(tried[1].mean()))
        chosen = best if better(best[1], first[1], 1.0) else first
        self._gains[source] = float(first[1].mean()), float(chosen[1].mean())
        return chosen[0]

    def _by_neighbors(self, recipe: Recipe, algorithm: str) -> Float32:
        fits = [(fit_neighbors(fold.interactions, recipe, algorithm), fold.history) for fold in self._folds]
        return self._scaled([neighbors.scores(history).toarray() for neighbors, history in fits])

    def _scaled(self, scores: Sequence[Float32]) -> Float32:
        """(cases, items) of all folds, from those of each."""
        return scaled_by_maximum(unseen(np.concatenate(scores), self._cases.ages)).astype(np.float32)

    def _ndcg(self, collaborative: Float32, other: Float32) -> Float64:
        """Of each case, by the weights that do better on the whole."""
        tried = []
        for weight in _WEIGHTS:
            scores = weight * collaborative + (1 - weight) * other
            tried.append(rank_metrics(top_k(scores, _K, self._cases.ages), self._cases.wanted).ndcg)
        return max(tried, key=lambda ndcgs: float(ndcgs.mean()))


def _evenly(count: int, at_most: int) -> Codes:
    """At most so many of `count` positions, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(at_most, count), dtype=np.int64))


_SPECTRAL = ("user_degree_exponent", "item_degree_exponent", "output_exponent", "singular_value_power")
_RP3BETA = ("source_degree_exponent", "user_degree_exponent", "target_degree_exponent")
_EASE = ("regularisation", "dropout", "user_degree_exponent", "output_exponent")
_RULES = ("window", "source_degree_exponent", "target_degree_exponent")

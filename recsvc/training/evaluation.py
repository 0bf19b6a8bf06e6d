"""Judging lists: every figure of every model on the same questions, with intervals and paired comparisons.

Lists are arrays (questions, k) of item codes, whoever made them: the service, a baseline, or an exact recomputation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsvc.domain.arrays import Codes, Float64, Interactions
from recsvc.domain.evaluation import EMPTY, UserMetrics, catalogue_coverage, rank_metrics, recall_of
from recsvc.domain.exposure import (
    Stratum,
    exposure,
    gini,
    list_diversity,
    list_novelty,
    lorenz_curve,
    popularity_strata,
)
from recsvc.domain.significance import Bootstrap, Difference, Interval
from recsvc.training.algorithms.popularity import item_popularity
from recsvc.training.protocols import Task

DEFAULT_KS = (10, 20)
STECK_BETA = 0.5
"""β of the popularity-stratified recall: how much less a popular item counts (Steck 2011; 0 is recall itself)."""

_DIVERSITY_LISTS = 2000
"""Lists whose diversity is measured, evenly spread: enough for three digits."""

_CURVE = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500)
_LORENZ_POINTS = 200


@dataclass(frozen=True, slots=True)
class Lists:
    """One model's answers: (questions, k) item codes, best first, `EMPTY` at the end; k is the largest judged."""

    name: str
    items: Codes


@dataclass(frozen=True, slots=True)
class Judgement:
    """Figures of one model: those of users with an interval, those of all lists together without.

    by_k: per metric its mean at every length of `lengths`. lorenz: the share of exposure at evenly spaced shares of the
    catalogue, least shown first.
    """

    name: str
    figures: Mapping[str, Interval]
    totals: Mapping[str, float]
    lengths: Sequence[int] = ()
    by_k: Mapping[str, Sequence[float]] = field(default_factory=dict)
    lorenz: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better one model is than another in one metric, paired over users."""

    model: str
    against: str
    metric: str
    difference: Difference


@dataclass(frozen=True, slots=True)
class Judged:
    """All models on one task."""

    judgements: Sequence[Judgement]
    comparisons: Sequence[Comparison]


@dataclass(frozen=True, slots=True)
class ItemVectors:
    """What the diversity of a list is measured by: who touched an item, and its categories where there are any."""

    by_users: Interactions
    by_categories: Interactions | None = None


def judge(
    task: Task,
    models: Sequence[Lists],
    *,
    ks: Sequence[int] = DEFAULT_KS,
    pairs: Sequence[tuple[str, str]] = (),
    vectors: ItemVectors | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Judged:
    """Judge all models on the task's questions; pairs: whose names to compare, the first against the second.

    Intervals and comparisons resample users; every model sees the same resamples.
    """
    bootstrap = Bootstrap(task.questions.subjects, resamples, seed=seed)
    vectors = vectors or ItemVectors(task.train.T.tocsr())
    columns: dict[tuple[str, str], tuple[Float64, Float64]] = {}
    for model in models:
        for label, values in _per_question(task, model.items, sorted(set(ks)), vectors).items():
            columns[model.name, label] = values
    observed, resampled = bootstrap.estimates(
        np.column_stack([numerators for numerators, _ in columns.values()]),
        np.column_stack([denominators for _, denominators in columns.values()]),
    )
    place = {key: position for position, key in enumerate(columns)}
    judgements = []
    for model in models:
        figures = {
            label: bootstrap.interval(observed[at], resampled[:, at])
            for (name, label), at in place.items()
            if name == model.name
        }
        judgements.append(_with_totals(task, model, figures))
    comparisons = [
        Comparison(
            one,
            other,
            metric,
            bootstrap.difference(
                (float(observed[place[one, metric]]), resampled[:, place[one, metric]]),
                (float(observed[place[other, metric]]), resampled[:, place[other, metric]]),
            ),
        )
        for one, other in pairs
        for k in sorted(set(ks))
        for metric in (f"ndcg@{k}", f"recall@{k}", f"mrr@{k}")
    ]
    return Judged(judgements, comparisons)


def _per_question(
    task: Task, lists: Codes, ks: Sequence[int], vectors: ItemVectors
) -> Mapping[str, tuple[Float64, Float64]]:
    """Each figure as (numerators, denominators) over the questions: Σ / Σ is its value."""
    wanted = task.questions.wanted
    popularity = item_popularity(task.train)
    found: dict[str, tuple[Float64, Float64]] = {}
    for k in ks:
        metrics = rank_metrics(lists[:, :k], wanted)
        for label, values in _named(metrics).items():
            found[f"{label}@{k}"] = (values, np.ones(len(values)))
    k = lists.shape[1]
    strata = popularity_strata(popularity)
    for stratum in Stratum:
        hit, total = recall_of(lists, wanted, (strata == stratum).astype(np.float64))
        found[f"recall@{k} {stratum.name.lower()}"] = _mean_of(
            np.divide(hit, total, out=np.full(len(hit), np.nan), where=total > 0)
        )
    found[f"stratified recall@{k}"] = recall_of(lists, wanted, np.maximum(popularity, 1.0) ** -STECK_BETA)
    found[f"novelty@{k}"] = _mean_of(list_novelty(lists, popularity, task.train.shape[0]))
    sample = np.unique(np.linspace(0, max(len(lists) - 1, 0), _DIVERSITY_LISTS).astype(np.int64))[: len(lists)]
    found[f"diversity@{k}"] = _mean_of(_of_sample(list_diversity(lists[sample], vectors.by_users), sample, len(lists)))
    if vectors.by_categories is not None:
        values = list_diversity(lists[sample], vectors.by_categories)
        found[f"category diversity@{k}"] = _mean_of(_of_sample(values, sample, len(lists)))
    return found


def _named(metrics: UserMetrics) -> Mapping[str, Float64]:
    return {
        "recall": metrics.recall,
        "precision": metrics.precision,
        "ndcg": metrics.ndcg,
        "map": metrics.average_precision,
        "mrr": metrics.reciprocal_rank,
        "hit rate": metrics.hit_rate,
    }


def _with_totals(task: Task, model: Lists, figures: Mapping[str, Interval]) -> Judgement:
    lists, k, item_count = model.items, model.items.shape[1], len(task.table.item_ids)
    exposures = exposure(lists, item_count)
    lengths = [length for length in _CURVE if length < k] + [k]
    means = [rank_metrics(lists[:, :length], task.questions.wanted).means() for length in lengths]
    curve = lorenz_curve(exposures)
    shares = np.linspace(0.0, item_count, _LORENZ_POINTS + 1)
    return Judgement(
        model.name,
        figures,
        {
            f"coverage@{k}": catalogue_coverage(lists, item_count),
            f"gini@{k}": gini(exposures),
            f"list length@{k}": float((lists != EMPTY).sum(axis=1).mean()) if len(lists) else 0.0,
        },
        lengths,
        {metric: [mean[metric] for mean in means] for metric in ("ndcg", "recall")},
        np.interp(shares, np.arange(item_count + 1), curve).tolist(),
    )


def _mean_of(values: Float64) -> tuple[Float64, Float64]:
    """The mean over the questions for which there is a value."""
    return np.nan_to_num(values, nan=0.0), (~np.isnan(values)).astype(np.float64)


def _of_sample(values: Float64, sample: Codes, count: int) -> Float64:
    spread = np.full(count, np.nan)
    spread[sample] = values
    return spread

"""One training run: read → evaluate on a held-out split → train on everything → publish → activate unless worse.

The arithmetic runs in a thread; the caller's event loop stays free for progress and cancellation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from recsvc.domain.arrays import Interactions
from recsvc.domain.evaluation import catalogue_coverage, mean_novelty, rank_metrics, top_k
from recsvc.domain.ids import TenantKey
from recsvc.domain.models import Model
from recsvc.domain.ranking.blend import blend
from recsvc.settings import TrainingSettings
from recsvc.storage.models import ModelRepository, TrainedModel
from recsvc.training.algorithms.interface import ItemFactors, ItemNeighbors
from recsvc.training.algorithms.neighbors import Neighbors, NeighborsConfig
from recsvc.training.algorithms.popularity import item_popularity
from recsvc.training.algorithms.spectral import Spectral, SpectralConfig
from recsvc.training.dataset import Dataset, from_signals
from recsvc.training.selection import DEFAULT_WEIGHTS, select
from recsvc.training.splits import random_split

STAGES = ("read", "evaluate", "train", "publish", "index", "activate")

Progress = Callable[[str, float], None]
_K = 20
_HELD_OUT = 0.1
_JUDGED_USERS = 2_000
_WORSE_BY = 0.02
"""A new model may lose this much of NDCG@20 to chance; beyond that it counts as worse."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What a run may change against the settings."""

    dimension: int | None = None
    neighbors: int | None = None
    force_activation: bool = False
    evaluate: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """The published model, whether it serves now, and why not; seconds by stage."""

    model: Model
    activated: bool
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


class Pipeline:
    """Trains models of one tenant at a time."""

    def __init__(self, models: ModelRepository, settings: TrainingSettings) -> None:
        self._models = models
        self._settings = settings

    async def run(self, tenant_key: TenantKey, options: TrainingOptions, progress: Progress) -> Outcome:
        """Train, publish and (unless it is worse than the one that serves) activate a model.

        progress: told the stage and the share of it that is done. Raises NotEnoughData.
        """
        watch = _Stopwatch()
        await self._models.delete_surplus(tenant_key, self._settings.keep_models)
        progress("read", 0.0)
        dataset = from_signals(await self._models.signals(tenant_key))
        progress("read", 1.0)
        watch.lap("read")
        trained = await asyncio.to_thread(self._train, dataset, options, progress, watch)
        model = await self._models.publish(
            tenant_key, trained, exact_search_items=self._settings.exact_search_items, progress=progress
        )
        watch.lap("publish+index")
        active = await self._models.active(tenant_key)
        reason = "" if options.force_activation else _why_worse(model, active)
        if not reason:
            model = await self._models.activate(tenant_key, model.model_id)
        progress("activate", 1.0)
        watch.lap("activate")
        return Outcome(model, not reason, reason, watch.seconds)

    def _train(self, dataset: Dataset, options: TrainingOptions, progress: Progress, watch: _Stopwatch) -> TrainedModel:
        spectral = SpectralConfig(dimension=options.dimension or self._settings.dimension)
        neighbors = NeighborsConfig(k=options.neighbors or self._settings.neighbors)
        weights: Mapping[str, float] = DEFAULT_WEIGHTS
        metrics: Mapping[str, float] = {}
        if options.evaluate:
            spectral, weights, metrics = _evaluated(dataset, spectral, neighbors, progress)
            watch.lap("evaluate")
        everything = dataset.interactions()
        factors = Spectral(spectral).fit(everything, lambda share: progress("train", 0.8 * share))
        near = Neighbors(neighbors).fit(everything, lambda share: progress("train", 0.8 + 0.2 * share))
        watch.lap("train")
        return TrainedModel(
            item_keys=dataset.item_keys,
            vectors=factors.vectors,
            fold_in_scales=factors.fold_in_scales,
            indptr=near.indptr,
            neighbor_positions=near.indices,
            neighbor_weights=near.weights,
            algorithm="spectral+neighbors",
            blend_weights=dict(weights),
            hyperparameters={"spectral": asdict(spectral), "neighbors": asdict(neighbors)},
            metrics=metrics,
            user_count=len(dataset.user_keys),
            event_count=len(dataset.users),
        )


def _evaluated(
    dataset: Dataset, spectral: SpectralConfig, neighbors: NeighborsConfig, progress: Progress
) -> tuple[SpectralConfig, Mapping[str, float], Mapping[str, float]]:
    """Choose dimension and blend weights on a tenth of the interactions, and judge the choice on another tenth."""
    test = random_split(dataset.users, dataset.items, _HELD_OUT, seed=1)
    rest = np.flatnonzero(test.train)
    validation = random_split(dataset.users[rest], dataset.items[rest], _HELD_OUT, seed=2)
    fitting = np.zeros(len(dataset.users), dtype=np.bool_)
    fitting[rest[validation.train]] = True
    choosing = np.zeros(len(dataset.users), dtype=np.bool_)
    choosing[rest[validation.test]] = True
    train = dataset.interactions(fitting)
    factors = Spectral(spectral).fit(train, lambda share: progress("evaluate", 0.6 * share))
    near = Neighbors(neighbors).fit(train, lambda share: progress("evaluate", 0.6 + 0.1 * share))
    chosen = select(
        factors,
        near,
        train,
        dataset.interactions(choosing),
        k=_K,
        progress=lambda share: progress("evaluate", 0.7 + 0.2 * share),
    )
    if chosen.dimension < factors.dimension:
        factors = factors.truncated(chosen.dimension)
        spectral = SpectralConfig(**{**asdict(spectral), "dimension": chosen.dimension})
    known = dataset.interactions(fitting | choosing)
    metrics = _metrics(factors, near, chosen.weights, known, dataset.interactions(test.test))
    progress("evaluate", 1.0)
    return spectral, chosen.weights, metrics


def _metrics(
    factors: ItemFactors,
    neighbors: ItemNeighbors,
    weights: Mapping[str, float],
    known: Interactions,
    held_out: Interactions,
) -> Mapping[str, float]:
    """Figures on the held-out tenth for at most some thousand users, beside those of popularity."""
    users = np.flatnonzero(np.diff(held_out.indptr) > 0)
    if not len(users):
        # Too few interactions to hold any out: the model goes unjudged, which is not the same as bad.
        return {"users": 0.0}
    if len(users) > _JUDGED_USERS:
        users = np.sort(np.random.default_rng(3).choice(users, _JUDGED_USERS, replace=False))
    history, wanted = known[users], held_out[users]
    popularity = item_popularity(known)
    blended = blend(
        {"collaborative": factors.scores(history), "neighbors": neighbors.scores(history).toarray()}, weights
    ).scores
    found: dict[str, float] = {"users": float(len(users))}
    by_popularity = np.broadcast_to(popularity, blended.shape).copy()
    for prefix, scores in (("", blended), ("popularity_", by_popularity)):
        lists = top_k(scores, _K, history)
        means = rank_metrics(lists, wanted).means()
        found[f"{prefix}recall_at_{_K}"] = means["recall"]
        found[f"{prefix}ndcg_at_{_K}"] = means["ndcg"]
        found[f"{prefix}coverage"] = catalogue_coverage(lists, len(popularity))
        found[f"{prefix}novelty"] = mean_novelty(lists, popularity, known.shape[0])
    return found


def _why_worse(model: Model, active: Model | None) -> str:
    """Why the new model should not serve; empty when it may."""
    name = f"ndcg_at_{_K}"
    if active is None or name not in active.metrics or name not in model.metrics:
        return ""
    new, old = model.metrics[name], active.metrics[name]
    if new >= old * (1 - _WORSE_BY):
        return ""
    return f"MODEL_WORSE: NDCG@{_K} {new:.4f} against {old:.4f} of the model that serves"


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

"""One training run: read → tune → evaluate → train on everything → map content → publish → activate unless worse.

The arithmetic runs in a thread; the caller's event loop stays free for progress and cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import hypot
from typing import Any

import numpy as np

from recsvc.domain.evaluation import catalogue_coverage, mean_novelty, rank_metrics, top_k
from recsvc.domain.ids import TenantKey
from recsvc.domain.models import Model
from recsvc.settings import TrainingSettings
from recsvc.storage.content import ContentRepository
from recsvc.storage.models import ItemWeights, ModelRepository, TrainedModel
from recsvc.training.catalogue import enrich, read_catalogue
from recsvc.training.dataset import Dataset, from_signals
from recsvc.training.selection import (
    Choice,
    Fold,
    better,
    blended_lists,
    choose,
    choose_disliked_strength,
    choose_signal_power,
    disliked_strength_of,
    embedded,
)
from recsvc.training.sources import EASE, RP3BETA, Recipe, Sources, fit_sources
from recsvc.training.stopwatch import Stopwatch
from recsvc.training.tuning import Tuned, tune
from recsvc.training.validation import Cases, HoldOut, ValidationKind, has_informative_times, hold_out_folds

STAGES = ("read", "tune", "evaluate", "train", "content", "publish", "index", "activate")

Progress = Callable[[str, float], None]
_K = 20
_CASES = 8_000
"""At most so many cases of the first fold are asked, half of them to choose by and half to judge by; of others half. By
time half as many again."""

_LEAST_FOR_EASE = 5000
"""Interactions below which a regression of every item on all others has little to go by."""

_WORSE_ERRORS = 2.0
"""A new model may lose so many standard errors of NDCG@20 to chance; beyond that it counts as worse."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What a run may change against the settings.

    validation: what is held out to choose and judge by. tune_budget_s: search hyper-parameters for so long; None for
    those of the settings.
    """

    dimension: int | None = None
    neighbors: int | None = None
    force_activation: bool = False
    evaluate: bool = True
    validation: ValidationKind = ValidationKind.AUTO
    tune_budget_s: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The published model, whether it serves now, and why not; seconds and peak memory of this process by stage."""

    model: Model
    activated: bool
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: Mapping[str, int] = field(default_factory=dict)


class Pipeline:
    """Trains models of one tenant at a time."""

    def __init__(self, models: ModelRepository, content: ContentRepository, settings: TrainingSettings) -> None:
        self._models = models
        self._content = content
        self._settings = settings

    async def run(self, tenant_key: TenantKey, options: TrainingOptions, progress: Progress) -> Outcome:
        """Train, publish and (unless it is worse than the one that serves) activate a model.

        progress: told the stage and the share of it that is done. Raises NotEnoughData.
        """
        watch = Stopwatch()
        await self._models.delete_surplus(tenant_key, self._settings.keep_models)
        progress("read", 0.0)
        dataset = from_signals(await self._models.signals(tenant_key))
        progress("read", 1.0)
        watch.lap("read")
        active = await self._models.active(tenant_key)
        recipe = self._recipe(dataset, options, active)
        trained = await asyncio.to_thread(self._train, dataset, recipe, options, progress, watch)
        enriched = await asyncio.to_thread(
            enrich,
            trained,
            dataset.interactions(),
            dataset.rejected,
            await read_catalogue(self._content, tenant_key),
            progress=lambda share: progress("content", share),
        )
        progress("content", 1.0)
        watch.lap("content")
        model = await self._models.publish(
            tenant_key,
            enriched.trained,
            content=enriched.content,
            exact_search_items=self._settings.exact_search_items,
            progress=progress,
        )
        watch.lap("publish+index")
        # Another run may have activated its model meanwhile.
        active = await self._models.active(tenant_key)
        reason = "" if options.force_activation else _why_worse(model, active)
        if not reason:
            model = await self._models.activate(tenant_key, model.model_id)
        progress("activate", 1.0)
        watch.lap("activate")
        return Outcome(model, not reason, reason, watch.seconds, watch.peak_bytes)

    @staticmethod
    def _train(
        dataset: Dataset, recipe: Recipe, options: TrainingOptions, progress: Progress, watch: Stopwatch
    ) -> TrainedModel:
        tuned = Tuned(recipe)
        choice: Choice | None = None
        metrics: Mapping[str, float] = {}
        if options.evaluate or options.tune_budget_s is not None:
            dataset = _weighed(dataset, recipe, options)
            folds, judging = _folds(dataset, options)
            if options.tune_budget_s is not None:
                tuned = tune(
                    dataset,
                    folds,
                    recipe,
                    budget_s=options.tune_budget_s,
                    seed=options.seed,
                    progress=lambda share: progress("tune", share),
                )
                watch.lap("tune")
            fitted, choice = _fitted(dataset, folds, tuned.recipe, lambda share: progress("evaluate", 0.45 * share))
            if replace(tuned.recipe, tuned=recipe.tuned) != recipe:
                # The best of many trials is best by luck, too: it must be so again on more cases.
                present = _fitted(dataset, folds, recipe, lambda share: progress("evaluate", 0.45 + 0.45 * share))
                if not better(choice.ndcgs, present[1].ndcgs, 1.0):
                    (fitted, choice), tuned = present, replace(tuned, recipe=replace(recipe, tuned=True))
            metrics = _metrics(fitted, judging, choice, len(dataset.user_keys))
            progress("evaluate", 1.0)
            watch.lap("evaluate")
        sources = fit_sources(dataset, _final(tuned.recipe, choice), progress=lambda share: progress("train", share))
        watch.lap("train")
        ((algorithm, neighbors),) = sources.neighbors.items()
        spectral = sources.spectral
        choice = choice or Choice(sources.factors.dimension, spectral.singular_value_power, algorithm)
        return TrainedModel(
            item_keys=dataset.item_keys,
            vectors=sources.factors.vectors,
            fold_in_scales=sources.factors.fold_in_scales,
            neighbors=ItemWeights(neighbors.indptr, neighbors.indices, neighbors.weights),
            transitions=ItemWeights(
                sources.transitions.indptr, sources.transitions.indices, sources.transitions.weights
            )
            if sources.transitions is not None
            else None,
            algorithm=f"spectral+{choice.neighbor_algorithm}" + ("+sequential-rules" if sources.transitions else ""),
            blend_weights=dict(choice.weights),
            recency=dict(choice.recency),
            signal_power=dataset.signal_power,
            disliked_strength=dataset.disliked_strength,
            hyperparameters=_hyperparameters(tuned, choice, options),
            metrics=metrics,
            user_count=len(dataset.user_keys),
            event_count=len(dataset.users),
        )

    def _recipe(self, dataset: Dataset, options: TrainingOptions, active: Model | None) -> Recipe:
        """What is fitted: as the tenant's last tuning has it, within what the options and settings say."""
        recipe = Recipe()
        dimension, neighbors = self._settings.dimension, self._settings.neighbors
        if active is not None and active.hyperparameters.get("tuned"):
            recipe = _saved(recipe, active.hyperparameters)
            dimension, neighbors = recipe.spectral.dimension, recipe.neighbors.k
        with_ease = (
            len(dataset.item_keys) <= self._settings.ease_items
            and _LEAST_FOR_EASE <= len(dataset.users) <= self._settings.ease_interactions
        )
        return replace(
            recipe,
            spectral=replace(recipe.spectral, dimension=options.dimension or dimension),
            neighbors=replace(recipe.neighbors, k=options.neighbors or neighbors),
            neighbor_algorithms=(EASE, RP3BETA) if with_ease and options.evaluate else (RP3BETA,),
            with_sequence=has_informative_times(dataset),
        )


def _saved(recipe: Recipe, hyperparameters: Mapping[str, Any]) -> Recipe:
    """The recipe that a model was trained by. What this version does not know of, or it did not, stays as it is."""
    parts = {}
    for name in ("spectral", "neighbors", "ease", "sequence"):
        present = getattr(recipe, name)
        known = {field.name for field in fields(present)}
        parts[name] = replace(
            present, **{key: value for key, value in hyperparameters.get(name, {}).items() if key in known}
        )
    return replace(recipe, tuned=True, **parts)


def recipe_of(model: Model) -> Recipe:
    """What a model was trained by on everything."""
    saved = _saved(Recipe(), model.hyperparameters)
    return replace(
        saved,
        spectral=replace(saved.spectral, dimension=model.dimension),
        neighbor_algorithms=(str(model.hyperparameters["neighbor_algorithm"]),),
        with_sequence=bool(model.hyperparameters["with_sequence"]),
    )


def _final(recipe: Recipe, choice: Choice | None) -> Recipe:
    """What is trained on everything: only what was chosen."""
    if choice is None:
        return replace(recipe, neighbor_algorithms=recipe.neighbor_algorithms[:1])
    return replace(
        recipe,
        spectral=replace(recipe.spectral, dimension=choice.dimension, singular_value_power=choice.singular_value_power),
        neighbor_algorithms=(choice.neighbor_algorithm,),
    )


def _fitted(
    dataset: Dataset, folds: Sequence[HoldOut], recipe: Recipe, progress: Callable[[float], None]
) -> tuple[Sources, Choice]:
    """The best choice with a recipe, and the sources of the first fold as the choice has them."""
    fitted = []
    for held_out in folds:
        fitted.append(Fold(fit_sources(dataset, recipe, held_out), held_out.cases))
        progress(0.6 * len(fitted) / len(folds))
    choice = choose(fitted, k=_K, progress=lambda share: progress(0.6 + 0.4 * share))
    return embedded(fitted[0].sources, choice), choice


def _folds(dataset: Dataset, options: TrainingOptions) -> tuple[list[HoldOut], Cases]:
    """What to choose by, and cases of the first fold to judge by: the same questions whatever the data set weighs."""
    folds = hold_out_folds(dataset, options.validation, max_cases=_CASES, seed=options.seed + 1)
    choosing, judging = _halves(folds[0].cases)
    return [replace(folds[0], cases=choosing), *folds[1:]], judging


def _weighed(dataset: Dataset, recipe: Recipe, options: TrainingOptions) -> Dataset:
    """The data set with the strengths that held-out cases speak for."""
    folds, _ = _folds(dataset, options)
    dataset = replace(dataset, signal_power=choose_signal_power(dataset, folds, recipe, k=_K))
    if not len(dataset.disliked.users):
        return dataset
    folds, _ = _folds(replace(dataset, disliked_strength=disliked_strength_of(dataset)), options)
    return replace(dataset, disliked_strength=choose_disliked_strength(dataset, folds, recipe, k=_K))


def _halves(cases: Cases) -> tuple[Cases, Cases]:
    """Every other case to choose by, the rest to judge by; both span the whole time."""
    return cases.take(slice(0, None, 2)), cases.take(slice(1, None, 2))


def _hyperparameters(tuned: Tuned, choice: Choice, options: TrainingOptions) -> Mapping[str, object]:
    """What the model was made of and why, for people and for the next run."""
    recipe = tuned.recipe
    spectral = replace(recipe.spectral, singular_value_power=choice.singular_value_power)
    return {
        **asdict(replace(recipe, spectral=spectral)),
        "dimension": choice.dimension,
        "neighbor_algorithm": choice.neighbor_algorithm,
        "validation": options.validation.value,
        "compared": [{"what": what, f"ndcg_at_{_K}": ndcg} for what, ndcg in choice.tried],
        "tuning": [
            {"source": source, "before": before, "after": after} for source, (before, after) in tuned.gains.items()
        ],
        "trials": len(tuned.trials),
    }


def _metrics(sources: Sources, cases: Cases, choice: Choice, user_count: int) -> Mapping[str, float]:
    """How the lists of the choice, and those of popularity, do on cases that nothing was chosen by."""
    if len(cases) == 0:
        # Too few interactions to hold any out: the model goes unjudged, which is not the same as bad.
        return {"users": 0.0}
    found: dict[str, float] = {"users": float(len(cases))}
    by_popularity = np.broadcast_to(sources.popularity, cases.wanted.shape)
    for prefix, lists in (
        ("", blended_lists(sources, cases, choice, _K)),
        ("popularity_", top_k(by_popularity, _K, cases.ages)),
    ):
        values = rank_metrics(lists, cases.wanted)
        means = values.means()
        found[f"{prefix}recall_at_{_K}"] = means["recall"]
        found[f"{prefix}ndcg_at_{_K}"] = means["ndcg"]
        found[f"{prefix}ndcg_at_{_K}_error"] = float(values.ndcg.std() / np.sqrt(len(cases)))
        found[f"{prefix}coverage"] = catalogue_coverage(lists, len(sources.popularity))
        found[f"{prefix}novelty"] = mean_novelty(lists, sources.popularity, user_count)
    return found


def _why_worse(model: Model, active: Model | None) -> str:
    """Why the new model should not serve; empty when it may."""
    name = f"ndcg_at_{_K}"
    if active is None or name not in active.metrics or name not in model.metrics:
        return ""
    if active.hyperparameters.get("validation") != model.hyperparameters.get("validation"):
        return ""  # other questions, so the figures say nothing about each other
    new, old = model.metrics[name], active.metrics[name]
    error = hypot(model.metrics.get(f"{name}_error", 0.0), active.metrics.get(f"{name}_error", 0.0))
    if new >= old - _WORSE_ERRORS * error:
        return ""
    return f"MODEL_WORSE: NDCG@{_K} {new:.4f} against {old:.4f} of the model that serves"

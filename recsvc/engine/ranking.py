"""From candidates with component scores to a ranked list: pure, so that it is tested without a server.

Order: blend → what silent sources would say of new items → boosts → novelty → best first, or MMR with category caps →
exploration. Every step adds to a source, is a factor or a reordering, so that the contributions of the sources still
add up to the score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsvc.domain.arrays import Codes, Float64, Mask, Positions
from recsvc.domain.ranking.blend import Blended, best_first, best_first_of_rows, blend
from recsvc.domain.ranking.diversity import (
    CategoryCap,
    cap_per_category,
    explore,
    mmr,
    novelty_factors,
    popularity_percentiles,
)
from recsvc.domain.ranking.newcomers import with_estimates
from recsvc.domain.recommendations import RecommendQuery, Source, Strategy
from recsvc.engine.candidate_set import CandidateSet
from recsvc.storage.candidates import Candidates
from recsvc.telemetry.spans import RERANK
from recsvc.telemetry.stages import stage

# Enough to put what only fills the list behind everything that a real source speaks for.
_FILL = 1e-3
_DEFAULT_BLEND: Mapping[str, float] = {"collaborative": 2.0, "neighbors": 1.0}
# MMR looks at this many times the list: further down nothing is relevant enough to be chosen.
_DIVERSITY_POOL = 10
# MMR costs list × candidates × dimension: 30 ms for a list of 500 out of so many at 1,024 dimensions.
_LARGEST_POOL = 1000
# A factor of 0 puts what has a negative score as far down as this.
_LEAST_FACTOR = 1e-6


@dataclass(frozen=True, slots=True)
class Ranked:
    """positions: into the candidates, best first; scores, contributions and boosts as applied: of all, (n,)."""

    positions: Positions
    scores: Float64
    contributions: Mapping[str, Float64]
    boosts: Float64

    def source(self, position: int) -> Source:
        """The source that contributed most to a candidate."""
        return Source(max(self.contributions, key=lambda name: self.contributions[name][position]))


def weights_for(strategy: Strategy, blend_weights: Mapping[str, float]) -> Mapping[str, float]:
    """What each source counts under a strategy. blend_weights: the tenant's, for AUTO."""
    fill = {"trending": _FILL, "popular": _FILL / 10}
    match strategy:
        case Strategy.AUTO:
            return {**fill, **(blend_weights or _DEFAULT_BLEND)}
        case Strategy.COLLABORATIVE:
            return {"collaborative": 1.0}
        case Strategy.NEIGHBORS:
            return {"neighbors": 1.0}
        case Strategy.SESSION:
            return {"sequence": 2.0, "neighbors": 1.0}
        case Strategy.CONTENT:
            return {"content": 1.0}
        case Strategy.POPULAR:
            return {"popular": 1.0}
        case Strategy.TRENDING:
            return {"trending": 1.0, "popular": _FILL}
        case Strategy.NEW:
            return {"new": 1.0}
        case Strategy.RECENTLY_VIEWED:
            return {"recent": 1.0}
        case Strategy.REPEAT:
            return {"repeat": 1.0}


@dataclass(frozen=True, slots=True)
class RankedTogether:
    """The lists of several users, one after the other. rows: whose, ascending; columns: of which candidate of theirs;
    scores: its score; sources: what contributed most to it.
    """

    rows: Codes
    columns: Positions
    scores: Float64
    sources: Sequence[Source]


def is_ranked_together(query: RecommendQuery) -> bool:
    """Whether order is by score alone, so that lists of many can be made at once."""
    diversity = query.diversity
    return diversity.trade_off >= 1 and not (diversity.max_per_category or query.novelty or query.exploration)


def rank_together(candidates: CandidateSet, query: RecommendQuery, weights: Mapping[str, float]) -> RankedTogether:
    """What `rank` says of the candidates of each, for a query that `is_ranked_together`."""
    is_old = candidates.is_there & ~candidates.is_new
    blended = _blended(candidates.components, candidates.is_new, is_old, query.strategy, weights)
    scores = np.where(candidates.is_there, blended.scores, -np.inf)
    rows, columns = best_first_of_rows(scores, query.count)
    names = [Source(name) for name in blended.contributions]
    parts = np.array([part[rows, columns] for part in blended.contributions.values()])
    largest = parts.argmax(axis=0) if len(rows) else np.empty(0, dtype=np.int64)
    return RankedTogether(rows, columns, scores[rows, columns], [names[at] for at in largest.tolist()])


def _blended(
    components: Mapping[str, Float64],
    is_new: Mask,
    is_old: Mask | None,
    strategy: Strategy,
    weights: Mapping[str, float],
) -> Blended:
    """The sources mixed: of one list (n,), or of several (users, n)."""
    blended = blend({name: _comparable(name, components[name]) for name in weights}, weights)
    if strategy is Strategy.AUTO:
        return with_estimates(blended, components["collaborative"], is_new, is_old=is_old)
    return blended


def rank(candidates: Candidates, query: RecommendQuery, weights: Mapping[str, float], seed: int) -> Ranked:
    """Rank candidates for a query. seed: of the exploration, so that one request can be repeated exactly."""
    blended = _blended(candidates.components, candidates.is_new, None, query.strategy, weights)
    boosts = _towards_the_top(candidates.boosts, blended.scores)
    factors = boosts
    if query.novelty:
        popularity = np.nan_to_num(candidates.components["popular"], nan=-np.inf)
        novelty = novelty_factors(popularity_percentiles(popularity), query.novelty)
        factors = factors * _towards_the_top(novelty, blended.scores)
    scores = blended.scores * factors
    contributions = {name: part * factors for name, part in blended.contributions.items()}
    return Ranked(_ordered(candidates, query, scores, seed), scores, contributions, boosts)


def _towards_the_top(factors: Float64, scores: Float64) -> Float64:
    """The factors such that more than 1 raises whatever the sign: dividing is what raises a negative score."""
    return np.where(scores < 0, 1.0 / np.maximum(factors, _LEAST_FACTOR), factors)


@stage(RERANK)
def _ordered(candidates: Candidates, query: RecommendQuery, scores: Float64, seed: int) -> Positions:
    diversity = query.diversity
    exploring = query.exploration > 0
    wanted = min(len(scores), query.count * (_DIVERSITY_POOL if exploring else 1))
    if diversity.trade_off < 1 and candidates.vectors is not None and len(scores):
        pool = best_first(scores, min(query.count * _DIVERSITY_POOL, _LARGEST_POOL))
        best = max(float(scores[pool[0]]), 1e-12)
        categories = [candidates.categories[int(position)] for position in pool]
        cap = CategoryCap(categories, diversity.max_per_category) if diversity.max_per_category else None
        chosen = mmr(scores[pool] / best, candidates.vectors[pool], query.count, diversity.trade_off, cap)
        if exploring:
            # What exploration draws from needs no diverse order; it only has to keep to the cap.
            rest = np.setdiff1d(np.arange(len(pool)), chosen).tolist()
            kept = [position for position in rest if cap is None or cap.take(position)]
            chosen = np.concatenate([chosen, np.array(kept, dtype=np.int64)])
        order = pool[chosen]
    else:
        order = best_first(scores, len(scores) if diversity.max_per_category else wanted)
        if diversity.max_per_category:
            order = cap_per_category(order, candidates.categories, diversity.max_per_category, wanted)
    if exploring:
        # What is least known is worth most to learn about.
        order, _ = explore(order, query.count, query.exploration, seed, 1.0 / (1.0 + candidates.event_counts))
    return order[: query.count]


def _comparable(name: str, component: Float64) -> Float64:
    """A component (…, n) on a ratio scale, larger is better; NaN stays NaN."""
    match name:
        case "popular" | "trending":
            # log2 of a decayed count, relative to the strongest candidate
            return np.asarray(np.exp2(component - _largest(component)))
        case "new":
            age_days = (_largest(component) - component) / 86_400
            return np.asarray(1.0 / (1.0 + age_days))
        case "recent":
            return np.asarray(1.0 / (1.0 + component + _largest(-component)))
    return component


def _largest(component: Float64) -> Float64:
    """(…, 1): the largest that is known of each list; 0 where none is."""
    largest = np.fmax.reduce(component, axis=-1, keepdims=True, initial=-np.inf)
    return np.asarray(np.where(largest > -np.inf, largest, 0.0))

"""What candidates a query wants of each source: how many, of whom, and under which conditions."""

from __future__ import annotations

from collections.abc import Mapping

from recsvc.domain.recommendations import TREND_HALF_LIVES, RecommendQuery, Source, Strategy
from recsvc.domain.tenancy import TenantProfile
from recsvc.domain.users import UserKind
from recsvc.settings import EngineSettings
from recsvc.storage.candidates import CandidateQuestion

PERSONAL = frozenset({Strategy.AUTO, Strategy.COLLABORATIVE, Strategy.NEIGHBORS, Strategy.SESSION, Strategy.CONTENT})
"""What goes by somebody's history, and falls back to what trends where there is none."""

_HISTORICAL = frozenset({Strategy.RECENTLY_VIEWED, Strategy.REPEAT})
_SLACK = 50
_SESSION_RECENCY = 0.8


def candidate_question(query: RecommendQuery, profile: TenantProfile, settings: EngineSettings) -> CandidateQuestion:
    """What candidates a query wants, for a tenant as it is."""
    strategy = query.strategy
    deep = max(settings.candidates, 2 * query.count)
    fill = query.count + _SLACK
    limits: dict[str, int] = {}
    if strategy in PERSONAL or strategy is Strategy.TRENDING:
        # Trending is the last resort of every personal strategy.
        limits["trending"] = fill
        limits["popular"] = fill
    match strategy:
        case Strategy.AUTO:
            limits["collaborative"] = limits["neighbors"] = deep
            if profile.model and profile.model.blend_weights.get(Source.SEQUENCE):
                limits["sequence"] = deep
        case Strategy.COLLABORATIVE:
            limits["collaborative"] = deep
        case Strategy.NEIGHBORS:
            limits["neighbors"] = deep
        case Strategy.SESSION:
            limits["neighbors"] = limits["sequence"] = deep
        case Strategy.CONTENT:
            limits["content"] = deep
        case Strategy.POPULAR:
            limits["popular"] = deep
        case Strategy.NEW:
            limits["new"] = deep
        case Strategy.RECENTLY_VIEWED | Strategy.REPEAT:
            limits["history"] = deep
        case Strategy.TRENDING:
            limits["trending"] = deep
    if query.exploration:
        limits["new"] = max(limits.get("new", 0), fill)
    if profile.model is None:
        limits.pop("collaborative", None)
        limits.pop("neighbors", None)
        limits.pop("sequence", None)
    kind, user_id = query.subject() or (UserKind.USER, None)
    return CandidateQuestion(
        kind=kind,
        user_id=user_id,
        session_item_ids=query.session_item_ids,
        limits=limits,
        history_items=settings.neighbor_history_items,
        neighbors_per_item=settings.neighbors_per_item,
        trend="trend_day" if query.trend_half_life == TREND_HALF_LIVES[0] else "trend_week",
        include_seen=query.include_seen or strategy in _HISTORICAL,
        excluded=query.exclude_item_ids,
        filter=query.filter,
        boosts=query.boosts,
        category_field=query.diversity.category_field if query.diversity.max_per_category else None,
        want_vectors=query.diversity.trade_off < 1,
        recency=_recency(strategy, profile),
    )


def _recency(strategy: Strategy, profile: TenantProfile) -> Mapping[str, float]:
    recency = dict(profile.model.recency) if profile.model else {}
    if strategy is Strategy.SESSION:
        # Whatever order says on the whole, of a session the last items tell most.
        recency[Source.NEIGHBORS] = min(recency.get(Source.NEIGHBORS, 1.0), _SESSION_RECENCY)
    return recency

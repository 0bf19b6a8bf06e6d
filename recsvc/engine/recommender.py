"""Recommend: a current list from the cache, or one computed from one round trip to PostgreSQL.

What a caller can rely on: the list reflects every event of the user that was acknowledged before the call, never holds
an item that is unavailable, hidden, expired or (by default) seen, and says so when it is less than it could be.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from recsvc.cache.lists import ListCache, LookUp, Versions
from recsvc.domain.catalog import Item
from recsvc.domain.errors import ItemNotFound, StorageUnavailable, UserNotFound
from recsvc.domain.ids import ItemId, TenantKey, UserKey
from recsvc.domain.recommendations import (
    Degradation,
    DegradationLevel,
    RankQuery,
    Recommendations,
    RecommendedItem,
    RecommendQuery,
    Strategy,
)
from recsvc.domain.tenancy import TenantProfile
from recsvc.domain.users import UserKind
from recsvc.engine.candidate_finder import CandidateFinder
from recsvc.engine.fallback import UNANSWERED, Fallback
from recsvc.engine.fold_in import FoldIn
from recsvc.engine.item_details import with_details
from recsvc.engine.item_reasons import ItemReasons
from recsvc.engine.profiles import TenantProfiles
from recsvc.engine.questions import PERSONAL, candidate_question
from recsvc.engine.ranking import Ranked, rank, weights_for
from recsvc.engine.served_lists import ServedLists
from recsvc.engine.shown_log import ShownLog
from recsvc.engine.snapshot_candidates import is_answerable
from recsvc.engine.snapshot_lists import SnapshotList, is_made_together, what_is_asked
from recsvc.resilience.in_time import in_time
from recsvc.settings import CacheSettings, EngineSettings
from recsvc.storage.candidates import CandidateQuestion, CandidateRepository, Candidates, Subject
from recsvc.storage.items import ItemRepository
from recsvc.storage.shown import ShownList
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.spans import BLEND
from recsvc.telemetry.stages import stage

_NEEDS_MODEL = frozenset({Strategy.COLLABORATIVE, Strategy.NEIGHBORS, Strategy.SESSION})


@dataclass(frozen=True, slots=True)
class RankedItems:
    """The answer of RankItems."""

    recommendations: Recommendations
    unknown_item_ids: tuple[ItemId, ...]


@dataclass(frozen=True, slots=True)
class ExplainedItem:
    """The answer of ExplainRecommendation."""

    item: RecommendedItem
    model_id: str


@dataclass(frozen=True, slots=True)
class _Made:
    """A list, whose it is, and when its items expire."""

    found: Recommendations
    subject: Subject
    expire_times: Sequence[datetime | None]


_OfSubject = TypeVar("_OfSubject", bound=Candidates | SnapshotList)


class Recommender:
    """Answers Recommend, PopularItems, TrendingItems, RankItems and ExplainRecommendation."""

    def __init__(
        self,
        finder: CandidateFinder,
        candidates: CandidateRepository,
        items: ItemRepository,
        profiles: TenantProfiles,
        fold_in: FoldIn,
        cache: ListCache | None,
        fallback: Fallback | None,
        shown: ShownLog | None,
        metrics: Metrics,
        settings: EngineSettings,
        cache_settings: CacheSettings,
    ) -> None:
        """cache, fallback, shown: None leaves them out (evaluation)."""
        self._finder = finder
        self._reasons = ItemReasons(candidates, settings)
        self._items = items
        self._profiles = profiles
        self._fold_in = fold_in
        self._cache = cache
        self._fallback = fallback
        self._shown = shown
        self._metrics = metrics
        self._served = ServedLists(metrics, PERSONAL)
        self._settings = settings
        self._cache_settings = cache_settings

    async def recommend(
        self,
        tenant_key: TenantKey,
        query: RecommendQuery,
        *,
        in_bulk: bool = False,
        budget_s: float | None = None,
    ) -> Recommendations:
        """A ranked list for a user, a session, some items, or anybody; a degraded one when no fresh one is to be had.

        in_bulk: one of many that nobody will ask for again soon: past the cache, never degraded, and waiting until the
        list can be noted as shown, rather than dropping that note. budget_s: how long the caller can wait for a fresh
        list. Raises StorageUnavailable and DeadlinePassed when there is no list at all.
        """
        if in_bulk or self._fallback is None:
            found = await self.find(tenant_key, query, cached=not in_bulk)
            if in_bulk and found.degradation.level is DegradationLevel.PARTIAL:
                raise StorageUnavailable
        else:
            found = await self._find_or_degrade(tenant_key, query, self._fallback, budget_s)
        return await self.tell(tenant_key, query, found, patiently=in_bulk)

    async def recommend_together(
        self, tenant_key: TenantKey, queries: Sequence[RecommendQuery]
    ) -> list[Recommendations | None]:
        """What `recommend` answers in bulk to each of many, found in one go.

        None for those that want to be asked one by one, since they take more than that: a filter, reasons or fields of
        items, a user whose state lags or of whom nothing is known, or a list for whose note there is no room.
        """
        profile = await self._profiles.get_current(tenant_key)
        asked: dict[Hashable, tuple[CandidateQuestion, Mapping[str, float]] | None] = {}
        places, subjects, wanted = [], [], []
        for place, query in enumerate(queries):
            what, subject = what_is_asked(query), query.subject()
            if subject is not None and what not in asked:
                question = self.question(query, profile)
                is_together = is_made_together(query) and not query.item_fields and is_answerable(question)
                asked[what] = (question, _weights(query, profile)) if is_together else None
            if subject is not None and (question_and_weights := asked[what]) is not None:
                places.append(place)
                subjects.append(subject)
                wanted.append((query, *question_and_weights))
        found: list[Recommendations | None] = [None] * len(queries)
        told: list[tuple[RecommendQuery, Recommendations]] = []
        for place, made in zip(places, await self._finder.find_lists(profile, subjects, wanted), strict=True):
            if made is not None and not _lags(made.subject, profile):
                query = queries[place]
                listed = _full(profile, query, made.items, _new_id())
                try:
                    await self._note(tenant_key, query, listed, patiently=True)
                except StorageUnavailable:
                    # Those before it are noted as shown, and so must be shown.
                    break
                self._served.computed(query.strategy, made.items)
                found[place] = listed
                told.append((query, listed))
        self._served.served(told)
        return found

    async def find(self, tenant_key: TenantKey, query: RecommendQuery, *, cached: bool = True) -> Recommendations:
        """The list that `recommend` would give now, without an id: it is not counted as shown."""
        looked_up = await self._look_up(tenant_key, query, cached)
        return looked_up.found or await self._compute(tenant_key, query, looked_up.tenant_version, cached)

    async def _find_or_degrade(
        self, tenant_key: TenantKey, query: RecommendQuery, fallback: Fallback, budget_s: float | None
    ) -> Recommendations:
        looked_up = await self._look_up(tenant_key, query, cached=True)
        if looked_up.found is not None:
            return looked_up.found
        if fallback.is_preferred and (found := await fallback.find(tenant_key, query, self._recalled)) is not None:
            return found
        budget_s = min(budget_s or self._settings.fresh_list_s, self._settings.fresh_list_s)
        try:
            return await in_time(self._compute(tenant_key, query, looked_up.tenant_version, cached=True), budget_s)
        except UNANSWERED:
            found = await fallback.find(tenant_key, query, self._recalled)
            if found is None:
                raise
            return found

    async def _look_up(self, tenant_key: TenantKey, query: RecommendQuery, cached: bool) -> LookUp:
        if self._cache is None or not (cached and _is_cacheable(query)) or query.max_staleness == timedelta(0):
            return LookUp(None, 0)
        return await self._cache.find(tenant_key, _who(query), query.fingerprint(), query.max_staleness)

    async def _compute(
        self, tenant_key: TenantKey, query: RecommendQuery, version: int, cached: bool
    ) -> Recommendations:
        """A fresh list, kept in the cache. version: of the tenant that the list must at least be of; 0: the present."""
        profile = await (self._profiles.get(tenant_key, version) if version else self._profiles.get_current(tenant_key))
        made = await self._made(profile, query)
        if self._fallback is not None:
            self._fallback.keep_up(profile)
        is_whole = made.found.degradation.level is not DegradationLevel.PARTIAL
        if self._cache is not None and cached and is_whole and _is_cacheable(query):
            await self._keep(profile, _who(query), query.fingerprint(), made)
        return made.found

    async def _made(self, profile: TenantProfile, query: RecommendQuery) -> _Made:
        """A list, together with those of all who ask at once if it is one that can be made so."""
        question = self.question(query, profile)
        if not is_made_together(query):
            return await self._ranked(profile, query, await self._fresh_candidates(profile, question, query))
        weights = _weights(query, profile)
        made = await self._fresh(profile, lambda: self._finder.find_list(profile, query, question, weights))
        if isinstance(made, Candidates):
            return await self._ranked(profile, query, made)
        items = await with_details(self._items, profile, made.items, query.item_fields)
        self._served.computed(query.strategy, items)
        found = _full(profile, query, items)
        if made.lacks:
            found = replace(found, degradation=self._lacking(made.lacks))
        return _Made(found, made.subject, made.expire_times)

    async def _recalled(
        self, tenant_key: TenantKey, query: RecommendQuery, now: datetime, known: Mapping[ItemId, Item] | None
    ) -> Recommendations | None:
        """A list out of what the process holds of the tenant and remembers of the user; without reasons."""
        profile = self._profiles.last(tenant_key)
        if profile is None:
            return None
        candidates = await self._finder.recall(tenant_key, self.question(query, profile), now, known)
        if candidates is None or await self._is_gone(tenant_key, candidates.subject.user_key):
            return None
        strategy, _, ranked = self._scored(profile, query, candidates)
        items = tuple(
            RecommendedItem(
                item_id=candidates.item_ids[at],
                score=float(ranked.scores[at]),
                source=ranked.source(at),
                item=known[candidates.item_ids[at]] if known is not None and query.item_fields else None,
            )
            for at in ranked.positions.tolist()
        )
        if not items:
            return None
        return Recommendations(items, strategy, _model_id(profile, strategy), datetime.now(UTC))

    async def _is_gone(self, tenant_key: TenantKey, user_key: UserKey | None) -> bool:
        return self._cache is not None and user_key is not None and await self._cache.is_gone(tenant_key, user_key)

    async def rank_items(self, tenant_key: TenantKey, query: RankQuery) -> RankedItems:
        """Score and order the caller's own candidates; seen ones too."""
        profile = await self._profiles.get_current(tenant_key)
        as_query = RecommendQuery(
            user_id=query.user_id,
            session_id=query.session_id,
            session_item_ids=query.session_item_ids,
            count=len(query.item_ids),
            boosts=query.boosts,
            explain=query.explain,
        )
        question = replace(
            self.question(as_query, profile),
            limits={},
            given=query.item_ids,
            score_neighbors=True,
        )
        candidates = await self._fresh_candidates(profile, question, as_query)
        found = (await self._ranked(profile, as_query, candidates)).found
        known = set(candidates.item_ids)
        unknown = tuple(item_id for item_id in query.item_ids if item_id not in known)
        return RankedItems(await self.tell(tenant_key, as_query, found), unknown)

    async def explain(self, tenant_key: TenantKey, query: RecommendQuery, item_id: ItemId) -> ExplainedItem:
        """One item's score and reasons, as if it were let into the list that `recommend` gives for the query now.

        An item that is in that list has the very score that it has there. Raises UserNotFound and ItemNotFound.
        """
        profile = await self._profiles.get_current(tenant_key)
        question = replace(self.question(query, profile), given=(item_id,))
        candidates = await self._fresh_candidates(profile, question, query)
        if candidates.subject.user_key is None:
            raise UserNotFound(str(query.user_id))
        if item_id not in candidates.item_ids:
            raise ItemNotFound(item_id)
        strategy, _, ranked = self._scored(profile, query, candidates)
        (item,) = await self._recommended(profile, query, candidates, ranked, [candidates.item_ids.index(item_id)])
        return ExplainedItem(item, _model_id(profile, strategy))

    async def _fresh_candidates(
        self, profile: TenantProfile, question: CandidateQuestion, query: RecommendQuery
    ) -> Candidates:
        now = query.time or datetime.now(UTC)
        return await self._fresh(profile, lambda: self._finder.find(profile, question, now))

    async def _fresh(self, profile: TenantProfile, find: Callable[[], Awaitable[_OfSubject]]) -> _OfSubject:
        """What is found with the user's present state: a state that lags is folded in first."""
        found = await find()
        user_key = found.subject.user_key
        if user_key is not None and _lags(found.subject, profile):
            await self._fold_in.refresh(profile.tenant_key, profile.model, [user_key], by="reader")
            found = await find()
        return found

    def question(self, query: RecommendQuery, profile: TenantProfile) -> CandidateQuestion:
        """What candidates a query wants, for a tenant as it is."""
        return candidate_question(query, profile, self._settings)

    async def _ranked(self, profile: TenantProfile, query: RecommendQuery, candidates: Candidates) -> _Made:
        strategy, degradation, ranked = self._scored(profile, query, candidates)
        positions = [int(position) for position in ranked.positions]
        items = await self._recommended(profile, query, candidates, ranked, positions)
        self._served.computed(strategy, items)
        found = Recommendations(
            items=items,
            strategy=strategy,
            model_id=_model_id(profile, strategy),
            generate_time=datetime.now(UTC),
            degradation=self._lacking(candidates.lacks) if candidates.lacks else degradation,
        )
        return _Made(found, candidates.subject, [candidates.expire_times[at] for at in positions])

    def _lacking(self, lacks: str) -> Degradation:
        """Of a list that was made although something is not as it should be."""
        self._metrics.degraded.labels("counters").inc()
        return Degradation(DegradationLevel.PARTIAL, lacks)

    @staticmethod
    @stage(BLEND)
    def _scored(
        profile: TenantProfile, query: RecommendQuery, candidates: Candidates
    ) -> tuple[Strategy, Degradation, Ranked]:
        strategy, degradation = _effective(query, profile, candidates)
        weights = weights_for(strategy, profile.model.blend_weights if profile.model else {})
        return strategy, degradation, rank(candidates, query, weights, seed=secrets.randbits(32))

    async def _recommended(
        self,
        profile: TenantProfile,
        query: RecommendQuery,
        candidates: Candidates,
        ranked: Ranked,
        positions: Sequence[int],
    ) -> tuple[RecommendedItem, ...]:
        reasons_at = await self._reasons.of(profile, query, candidates, ranked, positions)
        found = [
            RecommendedItem(
                item_id=candidates.item_ids[at],
                score=float(ranked.scores[at]),
                source=ranked.source(at),
                reasons=reasons_at.get(at, ()),
            )
            for at in positions
        ]
        return await with_details(self._items, profile, found, query.item_fields)

    async def _keep(self, profile: TenantProfile, who: str, fingerprint: str, made: _Made) -> None:
        found, subject = made.found, made.subject
        if self._cache is None or (who and subject.user_key is None):
            # An unknown user has no version that could outdate the list; the first event makes one.
            return
        left_s = [(time - found.generate_time).total_seconds() for time in made.expire_times if time is not None]
        life_s = min([self._cache_settings.list_ttl_s, *left_s])
        stale_s = min([self._cache_settings.stale_ttl_s, *left_s])
        if life_s <= 0:
            return
        # Of the events that the list reflects: one that came after the fold-in has raised the user's version already,
        # and a list under that version would outlast it.
        versions = Versions(profile.version, subject.user_key, subject.folded_version)
        await self._cache.store(profile.tenant_key, who, fingerprint, found, versions, life_s, stale_s)

    async def tell(
        self, tenant_key: TenantKey, query: RecommendQuery, found: Recommendations, *, patiently: bool = False
    ) -> Recommendations:
        """The list under a new id, counted and noted as shown."""
        told = replace(found, recommendation_id=_new_id())
        self._served.served([(query, told)])
        await self._note(tenant_key, query, told, patiently=patiently)
        return told

    async def _note(
        self, tenant_key: TenantKey, query: RecommendQuery, told: Recommendations, *, patiently: bool
    ) -> None:
        """Note a list as shown. Raises StorageUnavailable when there is no room in time for one that waits for it."""
        if self._shown is None:
            return
        kind, user_id = query.subject() or (UserKind.USER, None)
        shown = ShownList(
            recommendation_id=told.recommendation_id,
            kind=kind,
            user_id=user_id,
            strategy=told.strategy.value,
            placement=query.placement,
            model_id=told.model_id,
            item_ids=tuple([item.item_id for item in told.items]),
            create_time=datetime.now(UTC),
        )
        if patiently:
            await self._shown.add_patiently(tenant_key, shown)
        else:
            self._shown.add(tenant_key, shown)


def _new_id() -> str:
    return secrets.token_hex(16)


def _full(
    profile: TenantProfile, query: RecommendQuery, items: tuple[RecommendedItem, ...], recommendation_id: str = ""
) -> Recommendations:
    """A list that is all that was asked for."""
    model_id = _model_id(profile, query.strategy)
    return Recommendations(items, query.strategy, model_id, datetime.now(UTC), recommendation_id=recommendation_id)


def _weights(query: RecommendQuery, profile: TenantProfile) -> Mapping[str, float]:
    return weights_for(query.strategy, profile.model.blend_weights if profile.model else {})


def _lags(subject: Subject, profile: TenantProfile) -> bool:
    """Whether a state is not up to the events of the user, or not of the model that serves."""
    serving = profile.model.model_key if profile.model else None
    return bool(subject.version) and (subject.folded_version < subject.version or subject.model_key != serving)


def _model_id(profile: TenantProfile, strategy: Strategy) -> str:
    return profile.model.model_id if profile.model and strategy in PERSONAL else ""


def _is_cacheable(query: RecommendQuery) -> bool:
    """What is drawn by chance must not be frozen, and an answer for another moment is not the present one."""
    return not query.exploration and query.time is None


def _who(query: RecommendQuery) -> str:
    if query.user_id is not None:
        return f"user:{query.user_id}"
    return f"session:{query.session_id}" if query.session_id is not None else ""


def _effective(query: RecommendQuery, profile: TenantProfile, candidates: Candidates) -> tuple[Strategy, Degradation]:
    """The strategy that the candidates allow: without history or model, a personal one falls back to trending."""
    strategy = query.strategy
    if strategy not in PERSONAL:
        return strategy, Degradation()
    if candidates.subject.history_size == 0:
        # Nothing is known of this visitor: trending is the full answer, not a degraded one.
        return Strategy.TRENDING, Degradation()
    if profile.model is None and (strategy in _NEEDS_MODEL or strategy is Strategy.AUTO):
        return Strategy.TRENDING, Degradation(DegradationLevel.FALLBACK, "no model is trained yet")
    return strategy, Degradation()

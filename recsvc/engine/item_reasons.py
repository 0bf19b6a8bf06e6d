"""Why the items of a list are in it: looked up for those that were chosen, and only where reasons are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recsvc.domain.ids import ItemKey
from recsvc.domain.recommendations import Reason, RecommendQuery, Source
from recsvc.domain.tenancy import TenantProfile
from recsvc.engine.explain import reasons
from recsvc.engine.questions import candidate_question
from recsvc.engine.ranking import Ranked
from recsvc.settings import EngineSettings
from recsvc.storage.candidates import CandidateRepository, Candidates, Evidence


class ItemReasons:
    """Asks what speaks for items: neighbours in the history, shared labels, the sources of their scores."""

    def __init__(self, candidates: CandidateRepository, settings: EngineSettings) -> None:
        self._candidates = candidates
        self._settings = settings

    async def of(
        self,
        profile: TenantProfile,
        query: RecommendQuery,
        candidates: Candidates,
        ranked: Ranked,
        positions: Sequence[int],
    ) -> Mapping[int, tuple[Reason, ...]]:
        """The reasons for the candidates at these positions; none where the query asks for none."""
        if not query.explain:
            return {}
        because = await self._because(profile, query, candidates, positions)
        labels = await self._labels(profile, query, candidates, ranked, positions)
        return {at: reasons(candidates, ranked, at, because.get(at, ()), labels) for at in positions}

    async def _because(
        self, profile: TenantProfile, query: RecommendQuery, candidates: Candidates, positions: Sequence[int]
    ) -> Mapping[int, Sequence[Evidence]]:
        if profile.model is None or not positions:
            return {}
        keys = [candidates.item_keys[at] for at in positions]
        found = await self._candidates.explanations(
            profile.tenant_key,
            profile.model,
            candidates.subject.user_key,
            keys,
            candidate_question(query, profile, self._settings),
        )
        return {at: found.get(candidates.item_keys[at], ()) for at in positions}

    async def _labels(
        self,
        profile: TenantProfile,
        query: RecommendQuery,
        candidates: Candidates,
        ranked: Ranked,
        positions: Sequence[int],
    ) -> Mapping[ItemKey, Sequence[str]]:
        """Categories and tags that the items share with the history, for those of which content tells."""
        content = ranked.contributions.get(Source.CONTENT)
        if content is None:
            return {}
        keys = [candidates.item_keys[at] for at in positions if content[at] != 0.0]
        if not keys:
            return {}
        return await self._candidates.matching_labels(
            profile.tenant_key,
            candidates.subject.user_key,
            query.session_item_ids,
            keys,
            self._settings.neighbor_history_items,
        )

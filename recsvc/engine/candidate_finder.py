"""Finds candidates where that is cheapest: in a snapshot of the tenant if there is a current one, else in PostgreSQL.

A snapshot is current while its version is that of the tenant, which every change of a catalogue or model raises; its
counters, and the vectors of new items, are those of a moment ago. What a snapshot cannot answer, and whatever comes
while it is read, goes to PostgreSQL, so that it is only ever about speed. The states of users are never kept: those of
all who ask at once are read in one statement.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Self, TypeVar

import structlog

from recsvc.domain.errors import DeadlinePassed, DomainError, StorageUnavailable
from recsvc.domain.ids import ItemId, TenantKey
from recsvc.domain.recommendations import RecommendQuery
from recsvc.domain.tenancy import ServingModel, TenantProfile
from recsvc.domain.users import UserKind
from recsvc.engine.gathering import Gathering
from recsvc.engine.remembered_states import RememberedStates
from recsvc.engine.snapshot_candidates import among, find_candidates, is_answerable, is_recallable, with_session
from recsvc.engine.snapshot_lists import ListWanted, SnapshotList, make_lists
from recsvc.resilience.in_time import in_time
from recsvc.settings import EngineSettings
from recsvc.storage.candidates import CandidateQuestion, CandidateRepository, Candidates
from recsvc.storage.snapshots import Counters, ServingSnapshot, SnapshotRepository, SubjectState
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.spans import CANDIDATE_COUNT, CANDIDATES, LIST
from recsvc.telemetry.stages import stage

_Found = TypeVar("_Found")
_log = structlog.get_logger(__name__)
# Reading a snapshot costs as much as many lists do: while a catalogue changes all the time it is done at most so often,
# and so many times as long as it took it rests.
_READ_EVERY_S = 1.0
_REST = 10.0
_TOO_LARGE_S = 60.0
# So many times as old as they should be, counters are not good enough to go on with while new ones are read.
_PATIENCE = 4
_OLD_COUNTERS = "what is popular and what trends is not that of now"
_STOP_S = 5.0
_USERS_AT_ONCE = 64
_COUNTERS_AT_ONCE = 1000
# Above so many numbers to look at, lists take longer than the event loop may stand still.
_IN_THREAD = 500_000
_TRANSITIONS = 100
_BYTES_PER_NEIGHBOR, _BYTES_PER_ITEM = 8, 500


@dataclass(slots=True)
class HeldSnapshot:
    """A snapshot and what belongs to it."""

    model: ServingModel
    version: int
    snapshot: ServingSnapshot
    counters: Counters
    counted: float
    size: int
    subjects: Gathering[tuple[UserKind, str], tuple[int, SubjectState | None]]
    lists: Gathering[ListWanted, SnapshotList]
    counting: Gathering[None, Counters]


class CandidateFinder:
    """Answers candidate questions; holds snapshots of the tenants that were asked about last."""

    def __init__(
        self,
        candidates: CandidateRepository,
        snapshots: SnapshotRepository,
        settings: EngineSettings,
        metrics: Metrics,
        states: RememberedStates,
    ) -> None:
        """states: keeps those that questions were answered with, for `recall`."""
        self._states = states
        self._candidates = candidates
        self._snapshots = snapshots
        self._settings = settings
        self._metrics = metrics
        self._by_snapshot = metrics.candidate_questions.labels("snapshot")
        self._by_search = metrics.candidate_questions.labels("search")
        self._look_ups = metrics.look_ups("snapshots")
        self._searches = asyncio.Semaphore(settings.searches_in_flight)
        self._searching = 0
        self._held: OrderedDict[TenantKey, HeldSnapshot] = OrderedDict()
        self._not_before: dict[TenantKey, float] = {}
        self._reading: dict[TenantKey, asyncio.Task[None]] = {}
        self._counting: dict[TenantKey, asyncio.Task[None]] = {}
        metrics.watch_queue("searches", lambda: max(0, self._searching - settings.searches_in_flight))
        metrics.watch_entries("snapshots", lambda: len(self._held))
        metrics.read_when_asked(metrics.snapshot_items, lambda: sum(held.size for held in self._held.values()))
        metrics.read_when_asked(
            metrics.snapshot_bytes, lambda: sum(held.snapshot.size_bytes for held in self._held.values())
        )

    @stage(CANDIDATES, told=lambda found: {CANDIDATE_COUNT: len(found.item_keys)})
    async def find(self, profile: TenantProfile, question: CandidateQuestion, now: datetime) -> Candidates:
        """Candidates of all asked sources, in the order of their item ids."""
        known = await self._known(profile, question)
        if known is None:
            return await self._searched(profile, question, now)
        held, state = known
        counters, lacks = await self._counters(profile.tenant_key, held)
        return replace(await _found(held, counters, state, question, now), lacks=lacks)

    @stage(LIST)
    async def find_list(
        self,
        profile: TenantProfile,
        query: RecommendQuery,
        question: CandidateQuestion,
        weights: Mapping[str, float],
    ) -> SnapshotList | Candidates:
        """The list for a query that `is_made_together`, made with those of all others who ask now; where no snapshot
        answers, the candidates that PostgreSQL finds. weights: of the sources.
        """
        known = await self._known(profile, question)
        if known is None:
            return await self._searched(profile, question, query.time or datetime.now(UTC))
        held, state = known
        return await held.lists.answer(ListWanted(query, question, weights, state))

    async def find_lists(
        self,
        profile: TenantProfile,
        subjects: Sequence[tuple[UserKind, str]],
        wanted: Sequence[tuple[RecommendQuery, CandidateQuestion, Mapping[str, float]]],
    ) -> list[SnapshotList | None]:
        """What `find_list` finds for many at once, apart from single calls; None where no snapshot answers, or not
        as it should.

        wanted: of each subject what `find_list` takes; all that ask the same may share a question, whose subject is
        ignored. The questions must be answerable.
        """
        held = self.current(profile)
        if held is None or not wanted:
            return [None] * len(wanted)
        states = await self._snapshots.subject_states(
            profile.tenant_key, held.model, subjects, self._settings.neighbor_history_items
        )
        known = [
            (at, ListWanted(*wanted[at], state))
            for at, (version, state) in enumerate(states)
            if state is not None and _is_answered(held, version, state)
        ]
        counters, lacks = await self._counters(profile.tenant_key, held)
        if lacks:
            return [None] * len(wanted)
        lists = [each for _, each in known]
        made = await _computed(held, len(lists), partial(make_lists, held.snapshot, counters, held.model, lists))
        self._by_snapshot.inc(len(made))
        found: list[SnapshotList | None] = [None] * len(wanted)
        for (at, _), made_list in zip(known, made, strict=True):
            found[at] = made_list
        return found

    async def _known(
        self, profile: TenantProfile, question: CandidateQuestion
    ) -> tuple[HeldSnapshot, SubjectState] | None:
        """A snapshot that is current at this moment, with the present state of whom the question is about."""
        if not is_answerable(question):
            return None
        held = self.current(profile)
        self._look_ups.count(held is not None)
        if held is None or question.user_id is None:
            return None
        version, state = await held.subjects.answer((question.kind, question.user_id))
        if state is None or not _is_answered(held, version, state):
            return None
        self._by_snapshot.inc()
        self._states.remember(profile.tenant_key, question.kind, question.user_id, state)
        return held, state

    async def _searched(self, profile: TenantProfile, question: CandidateQuestion, now: datetime) -> Candidates:
        self._by_search.inc()
        self._searching += 1
        try:
            # Whatever is searched for, some connections stay free for what is quick.
            async with self._searches:
                return await self._candidates.find(profile.tenant_key, profile.model, question, now)
        finally:
            self._searching -= 1

    async def recall(
        self, tenant_key: TenantKey, question: CandidateQuestion, now: datetime, known: Iterable[ItemId] | None
    ) -> Candidates | None:
        """Candidates out of memory alone, outdated as that may be; None when it holds too little.

        known: only these items, which may be shown; None for whatever the catalogue had.
        """
        held = self._held.get(tenant_key)
        if held is None or not is_recallable(question):
            return None
        state = self._states.find(tenant_key, question.kind, question.user_id) if question.user_id is not None else None
        if state is not None and state.model_key != held.model.model_key:
            state = replace(state, vector=None)
        state = with_session(held.snapshot, state, question.session_item_ids)
        if state is None:
            return None
        if known is not None:
            question = among(held.snapshot, state, question, known)
        return await _found(held, held.counters, state, question, now)

    async def _counters(self, tenant_key: TenantKey, held: HeldSnapshot) -> tuple[Counters, str]:
        """Counters of a moment ago, and what is wrong with them.

        When they are older than that they are read anew, and if much older, waited for; half of a list's time at most,
        then old ones are better than none.
        """
        age_s, life_s = time.monotonic() - held.counted, self._settings.counters_life_s
        if not life_s:
            return await held.counting.answer(None), ""
        if age_s > _PATIENCE * life_s:
            try:
                return await in_time(held.counting.answer(None), self._settings.fresh_list_s / 2), ""
            except (StorageUnavailable, DeadlinePassed):
                return held.counters, _OLD_COUNTERS
        if age_s > life_s:
            # Nobody waits for these; without a bound, counters that hang would hold up those that are waited for.
            self._begin(
                self._counting, tenant_key, lambda: in_time(held.counting.answer(None), self._settings.fresh_list_s)
            )
        return held.counters, ""

    def current(self, profile: TenantProfile) -> HeldSnapshot | None:
        """The snapshot of this very version; else None, and one begins to be read, unless that was done just now."""
        if profile.model is None:
            return None
        held = self._held.get(profile.tenant_key)
        if held is not None and held.version >= profile.version and held.model.model_key == profile.model.model_key:
            self._held.move_to_end(profile.tenant_key)
            return held
        if time.monotonic() >= self._not_before.get(profile.tenant_key, 0.0):
            self._begin(self._reading, profile.tenant_key, partial(self._renew, profile, profile.model))
        return None

    async def __aenter__(self) -> Self:
        """Nothing is read before it is asked for."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop reading."""
        tasks = [*self._reading.values(), *self._counting.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_S)

    @staticmethod
    def _begin(
        running: dict[TenantKey, asyncio.Task[None]], tenant_key: TenantKey, work: Callable[[], Awaitable[object]]
    ) -> None:
        """One piece of work of a kind at a time for a tenant."""
        if tenant_key in running:
            return

        async def run() -> None:
            try:
                await work()
            except DomainError as error:
                _log.warning("snapshot.failed", tenant_key=tenant_key, error=error.reason)
            except Exception:
                # Lists do not depend on it.
                _log.exception("snapshot.crashed", tenant_key=tenant_key)
            finally:
                del running[tenant_key]

        # It serves all, so it is no part of the call that happens to be the first: of its trace, or its deadline.
        running[tenant_key] = asyncio.create_task(run(), context=Context())

    async def _renew(self, profile: TenantProfile, model: ServingModel) -> None:
        tenant_key, start = profile.tenant_key, time.monotonic()
        self._not_before[tenant_key] = start + _READ_EVERY_S
        per_item = 4 * model.dimension + _BYTES_PER_NEIGHBOR * (self._settings.neighbors_per_item + _TRANSITIONS)
        limit = self._settings.snapshot_mib * 2**20 // (per_item + _BYTES_PER_ITEM)
        items = await self._snapshots.size(tenant_key, limit + 1)
        if items > limit:
            self._held.pop(tenant_key, None)
            self._not_before[tenant_key] = start + _TOO_LARGE_S
            return
        snapshot = await self._snapshots.read(tenant_key, model, self._settings.neighbors_per_item, profile.version)
        counted = time.monotonic()
        counters = await self._snapshots.counters(tenant_key, snapshot)
        # The snapshot may be a replica's, and its vectors a little older than the counters.
        await self._snapshots.renew_vectors(tenant_key, model, snapshot, counters)

        async def states(asked: Sequence[tuple[UserKind, str]]) -> Sequence[tuple[int, SubjectState | None]]:
            return await self._snapshots.subject_states(tenant_key, model, asked, self._settings.neighbor_history_items)

        async def lists(wanted: Sequence[ListWanted]) -> Sequence[SnapshotList]:
            counters, lacks = await self._counters(tenant_key, held)
            made = await _computed(held, len(wanted), partial(make_lists, snapshot, counters, model, wanted))
            return [each._replace(lacks=lacks) for each in made] if lacks else made

        async def counts(asked: Sequence[None]) -> Sequence[Counters]:
            start = time.monotonic()
            held.counters = await self._snapshots.counters(tenant_key, snapshot)
            await self._snapshots.renew_vectors(tenant_key, model, snapshot, held.counters)
            held.counted = start
            return [held.counters] * len(asked)

        self._metrics.snapshot_read_seconds.observe(time.monotonic() - start)
        held = HeldSnapshot(
            model,
            profile.version,
            snapshot,
            counters,
            counted,
            items,
            subjects=Gathering(states, _USERS_AT_ONCE),
            lists=Gathering(lists, _USERS_AT_ONCE),
            counting=Gathering(counts, _COUNTERS_AT_ONCE),
        )
        self._held[tenant_key] = held
        self._held.move_to_end(tenant_key)
        while sum(each.size for each in self._held.values()) > limit:
            self._held.popitem(last=False)
        self._not_before[tenant_key] = start + max(_READ_EVERY_S, _REST * (time.monotonic() - start))


async def _computed(held: HeldSnapshot, users: int, compute: Callable[[], _Found]) -> _Found:
    """What is computed for so many users out of a snapshot, in a thread where it takes long."""
    if users * held.snapshot.vectors.size > _IN_THREAD:
        return await asyncio.to_thread(compute)
    return compute()


async def _found(
    held: HeldSnapshot, counters: Counters, state: SubjectState, question: CandidateQuestion, now: datetime
) -> Candidates:
    compute = partial(find_candidates, held.snapshot, counters, held.model, [state], question, now)
    return (await _computed(held, 1, compute)).of(0, want_vectors=question.want_vectors)


def _is_answered(held: HeldSnapshot, version: int, state: SubjectState) -> bool:
    """Whether a snapshot answers about a user who was found in this state at this version of the tenant."""
    # Of whom nothing is known, counters are all there is to go by, and those should be fresh.
    return version <= held.version and bool(state.history_size)

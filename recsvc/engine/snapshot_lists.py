"""Lists out of a snapshot, made together for all who ask at once: one set of candidates, ranked as rows of arrays.

Pure, and of nothing but arrays until the few items of each list are cut: it runs in a thread beside the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from recsvc.domain.recommendations import RecommendedItem, RecommendQuery
from recsvc.domain.tenancy import ServingModel
from recsvc.engine.ranking import is_ranked_together, rank_together
from recsvc.engine.snapshot_candidates import find_candidates
from recsvc.storage.candidates import CandidateQuestion, Subject
from recsvc.storage.snapshots import Counters, ServingSnapshot, SubjectState

# Users times items at a time: more would fall out of the processor's caches, and take more memory.
_CELLS = 256_000
_OF_ONE_CALL = {"user_id", "session_id", "max_staleness", "placement"}
what_is_asked: Callable[[RecommendQuery], Hashable] = attrgetter(
    *(item.name for item in fields(RecommendQuery) if item.name not in _OF_ONE_CALL)
)
"""What queries have in common whose lists are made as one: all but for whom they are."""


class ListWanted(NamedTuple):
    """A query that `is_made_together`, a question of all who ask the same, what sources count, and the user's state."""

    query: RecommendQuery
    question: CandidateQuestion
    weights: Mapping[str, float]
    state: SubjectState


class SnapshotList(NamedTuple):
    """The list of a user. expire_times: of its items; lacks: what is not as it should be, for people."""

    subject: Subject
    items: tuple[RecommendedItem, ...]
    expire_times: tuple[datetime | None, ...]
    lacks: str = ""


def is_made_together(query: RecommendQuery) -> bool:
    """Whether all that the answer needs is in arrays: reasons are not."""
    return is_ranked_together(query) and not query.explain


def make_lists(
    snapshot: ServingSnapshot, counters: Counters, model: ServingModel, wanted: Sequence[ListWanted]
) -> list[SnapshotList]:
    """The lists wanted, in their order; those of whom the same is asked are made as one."""
    groups: dict[Hashable, list[int]] = {}
    for at, each in enumerate(wanted):
        groups.setdefault(what_is_asked(each.query), []).append(at)
    found: dict[int, SnapshotList] = {}
    at_once = max(1, _CELLS // max(1, len(snapshot)))
    for group in groups.values():
        for start in range(0, len(group), at_once):
            some = group[start : start + at_once]
            lists = _alike(snapshot, counters, model, [wanted[at] for at in some])
            found.update(zip(some, lists, strict=True))
    return [found[at] for at in range(len(wanted))]


def _alike(
    snapshot: ServingSnapshot, counters: Counters, model: ServingModel, wanted: Sequence[ListWanted]
) -> list[SnapshotList]:
    query, question = wanted[0].query, wanted[0].question
    now = query.time or datetime.now(UTC)
    candidates = find_candidates(snapshot, counters, model, [each.state for each in wanted], question, now)
    ranked = rank_together(candidates, query, wanted[0].weights)
    positions = candidates.positions[ranked.rows, ranked.columns].tolist()
    item_ids = [snapshot.item_ids[at] for at in positions]
    items = list(map(RecommendedItem, item_ids, ranked.scores.tolist(), ranked.sources))
    expire_times = [snapshot.expire_times[at] for at in positions]
    bounds = np.searchsorted(ranked.rows, np.arange(len(wanted) + 1)).tolist()
    return [
        SnapshotList(subject, tuple(items[start:end]), tuple(expire_times[start:end]))
        for subject, (start, end) in zip(candidates.subjects, pairwise(bounds), strict=True)
    ]

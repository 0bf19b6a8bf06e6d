"""The candidates of a question out of a snapshot: what the candidate statement finds, with arrays instead of joins.

Same sources, same limits, same scores up to rounding; where the statement may search approximately this is exact. All
users of whom the same is asked are answered together: a matrix product for each source in place of one sum per user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple, TypeVar

import numpy as np

from recsvc.domain.arrays import Codes, Float32, Float64, Mask
from recsvc.domain.blocked_rows import BlockedRows
from recsvc.domain.ids import ItemId
from recsvc.domain.tenancy import ServingModel
from recsvc.engine.best_of_rows import LEAST, barring, best_of_rows, choose_best_of_all
from recsvc.engine.candidate_set import CandidateSet
from recsvc.storage.candidates import CandidateQuestion, Subject
from recsvc.storage.snapshots import Counters, ServingSnapshot, SubjectState

_Name = TypeVar("_Name", bound=int | str)
_LEARNED = frozenset({"collaborative", "neighbors", "sequence"})
_SOURCES = _LEARNED | {"popular", "trending", "new"}
# A signal that has faded to nothing still says something: what adds up to 0 is nothing.
_LEAST_SIGNAL = 1e-20
_NO_KEYS = np.empty(0, dtype=np.int64)
_NOBODY = SubjectState(None, 0, 0, None, 0, _NO_KEYS, np.empty(0), np.empty(0), _NO_KEYS, None)


def is_answerable(question: CandidateQuestion) -> bool:
    """Whether a snapshot holds all that the question is about."""
    return (
        question.user_id is not None
        and not question.session_item_ids
        and not question.boosts
        and question.filter is None
        and question.category_field is None
        # What counters alone decide should be as fresh as they are.
        and (question.score_neighbors or any(question.limits.get(source) for source in _LEARNED))
        and all(limit == 0 or source in _SOURCES for source, limit in question.limits.items())
    )


def is_recallable(question: CandidateQuestion) -> bool:
    """Whether a snapshot and a remembered state hold enough for a list that says that it is partial; filters are up to
    `among`."""
    return (
        not question.boosts
        and question.category_field is None
        and any(question.limits.get(source) for source in _LEARNED)
        and all(limit == 0 or source in _SOURCES for source, limit in question.limits.items())
    )


def with_session(
    snapshot: ServingSnapshot, state: SubjectState | None, item_ids: Sequence[ItemId]
) -> SubjectState | None:
    """The state after items that came after all that is stored, oldest first; None when nothing is known at all.

    The vector stays as it is: a snapshot has no fold-in scales.
    """
    keys = [
        snapshot.item_keys[snapshot.position_of_id[each]]
        for each in reversed(item_ids)
        if each in snapshot.position_of_id
    ]
    if not keys:
        return state
    before = state or _NOBODY
    return replace(
        before,
        history_size=before.history_size + len(keys),
        item_keys=np.concatenate([np.array(keys, dtype=np.int64), before.item_keys]),
        weights=np.concatenate([np.ones(len(keys)), before.weights]),
        ages=np.concatenate([np.arange(1.0, len(keys) + 1), before.ages + len(keys)]),
        seen_keys=np.concatenate([before.seen_keys, np.array(keys, dtype=np.int64)]),
    )


def among(
    snapshot: ServingSnapshot, state: SubjectState, question: CandidateQuestion, item_ids: Iterable[ItemId]
) -> CandidateQuestion:
    """The question about these items, which may be shown, as far as the subject has not seen them."""
    left_out = set(question.excluded)
    if not question.include_seen:
        places = snapshot.keys.positions(state.seen_keys)
        left_out.update(snapshot.item_ids[at] for at in places[places >= 0].tolist())
    given = tuple(item_id for item_id in item_ids if item_id not in left_out)
    return replace(question, limits={}, given=given, score_neighbors=True)


def find_candidates(
    snapshot: ServingSnapshot,
    counters: Counters,
    model: ServingModel,
    states: Sequence[SubjectState],
    question: CandidateQuestion,
    now: datetime,
) -> CandidateSet:
    """Candidates of all asked sources, a row for each state. The question must be answerable; whose it is is ignored.

    Works on (states, items of the snapshot): who asks bounds how many states there are at a time.
    """
    shown = _Shown.of(snapshot, states, question, now)
    scores = _scored(snapshot, model, states, question)
    chosen = _chosen(snapshot, counters, question, shown, scores)

    # Many times as fast as to ask for rows and columns.
    cells, counts = np.flatnonzero(chosen), chosen.sum(axis=1)
    row_starts = np.arange(len(states)) * len(snapshot)
    columns = cells - np.repeat(row_starts, counts)
    is_there = np.arange(counts.max(initial=0)) < counts[:, None]
    places = np.flatnonzero(is_there)
    positions = np.zeros(is_there.shape, dtype=np.int64)
    positions.ravel()[places] = columns
    silent = np.full(is_there.shape, np.nan)
    # Places that are filled up hold the first item; to look at it and forget it costs less than to leave it out.
    of_scores = positions + row_starts[:, None]

    def counted(of_items: Float64) -> Float64:
        return np.where(is_there, of_items.take(positions), np.nan)

    def told(of_source: Float32 | None) -> Float64:
        if of_source is None:
            return silent
        found = of_source.take(of_scores).astype(np.float64)
        return np.where((found > LEAST) & is_there, found, np.nan)

    return CandidateSet(
        snapshot=snapshot,
        subjects=[_subject(state) for state in states],
        positions=positions,
        is_there=is_there,
        components={
            "collaborative": told(scores.collaborative),
            "neighbors": told(scores.neighbors),
            "sequence": told(scores.sequence),
            "content": silent,
            "popular": counted(counters.popularity),
            "trending": counted(counters.trends[question.trend]),
            "new": counted(snapshot.newness),
            "recent": silent,
            "repeat": silent,
        },
        event_counts=counters.event_counts[positions],
        is_new=snapshot.is_derived[positions] & is_there,
    )


class _Shown(NamedTuple):
    """What may be shown: to anybody at present (is_open: (n,)), and as the question has it (is_wanted: (n,)); but not
    what each has seen, as rows of users and positions of items.
    """

    is_open: Mask
    is_wanted: Mask
    rows: Codes
    items: Codes

    @classmethod
    def of(
        cls, snapshot: ServingSnapshot, states: Sequence[SubjectState], question: CandidateQuestion, now: datetime
    ) -> _Shown:
        seconds = now.timestamp()
        is_open = snapshot.is_open & (snapshot.publish_s <= seconds) & (snapshot.expire_s > seconds)
        is_wanted = np.ones(len(snapshot), dtype=np.bool_)
        is_wanted[_places(snapshot.position_of_id, question.excluded)] = False
        seen = [_NO_KEYS if question.include_seen else state.seen_keys for state in states]
        rows, items, _ = _joined(snapshot, seen)
        return cls(is_open, is_wanted, rows, items)

    def unseen(self, is_shown: Mask, users: int) -> Mask:
        """(users, n): what of the items (n,) that are shown each has not seen."""
        is_unseen = np.tile(is_shown, (users, 1))
        is_unseen[self.rows, self.items] = False
        return is_unseen


class _Scores(NamedTuple):
    """(users, n) of each source; no more than `LEAST` where it says nothing, None where it is not asked."""

    collaborative: Float32
    neighbors: Float32 | None
    sequence: Float32 | None


def _scored(
    snapshot: ServingSnapshot, model: ServingModel, states: Sequence[SubjectState], question: CandidateQuestion
) -> _Scores:
    history, users = _history(snapshot, model, states), len(states)
    neighbors = sequence = None
    if question.limits.get("neighbors") or question.score_neighbors:
        signals = history.strengths * question.recency.get("neighbors", 1.0) ** (history.ages - 1)
        neighbors = _said_by(snapshot.neighbors, users, history.rows, history.items, signals)
    if question.limits.get("sequence") or question.score_neighbors:
        recent = history.ages <= question.sequence_items
        signals = history.strengths[recent] * question.recency.get("sequence", 1.0) ** (history.ages[recent] - 1)
        sequence = _said_by(snapshot.transitions, users, history.rows[recent], history.items[recent], signals)
    return _Scores(_inner_products(snapshot, states), neighbors, sequence)


def _chosen(
    snapshot: ServingSnapshot, counters: Counters, question: CandidateQuestion, shown: _Shown, scores: _Scores
) -> Mask:
    """(users, n): which items are among the best of any source, or given."""
    limits, (users, n) = question.limits, scores.collaborative.shape
    is_shown = shown.is_wanted & shown.is_open
    is_candidate = shown.unseen(is_shown, users)
    chosen = np.zeros((users, n), dtype=np.bool_)
    chosen[:, _places(snapshot.position_of_id, question.given)] = True
    for counted, limit in (
        (counters.popularity, limits.get("popular", 0)),
        (counters.trends[question.trend], limits.get("trending", 0)),
        (snapshot.newness, limits.get("new", 0)),
    ):
        choose_best_of_all(chosen, counted, is_shown, is_candidate, limit)
    of_others = barring(~is_candidate)
    chosen |= best_of_rows(scores.collaborative + of_others, limits.get("collaborative", 0))
    for said, limit in ((scores.neighbors, limits.get("neighbors", 0)), (scores.sequence, limits.get("sequence", 0))):
        if said is None or not limit:
            continue
        # Of those that may be shown among the 2k best, which is as far as the statement looks. Where no more than k are
        # not open, all of the k best are among those.
        if np.count_nonzero(~shown.is_open) > limit:
            is_unseen = shown.unseen(shown.is_wanted, users)
            said = said + barring(~best_of_rows(said + barring(~is_unseen), 2 * limit))
        chosen |= best_of_rows(said + of_others, limit)
    return chosen


def _subject(state: SubjectState) -> Subject:
    return Subject(state.user_key, state.version, state.folded_version, state.model_key, state.history_size)


def _places(position_of: Mapping[_Name, int], names: Sequence[_Name]) -> Codes:
    return np.array([position_of[name] for name in names if name in position_of], dtype=np.int64)


def _joined(snapshot: ServingSnapshot, keys: Sequence[Codes]) -> tuple[Codes, Codes, Mask]:
    """Keys of each user as one list: rows of users and positions of items that are still there, and which those are."""
    positions = snapshot.keys.positions(np.concatenate(keys))
    known = positions >= 0
    rows = np.repeat(np.arange(len(keys)), [len(some) for some in keys])
    return rows[known], positions[known], known


class _History(NamedTuple):
    """Of all users one after the other: whose, which item that is still there, how strongly it speaks, its age."""

    rows: Codes
    items: Codes
    strengths: Float64
    ages: Float64


def _history(snapshot: ServingSnapshot, model: ServingModel, states: Sequence[SubjectState]) -> _History:
    rows, items, known = _joined(snapshot, [state.item_keys for state in states])
    weights = np.concatenate([state.weights for state in states])[known]
    liked = weights > 0
    strengths = np.where(liked, np.power(np.where(liked, weights, 1.0), model.signal_power), model.disliked_strength)
    return _History(rows, items, strengths, np.concatenate([state.ages for state in states])[known])


def _said_by(lists: BlockedRows, users: int, rows: Codes, items: Codes, signals: Float64) -> Float32:
    """(users, n): the sum of what each user's items say for each other times their signals; no more than `LEAST` where
    none says any.

    rows: ascending.
    """
    bounds = np.searchsorted(rows, np.arange(users + 1))
    total = lists.sums(bounds, items, np.maximum(signals, _LEAST_SIGNAL).astype(np.float32))
    total += barring(total == 0)
    return total


def _inner_products(snapshot: ServingSnapshot, states: Sequence[SubjectState]) -> Float32:
    """(states, n): of the users' vectors with those of the items; no more than `LEAST` where either has none."""
    products = np.zeros((len(states), len(snapshot)), dtype=np.float32)
    known = [(row, state.vector) for row, state in enumerate(states) if state.vector is not None]
    for (row, _), direction in zip(known, _directions([vector for _, vector in known]), strict=True):
        # One product for all would round differently with the number of users, and items that score nearly the
        # same would change places.
        np.matmul(snapshot.vectors, direction, out=products[row])
    has_vector = np.zeros((len(states), 1), dtype=np.bool_)
    has_vector[[row for row, _ in known]] = True
    products += barring(~(has_vector & snapshot.has_vector))
    return products


def _directions(vectors: Sequence[Float32]) -> Float32:
    """The users' vectors at length 1, which changes no order, in half precision, as the statement compares them."""
    if not vectors:
        return np.empty((0, 0), dtype=np.float32)
    together = np.array(vectors, dtype=np.float32)
    lengths = np.sqrt((together * together).sum(axis=1, keepdims=True))
    return (together / np.where(lengths > 0, lengths, 1)).astype(np.float16).astype(np.float32)

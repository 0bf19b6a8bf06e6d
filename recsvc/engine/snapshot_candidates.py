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
from scipy import sparse

from recsvc.domain.arrays import Codes, Float32, Float64, Mask, Scores
from recsvc.domain.ids import ItemId
from recsvc.domain.tenancy import ServingModel
from recsvc.engine.candidate_set import CandidateSet
from recsvc.storage.candidates import CandidateQuestion, Subject
from recsvc.storage.snapshots import Counters, ServingSnapshot, SubjectState

_Name = TypeVar("_Name", bound=int | str)
_LEARNED = frozenset({"collaborative", "neighbors", "sequence"})
_SOURCES = _LEARNED | {"popular", "trending", "new"}
# A signal that has faded to nothing still says something: scipy leaves out what adds up to 0.
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
    limits = question.limits
    seconds = now.timestamp()
    is_eligible = snapshot.is_open & (snapshot.publish_s <= seconds) & (snapshot.expire_s > seconds)
    is_unseen = np.ones((len(states), len(snapshot)), dtype=np.bool_)
    is_unseen[:, _places(snapshot.position_of_id, question.excluded)] = False
    if not question.include_seen:
        is_unseen[_joined(snapshot, [state.seen_keys for state in states])[:2]] = False
    is_candidate = is_unseen & is_eligible

    neighbors = transitions = None
    history = _history(snapshot, model, states)
    if limits.get("neighbors") or question.score_neighbors:
        signals = history.strengths * question.recency.get("neighbors", 1.0) ** (history.ages - 1)
        neighbors = _said_by(snapshot.neighbors, len(states), history.rows, history.items, signals)
    if limits.get("sequence") or question.score_neighbors:
        recent = history.ages <= question.sequence_items
        signals = history.strengths[recent] * question.recency.get("sequence", 1.0) ** (history.ages[recent] - 1)
        transitions = _said_by(snapshot.transitions, len(states), history.rows[recent], history.items[recent], signals)
    collaborative = _inner_products(snapshot, states)

    chosen = np.zeros_like(is_candidate)
    chosen[:, _places(snapshot.position_of_id, question.given)] = True
    for scores, limit in (
        (collaborative, limits.get("collaborative", 0)),
        (counters.popularity, limits.get("popular", 0)),
        (counters.trends[question.trend], limits.get("trending", 0)),
        (snapshot.newness, limits.get("new", 0)),
    ):
        chosen |= _best(scores, is_candidate, limit)
    for said, limit in ((neighbors, limits.get("neighbors", 0)), (transitions, limits.get("sequence", 0))):
        # Of those that may be shown among the 2k best, which is as far as the statement looks.
        chosen |= _best(said, _best(said, is_unseen, 2 * limit) & is_eligible, limit)

    counts = chosen.sum(axis=1)
    is_there = np.arange(counts.max(initial=0)) < counts[:, None]
    positions = np.zeros(is_there.shape, dtype=np.int64)
    positions[is_there] = np.nonzero(chosen)[1]
    silent = np.full(is_there.shape, np.nan)

    def picked(scores: Float32 | Float64 | None) -> Float64:
        if scores is None:
            return silent
        found = scores[positions] if scores.ndim == 1 else np.take_along_axis(scores, positions, axis=1)
        return np.where(is_there, found, silent)

    return CandidateSet(
        snapshot=snapshot,
        subjects=[_subject(state) for state in states],
        positions=positions,
        is_there=is_there,
        components={
            "collaborative": picked(collaborative),
            "neighbors": picked(neighbors),
            "sequence": picked(transitions),
            "content": silent,
            "popular": picked(counters.popularity),
            "trending": picked(counters.trends[question.trend]),
            "new": picked(snapshot.newness),
            "recent": silent,
            "repeat": silent,
        },
        event_counts=counters.event_counts[positions],
        is_new=snapshot.is_derived[positions] & is_there,
    )


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


def _said_by(matrix: sparse.csr_matrix[np.float32], users: int, rows: Codes, items: Codes, signals: Float64) -> Float32:
    """(users, n): the sum of what each user's items say for each other times their signals; NaN where none says any.

    rows: ascending.
    """
    starts = np.searchsorted(rows, np.arange(users + 1))
    spoken = np.maximum(signals, _LEAST_SIGNAL).astype(np.float32)
    of_users = sparse.csr_matrix((spoken, items, starts), shape=(users, matrix.shape[0]))
    said = of_users @ matrix
    total = np.full((users, matrix.shape[1]), np.nan, dtype=np.float32)
    total[np.repeat(np.arange(users), np.diff(said.indptr)), said.indices] = said.data
    return total


def _inner_products(snapshot: ServingSnapshot, states: Sequence[SubjectState]) -> Float32:
    """(states, n): of the users' vectors with those of the items; NaN where either has none."""
    products = np.full((len(states), len(snapshot)), np.nan, dtype=np.float32)
    for row, state in enumerate(states):
        if state.vector is not None:
            # The length of a user's vector changes no order; half precision as the statement compares.
            length = np.linalg.norm(state.vector)
            direction = (state.vector / length if length else state.vector).astype(np.float16).astype(np.float32)
            # One product for all would round differently with the number of users, and items that score nearly the
            # same would change places.
            np.matmul(snapshot.vectors, direction, out=products[row])
    products[:, ~snapshot.has_vector] = np.nan
    return products


def _best(scores: Float32 | Float64 | None, is_allowed: Mask, k: int) -> Mask:
    """(users, n): which of the scores, (n,) or (users, n), are the k largest of their row that are allowed and known.

    Of equal ones at the end of it the first are taken.
    """
    if scores is None or not k:
        return np.zeros_like(is_allowed)
    allowed: Mask = is_allowed & (scores == scores)
    n = allowed.shape[1]
    if k >= n:
        return allowed
    masked = np.where(allowed, scores, _nobody(n, scores.dtype))
    least = np.partition(masked, n - k, axis=1)[:, n - k, None]
    best = allowed & (masked >= least)
    crowded = np.flatnonzero(best.sum(axis=1) > k)
    if len(crowded):
        above = masked[crowded] > least[crowded]
        equal = best[crowded] & ~above
        room = k - above.sum(axis=1, keepdims=True)
        best[crowded] = above | (equal & (np.cumsum(equal, axis=1) <= room))
    return best


def _nobody(n: int, kind: np.dtype[np.floating]) -> Scores:
    """(n,): less than any score, and all different, since equal numbers make a partition five times as slow."""
    return np.asarray(-1e30 * (1.0 + np.arange(n) / n), dtype=kind)

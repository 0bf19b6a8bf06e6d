"""The candidates of a question out of a snapshot: what the candidate statement finds, with arrays instead of joins.

Same sources, same limits, same scores up to rounding; where the statement may search approximately this is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import numpy as np
from scipy import sparse

from recsvc.domain.arrays import Codes, Float64, Mask
from recsvc.domain.tenancy import ServingModel
from recsvc.storage.candidates import CandidateQuestion, Candidates, Subject
from recsvc.storage.snapshots import Counters, ServingSnapshot, SubjectState

_Name = TypeVar("_Name", bound=int | str)
_Value = TypeVar("_Value")
_LEARNED = frozenset({"collaborative", "neighbors", "sequence"})
_SOURCES = _LEARNED | {"popular", "trending", "new"}


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


def find_candidates(
    snapshot: ServingSnapshot,
    counters: Counters,
    model: ServingModel,
    state: SubjectState,
    question: CandidateQuestion,
    now: datetime,
) -> Candidates:
    """Candidates of all asked sources, in the order of their item ids. The question must be answerable."""
    limits = question.limits
    seconds = now.timestamp()
    is_eligible = snapshot.is_open & (snapshot.publish_s <= seconds) & (snapshot.expire_s > seconds)
    is_unseen = np.ones(len(snapshot), dtype=np.bool_)
    is_unseen[_places(snapshot.position_of_id, question.excluded)] = False
    if not question.include_seen:
        is_unseen[_places(snapshot.position_of, state.seen_keys)] = False
    is_candidate = is_eligible & is_unseen

    neighbors = transitions = collaborative = None
    items, strengths, ages = _history(snapshot, model, state)
    if limits.get("neighbors") or question.score_neighbors:
        signals = strengths * question.recency.get("neighbors", 1.0) ** (ages - 1)
        neighbors = _said_by(snapshot.neighbors, items, signals)
    if limits.get("sequence") or question.score_neighbors:
        recent = ages <= question.sequence_items
        signals = strengths[recent] * question.recency.get("sequence", 1.0) ** (ages[recent] - 1)
        transitions = _said_by(snapshot.transitions, items[recent], signals)
    if state.vector is not None:
        # The length of the user's vector changes no order; half precision as the statement compares.
        length = np.linalg.norm(state.vector)
        direction = (state.vector / length if length else state.vector).astype(np.float16).astype(np.float32)
        collaborative = np.where(snapshot.has_vector, snapshot.vectors @ direction, np.nan).astype(np.float64)

    chosen = np.unique(
        np.concatenate(
            [
                _best(collaborative, is_candidate, limits.get("collaborative", 0)),
                _best_known(neighbors, is_unseen, is_eligible, limits.get("neighbors", 0)),
                _best_known(transitions, is_unseen, is_eligible, limits.get("sequence", 0)),
                _best(counters.popularity, is_candidate, limits.get("popular", 0)),
                _best(counters.trends[question.trend], is_candidate, limits.get("trending", 0)),
                _best(snapshot.newness, is_candidate, limits.get("new", 0)),
                _places(snapshot.position_of_id, question.given),
            ]
        )
    )
    silent = np.full(len(chosen), np.nan)
    return Candidates(
        subject=Subject(state.user_key, state.version, state.folded_version, state.model_key, state.history_size),
        item_keys=_picked(snapshot.item_keys, chosen),
        item_ids=_picked(snapshot.item_ids, chosen),
        components={
            "collaborative": silent if collaborative is None else collaborative[chosen],
            "neighbors": silent if neighbors is None else neighbors[chosen],
            "sequence": silent if transitions is None else transitions[chosen],
            "content": silent,
            "popular": counters.popularity[chosen],
            "trending": counters.trends[question.trend][chosen],
            "new": snapshot.newness[chosen],
            "recent": silent,
            "repeat": silent,
        },
        boosts=np.ones(len(chosen)),
        event_counts=counters.event_counts[chosen],
        is_new=snapshot.is_derived[chosen],
        expire_times=_picked(snapshot.expire_times, chosen),
        categories=[()] * len(chosen),
        vectors=snapshot.vectors[chosen] if question.want_vectors else None,
    )


def _picked(values: Sequence[_Value], positions: Codes) -> list[_Value]:
    return [values[at] for at in positions.tolist()]


def _places(position_of: Mapping[_Name, int], names: Sequence[_Name]) -> Codes:
    return np.array([position_of[name] for name in names if name in position_of], dtype=np.int64)


def _history(snapshot: ServingSnapshot, model: ServingModel, state: SubjectState) -> tuple[Codes, Float64, Float64]:
    """Items that are still there, how strongly each speaks, and its age."""
    places = [snapshot.position_of.get(key, -1) for key in state.item_keys]
    items = np.array(places, dtype=np.int64)
    known = items >= 0
    weights = state.weights[known]
    liked = weights > 0
    strengths = np.where(liked, np.power(np.where(liked, weights, 1.0), model.signal_power), model.disliked_strength)
    return items[known], strengths, state.ages[known]


def _said_by(matrix: sparse.csr_matrix[np.float32], items: Codes, signals: Float64) -> Float64:
    """(n,): the sum of what items say for each other item times their signals; NaN for whom none says anything."""
    n = matrix.shape[1]
    if not len(items):
        return np.full(n, np.nan)
    starts, ends = matrix.indptr[items], matrix.indptr[items + 1]
    rows = [slice(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    columns = np.concatenate([matrix.indices[row] for row in rows])
    said = np.concatenate([matrix.data[row] for row in rows]) * np.repeat(signals, ends - starts)
    total = np.bincount(columns, weights=said, minlength=n).astype(np.float32).astype(np.float64)
    return np.where(np.bincount(columns, minlength=n) > 0, total, np.nan)


def _best_known(scores: Float64 | None, is_unseen: Mask, is_eligible: Mask, k: int) -> Codes:
    """The same of those that may be shown among the 2k best, which is as far as the statement looks."""
    looked_at = _best(scores, is_unseen, 2 * k)
    return _best(scores, _mask(looked_at, len(is_eligible)) & is_eligible, k)


def _mask(positions: Codes, n: int) -> Mask:
    mask = np.zeros(n, dtype=np.bool_)
    mask[positions] = True
    return mask


def _best(scores: Float64 | None, is_allowed: Mask, k: int) -> Codes:
    """Positions of the k largest scores that are allowed and known, in no order."""
    if scores is None or not k:
        return np.empty(0, dtype=np.int64)
    allowed = np.flatnonzero(is_allowed & (scores == scores))
    if len(allowed) <= k:
        return allowed
    return allowed[np.argpartition(scores[allowed], len(allowed) - k)[len(allowed) - k :]]

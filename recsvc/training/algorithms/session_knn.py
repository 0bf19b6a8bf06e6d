"""Session-based nearest neighbours: what people did whose session was like the present one.

V-SkNN (Ludewig & Jannach 2018) with the decay over sessions of STAN (Garg et al. 2019). For a session whose items lie
1, 2, … L steps back (1 = the last one):

    sim(n) = Σ (L − step + 1) / L over the items that session n shares with it,
    score(i) = Σ_n sim(n) · (1 / step of the last shared item) · 2^(−age of n / half-life) · [i in n]

over the `k` most similar of the `sample_size` most recent sessions that share any item. The memory is the data itself,
so this is a baseline to compare with, not a model to store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsvc.domain.arrays import Codes, Float32, Float64, Interactions
from recsvc.training.algorithms.sequences import Sequences

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class SessionKnnConfig:
    """Hyper-parameters of the session neighbours."""

    k: int = 100
    """Neighbours that speak for items."""

    sample_size: int = 1000
    """Most recent sessions that neighbours are chosen from."""

    last_steps: int = 50
    """So many steps back an item of the present session counts."""

    half_life_days: float | None = None
    """A neighbour that ended this much before the newest session counts half. None = age does not matter."""


@dataclass(frozen=True, slots=True)
class SessionKnn:
    """A memory of sessions.

    contents: (n_sessions, n_items), the steps back of each item, rows by the time of their last event, oldest first;
    by_item: the same by columns; worth: (n_sessions,); row_of: the row of each user's (or session's) number, −1 for
    those without events.
    """

    config: SessionKnnConfig
    contents: Interactions
    by_item: sparse.csc_matrix[np.float32]
    worth: Float64
    row_of: NDArray[np.int64]

    @classmethod
    def of(cls, sequences: Sequences, session_count: int, config: SessionKnnConfig | None = None) -> Self:
        """Remember sequences; their `users` are the sessions, numbered below `session_count`."""
        config = config or SessionKnnConfig()
        ended = np.full(session_count, -np.inf)
        last_step = np.zeros(session_count, dtype=np.int64)
        np.maximum.at(ended, sequences.users, sequences.times)
        np.maximum.at(last_step, sequences.users, sequences.steps)
        known = np.flatnonzero(np.isfinite(ended))
        known = known[np.argsort(ended[known], kind="stable")]
        row_of = np.full(session_count, -1, dtype=np.int64)
        row_of[known] = np.arange(len(known))
        rows, steps_back = row_of[sequences.users], last_step[sequences.users] - sequences.steps + 1
        # Of an item that occurs more than once, the last time counts.
        order = np.lexsort((steps_back, sequences.items, rows))
        rows, items, steps_back = rows[order], sequences.items[order], steps_back[order]
        is_last = np.append(True, (rows[1:] != rows[:-1]) | (items[1:] != items[:-1]))[: len(rows)]
        contents: Interactions = sparse.csr_matrix(
            (steps_back[is_last].astype(np.float32), (rows[is_last], items[is_last])),
            shape=(len(known), sequences.item_count),
        )
        worth = np.ones(len(known))
        if config.half_life_days is not None and len(known):
            worth = np.exp2((ended[known] - ended[known[-1]]) / (config.half_life_days * _DAY_S))
        return cls(config, contents, contents.tocsc(), worth, row_of)

    def scores(self, sessions: Codes) -> Float32:
        """(len(sessions), n_items): what comes next in sessions of the memory; none is its own neighbour."""
        scores = np.zeros((len(sessions), self.contents.shape[1]), dtype=np.float32)
        for place, row in enumerate(self.row_of[sessions].tolist()):
            if row >= 0:
                scores[place] = self._scores_of(row)
        return scores

    def _scores_of(self, row: int) -> Float64:
        items, steps_back = _row(self.contents, row)
        recent = steps_back <= self.config.last_steps
        items, steps_back = items[recent], steps_back[recent]
        length = steps_back.max()
        neighbors, similarities = self._neighbors(items, (length - steps_back + 1) / length, row)
        # 1 / step back for the items of this session: the largest one that a neighbour shares is the decay of it.
        decays = np.zeros(self.contents.shape[1])
        decays[items] = 1.0 / steps_back
        theirs = self.contents[neighbors]
        sizes = np.diff(theirs.indptr)
        last_shared = np.maximum.reduceat(decays[theirs.indices], theirs.indptr[:-1]) if len(neighbors) else np.zeros(0)
        votes = similarities * last_shared * self.worth[neighbors]
        return np.bincount(theirs.indices, weights=np.repeat(votes, sizes), minlength=len(decays)).astype(np.float64)

    def _neighbors(self, items: Codes, weights: Float64, itself: int) -> tuple[NDArray[np.int64], Float64]:
        """The most similar of the most recent sessions, and how similar they are; equal ones: the more recent first."""
        sample_size = self.config.sample_size
        # Who is among the most recent of all is among the most recent of each item, itself aside.
        shared = [self._sessions_with(item)[-(sample_size + 1) :] for item in items.tolist()]
        sessions, session_of_entry = np.unique(np.concatenate(shared), return_inverse=True)
        entry_weights = np.repeat(weights, [len(some) for some in shared])
        similarities = np.bincount(session_of_entry, weights=entry_weights, minlength=len(sessions))
        others = np.flatnonzero(sessions != itself)[-sample_size:]
        order = others[np.lexsort((-sessions[others], -similarities[others]))[: self.config.k]]
        return sessions[order].astype(np.int64), similarities[order].astype(np.float64)

    def _sessions_with(self, item: int) -> NDArray[np.int32]:
        return self.by_item.indices[self.by_item.indptr[item] : self.by_item.indptr[item + 1]]


def _row(matrix: Interactions, row: int) -> tuple[NDArray[np.int32], Float64]:
    inside = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return matrix.indices[inside], matrix.data[inside].astype(np.float64)

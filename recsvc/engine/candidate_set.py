"""Candidates of several users for one question, as rows of the same arrays: what one user is asked is a set of one.

The arrays stand in the order of a snapshot's items, so that what needs no user (ids, times of expiry) is looked up only
for what comes into a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from recsvc.domain.arrays import Codes, Float64, Mask
from recsvc.storage.candidates import Candidates, Subject
from recsvc.storage.snapshots import ServingSnapshot

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """A row for each subject, m candidates wide; rows with fewer are filled up.

    positions: (subjects, m), into the snapshot, ascending; is_there: (subjects, m), False where a row is filled up.
    components, event_counts, is_new: (subjects, m), as `Candidates` has them; NaN, or False, where nothing is there.
    """

    snapshot: ServingSnapshot
    subjects: Sequence[Subject]
    positions: Codes
    is_there: Mask
    components: Mapping[str, Float64]
    event_counts: Float64
    is_new: Mask

    def of(self, row: int, *, want_vectors: bool) -> Candidates:
        """The candidates of one subject."""
        snapshot, is_there = self.snapshot, self.is_there[row]
        positions = self.positions[row, is_there]
        return Candidates(
            subject=self.subjects[row],
            item_keys=_picked(snapshot.item_keys, positions),
            item_ids=_picked(snapshot.item_ids, positions),
            components={name: component[row, is_there] for name, component in self.components.items()},
            boosts=np.ones(len(positions)),
            event_counts=self.event_counts[row, is_there],
            is_new=self.is_new[row, is_there],
            expire_times=_picked(snapshot.expire_times, positions),
            categories=[()] * len(positions),
            vectors=snapshot.vectors[positions] if want_vectors else None,
        )


def _picked(values: Sequence[_Value], positions: Codes) -> list[_Value]:
    return [values[at] for at in positions.tolist()]

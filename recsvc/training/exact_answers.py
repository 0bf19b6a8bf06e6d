"""The questions of a task answered by a published model exactly: no vector index, no half precision, every item ranked.

Told the same history and asked at the same moment as the service, so that what differs is what serving costs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recsvc.domain.arrays import Codes
from recsvc.domain.evaluation import EMPTY
from recsvc.training.exact import ExactModel
from recsvc.training.protocols import Task
from recsvc.training.selection import blended_lists
from recsvc.training.sources import Counters
from recsvc.training.validation import Cases


def exact_lists(exact: ExactModel, task: Task, columns: Codes, k: int, *, live: bool = False) -> Codes:
    """(questions, k) item codes of the task's table.

    columns: (items of the model,) the code of each in the table. What is trending is asked for at the end of the train
    part, where the counters of the service stand; live: at the moment of each question, with all that came before.
    """
    questions, table, sources = task.questions, task.table, exact.sources
    moments = np.full(len(questions), table.times[task.split.told].max(initial=0.0))
    order = np.arange(len(questions))
    if live:
        order = np.argsort(questions.moments, kind="stable")
        moments = questions.moments[order]
        sources = replace(sources, counters=_counters(task, columns))
    with_disliked = exact.dataset.disliked_strength > 0
    ages = questions.touched_ages if with_disliked else questions.ages
    signals = questions.touched_signals if with_disliked else questions.signals
    cases = Cases(
        ages[order][:, columns].tocsr(),
        questions.wanted[order][:, columns].tocsr(),
        np.asarray(moments),
        signals[order][:, columns].tocsr(),
        exact.dataset.signal_power,
        exact.dataset.disliked_strength,
    )
    found = blended_lists(sources, cases, exact.choice, k, questions.seen[order][:, columns].tocsr())
    lists = np.empty_like(found)
    lists[order] = np.where(found == EMPTY, EMPTY, columns[found])
    return lists


def _counters(task: Task, columns: Codes) -> Counters:
    """Counters that know every event at its time."""
    table = task.table
    position = np.full(len(table.item_ids), -1, dtype=np.int64)
    position[columns] = np.arange(len(columns))
    entries = np.flatnonzero(table.liked & (position[table.items] >= 0))
    entries = entries[np.argsort(table.times[entries], kind="stable")]
    return Counters(position[table.items[entries]], table.times[entries], table.signals[entries], len(columns))

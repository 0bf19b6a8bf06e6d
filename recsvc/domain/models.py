"""Models and training runs: what was learned from a tenant's events, when, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from recsvc.domain.ids import ModelKey


class ModelState(StrEnum):
    """READY models are stored whole and can be activated; one of them is ACTIVE."""

    BUILDING = "BUILDING"
    READY = "READY"
    ACTIVE = "ACTIVE"


class TrainingState(StrEnum):
    """The life of a training run."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Model:
    """A published model. `blend_weights` says how much each source counts in AUTO.

    recency: by source, how much an item of a history counts against the one touched after it; 1 where it is not named.
    signal_power: what a liked item's signal is raised to before that; 0 = all alike. disliked_strength: what an item
    with a negative signal counts instead; 0 = it is left out.
    """

    model_key: ModelKey
    model_id: str
    state: ModelState
    algorithm: str
    dimension: int
    shard: int
    blend_weights: Mapping[str, float]
    hyperparameters: Mapping[str, object]
    metrics: Mapping[str, float]
    item_count: int
    user_count: int
    event_count: int
    create_time: datetime
    activate_time: datetime | None = None
    recency: Mapping[str, float] = field(default_factory=dict)
    signal_power: float = 0.0
    disliked_strength: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One attempt to train; `progress` is 0–1 over all stages."""

    training_run_id: str
    state: TrainingState
    stage: str = ""
    progress: float = 0.0
    model_id: str = ""
    activated: bool = False
    error: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    create_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None

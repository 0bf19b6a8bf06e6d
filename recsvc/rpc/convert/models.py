"""Models and training runs as messages."""

from __future__ import annotations

from recsvc.domain.models import Model, TrainingRun
from recsvc.gen.v1 import admin_service_pb2 as pb
from recsvc.rpc.convert.values import struct, timestamp


def training_run_proto(source: TrainingRun) -> pb.TrainingRun:
    """The message for a run."""
    return pb.TrainingRun(
        training_run_id=source.training_run_id,
        state=pb.TrainingState.Value(f"TRAINING_STATE_{source.state}"),
        stage=source.stage,
        progress=source.progress,
        model_id=source.model_id,
        activated=source.activated,
        error=source.error,
        create_time=timestamp(source.create_time),
        start_time=timestamp(source.start_time),
        end_time=timestamp(source.end_time),
    )


def model_proto(source: Model) -> pb.Model:
    """The message for a model."""
    return pb.Model(
        model_id=source.model_id,
        state=pb.ModelState.Value(f"MODEL_STATE_{source.state}"),
        algorithm=source.algorithm,
        dimension=source.dimension,
        item_count=source.item_count,
        user_count=source.user_count,
        event_count=source.event_count,
        metrics=source.metrics,
        blend_weights=source.blend_weights,
        hyperparameters=struct(source.hyperparameters),
        create_time=timestamp(source.create_time),
        activate_time=timestamp(source.activate_time),
    )

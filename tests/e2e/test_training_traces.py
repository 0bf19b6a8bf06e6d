"""A run of training is part of the trace of the call that started it, though a process of its own does the work."""

from __future__ import annotations

import pytest

from recsvc.domain.tenancy import Tenant
from recsvc.settings import Settings
from tests.cinema import open_cinema, train
from tests.e2e.servers import another_server
from tests.otlp import collector


async def test_training_is_a_span_of_its_call_with_one_for_each_stage(
    settings: Settings, new_tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collector() as kept:
        # As an operator would set them: the process that trains inherits them.
        monkeypatch.setenv("RECSVC_TRACING__ENABLED", "true")
        monkeypatch.setenv("RECSVC_TRACING__ENDPOINT", f"http://127.0.0.1:{kept.port}")
        async with another_server(settings, new_tenant, tracing=kept.settings()) as (_, api):
            await open_cinema(api)
            await train(api)
            call, *inside = await kept.trace_of("StartTraining")
    (training,) = [span for span in inside if span.name == "training"]
    assert training.parent_id == call.span_id
    stages = [span for span in inside if span.name.startswith("training ")]
    assert {span.parent_id for span in stages} == {training.span_id}
    assert [span.name for span in sorted(stages, key=lambda span: span.start_ns)] == [
        f"training {stage}" for stage in ("read", "evaluate", "train", "content", "publish+index", "activate")
    ]
    assert all(training.start_ns <= span.start_ns <= span.end_ns <= training.end_ns for span in stages)
    assert any(span.name == "sql export_signals" for span in inside)

"""`recsvc train`: a training run in the foreground, with a bar per stage."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from recsvc.app import Storage, open_storage, open_tracing
from recsvc.cli.running import run_async
from recsvc.domain.errors import DomainError
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.models import TrainingState
from recsvc.settings import Settings
from recsvc.telemetry.spans import TRAINING, TRAINING_STAGE
from recsvc.training.pipeline import STAGES, Outcome, Pipeline, TrainingOptions
from recsvc.training.validation import ValidationKind

_HEARTBEAT_S = 1.0


def train(
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="The tenant to train for.")] = "demo",
    dimension: Annotated[int | None, typer.Option(min=2, max=4000, help="Length of item vectors at most.")] = None,
    neighbors: Annotated[int | None, typer.Option(min=1, max=1000, help="Neighbours kept per item.")] = None,
    force: Annotated[bool, typer.Option(help="Activate the model even if it is worse.")] = False,
    evaluate: Annotated[bool, typer.Option(help="Judge on a held-out tenth first; takes as long again.")] = True,
    validation: Annotated[
        ValidationKind, typer.Option(help="What is held out to choose and judge by; auto: what the times allow.")
    ] = ValidationKind.AUTO,
    tune: Annotated[
        bool, typer.Option("--tune", help="Search hyper-parameters first; later runs keep what was found.")
    ] = False,
    budget: Annotated[float, typer.Option(min=1, help="Seconds for the search; a trial that began is ended.")] = 600.0,
    seed: Annotated[int, typer.Option(help="Of what is held out and of the search.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write model, figures and times there.")] = None,
    run_id: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train a model on the tenant's events, publish it, and let it serve unless it is worse than the present one."""
    options = TrainingOptions(
        dimension, neighbors, force, evaluate, validation, tune_budget_s=budget if tune else None, seed=seed
    )
    console = Console(stderr=True)

    async def run() -> None:
        async with open_storage(Settings()) as storage, open_tracing(storage) as traces:
            tenant_key = (await storage.tenants.get(TenantId(tenant))).tenant_key
            id_of_run = run_id or (await storage.training_runs.start(tenant_key, {})).training_run_id
            with traces.root(TRAINING, os.environ) if traces is not None else nullcontext():
                outcome = await train_with_progress(storage, tenant_key, console, options, id_of_run)
                if traces is not None:
                    traces.tell_past(TRAINING_STAGE, outcome.seconds)
            if json_file is not None:
                await asyncio.to_thread(json_file.write_text, json.dumps(_document(outcome), indent=2) + "\n", "utf-8")

    run_async(run())


async def train_with_progress(
    storage: Storage,
    tenant_key: TenantKey,
    console: Console,
    options: TrainingOptions | None = None,
    run_id: str | None = None,
) -> Outcome:
    """Train under a run that others can follow, and show how far it is."""
    run_id = run_id or (await storage.training_runs.start(tenant_key, {})).training_run_id
    where: dict[str, float] = {}
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<8}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as bars:
        tasks = {stage: bars.add_task(stage, total=1.0, start=False, visible=False) for stage in STAGES}

        def progress(stage: str, share: float) -> None:
            if stage not in where:
                bars.start_task(tasks[stage])
                bars.update(tasks[stage], visible=True)
            where[stage] = share
            bars.update(tasks[stage], completed=share)

        heartbeat = asyncio.create_task(_report(storage, tenant_key, run_id, where))
        try:
            outcome = await Pipeline(storage.models, storage.content, storage.settings.training).run(
                tenant_key, options or TrainingOptions(), progress
            )
        except DomainError as error:
            await storage.training_runs.finish(tenant_key, run_id, TrainingState.FAILED, error=error.message)
            raise
        except BaseException:
            await asyncio.shield(
                storage.training_runs.finish(tenant_key, run_id, TrainingState.FAILED, error="the training was stopped")
            )
            raise
        finally:
            heartbeat.cancel()
    await storage.training_runs.finish(
        tenant_key,
        run_id,
        TrainingState.SUCCEEDED,
        model_id=outcome.model.model_id,
        activated=outcome.activated,
        error=outcome.reason,
    )
    console.print(_table(outcome))
    if outcome.reason:
        console.print(f"[yellow]not activated: {outcome.reason}")
    return outcome


async def _report(storage: Storage, tenant_key: TenantKey, run_id: str, where: dict[str, float]) -> None:
    while True:
        stage = next(reversed(where), STAGES[0])
        done = (STAGES.index(stage) + where.get(stage, 0.0)) / len(STAGES)
        # If it fails, the next heartbeat may get through.
        with suppress(DomainError):
            await storage.training_runs.update(tenant_key, run_id, stage, min(done, 0.99))
        await asyncio.sleep(_HEARTBEAT_S)


def _document(outcome: Outcome) -> dict[str, object]:
    model = outcome.model
    return {
        "model_id": model.model_id,
        "activated": outcome.activated,
        "reason": outcome.reason,
        "algorithm": model.algorithm,
        "items": model.item_count,
        "users": model.user_count,
        "interactions": model.event_count,
        "blend": dict(model.blend_weights),
        "metrics": dict(model.metrics),
        "seconds": dict(outcome.seconds),
        "peak_bytes": dict(outcome.peak_bytes),
    }


def _table(outcome: Outcome) -> Table:
    model = outcome.model
    table = Table("model", model.model_id, title="trained")
    table.add_row("items, users, interactions", f"{model.item_count:,}, {model.user_count:,}, {model.event_count:,}")
    table.add_row("dimension", str(model.dimension))
    table.add_row("blend", ", ".join(f"{name} {weight:.3g}" for name, weight in model.blend_weights.items()))
    recency = ", ".join(f"{name} {value:g}" for name, value in model.recency.items() if name in model.blend_weights)
    table.add_row("recency", recency)
    for gain in _dicts(model.hyperparameters.get("tuning")):
        table.add_row(f"tuned {gain['source']}", f"{gain['before']:.4f} → {gain['after']:.4f}")
    for compared in _dicts(model.hyperparameters.get("compared")):
        if str(compared["what"]).endswith(("alone", "blend")):
            table.add_row(f"chosen by: {compared['what']}", f"{compared['ndcg_at_20']:.4f}")
    for name, value in model.metrics.items():
        table.add_row(name, f"{value:.4f}")
    table.add_row("seconds", ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in outcome.seconds.items()))
    table.add_row("peak GiB", ", ".join(f"{stage} {peak / 2**30:.2f}" for stage, peak in outcome.peak_bytes.items()))
    return table


def _dicts(value: object) -> list[dict[str, Any]]:
    return value if isinstance(value, list) else []

"""The methods of AdminService that train and switch models."""

from __future__ import annotations

from collections.abc import AsyncIterator

from recsvc.domain.paging import PageTokens
from recsvc.gen.v1 import admin_service_pb2 as pb
from recsvc.gen.v1.admin_service_pb2_grpc import AdminServiceServicer
from recsvc.rpc import calls
from recsvc.rpc.calls import Context
from recsvc.rpc.convert import models as convert
from recsvc.rpc.listing import page_by_key
from recsvc.training.runner import TrainingRunner


class TrainingMethods(AdminServiceServicer):
    """Starts and follows runs; lists, activates and deletes models."""

    def __init__(self, runner: TrainingRunner, tokens: PageTokens) -> None:
        self._runner = runner
        self._tokens = tokens

    async def StartTraining(self, request: pb.StartTrainingRequest, context: Context) -> pb.StartTrainingResponse:
        principal = calls.principal()
        parameters: dict[str, object] = {
            "dimension": request.dimension if request.HasField("dimension") else None,
            "neighbors": request.neighbors if request.HasField("neighbors") else None,
            "force": request.force_activation,
        }
        if request.HasField("tuning_budget"):
            parameters |= {"tune": True, "budget": request.tuning_budget.ToTimedelta().total_seconds()}
        run = await self._runner.start(principal.tenant_key, principal.tenant_id, parameters, audit=calls.audit())
        return pb.StartTrainingResponse(training_run=convert.training_run_proto(run))

    async def GetTrainingRun(self, request: pb.GetTrainingRunRequest, context: Context) -> pb.GetTrainingRunResponse:
        run = await self._runner.get(calls.tenant(), request.training_run_id)
        return pb.GetTrainingRunResponse(training_run=convert.training_run_proto(run))

    async def WatchTrainingRun(
        self, request: pb.WatchTrainingRunRequest, context: Context
    ) -> AsyncIterator[pb.WatchTrainingRunResponse]:
        async for run in self._runner.watch(calls.tenant(), request.training_run_id):
            yield pb.WatchTrainingRunResponse(training_run=convert.training_run_proto(run))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        tenant_key = calls.tenant()
        page, next_page_token = await page_by_key(
            self._tokens,
            f"{tenant_key}/models",
            request,
            lambda after, limit: self._runner.models.list(tenant_key, after if isinstance(after, int) else None, limit),
            lambda model: model.model_key,
        )
        return pb.ListModelsResponse(
            models=[convert.model_proto(model) for model in page], next_page_token=next_page_token
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        found = await self._runner.models.get(calls.tenant(), request.model_id)
        return pb.GetModelResponse(model=convert.model_proto(found))

    async def ActivateModel(self, request: pb.ActivateModelRequest, context: Context) -> pb.ActivateModelResponse:
        active = await self._runner.models.activate(
            calls.tenant(), request.model_id, audit=calls.audit(request.model_id)
        )
        return pb.ActivateModelResponse(model=convert.model_proto(active))

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.DeleteModelResponse:
        await self._runner.models.delete(calls.tenant(), request.model_id, audit=calls.audit(request.model_id))
        return pb.DeleteModelResponse()

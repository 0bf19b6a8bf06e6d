"""ExperimentService: in the contract from the first release on; its behaviour comes with a later one."""

from __future__ import annotations

from recsvc.domain.errors import NotImplementedYet
from recsvc.gen.v1 import experiment_service_pb2 as pb
from recsvc.gen.v1.experiment_service_pb2_grpc import ExperimentServiceServicer
from recsvc.rpc.calls import Context


class ExperimentServicer(ExperimentServiceServicer):
    """Answers UNIMPLEMENTED, with the reason that programs can read."""

    async def CreateExperiment(
        self, request: pb.CreateExperimentRequest, context: Context
    ) -> pb.CreateExperimentResponse:
        raise NotImplementedYet("CreateExperiment")

    async def GetExperiment(self, request: pb.GetExperimentRequest, context: Context) -> pb.GetExperimentResponse:
        raise NotImplementedYet("GetExperiment")

    async def ListExperiments(self, request: pb.ListExperimentsRequest, context: Context) -> pb.ListExperimentsResponse:
        raise NotImplementedYet("ListExperiments")

    async def UpdateExperiment(
        self, request: pb.UpdateExperimentRequest, context: Context
    ) -> pb.UpdateExperimentResponse:
        raise NotImplementedYet("UpdateExperiment")

    async def StartExperiment(self, request: pb.StartExperimentRequest, context: Context) -> pb.StartExperimentResponse:
        raise NotImplementedYet("StartExperiment")

    async def StopExperiment(self, request: pb.StopExperimentRequest, context: Context) -> pb.StopExperimentResponse:
        raise NotImplementedYet("StopExperiment")

    async def GetAssignment(self, request: pb.GetAssignmentRequest, context: Context) -> pb.GetAssignmentResponse:
        raise NotImplementedYet("GetAssignment")

    async def GetExperimentReport(
        self, request: pb.GetExperimentReportRequest, context: Context
    ) -> pb.GetExperimentReportResponse:
        raise NotImplementedYet("GetExperimentReport")

"""The SageMaker API: compilation jobs and endpoints (JSON 1.1), and the endpoints' invocation (REST)."""

from __future__ import annotations

import functools
import re
from typing import Any

from twin.cloud.authorization import may_pass_role
from twin.cloud.aws.protocol import (
    JSON_1_1,
    Operation,
    RequestError,
    Response,
    ServiceError,
    json_1_1_error,
    json_response,
    read_operation,
    without_none,
)
from twin.cloud.aws.shapes import check_request
from twin.cloud.ministack.registry import register_background, register_service, register_store
from twin.cloud.sagemaker.compilation_jobs import SERVICE_PRINCIPAL, CompilationJobs
from twin.cloud.sagemaker.edge_manager import DeviceFleets, EdgePackagingJobs
from twin.cloud.sagemaker.endpoints import ARN_KINDS, Endpoints
from twin.cloud_process import Settings

_INVOCATION = re.compile(r"/endpoints/([^/]+)/invocations")


class SageMakerApi:
    """Requests of the request's account and region; an operation is a line in the table."""

    def __init__(
        self, jobs: CompilationJobs, packagings: EdgePackagingJobs, endpoints: Endpoints, fleets: DeviceFleets
    ) -> None:
        self._endpoints = endpoints
        self._operations: dict[str, Operation] = {
            "CreateCompilationJob": jobs.create,
            "DescribeCompilationJob": jobs.describe,
            "ListCompilationJobs": jobs.list,
            "StopCompilationJob": jobs.stop,
            "DeleteCompilationJob": jobs.delete,
            "CreateEdgePackagingJob": packagings.create,
            "DescribeEdgePackagingJob": packagings.describe,
            "StopEdgePackagingJob": packagings.stop,
            "CreateDeviceFleet": fleets.create,
            "DescribeDeviceFleet": fleets.describe,
            "DeleteDeviceFleet": fleets.delete,
            "ListDeviceFleets": fleets.list,
            "RegisterDevices": fleets.register,
            "DeregisterDevices": fleets.deregister,
            "ListDevices": fleets.list_devices,
        }
        for kind in ARN_KINDS:
            for verb in ("create", "describe", "delete"):
                operation = functools.partial(getattr(endpoints, verb), kind)
                self._operations[f"{verb.capitalize()}{kind}"] = operation
            self._operations[f"List{kind}s"] = functools.partial(endpoints.list, kind)

    async def handle(
        self, method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
    ) -> Response:
        """Answer a request; a mistake in it is a 400 with SageMaker's error code."""
        del method, query
        try:
            if invoked := _INVOCATION.fullmatch(path):
                content = await self._endpoints.invoke(invoked[1], body)
                return 200, {"Content-Type": "application/json", "x-Amzn-Invoked-Production-Variant": "only"}, content
            operation, request = read_operation(self._operations, headers, body)
            check_request("sagemaker", operation, request)
            request = without_none(request)  # a member that is null is one that is not given
            _check_role(request, headers, operation)
            return json_response(200, self._operations[operation](request), content_type=JSON_1_1)
        except ServiceError as exc:
            return json_1_1_error(exc)


def _check_role(request: dict[str, Any], headers: dict[str, str], operation: str) -> None:
    role = request.get("RoleArn") or request.get("ExecutionRoleArn")
    if role and not may_pass_role(headers, role, SERVICE_PRINCIPAL):
        raise RequestError(
            "AccessDeniedException",
            f"User is not authorized to perform: iam:PassRole on resource: {role} because no identity-based policy "
            f"allows the iam:PassRole action ({operation})",
        )


def install(settings: Settings) -> None:
    """Serve `sagemaker` on the gateway; jobs survive a restart of the cloud."""
    jobs = CompilationJobs(settings)
    fleets = DeviceFleets()
    fleets.install_type()
    packagings, endpoints = EdgePackagingJobs(settings, jobs), Endpoints(settings)
    api = SageMakerApi(jobs, packagings, endpoints, fleets)
    register_service("sagemaker", api.handle)
    register_store("compilation_jobs", jobs.records)
    register_background("compilation jobs", start=jobs.start, stop=jobs.close)
    register_background("edge packaging jobs", start=packagings.start)
    register_background("endpoints", start=endpoints.start)

"""The SageMaker API: compilation jobs and endpoints (JSON 1.1), and the endpoints' invocation (REST)."""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable
from typing import Any

from ministack.core.responses import get_account_id, get_region

from twin.cloud.implied_permissions import may_pass_role
from twin.cloud.registry import Settings, register_background, register_service, register_store, role_session
from twin.cloud.sagemaker.device_fleets import DeviceFleets
from twin.cloud.sagemaker.edge_packaging import EdgePackagingJobs
from twin.cloud.sagemaker.endpoints import ARN_KINDS, Endpoints
from twin.cloud.sagemaker.errors import ServiceError
from twin.cloud.sagemaker.jobs import FINAL_STATUSES, CompilationJobs
from twin.cloud.sagemaker.request_shape import mistakes

SERVICE_PRINCIPAL = "sagemaker.amazonaws.com"

_HEADERS = {"Content-Type": "application/x-amz-json-1.1"}
_PAGE_SIZE = 10
_INVOCATION = re.compile(r"/endpoints/([^/]+)/invocations")


class CompilationApi:
    """Requests for compilation jobs and endpoints of the request's account and region."""

    def __init__(
        self, jobs: CompilationJobs, packagings: EdgePackagingJobs, endpoints: Endpoints, fleets: DeviceFleets
    ) -> None:
        self._jobs = jobs
        self._endpoints = endpoints
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "CreateCompilationJob": self.create,
            "DescribeCompilationJob": self.describe,
            "ListCompilationJobs": self.list,
            "StopCompilationJob": self.stop,
            "DeleteCompilationJob": self.delete,
            "CreateDeviceFleet": fleets.create,
            "DescribeDeviceFleet": fleets.describe,
            "DeleteDeviceFleet": fleets.delete,
            "ListDeviceFleets": fleets.list,
            "RegisterDevices": fleets.register,
            "DeregisterDevices": fleets.deregister,
            "ListDevices": fleets.list_devices,
        }
        for verb in ("create", "describe", "stop"):
            self._operations[f"{verb.capitalize()}EdgePackagingJob"] = getattr(packagings, verb)
        for kind in ARN_KINDS:
            for verb in ("create", "describe", "delete"):
                operation = functools.partial(getattr(endpoints, verb), kind)
                self._operations[f"{verb.capitalize()}{kind}"] = operation
            self._operations[f"List{kind}s"] = functools.partial(self._list_names, kind)

    async def handle(
        self, method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
    ) -> tuple[int, dict[str, str], bytes]:
        """Answer a request; a mistake in it is a 400 with SageMaker's error code."""
        del method, query
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        try:
            if invoked := _INVOCATION.fullmatch(path):
                content = await self._endpoints.invoke(invoked[1], body)
                return 200, {"Content-Type": "application/json", "x-Amzn-Invoked-Production-Variant": "only"}, content
            handler = self._operations.get(operation)
            if handler is None:
                served = ", ".join(self._operations)
                raise ServiceError("UnknownOperationException", f"the twin serves {served}, got {operation!r}")
            try:
                request = json.loads(body or b"{}")
            except ValueError as exc:
                raise ServiceError("SerializationException", f"body must be JSON: {exc}") from exc
            _check_shape(operation, request)
            _check_role(request, headers, operation)
            return 200, dict(_HEADERS), json.dumps(handler(request)).encode()
        except ServiceError as exc:
            answer = {"__type": exc.code, "message": str(exc)}
            return 400, {**_HEADERS, "x-amzn-errortype": exc.code}, json.dumps(answer).encode()

    def _list_names(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        del request
        return {f"{kind}s": [{f"{kind}Name": name} for name in self._endpoints.names(kind)]}

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """CreateCompilationJob."""
        name = request["CompilationJobName"]
        arn = f"arn:aws:sagemaker:{get_region()}:{get_account_id()}:compilation-job/{name}"
        output = request["OutputConfig"]
        if "InputConfig" not in request:
            raise ServiceError("ValidationException", "InputConfig must be given: the twin compiles models from S3")
        if ("TargetDevice" in output) == ("TargetPlatform" in output):
            raise ServiceError("ValidationException", "Exactly one of TargetDevice and TargetPlatform must be given")
        if name in self._jobs.records:
            raise ServiceError("ResourceInUse", f"Compilation job already exists: {arn}")
        try:
            credentials = role_session(request["RoleArn"], name, SERVICE_PRINCIPAL, 43_200)
        except PermissionError as exc:
            raise ServiceError(
                "ValidationException",
                f"Could not assume role {request['RoleArn']}. Please ensure that the role exists and allows principal "
                f"'{SERVICE_PRINCIPAL}' to assume the role: {exc}",
            ) from exc
        now = time.time()
        self._jobs.records[name] = {
            **{key: value for key, value in request.items() if key != "Tags"},
            "CompilationJobArn": arn,
            "CompilationJobStatus": "STARTING",
            "CreationTime": now,
            "LastModifiedTime": now,
            "FailureReason": "",
            "ModelArtifacts": {"S3ModelArtifacts": ""},
        }
        self._jobs.run(name, credentials)
        return {"CompilationJobArn": arn}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeCompilationJob."""
        return self._job(request)

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListCompilationJobs, with its filters, orders and pages."""

        def selected(job: dict[str, Any]) -> bool:
            return (
                request.get("NameContains", "") in job["CompilationJobName"]
                and request.get("StatusEquals", job["CompilationJobStatus"]) == job["CompilationJobStatus"]
                and request.get("CreationTimeAfter", 0) <= job["CreationTime"]
                and request.get("CreationTimeBefore", job["CreationTime"]) >= job["CreationTime"]
                and request.get("LastModifiedTimeAfter", 0) <= job["LastModifiedTime"]
                and request.get("LastModifiedTimeBefore", job["LastModifiedTime"]) >= job["LastModifiedTime"]
            )

        order = {"Name": "CompilationJobName", "Status": "CompilationJobStatus"}
        found = sorted(
            filter(selected, self._jobs.records.values()),
            key=lambda job: job[order.get(request.get("SortBy", ""), "CreationTime")],
            reverse=request.get("SortOrder", "Descending") == "Descending",
        )
        token = request.get("NextToken", "0")
        if not token.isdigit():
            raise ServiceError("ValidationException", f"NextToken must come from the previous page, got {token!r}")
        end = int(token) + request.get("MaxResults", _PAGE_SIZE)
        answer: dict[str, Any] = {"CompilationJobSummaries": [_summary(job) for job in found[int(token) : end]]}
        if end < len(found):
            answer["NextToken"] = str(end)
        return answer

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        """StopCompilationJob; stopping twice is fine."""
        job = self._job(request)
        if job["CompilationJobStatus"] in FINAL_STATUSES:
            raise ServiceError(
                "ValidationException",
                f"The request was rejected because the compilation job is in status {job['CompilationJobStatus']}",
            )
        self._jobs.stop(job["CompilationJobName"])
        return {}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteCompilationJob; only of a job that has ended."""
        job = self._job(request)
        if job["CompilationJobStatus"] not in FINAL_STATUSES:
            raise ServiceError(
                "ValidationException",
                f"Cannot delete a compilation job in status {job['CompilationJobStatus']}: stop it and wait until it "
                "is STOPPED",
            )
        del self._jobs.records[job["CompilationJobName"]]
        return {}

    def _job(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["CompilationJobName"]
        job: dict[str, Any] | None = self._jobs.records.get(name)
        if job is None:
            raise ServiceError("ResourceNotFound", f"Could not find compilation job with name {name}")
        return job


def _check_shape(operation: str, request: Any) -> None:
    found = mistakes("sagemaker", operation, request)
    if found:
        plural = "s" if len(found) > 1 else ""
        raise ServiceError(
            "ValidationException", f"{len(found)} validation error{plural} detected: " + "; ".join(found)
        )


def _check_role(request: dict[str, Any], headers: dict[str, str], operation: str) -> None:
    role = request.get("RoleArn") or request.get("ExecutionRoleArn")
    if role and not may_pass_role(headers, role, SERVICE_PRINCIPAL):
        raise ServiceError(
            "AccessDeniedException",
            f"User is not authorized to perform: iam:PassRole on resource: {role} because no identity-based policy "
            f"allows the iam:PassRole action ({operation})",
        )


def _summary(job: dict[str, Any]) -> dict[str, Any]:
    output = job["OutputConfig"]
    platform = output.get("TargetPlatform", {})
    targets = {
        "CompilationTargetDevice": output.get("TargetDevice"),
        **{f"CompilationTargetPlatform{key}": platform.get(key) for key in ("Os", "Arch", "Accelerator")},
    }
    kept = ("CompilationJobName", "CompilationJobArn", "CreationTime", "LastModifiedTime", "CompilationJobStatus")
    times = ("CompilationStartTime", "CompilationEndTime")
    return {
        **{key: job[key] for key in (*kept, *times) if key in job},
        **{key: value for key, value in targets.items() if value},
    }


def install(settings: Settings) -> None:
    """Serve `sagemaker` on the gateway; jobs survive a restart of the cloud."""
    jobs = CompilationJobs(settings)
    fleets = DeviceFleets()
    fleets.install_type()
    api = CompilationApi(jobs, EdgePackagingJobs(settings, jobs), Endpoints(settings), fleets)
    register_service("sagemaker", api.handle)
    register_store("compilation_jobs", jobs.records)
    register_background("compilation jobs", start=jobs.start, stop=jobs.close)

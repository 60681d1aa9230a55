"""The SageMaker API: compilation jobs and endpoints (JSON 1.1), and the endpoints' invocation (REST).

Models, endpoint configurations and endpoints are here: they answer by real inference in a process of their own.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import time
from typing import Any

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region, request_scope

from twin.cloud.authorization import may_pass_role
from twin.cloud.aws import worker
from twin.cloud.aws.protocol import (
    JSON_1_1,
    Operation,
    RequestError,
    Response,
    ServiceError,
    json_1_1_error,
    json_response,
    page,
    read_operation,
    without_none,
)
from twin.cloud.aws.shapes import check_request
from twin.cloud.credentials import role_session
from twin.cloud.ministack.registry import register_background, register_service, register_store
from twin.cloud.sagemaker.neo import (
    PAGE_SIZE,
    SERVICE_PRINCIPAL,
    CompilationJobs,
    DeviceFleets,
    EdgePackagingJobs,
    selected,
)
from twin.cloud_process import Settings

_LIMIT_S = 60.0


class Endpoints:
    """The three kinds of the request's account and region; an endpoint serves while its records exist."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._records = {kind: AccountRegionScopedDict() for kind in ("Model", "EndpointConfig", "Endpoint")}
        for kind, records in self._records.items():
            register_store(f"sagemaker_{kind.lower()}s", records)
        self._tasks: set[asyncio.Task[None]] = set()

    def create(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        """CreateModel, CreateEndpointConfig, CreateEndpoint."""
        name = request[f"{kind}Name"]
        if kind == "Model":
            _check_served(request)
        for variant in request.get("ProductionVariants", []):
            if "ModelName" not in variant:
                raise RequestError("ValidationException", "ModelName of each variant must be given: the twin serves it")
            self._record("Model", variant["ModelName"])
        if name in self._records[kind]:
            raise RequestError("ValidationException", f"Cannot create already existing {kind} {self._arn(kind, name)}")
        record = {**request, f"{kind}Arn": self._arn(kind, name), "CreationTime": time.time()}
        if kind == "Endpoint":
            record |= {"EndpointStatus": "Creating", "LastModifiedTime": time.time()}
            order = self._order(self._model_of(record))
        self._records[kind][name] = record
        if kind == "Endpoint":
            self._later(self._bring_up(record, order))
        return {f"{kind}Arn": record[f"{kind}Arn"]}

    def describe(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeModel, DescribeEndpointConfig, DescribeEndpoint."""
        return self._record(kind, request[f"{kind}Name"])

    def delete(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteModel, DeleteEndpointConfig, DeleteEndpoint."""
        name = request[f"{kind}Name"]
        if self._record(kind, name).get("EndpointStatus") == "Creating":
            raise RequestError("ValidationException", f'Cannot update in-progress endpoint "{self._arn(kind, name)}".')
        del self._records[kind][name]
        return {}

    def list(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        """ListModels, ListEndpointConfigs, ListEndpoints."""
        shown = (f"{kind}Name", f"{kind}Arn", "CreationTime", "LastModifiedTime", "EndpointStatus")
        found = selected(kind, self._records[kind].values(), request)
        items = [{key: record[key] for key in shown if key in record} for record in found]
        return page(f"{kind}s", items, request, usual=PAGE_SIZE)

    async def invoke(self, name: str, body: bytes) -> bytes:
        """InvokeEndpoint: the answer of the model's server."""
        record = self._records["Endpoint"].get(name)
        if record is None or record["EndpointStatus"] != "InService":
            raise RequestError("ValidationError", f"Endpoint {name} of account {get_account_id()} not found.")
        answer = await self._serve(self._order(self._model_of(record)), body.decode(errors="replace"))
        if "failure" in answer:
            raise RequestError("ModelError", f"Received server error (400) from primary: {answer['failure']}")
        return json.dumps(answer).encode()

    async def start(self) -> None:
        """Go on with the endpoints that were made when the cloud stopped: nobody else would ever end their creation."""
        for (account, region, _name), record in list(self._records["Endpoint"]._data.items()):
            if record["EndpointStatus"] != "Creating":
                continue
            with request_scope(account, region):
                try:
                    self._later(self._bring_up(record, self._order(self._model_of(record))))
                except RequestError as exc:
                    record |= {"EndpointStatus": "Failed", "FailureReason": str(exc)[:1024]}

    async def _bring_up(self, record: dict[str, Any], order: dict[str, Any]) -> None:
        answer = await self._serve(order, None)
        record["LastModifiedTime"] = time.time()
        record["EndpointStatus"] = "Failed" if "failure" in answer else "InService"
        if "failure" in answer:
            record["FailureReason"] = str(answer["failure"])[:1024]

    async def _serve(self, order: dict[str, Any], body: str | None) -> dict[str, Any]:
        try:
            asked = worker.ask("twin.cloud.sagemaker.model_server", {**order, "body": body})
            return await asyncio.wait_for(asked, _LIMIT_S)
        except TimeoutError:
            return {"failure": f"the model did not answer within {_LIMIT_S:.0f} s"}
        except worker.WorkerError as exc:
            return {"failure": f"the server {exc}"}

    def _order(self, model: dict[str, Any]) -> dict[str, Any]:
        try:
            role = role_session(model["ExecutionRoleArn"], "endpoint", SERVICE_PRINCIPAL)
        except PermissionError as exc:
            raise RequestError("ValidationException", f"Could not assume role: {exc}") from exc
        client = self._settings.client_arguments(get_region(), role)
        return {"client": client, "model": _containers(model)[0]["ModelDataUrl"]}

    def _model_of(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        config = self._record("EndpointConfig", endpoint["EndpointConfigName"])
        return self._record("Model", config["ProductionVariants"][0]["ModelName"])

    def _record(self, kind: str, name: str) -> dict[str, Any]:
        record: dict[str, Any] | None = self._records[kind].get(name)
        if record is None:
            raise RequestError("ValidationException", f'Could not find {kind} "{self._arn(kind, name)}".')
        return record

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    def _arn(kind: str, name: str) -> str:
        return f"arn:aws:sagemaker:{get_region()}:{get_account_id()}:{ARN_KINDS[kind]}/{name}"


def _containers(model: dict[str, Any]) -> list[dict[str, Any]]:
    return [model["PrimaryContainer"]] if "PrimaryContainer" in model else list(model.get("Containers") or [])


def _check_served(model: dict[str, Any]) -> None:
    """Refuse what no endpoint of the twin could serve."""
    containers = _containers(model)
    if len(containers) != 1 or "ModelDataUrl" not in containers[0]:
        raise RequestError("ValidationException", "The twin serves one container with ModelDataUrl: give exactly that")
    if "ExecutionRoleArn" not in model:
        raise RequestError("ValidationException", "ExecutionRoleArn must be given: the twin reads the model with it")


ARN_KINDS = {"Model": "model", "EndpointConfig": "endpoint-config", "Endpoint": "endpoint"}
"""Kind in the names of operations to kind in ARNs."""


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

"""Neo's compilation jobs: their calls, and each job in a process of its own, bounded in time, stoppable.

And what AWS retired of SageMaker Edge Manager, which packs what Neo made: device fleets with their type and devices,
and edge packaging jobs.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region, request_scope

from twin.cloud.aws import worker
from twin.cloud.aws.protocol import RequestError, page
from twin.cloud.aws.shapes import check_request, request_from_properties
from twin.cloud.credentials import role_session
from twin.cloud.ministack.registry import register_store, register_type
from twin.cloud_process import RoleCredentials, Settings

logger = logging.getLogger("twin.sagemaker")

SERVICE_PRINCIPAL = "sagemaker.amazonaws.com"
FINAL_STATUSES = ("COMPLETED", "FAILED", "STOPPED")

_PARALLEL_JOBS = 2
_DEFAULT_RUNTIME_S = 900
PAGE_SIZE = 10


def selected(kind: str, records: Iterable[dict[str, Any]], request: dict[str, Any]) -> list[dict[str, Any]]:
    """The records that a list call asks for, in its order; all of SageMaker's lists filter and sort alike.

    Args:
        kind: What is listed: Endpoint for the keys EndpointName and EndpointStatus.
        records: All there are.
        request: NameContains, StatusEquals, CreationTime and LastModifiedTime with After or Before, SortBy, SortOrder.
    """

    def fits(record: dict[str, Any]) -> bool:
        status = record.get(f"{kind}Status")
        return (
            request.get("NameContains", "") in record[f"{kind}Name"]
            and request.get("StatusEquals", status) == status
            and all(
                request.get(f"{key}After", 0) <= record.get(key, 0) <= request.get(f"{key}Before", math.inf)
                for key in ("CreationTime", "LastModifiedTime")
            )
        )

    # Older calls say CreationTime, those for devices CREATION_TIME.
    by = request.get("SortBy", "CreationTime").replace("_", "").lower()
    key = {"name": f"{kind}Name", "status": f"{kind}Status", "lastmodifiedtime": "LastModifiedTime"}.get(
        by, "CreationTime"
    )
    return sorted(
        filter(fits, records), key=lambda record: record.get(key, ""), reverse=request.get("SortOrder") != "Ascending"
    )


class CompilationJobs:
    """The jobs of every account and region; `records` holds what DescribeCompilationJob answers, by job name.

    The calls are about those of the request's account and region.
    """

    def __init__(self, settings: Settings) -> None:
        self.records = AccountRegionScopedDict()
        self._settings = settings
        self._tasks: dict[tuple[str, str, str], asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_PARALLEL_JOBS)

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """CreateCompilationJob."""
        name = request["CompilationJobName"]
        arn = f"arn:aws:sagemaker:{get_region()}:{get_account_id()}:compilation-job/{name}"
        output = request["OutputConfig"]
        if "InputConfig" not in request:
            raise RequestError("ValidationException", "InputConfig must be given: the twin compiles models from S3")
        if ("TargetDevice" in output) == ("TargetPlatform" in output):
            raise RequestError("ValidationException", "Exactly one of TargetDevice and TargetPlatform must be given")
        if name in self.records:
            raise RequestError("ResourceInUse", f"Compilation job already exists: {arn}")
        try:
            credentials = role_session(request["RoleArn"], name, SERVICE_PRINCIPAL, 43_200)
        except PermissionError as exc:
            raise RequestError(
                "ValidationException",
                f"Could not assume role {request['RoleArn']}. Please ensure that the role exists and allows principal "
                f"'{SERVICE_PRINCIPAL}' to assume the role: {exc}",
            ) from exc
        now = time.time()
        self.records[name] = {
            **{key: value for key, value in request.items() if key != "Tags"},
            "CompilationJobArn": arn,
            "CompilationJobStatus": "STARTING",
            "CreationTime": now,
            "LastModifiedTime": now,
            "FailureReason": "",
            "ModelArtifacts": {"S3ModelArtifacts": ""},
        }
        self._begin(name, credentials)
        return {"CompilationJobArn": arn}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeCompilationJob."""
        return self._job(request)

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListCompilationJobs."""
        found = selected("CompilationJob", self.records.values(), request)
        return page("CompilationJobSummaries", [_summary(job) for job in found], request, usual=PAGE_SIZE)

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        """StopCompilationJob; stopping twice is fine."""
        job = self._job(request)
        if job["CompilationJobStatus"] in FINAL_STATUSES:
            raise RequestError(
                "ValidationException",
                f"The request was rejected because the compilation job is in status {job['CompilationJobStatus']}",
            )
        self._stop(job["CompilationJobName"])
        return {}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteCompilationJob; only of a job that has ended."""
        job = self._job(request)
        if job["CompilationJobStatus"] not in FINAL_STATUSES:
            raise RequestError(
                "ValidationException",
                f"Cannot delete a compilation job in status {job['CompilationJobStatus']}: stop it and wait until it "
                "is STOPPED",
            )
        del self.records[job["CompilationJobName"]]
        return {}

    def _job(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["CompilationJobName"]
        job: dict[str, Any] | None = self.records.get(name)
        if job is None:
            raise RequestError("ResourceNotFound", f"Could not find compilation job with name {name}")
        return job

    async def start(self) -> None:
        """Take up the jobs that the cloud was running when it stopped; their result is the same."""
        for (account, region, name), job in list(self.records._data.items()):
            with request_scope(account, region):
                if job["CompilationJobStatus"] == "STOPPING":
                    _enter(job, "STOPPED")
                elif job["CompilationJobStatus"] not in FINAL_STATUSES:
                    try:
                        self._begin(name, role_session(job["RoleArn"], name, SERVICE_PRINCIPAL))
                    except PermissionError as exc:
                        _enter(job, "FAILED", FailureReason=f"ClientError: {exc}")

    async def close(self) -> None:
        """End the running compilers; their jobs stay in progress for the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel("the cloud stops")
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, name: str, credentials: RoleCredentials) -> None:
        """Begin a job of the request's account and region; returns at once."""
        key = (get_account_id(), get_region(), name)
        task = asyncio.get_running_loop().create_task(self._run(self.records[name], credentials))
        self._tasks[key] = task
        task.add_done_callback(lambda _task: self._tasks.pop(key, None))

    def _stop(self, name: str) -> None:
        """Ask a job of the request's account and region to stop; it is STOPPED a moment later."""
        job = self.records[name]
        task = self._tasks.get((get_account_id(), get_region(), name))
        if task is None:
            _enter(job, "STOPPED")
        elif job["CompilationJobStatus"] != "STOPPING":
            _enter(job, "STOPPING")
            task.cancel()

    async def _run(self, job: dict[str, Any], credentials: RoleCredentials) -> None:
        limit_s = job["StoppingCondition"].get("MaxRuntimeInSeconds", _DEFAULT_RUNTIME_S)
        try:
            async with self._slots:
                _enter(job, "INPROGRESS", CompilationStartTime=time.time())
                result = await asyncio.wait_for(self._compile(job, credentials), limit_s)
        except TimeoutError:
            result = {"failure": f"ClientError: the job exceeded MaxRuntimeInSeconds, {limit_s} s"}
        except asyncio.CancelledError:
            if job["CompilationJobStatus"] == "STOPPING":
                _enter(job, "STOPPED", CompilationEndTime=time.time())
                return
            raise
        except Exception:
            logger.exception("compilation job %s", job["CompilationJobName"])
            result = {"failure": "InternalServerError: the compiler could not be run; see the log of the cloud"}
        if "failure" in result:
            _enter(job, "FAILED", FailureReason=result["failure"][:1024], CompilationEndTime=time.time())
        else:
            _enter(
                job,
                "COMPLETED",
                ModelArtifacts={"S3ModelArtifacts": result["artifact"]},
                ModelDigests={"ArtifactDigest": f"sha256:{result['sha256']}"},
                CompilationEndTime=time.time(),
            )

    async def _compile(self, job: dict[str, Any], credentials: RoleCredentials) -> dict[str, Any]:
        """Run the compiler in a process of its own, so that no model can take the cloud down."""
        client = self._settings.client_arguments(get_region(), credentials)
        order = {"input": job["InputConfig"], "output": job["OutputConfig"], "client": client}
        try:
            return await worker.ask("twin.cloud.sagemaker.compiler", order)
        except worker.WorkerError as exc:
            logger.error("compiler of %s: %s", job["CompilationJobName"], exc.log[-4000:])
            return {
                "failure": "ClientError: InputConfiguration: the compiler crashed on the model "
                f"(exit code {exc.code}): check that the model loads in ONNX Runtime"
            }


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


def _enter(job: dict[str, Any], status: str, **changes: Any) -> None:
    job.update(changes, CompilationJobStatus=status, LastModifiedTime=time.time())
    logger.info("compilation job %s: %s %s", job["CompilationJobName"], status, changes.get("FailureReason", ""))


_S3 = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})


class DeviceFleets:
    """The fleets of the request's account and region."""

    def __init__(self) -> None:
        self._records = AccountRegionScopedDict()
        register_store("device_fleets", self._records)

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """CreateDeviceFleet."""
        name = request["DeviceFleetName"]
        if name in self._records:
            raise RequestError("ResourceInUse", f"Device fleet already exists: {name}")
        self._records[name] = {
            **{key: value for key, value in request.items() if key not in ("Tags", "EnableIotRoleAlias")},
            "DeviceFleetArn": f"arn:aws:sagemaker:{get_region()}:{get_account_id()}:device-fleet/{name}",
            "CreationTime": time.time(),
            "LastModifiedTime": time.time(),
            "devices": {},
        }
        return {}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeDeviceFleet."""
        return {key: value for key, value in self._fleet(request).items() if key != "devices"}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteDeviceFleet; only of an empty fleet."""
        if self._fleet(request)["devices"]:
            raise RequestError("ResourceInUse", f"Device fleet {request['DeviceFleetName']} still has devices")
        del self._records[request["DeviceFleetName"]]
        return {}

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListDeviceFleets."""
        kept = ("DeviceFleetName", "DeviceFleetArn", "CreationTime", "LastModifiedTime")
        records = selected("DeviceFleet", self._records.values(), request)
        found = [{key: record[key] for key in kept} for record in records]
        return page("DeviceFleetSummaries", found, request, usual=PAGE_SIZE)

    def register(self, request: dict[str, Any]) -> dict[str, Any]:
        """RegisterDevices; a device that is registered already is described anew."""
        fleet = self._fleet(request)
        now = time.time()
        fleet["devices"] |= {device["DeviceName"]: {**device, "RegistrationTime": now} for device in request["Devices"]}
        self._records[request["DeviceFleetName"]] = fleet
        return {}

    def deregister(self, request: dict[str, Any]) -> dict[str, Any]:
        """DeregisterDevices; a device that is gone is fine."""
        fleet = self._fleet(request)
        for name in request["DeviceNames"]:
            fleet["devices"].pop(name, None)
        self._records[request["DeviceFleetName"]] = fleet
        return {}

    def list_devices(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListDevices, of one fleet or of all; no agent of Edge Manager's has said when it lives and what it runs."""
        fleets = [self._fleet(request)] if "DeviceFleetName" in request else list(self._records.values())
        if request.keys() & {"LatestHeartbeatAfter", "ModelName"}:
            fleets = []
        found = [
            {
                **device,
                "DeviceFleetName": fleet["DeviceFleetName"],
                "DeviceArn": f"{fleet['DeviceFleetArn']}/device/{device['DeviceName']}",
            }
            for fleet in fleets
            for device in fleet["devices"].values()
        ]
        return page("DeviceSummaries", found, request, usual=PAGE_SIZE)

    def _fleet(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["DeviceFleetName"]
        record: dict[str, Any] | None = self._records.get(name)
        if record is None:
            raise RequestError("ValidationException", f"Device fleet {name} does not exist")
        return record

    def install_type(self) -> None:
        """Register the CloudFormation type."""
        register_type(
            "AWS::SageMaker::DeviceFleet",
            create=self._create_resource,
            update=self._update_resource,
            delete=self._delete_resource,
            replacing=("DeviceFleetName",),
        )

    def _create_resource(self, _logical_id: str, properties: dict[str, Any], _stack: str) -> tuple[str, dict[str, Any]]:
        self.create(_request(properties))
        return properties["DeviceFleetName"], {}

    def _update_resource(
        self, physical_id: str, _old: dict[str, Any], new: dict[str, Any], _stack: str
    ) -> tuple[str, dict[str, Any]]:
        fleet, wanted = self._fleet({"DeviceFleetName": physical_id}), _request(new)
        kept = {key: fleet[key] for key in ("DeviceFleetArn", "CreationTime", "devices")}
        wanted.pop("Tags", None)
        self._records[physical_id] = {**wanted, **kept, "LastModifiedTime": time.time()}
        return physical_id, {}

    def _delete_resource(self, physical_id: str, _properties: dict[str, Any]) -> None:
        if physical_id in self._records:
            self.delete({"DeviceFleetName": physical_id})


def _request(properties: dict[str, Any]) -> dict[str, Any]:
    """The request that a template's fleet stands for, held against the service's model."""
    request = request_from_properties("sagemaker", "CreateDeviceFleet", properties)
    check_request("sagemaker", "CreateDeviceFleet", request)
    return request


class EdgePackagingJobs:
    """The jobs of the request's account and region."""

    def __init__(self, settings: Settings, compilations: CompilationJobs) -> None:
        self._settings = settings
        self._compilations = compilations
        self._records = AccountRegionScopedDict()
        register_store("edge_packaging_jobs", self._records)
        self._tasks: set[asyncio.Task[None]] = set()

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """CreateEdgePackagingJob."""
        name = request["EdgePackagingJobName"]
        if name in self._records:
            raise RequestError("ResourceInUse", f"Edge packaging job already exists: {name}")
        compilation = self._compilations.records.get(request["CompilationJobName"])
        if compilation is None or compilation["CompilationJobStatus"] != "COMPLETED":
            raise RequestError(
                "ValidationException",
                f"{request['CompilationJobName']} must be a compilation job that has completed",
            )
        try:
            role = role_session(request["RoleArn"], name, SERVICE_PRINCIPAL)
        except PermissionError as exc:
            raise RequestError("ValidationException", f"Could not assume role {request['RoleArn']}: {exc}") from exc
        record = {
            **request,
            "EdgePackagingJobArn": f"arn:aws:sagemaker:{get_region()}:{get_account_id()}:edge-packaging-job/{name}",
            "EdgePackagingJobStatus": "STARTING",
            "CreationTime": time.time(),
            "LastModifiedTime": time.time(),
        }
        self._records[name] = record
        self._begin(record, compilation, role)
        return {}

    async def start(self) -> None:
        """Take up the jobs that the cloud was running when it stopped; their result is the same."""
        for (account, region, name), record in list(self._records._data.items()):
            if record["EdgePackagingJobStatus"] not in ("STARTING", "INPROGRESS"):
                continue
            with request_scope(account, region):
                try:
                    compilation = self._compilations.records[record["CompilationJobName"]]
                    self._begin(record, compilation, role_session(record["RoleArn"], name, SERVICE_PRINCIPAL))
                except (KeyError, PermissionError) as exc:
                    record |= {
                        "EdgePackagingJobStatus": "FAILED",
                        "EdgePackagingJobStatusMessage": f"ClientError: the job could not go on: {exc}",
                    }

    def _begin(self, record: dict[str, Any], compilation: dict[str, Any], role: RoleCredentials) -> None:
        client = boto3.client("s3", config=_S3, **self._settings.client_arguments(get_region(), role))
        source = compilation["ModelArtifacts"]["S3ModelArtifacts"]
        task = asyncio.get_running_loop().create_task(self._run(record, source, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeEdgePackagingJob."""
        name = request["EdgePackagingJobName"]
        record: dict[str, Any] | None = self._records.get(name)
        if record is None:
            raise RequestError("ResourceNotFound", f"Could not find edge packaging job {name}")
        return record

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        """StopEdgePackagingJob."""
        record = self.describe(request)
        if record["EdgePackagingJobStatus"] not in ("STARTING", "INPROGRESS"):
            raise RequestError("ValidationException", f"The job is in status {record['EdgePackagingJobStatus']}")
        record["EdgePackagingJobStatus"] = "STOPPED"
        return {}

    async def _run(self, record: dict[str, Any], source: str, s3: Any) -> None:
        record["EdgePackagingJobStatus"] = "INPROGRESS"
        output = record["OutputConfig"]
        target = f"{output['S3OutputLocation'].rstrip('/')}/{record['ModelName']}-{record['ModelVersion']}.tar.gz"
        try:
            await asyncio.to_thread(_copy, s3, source, target, output.get("KmsKeyId"))
        except (ClientError, BotoCoreError) as exc:
            changes = {"EdgePackagingJobStatus": "FAILED", "EdgePackagingJobStatusMessage": f"ClientError: {exc}"}
        else:
            changes = {"EdgePackagingJobStatus": "COMPLETED", "ModelArtifact": target}
        if record["EdgePackagingJobStatus"] == "INPROGRESS":
            record.update(changes, LastModifiedTime=time.time())


def _copy(s3: Any, source: str, target: str, kms_key: str | None) -> None:
    bucket, _, key = source.removeprefix("s3://").partition("/")
    content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    to_bucket, _, to_key = target.removeprefix("s3://").partition("/")
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
    s3.put_object(Bucket=to_bucket, Key=to_key, Body=content, **encryption)

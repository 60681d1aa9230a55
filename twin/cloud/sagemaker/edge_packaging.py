"""Edge packaging jobs, which AWS retired: the compilation job's artifact, copied to the job's own place."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region

from twin.cloud.registry import Settings, register_store, role_session
from twin.cloud.sagemaker.errors import ServiceError
from twin.cloud.sagemaker.jobs import CompilationJobs

_S3 = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})


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
            raise ServiceError("ResourceInUse", f"Edge packaging job already exists: {name}")
        compilation = self._compilations.records.get(request["CompilationJobName"])
        if compilation is None or compilation["CompilationJobStatus"] != "COMPLETED":
            raise ServiceError(
                "ValidationException",
                f"{request['CompilationJobName']} must be a compilation job that has completed",
            )
        try:
            role = role_session(request["RoleArn"], name, "sagemaker.amazonaws.com")
        except PermissionError as exc:
            raise ServiceError("ValidationException", f"Could not assume role {request['RoleArn']}: {exc}") from exc
        record = {
            **request,
            "EdgePackagingJobArn": f"arn:aws:sagemaker:{get_region()}:{get_account_id()}:edge-packaging-job/{name}",
            "EdgePackagingJobStatus": "STARTING",
            "CreationTime": time.time(),
            "LastModifiedTime": time.time(),
        }
        self._records[name] = record
        client = boto3.client(
            "s3",
            endpoint_url=self._settings.gateway_url,
            region_name=get_region(),
            config=_S3,
            **role.client_arguments(),
        )
        source = compilation["ModelArtifacts"]["S3ModelArtifacts"]
        task = asyncio.get_running_loop().create_task(self._run(record, source, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return {}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeEdgePackagingJob."""
        name = request["EdgePackagingJobName"]
        record: dict[str, Any] | None = self._records.get(name)
        if record is None:
            raise ServiceError("ResourceNotFound", f"Could not find edge packaging job {name}")
        return record

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        """StopEdgePackagingJob."""
        record = self.describe(request)
        if record["EdgePackagingJobStatus"] not in ("STARTING", "INPROGRESS"):
            raise ServiceError("ValidationException", f"The job is in status {record['EdgePackagingJobStatus']}")
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

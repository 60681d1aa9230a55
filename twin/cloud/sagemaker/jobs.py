"""Runs compilation jobs: each in a process of its own, bounded in time, stoppable."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region, request_scope

from twin.cloud.registry import RoleCredentials, Settings, role_session

logger = logging.getLogger("twin.sagemaker")

FINAL_STATUSES = ("COMPLETED", "FAILED", "STOPPED")

_PARALLEL_JOBS = 2
_DEFAULT_RUNTIME_S = 900
_REPOSITORY = Path(__file__).resolve().parents[3]


class CompilationJobs:
    """The jobs of every account and region; `records` holds what DescribeCompilationJob answers, by job name."""

    def __init__(self, settings: Settings) -> None:
        self.records = AccountRegionScopedDict()
        self._settings = settings
        self._tasks: dict[tuple[str, str, str], asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_PARALLEL_JOBS)

    async def start(self) -> None:
        """Take up the jobs that the cloud was running when it stopped; their result is the same."""
        for (account, region, name), job in list(self.records._data.items()):
            with request_scope(account, region):
                if job["CompilationJobStatus"] == "STOPPING":
                    _enter(job, "STOPPED")
                elif job["CompilationJobStatus"] not in FINAL_STATUSES:
                    try:
                        self.run(name, role_session(job["RoleArn"], name, "sagemaker.amazonaws.com"))
                    except PermissionError as exc:
                        _enter(job, "FAILED", FailureReason=f"ClientError: {exc}")

    async def close(self) -> None:
        """End the running compilers; their jobs stay in progress for the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel("the cloud stops")
        await asyncio.gather(*tasks, return_exceptions=True)

    def run(self, name: str, credentials: RoleCredentials) -> None:
        """Begin a job of the request's account and region; returns at once."""
        key = (get_account_id(), get_region(), name)
        task = asyncio.get_running_loop().create_task(self._run(self.records[name], credentials))
        self._tasks[key] = task
        task.add_done_callback(lambda _task: self._tasks.pop(key, None))

    def stop(self, name: str) -> None:
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
        order = {
            "input": job["InputConfig"],
            "output": job["OutputConfig"],
            "client": {
                "endpoint_url": self._settings.gateway_url,
                "region_name": get_region(),
                **credentials.client_arguments(),
            },
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "twin.cloud.sagemaker.compiler",
            cwd=_REPOSITORY,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            answer, log = await process.communicate(json.dumps(order).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            logger.error("compiler of %s: %s", job["CompilationJobName"], log.decode(errors="replace")[-4000:])
            return {
                "failure": "ClientError: InputConfiguration: the compiler crashed on the model "
                f"(exit code {process.returncode}): check that the model loads in ONNX Runtime"
            }
        result: dict[str, Any] = json.loads(answer)
        return result


def _enter(job: dict[str, Any], status: str, **changes: Any) -> None:
    job.update(changes, CompilationJobStatus=status, LastModifiedTime=time.time())
    logger.info("compilation job %s: %s %s", job["CompilationJobName"], status, changes.get("FailureReason", ""))

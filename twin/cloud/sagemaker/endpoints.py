"""Models, endpoint configurations and endpoints, which answer by real inference in a process of their own."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region

from twin.cloud.registry import Settings, register_store, role_session
from twin.cloud.sagemaker.errors import ServiceError

_REPOSITORY = Path(__file__).resolve().parents[3]
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
        if name in self._records[kind]:
            raise ServiceError("ValidationException", f"Cannot create already existing {kind} {self._arn(kind, name)}")
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
            raise ServiceError("ValidationException", f'Cannot update in-progress endpoint "{self._arn(kind, name)}".')
        del self._records[kind][name]
        return {}

    def names(self, kind: str) -> list[str]:
        """Names of all of a kind."""
        return sorted(self._records[kind])

    async def invoke(self, name: str, body: bytes) -> bytes:
        """InvokeEndpoint: the answer of the model's server."""
        record = self._records["Endpoint"].get(name)
        if record is None or record["EndpointStatus"] != "InService":
            raise ServiceError("ValidationError", f"Endpoint {name} of account {get_account_id()} not found.")
        answer = await self._serve(self._order(self._model_of(record)), body.decode(errors="replace"))
        if "failure" in answer:
            raise ServiceError("ModelError", f"Received server error (400) from primary: {answer['failure']}")
        return json.dumps(answer).encode()

    async def _bring_up(self, record: dict[str, Any], order: dict[str, Any]) -> None:
        answer = await self._serve(order, None)
        record["LastModifiedTime"] = time.time()
        record["EndpointStatus"] = "Failed" if "failure" in answer else "InService"
        if "failure" in answer:
            record["FailureReason"] = str(answer["failure"])[:1024]

    async def _serve(self, order: dict[str, Any], body: str | None) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "twin.cloud.sagemaker.model_server",
            cwd=_REPOSITORY,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            said = process.communicate(json.dumps({**order, "body": body}).encode())
            answer, log = await asyncio.wait_for(said, _LIMIT_S)
        except TimeoutError:
            return {"failure": f"the model did not answer within {_LIMIT_S:.0f} s"}
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            return {"failure": f"the server ended with {process.returncode}: {log.decode(errors='replace')[-400:]}"}
        result: dict[str, Any] = json.loads(answer)
        return result

    def _order(self, model: dict[str, Any]) -> dict[str, Any]:
        try:
            role = role_session(model["ExecutionRoleArn"], "endpoint", "sagemaker.amazonaws.com")
        except PermissionError as exc:
            raise ServiceError("ValidationException", f"Could not assume role: {exc}") from exc
        client = {"endpoint_url": self._settings.gateway_url, "region_name": get_region(), **role.client_arguments()}
        return {"client": client, "model": model["PrimaryContainer"]["ModelDataUrl"]}

    def _model_of(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        config = self._record("EndpointConfig", endpoint["EndpointConfigName"])
        return self._record("Model", config["ProductionVariants"][0]["ModelName"])

    def _record(self, kind: str, name: str) -> dict[str, Any]:
        record: dict[str, Any] | None = self._records[kind].get(name)
        if record is None:
            raise ServiceError("ValidationException", f'Could not find {kind} "{self._arn(kind, name)}".')
        return record

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    def _arn(kind: str, name: str) -> str:
        return f"arn:aws:sagemaker:{get_region()}:{get_account_id()}:{ARN_KINDS[kind]}/{name}"


ARN_KINDS = {"Model": "model", "EndpointConfig": "endpoint-config", "Endpoint": "endpoint"}
"""Kind in the names of operations to kind in ARNs."""

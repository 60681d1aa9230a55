"""SageMaker device fleets and their devices, which AWS retired, and the type AWS::SageMaker::DeviceFleet."""

from __future__ import annotations

import time
from typing import Any

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region

from twin.cloud.registry import register_store, register_type
from twin.cloud.sagemaker.errors import ServiceError

_PAGE_SIZE = 10


class DeviceFleets:
    """The fleets of the request's account and region."""

    def __init__(self) -> None:
        self._records = AccountRegionScopedDict()
        register_store("device_fleets", self._records)

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """CreateDeviceFleet."""
        name = request["DeviceFleetName"]
        if name in self._records:
            raise ServiceError("ResourceInUse", f"Device fleet already exists: {name}")
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
            raise ServiceError("ResourceInUse", f"Device fleet {request['DeviceFleetName']} still has devices")
        del self._records[request["DeviceFleetName"]]
        return {}

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        """ListDeviceFleets."""
        kept = ("DeviceFleetName", "DeviceFleetArn", "CreationTime", "LastModifiedTime")
        found = [{key: record[key] for key in kept} for record in self._records.values()]
        return _page("DeviceFleetSummaries", found, request)

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
        """ListDevices, of one fleet or of all."""
        fleets = [self._fleet(request)] if "DeviceFleetName" in request else list(self._records.values())
        found = [
            {
                **device,
                "DeviceFleetName": fleet["DeviceFleetName"],
                "DeviceArn": f"{fleet['DeviceFleetArn']}/device/{device['DeviceName']}",
            }
            for fleet in fleets
            for device in fleet["devices"].values()
        ]
        return _page("DeviceSummaries", found, request)

    def _fleet(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["DeviceFleetName"]
        record: dict[str, Any] | None = self._records.get(name)
        if record is None:
            raise ServiceError("ValidationException", f"Device fleet {name} does not exist")
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
        self.create(properties)
        return properties["DeviceFleetName"], {}

    def _update_resource(
        self, physical_id: str, _old: dict[str, Any], new: dict[str, Any], _stack: str
    ) -> tuple[str, dict[str, Any]]:
        fleet = self._fleet({"DeviceFleetName": physical_id})
        self._records[physical_id] = {**fleet, **{key: value for key, value in new.items() if key != "Tags"}}
        return physical_id, {}

    def _delete_resource(self, physical_id: str, _properties: dict[str, Any]) -> None:
        if physical_id in self._records:
            self.delete({"DeviceFleetName": physical_id})


def _page(key: str, found: list[dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    token = request.get("NextToken", "0")
    if not token.isdigit():
        raise ServiceError("ValidationException", f"NextToken must come from the previous page, got {token!r}")
    end = int(token) + request.get("MaxResults", _PAGE_SIZE)
    answer: dict[str, Any] = {key: found[int(token) : end]}
    return {**answer, "NextToken": str(end)} if end < len(found) else answer

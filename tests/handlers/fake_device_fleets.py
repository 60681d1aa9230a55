"""SageMaker's device fleets in memory."""

from typing import Any

from tests.handlers.fake_service import FakeService, refusal


class FakeDeviceFleets(FakeService):
    """Fleets by name, with the thing of each device."""

    PAGES = {"list_devices": ("DeviceSummaries",)}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.fleets: dict[str, dict[str, str]] = {}
        self.absent_code, self.absent_message = "ValidationException", "Device fleet does not exist"

    def list_devices(self, DeviceFleetName: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_devices", DeviceFleetName=DeviceFleetName)
        return {"DeviceSummaries": [{"DeviceName": name} for name in self._fleet(DeviceFleetName, "ListDevices")]}

    def register_devices(self, DeviceFleetName: str, Devices: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        self.record("register_devices", DeviceFleetName=DeviceFleetName, Devices=Devices)
        fleet = self._fleet(DeviceFleetName, "RegisterDevices")
        fleet.update({device["DeviceName"]: device["IotThingName"] for device in Devices})
        return {}

    def deregister_devices(self, DeviceFleetName: str, DeviceNames: list[str]) -> dict[str, Any]:  # noqa: N803
        self.record("deregister_devices", DeviceFleetName=DeviceFleetName, DeviceNames=DeviceNames)
        for name in DeviceNames:
            self._fleet(DeviceFleetName, "DeregisterDevices").pop(name, None)
        return {}

    def _fleet(self, name: str, operation: str) -> dict[str, str]:
        if name not in self.fleets:
            raise refusal(self.absent_code, operation, self.absent_message)
        return self.fleets[name]

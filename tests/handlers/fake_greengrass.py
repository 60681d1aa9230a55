"""Greengrass V2 in memory: core devices, deployments and component versions."""

import json
from datetime import datetime
from typing import Any

from tests.handlers.fake_service import FakeService, refusal


class FakeGreengrass(FakeService):
    """What the sweep and the registry take away."""

    PAGES = {  # noqa: RUF012
        "list_deployments": ("deployments",),
        "list_component_versions": ("componentVersions",),
        "list_components": ("components",),
        "list_client_devices_associated_with_core_device": ("associatedClientDevices",),
    }
    ROOT = "arn:aws:greengrass:eu-west-1:111122223333:components"

    def __init__(self) -> None:
        super().__init__()
        self.core_devices: set[str] = set()
        self.reported: dict[str, datetime] = {}  # core device → when it last did
        self.associations: dict[str, set[str]] = {}  # core device that is known → its client devices
        self.gone_clients: set[str] = set()  # things that were deleted, which an association outlives
        self.refused_clients: set[str] = set()  # entries that are not accepted
        self.deployments: dict[str, dict[str, str]] = {}
        self.named: dict[str, dict[str, Any]] = {}  # deployment → its components
        self.versions: dict[str, list[str]] = {}  # component → versions
        self.described: dict[str, dict[str, Any]] = {}  # ARN → what DescribeComponent says
        self.recipes: dict[str, bytes] = {}
        self.states = ["DEPLOYABLE"]  # of what is made next, one a look, the last one for good

    def deploy(self, deployment: str, target: str, status: str = "ACTIVE") -> None:
        """Add a deployment."""
        self.deployments[deployment] = {"deploymentId": deployment, "targetArn": target, "deploymentStatus": status}

    def delete_core_device(self, coreDeviceThingName: str) -> dict[str, Any]:  # noqa: N803
        self.record("delete_core_device", coreDeviceThingName=coreDeviceThingName)
        if coreDeviceThingName not in self.core_devices:
            raise refusal("ResourceNotFoundException", "DeleteCoreDevice")
        self.core_devices.remove(coreDeviceThingName)
        return {}

    def get_core_device(self, coreDeviceThingName: str) -> dict[str, Any]:  # noqa: N803
        self.record("get_core_device", coreDeviceThingName=coreDeviceThingName)
        if coreDeviceThingName not in self.reported:
            raise refusal("ResourceNotFoundException", "GetCoreDevice")
        return {"lastStatusUpdateTimestamp": self.reported[coreDeviceThingName]}

    def list_client_devices_associated_with_core_device(self, coreDeviceThingName: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_client_devices_associated_with_core_device", coreDeviceThingName=coreDeviceThingName)
        found = self._clients(coreDeviceThingName, "ListClientDevicesAssociatedWithCoreDevice")
        return {"associatedClientDevices": [{"thingName": name} for name in sorted(found)]}

    def batch_associate_client_device_with_core_device(
        self,
        coreDeviceThingName: str,  # noqa: N803
        entries: list[dict[str, str]],
    ) -> dict[str, Any]:
        names = self._entries("batch_associate_client_device_with_core_device", coreDeviceThingName, entries)
        self._clients(coreDeviceThingName, "BatchAssociateClientDeviceWithCoreDevice").update(
            names - self.refused_clients
        )
        refused = sorted(names & self.refused_clients)
        return {"errorEntries": [{"thingName": name, "code": "NO", "message": "no such thing"} for name in refused]}

    def batch_disassociate_client_device_from_core_device(
        self,
        coreDeviceThingName: str,  # noqa: N803
        entries: list[dict[str, str]],
    ) -> dict[str, Any]:
        names = self._entries("batch_disassociate_client_device_from_core_device", coreDeviceThingName, entries)
        found = self._clients(coreDeviceThingName, "BatchDisassociateClientDeviceFromCoreDevice")
        refused = sorted(names & self.gone_clients)
        found.difference_update(names)
        code = "ResourceNotFoundException"
        return {"errorEntries": [{"thingName": name, "code": code, "message": "no such thing"} for name in refused]}

    def _entries(self, operation: str, core: str, entries: list[dict[str, str]]) -> set[str]:
        self.record(operation, coreDeviceThingName=core, entries=entries)
        if not 1 <= len(entries) <= 100:
            raise refusal("ValidationException", operation, f"{len(entries)} entries")
        return {entry["thingName"] for entry in entries}

    def _clients(self, core: str, operation: str) -> set[str]:
        if core not in self.associations:
            raise refusal("ResourceNotFoundException", operation)
        return self.associations[core]

    def list_deployments(self, targetArn: str, historyFilter: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_deployments", targetArn=targetArn, historyFilter=historyFilter)
        return {"deployments": [dict(d) for d in self.deployments.values() if d["targetArn"] == targetArn]}

    def get_deployment(self, deploymentId: str) -> dict[str, Any]:  # noqa: N803
        self.record("get_deployment", deploymentId=deploymentId)
        return {**self._deployment(deploymentId, "GetDeployment"), "components": self.named.get(deploymentId, {})}

    def cancel_deployment(self, deploymentId: str) -> dict[str, Any]:  # noqa: N803
        self.record("cancel_deployment", deploymentId=deploymentId)
        self._deployment(deploymentId, "CancelDeployment")["deploymentStatus"] = "CANCELED"
        return {}

    def delete_deployment(self, deploymentId: str) -> dict[str, Any]:  # noqa: N803
        self.record("delete_deployment", deploymentId=deploymentId)
        if self._deployment(deploymentId, "DeleteDeployment")["deploymentStatus"] == "ACTIVE":
            raise refusal("ConflictException", "DeleteDeployment", "The deployment is active.")
        del self.deployments[deploymentId]
        return {}

    def list_components(self, scope: str) -> dict[str, Any]:
        self.record("list_components", scope=scope)
        return {"components": [{"componentName": name} for name in self.versions]}

    def list_component_versions(self, arn: str) -> dict[str, Any]:
        self.record("list_component_versions", arn=arn)
        name = arn.removeprefix(f"{self.ROOT}:")
        if name not in self.versions:
            raise refusal("ResourceNotFoundException", "ListComponentVersions")
        return {"componentVersions": [{"arn": f"{arn}:versions:{version}"} for version in self.versions[name]]}

    def create_component_version(self, inlineRecipe: bytes, tags: dict[str, str]) -> dict[str, Any]:  # noqa: N803
        self.record("create_component_version", inlineRecipe=inlineRecipe, tags=tags)
        recipe = json.loads(inlineRecipe)
        name, version = recipe["ComponentName"], recipe["ComponentVersion"]
        if version in self.versions.get(name, []):
            raise refusal("ConflictException", "CreateComponentVersion", "already exists")
        arn = f"{self.ROOT}:{name}:versions:{version}"
        self.versions.setdefault(name, []).append(version)
        self.recipes[arn] = inlineRecipe
        self.described[arn] = {"arn": arn, "tags": dict(tags), "states": list(self.states)}
        return {"arn": arn, "status": {"componentState": "REQUESTED"}}

    def describe_component(self, arn: str) -> dict[str, Any]:
        self.record("describe_component", arn=arn)
        found = self._version(arn, "DescribeComponent")
        states = found["states"]
        state = states.pop(0) if len(states) > 1 else states[0]
        status = {"componentState": state, "message": "NONE" if state != "FAILED" else "no such artifact", "errors": {}}
        return {"arn": arn, "tags": dict(found["tags"]), "status": status}

    def get_component(self, arn: str, recipeOutputFormat: str) -> dict[str, Any]:  # noqa: N803
        self.record("get_component", arn=arn, recipeOutputFormat=recipeOutputFormat)
        self._version(arn, "GetComponent")
        return {"recipeOutputFormat": recipeOutputFormat, "recipe": self.recipes[arn]}

    def tag_resource(self, resourceArn: str, tags: dict[str, str]) -> dict[str, Any]:  # noqa: N803
        self.record("tag_resource", resourceArn=resourceArn, tags=tags)
        self._version(resourceArn, "TagResource")["tags"].update(tags)
        return {}

    def _version(self, arn: str, operation: str) -> dict[str, Any]:
        name, _, version = arn.removeprefix(f"{self.ROOT}:").partition(":versions:")
        if version not in self.versions.get(name, []):
            raise refusal("ResourceNotFoundException", operation)
        return self.described[arn]

    def delete_component(self, arn: str) -> dict[str, Any]:
        self.record("delete_component", arn=arn)
        name, _, version = arn.removeprefix(f"{self.ROOT}:").partition(":versions:")
        if version not in self.versions.get(name, []):
            raise refusal("ResourceNotFoundException", "DeleteComponent")
        self.versions[name].remove(version)
        if not self.versions[name]:
            del self.versions[name]
        return {}

    def _deployment(self, name: str, operation: str) -> dict[str, str]:
        if name not in self.deployments:
            raise refusal("ResourceNotFoundException", operation)
        return self.deployments[name]

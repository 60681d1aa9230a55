"""The Greengrass V2 cloud: components, deployments, core devices, the device's data plane, CloudFormation types."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twin.cloud.registry import Settings


def install(settings: Settings) -> None:
    """Add the service, its stores, its CloudFormation types and its device endpoint to MiniStack.

    Args:
        settings: Where the cloud listens.
    """
    # Imported here, so that the pure modules (ranges, recipes) can be used without starting MiniStack's import.
    from twin.cloud.greengrass import (
        cloudformation,
        component,
        control_plane,
        core_device,
        data_plane,
        deployment,
        fleet_status,
        signing_name,
    )
    from twin.cloud.registry import register_service, register_store

    register_service("greengrass", control_plane.handle)
    register_store("greengrass_components", component.COMPONENTS)
    register_store("greengrass_deployments", deployment.DEPLOYMENTS)
    register_store("greengrass_revisions", deployment.REVISIONS)
    register_store("greengrass_core_devices", core_device.CORE_DEVICES)
    cloudformation.install()
    fleet_status.install()
    signing_name.install()
    data_plane.install(settings)

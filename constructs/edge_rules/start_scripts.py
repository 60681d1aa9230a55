"""Scripts that machines run when they first start."""

from collections.abc import Iterator

from edge_rules.fleet_view import FleetView, Resource


def start_scripts(fleet: FleetView) -> Iterator[tuple[Resource, str, str]]:
    """Resource, location and text of the user data of instances and launch templates."""
    for resource in fleet.of_type("AWS::EC2::Instance", "AWS::AutoScaling::LaunchConfiguration"):
        if "UserData" in resource.properties:
            yield resource, "Properties/UserData", resource.text(resource.properties["UserData"])
    for resource in fleet.of_type("AWS::EC2::LaunchTemplate"):
        data = resource.properties.get("LaunchTemplateData") or {}
        if "UserData" in data:
            yield resource, "Properties/LaunchTemplateData/UserData", resource.text(data["UserData"])

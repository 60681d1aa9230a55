"""What a launch template and the network interface of an instance resource add to its own properties."""

from __future__ import annotations

from typing import Any

from ministack.services import ec2


def effective_properties(properties: dict[str, Any]) -> dict[str, Any]:
    """The properties with which the instance is launched.

    Args:
        properties: Of an `AWS::EC2::Instance`. Its own properties win over the launch template's; the subnet and the
            security groups of its first network interface count as its own.

    Returns:
        A flat copy, without `LaunchTemplate` and `NetworkInterfaces`.

    Raises:
        ValueError: If the launch template or its version does not exist.
    """
    merged = {**_template_data(properties.get("LaunchTemplate")), **properties}
    interfaces = merged.pop("NetworkInterfaces", None) or []
    if interfaces:
        first = interfaces[0]
        for name, source in (("SubnetId", "SubnetId"), ("SecurityGroupIds", "GroupSet")):
            if first.get(source):
                merged[name] = first[source]
    merged.pop("LaunchTemplate", None)
    return merged


def _template_data(reference: dict[str, Any] | None) -> dict[str, Any]:
    if not reference:
        return {}
    wanted = reference.get("LaunchTemplateId") or reference.get("LaunchTemplateName")
    template = next(
        (
            candidate
            for candidate in ec2._launch_templates.values()
            if wanted in (candidate["LaunchTemplateId"], candidate["LaunchTemplateName"])
        ),
        None,
    )
    if template is None:
        raise ValueError(f"LaunchTemplate must exist, got {wanted}")
    number = str(reference.get("Version") or "$Default")
    numbers = {"$Default": template["DefaultVersionNumber"], "$Latest": template["LatestVersionNumber"]}
    number = str(numbers.get(number, number))
    for version in template["Versions"]:
        if str(version["VersionNumber"]) == number:
            data = version.get("LaunchTemplateData") or {}
            return dict(data)
    raise ValueError(f"Version of the launch template {wanted} must exist, got {number}")

"""Rules on machines that make themselves core devices: which image they start from."""

import re
from collections.abc import Iterator

from edge_rules.fleet_view import FleetView, start_scripts
from edge_rules.rule import Finding, rule

_FOLLOWED = "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>"
#: A dynamic reference without a version is read anew at each update of its resource.
_DYNAMIC = re.compile(r"\{\{resolve:ssm:[^:}]+\}\}")


@rule(
    "ServerImage",
    "the image of a machine with a start script must not follow the newest one",
    reason="ImageId is create-only: the first deploy after each release replaces the machine, nothing waits for the "
    "new one, and no device is sent a deployment twice",
    fix="launch from a launch template with the image resolve:ssm:<parameter>, which EC2 looks up at the launch only, "
    "and replace the machine on purpose",
    source="CloudFormation, AWS::EC2::Instance ImageId; EC2 User Guide, AMI by Systems Manager parameter",
)
def servers_keep_their_image(fleet: FleetView) -> Iterator[Finding]:
    for resource, _place, _script in start_scripts(fleet):
        data = resource.properties.get("LaunchTemplateData")
        image = resource.text((data or resource.properties).get("ImageId", ""))
        parameters = fleet.templates[resource.stack].get("Parameters") or {}
        names = re.findall(r"<[^/<>]+/([^<>.]+)>", image)
        followed = [name for name in names if (parameters.get(name) or {}).get("Type") == _FOLLOWED]
        if followed or _DYNAMIC.search(image):
            place = "Properties/LaunchTemplateData/ImageId" if data else "Properties/ImageId"
            yield Finding(resource, place, f"parameter {followed[0]}" if followed else image)

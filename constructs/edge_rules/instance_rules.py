"""Rules on machines that make themselves core devices: their image, their rights, and who reaches these."""

import re
from collections.abc import Iterator

from edge_rules.fleet_view import FleetView, assumed_by, launch_properties, of_role, start_scripts
from edge_rules.rule import Finding, rule
from edge_rules.server_rules import NUCLEUS

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


_ADDRESS = r"169\.254\.169\.254"
#: A firewall's rule on the address by the owner of the socket, as nftables and iptables write it.
_OWNER = re.compile(rf"{_ADDRESS}[^\n]*(skuid|--uid-owner)|(skuid|--uid-owner)[^\n]*{_ADDRESS}")


@rule(
    "ServerMetadata",
    "a machine that becomes a core device must let only root reach its metadata",
    reason="every component reads the credentials of the machine's role, and acts with them",
    fix='set HttpTokens to "required" and HttpPutResponseHopLimit to 1 (images of today come with 2), and in the start '
    "script reject packets to 169.254.169.254 of sockets that are not root's",
    source="EC2 User Guide, Limit access to IMDS",
)
def metadata_is_roots(fleet: FleetView) -> Iterator[Finding]:
    for resource, place, script in start_scripts(fleet):
        if not NUCLEUS.search(script):
            continue
        options = launch_properties(resource).get("MetadataOptions") or {}
        if options.get("HttpEndpoint") == "disabled":
            continue
        wanted = {"HttpTokens": "required", "HttpPutResponseHopLimit": "1"}
        wrong = [f"{name} {options.get(name)}" for name, value in wanted.items() if str(options.get(name)) != value]
        if wrong:
            yield Finding(resource, "Properties/MetadataOptions", ", ".join(wrong))
        if not _OWNER.search(script):
            yield Finding(resource, place, "a script without such a rule")


@rule(
    "ServerRights",
    "the role of a machine must change nothing of AWS IoT",
    reason="no action that attaches a certificate or a policy can be limited to one thing: whoever reaches the role "
    "makes itself any device, for as long as the machine lives",
    fix="let the machine call one function, which acts for the machine's own thing",
    source="Service Authorization Reference, AWS IoT: AttachThingPrincipal has no resource",
)
def machines_change_nothing_of_iot(fleet: FleetView) -> Iterator[Finding]:
    for role in fleet.of_type("AWS::IAM::Role"):
        if "ec2.amazonaws.com" in assumed_by(role).split():
            for statement in of_role(role):
                for action in statement.actions:
                    if action in {"*", "iot:*"} or re.match(r"iot:(?!(Describe|Get|List|Search)\w)", action):
                        yield Finding(role, statement.location, action)

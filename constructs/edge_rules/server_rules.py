"""Rules on machines that make themselves core devices: downloads, image, rights, and who reaches these."""

import re
from collections.abc import Iterator
from typing import Any

from edge_rules.fleet_view import (
    Finding,
    FleetView,
    Resource,
    assumed_by,
    launch_properties,
    of_role,
    rule,
    start_scripts,
)
from edge_rules.wheel_rules import wheelhouses

_EXPORT = re.compile(r"^\s*export (\w+)=(['\"]?)([^'\"\n]*)\2\s*$", re.MULTILINE)
_INSTALL = r"(?:(?!\n).)*?\b(?:install|update|upgrade)\b"
#: What a start script does, to the port that it opens connections to. Debian's and Ubuntu's archives speak no TLS.
_PORTS = (
    (re.compile(rf"\b(?:apt-get|apt)\b{_INSTALL}"), 80),
    (re.compile(r"\bhttp://(?!169\.254\.|localhost|127\.)[^\s'\"]+"), 80),
    (re.compile(r"\bhttps://[^\s'\"]+"), 443),
    (re.compile(rf"\b(?:dnf|yum|snap)\b{_INSTALL}"), 443),
    (re.compile(r"\baws (?:--?[\w-]+ )*[a-z][a-z0-9-]+ [a-z-]+"), 443),
)
#: What tells the start script of a core device.
NUCLEUS = re.compile(r"Greengrass\.jar|aws-greengrass-lite")
_DATA_PLANE = re.compile(r"greengrassDataPlanePort: *[\"']?(\d+)")
_MQTT = re.compile(r"\bmqtt:\s+port: *[\"']?(\d+)")
_PYTHON = re.compile(r"\bpython(3\.\d+)\b(?!/)")
#: An image's name to the Python that its `python3` is.
_SYSTEM_PYTHONS = {"ubuntu/server/22.04": "3.10", "ubuntu/server/24.04": "3.12"}


@rule(
    "ServerEgress",
    "what a machine downloads at its first start must be let out by its security groups",
    reason="nothing can be installed, and the deploy fails after its whole patience",
    fix="open the port, for Ubuntu's archives 80, or fetch it over one that is open",
)
def downloads_are_let_out(fleet: FleetView) -> Iterator[Finding]:
    for resource, place, script in start_scripts(fleet):
        groups = [each for each in _named(resource) if each.type == "AWS::EC2::SecurityGroup"]
        if not groups:
            continue
        for port, use in needed_ports(script).items():
            if not any(_lets_out(group, port) for group in groups):
                yield Finding(resource, place, f"port {port} closed for `{use}`")


@rule(
    "ServerPython",
    "a machine must install the Python that the devices' wheels are for",
    reason="the runtime's install step finds no interpreter for its wheels, on this device at every deployment",
    fix="install the interpreter of the stage's runtime.python, by a setting and not by name",
)
def servers_have_the_python_of_the_wheels(fleet: FleetView) -> Iterator[Finding]:
    wanted = {house.python for _, _, house in wheelhouses(fleet) if house.python}
    for resource, place, script in _of_core_devices(fleet):
        text = _filled_in(script)
        installed = set(_PYTHON.findall(text))
        image = _image(resource)
        if "python3-venv" in text:
            installed |= {python for name, python in _SYSTEM_PYTHONS.items() if name in image}
        if installed and (missing := sorted(wanted - installed)):
            yield Finding(resource, place, f"{', '.join(sorted(installed))}, wheels for {', '.join(missing)}")


def _of_core_devices(fleet: FleetView) -> Iterator[tuple[Resource, str, str]]:
    """The start scripts that install a nucleus: an app may have other machines."""
    return (each for each in start_scripts(fleet) if NUCLEUS.search(each[2]))


def needed_ports(script: str) -> dict[int, str]:
    """Say which TCP ports a start script opens connections to.

    Args:
        script: User data; values that it exports are filled in.

    Returns:
        Port to the first command or address that needs it.
    """
    text = _filled_in(script)
    needed: dict[int, str] = {}
    for pattern, port in _PORTS:
        if found := pattern.search(text):
            needed.setdefault(port, " ".join(found.group().split())[:60])
    if NUCLEUS.search(text):
        for pattern, usual, use in ((_MQTT, "8883", "the nucleus, MQTT"), (_DATA_PLANE, "8443", "the nucleus, data")):
            found = pattern.search(text)
            needed.setdefault(int(found.group(1) if found else usual), use)
    return needed


def _filled_in(script: str) -> str:
    """The script without its comments, and with the values of the variables that it exports."""
    text = re.sub(r"^\s*#.*$", "", script, flags=re.MULTILINE)
    for name, _, value in _EXPORT.findall(text):
        text = text.replace(f"${{{name}}}", value)
        text = re.sub(rf"\${name}\b", lambda _, value=value: value, text)  # type: ignore[misc]
    return text


def _named(resource: Resource) -> Iterator[Resource]:
    """What an instance's properties refer to, but for its script."""
    properties = {name: value for name, value in launch_properties(resource).items() if name != "UserData"}
    return resource.fleet.referenced(resource.text(properties))


def _image(resource: Resource) -> str:
    named = str(launch_properties(resource).get("ImageId", ""))
    parameters = resource.fleet.templates[resource.stack].get("Parameters") or {}
    return named + "".join(str(each.get("Default", "")) for name, each in parameters.items() if name in named)


def _lets_out(group: Resource, port: int) -> bool:
    rules = list(group.properties.get("SecurityGroupEgress") or [])
    for other in group.fleet.of_type("AWS::EC2::SecurityGroupEgress"):
        if group in group.fleet.referenced(other.text(other.properties.get("GroupId", ""))):
            rules.append(other.properties)
    # A group that names nothing lets everything out.
    return not rules or any(
        str(each.get("IpProtocol")) == "-1"
        or (
            str(each.get("IpProtocol")) in {"tcp", "6"}
            and _bound(each.get("FromPort"), 0, port) <= port <= _bound(each.get("ToPort"), 65535, port)
        )
        for each in rules
    )


def _bound(value: Any, default: int, unknown: int) -> int:
    """A port of a template; `unknown` for one that only the deploy knows."""
    if value is None:
        return default
    return int(value) if str(value).isdigit() else unknown


_FOLLOWED = "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>"
#: A dynamic reference without a version is read anew at each update of its resource.
_DYNAMIC = re.compile(r"\{\{resolve:ssm:[^:}]+\}\}")


@rule(
    "ServerImage",
    "the image of a machine that becomes a core device must not follow the newest one",
    reason="ImageId is create-only: the first deploy after each release replaces the machine, nothing waits for the "
    "new one, and no device is sent a deployment twice",
    fix="launch from a launch template with the image resolve:ssm:<parameter>, which EC2 looks up at the launch only, "
    "and replace the machine on purpose",
    source="CloudFormation, AWS::EC2::Instance ImageId; EC2 User Guide, AMI by Systems Manager parameter",
)
def servers_keep_their_image(fleet: FleetView) -> Iterator[Finding]:
    for resource, _place, _script in _of_core_devices(fleet):
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
    for resource, place, script in _of_core_devices(fleet):
        options = launch_properties(resource).get("MetadataOptions") or {}
        if options.get("HttpEndpoint") == "disabled":
            continue
        wanted = {"HttpTokens": "required", "HttpPutResponseHopLimit": "1"}
        wrong = [f"{name} {options.get(name)}" for name, value in wanted.items() if str(options.get(name)) != value]
        if wrong:
            yield Finding(resource, "Properties/MetadataOptions", ", ".join(wrong))
        if not _OWNER.search(script):
            yield Finding(resource, place, "a script without such a rule")


#: All but what reads, and what a client of the message broker and of shadows does: both are limited by resources.
_CHANGES = re.compile(
    r"iot:(?!(Describe|Get|List|Search)\w|((Retain)?Publish|Connect|Receive|Subscribe|UpdateThingShadow)$)"
)


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
                    if action in {"*", "iot:*"} or _CHANGES.match(action):
                        yield Finding(role, statement.location, action)

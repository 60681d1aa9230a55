"""Rules against services and versions that synth accepts and AWS no longer runs."""

import re
from collections.abc import Iterator

from edge_rules.fleet_view import Finding, FleetView, iam, rule, start_scripts
from edge_rules.recipe_view import Recipe, parts_of

_EDGE_MANAGER = re.compile(
    r"sagemaker:(?:(?:Create|Delete|Update|Describe)DeviceFleet|(?:Register|Deregister|Update)Devices|DescribeDevice|"
    r"(?:Create|Describe|Stop)EdgePackagingJob|(?:Create|Delete|Describe)EdgeDeploymentPlan|SendHeartbeat|GetDeviceRegistration)"
)
#: Framework of a compilation job to the last version that Neo for edge devices took.
NEO_VERSIONS = {"PYTORCH": (1, 8), "ONNX": (1, 7), "TENSORFLOW": (2, 4)}


@rule(
    "EdgeManager",
    "nothing may use SageMaker Edge Manager",
    reason="the service ended on 2024-04-26: synth and mocks pass, the deploy fails",
    fix="register devices as things in groups, and package models in the app",
)
def edge_manager_is_gone(fleet: FleetView) -> Iterator[Finding]:
    for resource in fleet.of_type("AWS::SageMaker::DeviceFleet", "AWS::SageMaker::Device"):
        yield Finding(resource, "Type", resource.type)
    for statement in iam(fleet):
        for action in statement.actions:
            if _EDGE_MANAGER.fullmatch(action):
                yield Finding(statement.resource, statement.location, action)


@rule(
    "NeoVersion",
    "a compilation job's framework version must be one that Neo knows",
    reason="Neo's matrix is frozen (PyTorch 1.8, ONNX 1.7, TensorFlow 2.4): the job fails after minutes",
    fix="export the model for a version of the matrix, or use the ONNX Runtime packager",
)
def neo_knows_the_version(fleet: FleetView) -> Iterator[Finding]:
    for resource in fleet.resources:
        framework = resource.text(resource.properties.get("Framework", "")).upper()
        version = resource.text(resource.properties.get("FrameworkVersion", ""))
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if framework in NEO_VERSIONS and numbers and tuple(map(int, numbers.groups())) > NEO_VERSIONS[framework]:
            yield Finding(resource, "Properties/FrameworkVersion", f"{framework} {version}")


@rule(
    "GreengrassV1",
    "nothing may use Greengrass V1",
    reason="it ended on 2026-10-07",
    fix="use AWS::GreengrassV2; docs/migration.md has the table",
)
def greengrass_v1_is_gone(fleet: FleetView) -> Iterator[Finding]:
    for resource in fleet.resources:
        if resource.type.startswith("AWS::Greengrass::"):
            yield Finding(resource, "Type", resource.type)


@rule(
    "Panorama",
    "nothing may use AWS Panorama",
    reason="it ended on 2026-05-31",
    fix="run the model as a Greengrass component",
)
def panorama_is_gone(fleet: FleetView) -> Iterator[Finding]:
    for resource in fleet.resources:
        if resource.type.startswith("AWS::Panorama::"):
            yield Finding(resource, "Type", resource.type)


@rule(
    "AmazonLinux2",
    "no machine may start from Amazon Linux 2",
    reason="it is past its end of life: no security updates",
    fix="use Amazon Linux 2023",
)
def amazon_linux_2_is_gone(fleet: FleetView) -> Iterator[Finding]:
    for resource in fleet.of_type("AWS::EC2::Instance", "AWS::EC2::LaunchTemplate"):
        properties = resource.properties.get("LaunchTemplateData") or resource.properties
        image = resource.text(properties.get("ImageId", ""))
        parameters = fleet.templates[resource.stack].get("Parameters") or {}
        for name in re.findall(r"<[^/<>]+/([^<>.]+)>", image):
            image += " " + str((parameters.get(name) or {}).get("Default", ""))
        if re.search(r"amzn2-|amazon-linux-2/|amzn-ami", image):
            yield Finding(resource, "Properties/ImageId", image)


@rule(
    "AmiTyped",
    "an image must be looked up, not typed in",
    reason="an AMI id is of one region, grows old without updates and is deregistered one day",
    fix="take it from the public SSM parameter of the distribution",
)
def images_are_looked_up(fleet: FleetView) -> Iterator[Finding]:
    for resource in fleet.of_type("AWS::EC2::Instance", "AWS::EC2::LaunchTemplate"):
        properties = resource.properties.get("LaunchTemplateData") or resource.properties
        image = resource.text(properties.get("ImageId", ""))
        if re.fullmatch(r"ami-[0-9a-f]+", image):
            yield Finding(resource, "Properties/ImageId", image)


@rule(
    "GreengrassImage",
    "a machine must not run Greengrass' Docker image as latest or with --rm",
    reason="the image is not actively developed, and with --rm the device loses its identity at each start",
    fix="install the nucleus from the pinned release",
)
def greengrass_image_is_not_used(fleet: FleetView) -> Iterator[Finding]:
    for resource, place, script in start_scripts(fleet):
        if found := re.search(r"amazon/aws-iot-greengrass(:latest)?", script):
            yield Finding(resource, place, found.group())


@rule(
    "GreengrassV1Sdk",
    "a component must not need the Greengrass V1 SDK installed",
    reason="its client speaks to a daemon that no V2 device has",
    fix="use the handler adapter, which brings the same calls on IPC",
)
def v1_sdk_is_not_installed(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, script) in parts_of(fleet, Recipe.scripts):
        if re.search(r"\bgreengrasssdk\b", script):
            yield Finding(recipe.resource, place, "greengrasssdk")

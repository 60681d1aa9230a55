"""EC2 instances as CloudFormation resources: launch, change in place, terminate; MiniStack has the rest of EC2."""

from __future__ import annotations

import re
import time
from typing import Any

from ministack.services import ec2, iam, ssm
from ministack.services.cloudformation import provisioners

from twin.cloud.ministack.patches import require
from twin.cloud.ministack.registry import register_type
from twin.cloud_process import Settings
from twin.process import instances_folder

_TERMINATION_LIMIT_S = 40.0

require(
    "services.cloudformation.provisioners._STACK_TAG_PROPERTY",
    why="instances get a stack's tags",
    signature="dict",
)

#: What CloudFormation cannot change in place: createOnlyProperties of the resource's schema, and BlockDeviceMappings.
REPLACING = (
    "AvailabilityZone",
    "BlockDeviceMappings",
    "CpuOptions",
    "ElasticGpuSpecifications",
    "ElasticInferenceAccelerators",
    "EnclaveOptions",
    "HibernationOptions",
    "HostResourceGroupArn",
    "ImageId",
    "Ipv6AddressCount",
    "Ipv6Addresses",
    "KeyName",
    "LaunchTemplate",
    "LicenseSpecifications",
    "NetworkInterfaces",
    "PlacementGroupName",
    "PrivateIpAddress",
    "SecurityGroups",
    "SubnetId",
)


def create(logical_id: str, properties: dict[str, Any], stack_name: str) -> tuple[str, dict[str, Any]]:
    """Launch the instance; its edge server, if its user data describes one, is started by the supervisor."""
    del logical_id, stack_name
    wanted = effective_properties(properties)
    if not wanted.get("ImageId"):
        raise ValueError("ImageId must be given, by the instance or by its launch template")
    profile = _instance_profile(wanted)
    groups = wanted.get("SecurityGroupIds") or []
    unknown = [group for group in groups if group not in ec2._security_groups]
    if unknown:
        raise ValueError(f"SecurityGroupIds must exist, got {', '.join(unknown)}")
    subnet = wanted.get("SubnetId") or ec2._DEFAULT_SUBNET_ID
    if subnet not in ec2._subnets:
        raise ValueError(f"SubnetId must exist, got {subnet}")
    (instance,) = ec2._launch_instances_internal(
        image_id=_image(wanted["ImageId"]),
        instance_type=wanted.get("InstanceType", "m1.small"),
        subnet_id=subnet,
        count=1,
        key_name=wanted.get("KeyName", ""),
        user_data=wanted.get("UserData", ""),
        sg_ids=groups,
        requested_private_ip=wanted.get("PrivateIpAddress"),
        iam_profile=profile,
    )
    try:
        instance["MetadataOptions"] = _metadata_options(wanted)
        _apply_root_volume(instance, wanted)
        _apply_tags(instance["InstanceId"], wanted)
    except Exception:
        # The stack knows nothing of it, and would leave it behind.
        delete(instance["InstanceId"], properties)
        raise
    return instance["InstanceId"], _attributes(instance)


def update(instance_id: str, old: dict[str, Any], new: dict[str, Any], stack_name: str) -> tuple[str, dict[str, Any]]:
    """Change tags, type, groups, profile and user data in place; user data has its effect at the first boot only."""
    del old, stack_name
    instance = ec2._instances.get(instance_id)
    if instance is None:
        raise ValueError(f"instance {instance_id} does not exist any more: delete the stack or replace the resource")
    wanted = effective_properties(new)
    instance["InstanceType"] = wanted.get("InstanceType", instance["InstanceType"])
    instance["UserData"] = wanted.get("UserData", "")
    instance["MetadataOptions"] = _metadata_options(wanted)
    if wanted.get("SecurityGroupIds"):
        instance["SecurityGroups"] = [
            {"GroupId": group, "GroupName": ec2._security_groups.get(group, {}).get("GroupName", group)}
            for group in wanted["SecurityGroupIds"]
        ]
    profile = _instance_profile(wanted)
    if profile and profile != instance.get("IamInstanceProfile"):
        instance["IamInstanceProfile"] = profile
        ec2._upsert_iam_instance_profile_association(instance_id, profile)
    _apply_tags(instance_id, wanted)
    return instance_id, _attributes(instance)


def delete(instance_id: str, properties: dict[str, Any]) -> None:
    """Terminate the instance and delete its root volume."""
    del properties
    instance = ec2._instances.get(instance_id)
    if instance is None or instance["State"]["Name"] == "terminated":
        return
    status, _headers, body = ec2._terminate_instances({"InstanceId.1": [instance_id]})
    if status >= 400:
        raise ValueError(f"instance {instance_id} cannot be terminated: {body!r}")
    for mapping in instance.get("BlockDeviceMappings", []):
        if mapping["Ebs"].get("DeleteOnTermination", True):
            ec2._volumes.pop(mapping["Ebs"]["VolumeId"], None)
    ec2._tags.pop(instance_id, None)


def _image(image: str) -> str:
    """The image's id; that of a public parameter is looked up at each launch, and only then."""
    _, prefix, name = image.partition("resolve:ssm:")
    if not prefix:
        return image
    parameter, _error = ssm._select_parameter(name)
    if not parameter:
        raise ValueError(f"ImageId must name a parameter of Systems Manager, got {name}")
    return str(parameter["Value"])


def _instance_profile(wanted: dict[str, Any]) -> dict[str, str] | None:
    reference = wanted.get("IamInstanceProfile")
    if isinstance(reference, dict):
        reference = reference.get("Name") or str(reference.get("Arn", "")).rsplit("/", 1)[-1]
    if not reference:
        return None
    profile = iam._lookup_instance_profile(name=reference)
    if profile is None:
        raise ValueError(
            f"Value ({reference}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
        )
    return {"Arn": profile["Arn"], "Id": profile["InstanceProfileId"]}


def _metadata_options(wanted: dict[str, Any]) -> dict[str, Any]:
    return {
        "State": "applied",
        "HttpTokens": "optional",
        "HttpEndpoint": "enabled",
        "HttpPutResponseHopLimit": 1,
        **(wanted.get("MetadataOptions") or {}),
    }


def _apply_root_volume(instance: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Size, type and encryption of the root volume, which is the only one the twin makes."""
    root = instance["BlockDeviceMappings"][0]
    for mapping in wanted.get("BlockDeviceMappings") or []:
        if mapping.get("DeviceName") != root["DeviceName"]:
            continue
        settings = mapping.get("Ebs") or {}
        volume = ec2._volumes[root["Ebs"]["VolumeId"]]
        size = str(settings.get("VolumeSize", volume["Size"]))
        if not size.isdecimal():
            raise ValueError(f"VolumeSize must be a whole number of GiB, got {size}")
        volume["Size"] = int(size)
        volume["VolumeType"] = settings.get("VolumeType", volume["VolumeType"])
        volume["Encrypted"] = str(settings.get("Encrypted", False)).lower() == "true"
        root["Ebs"]["DeleteOnTermination"] = str(settings.get("DeleteOnTermination", True)).lower() == "true"


def _apply_tags(instance_id: str, wanted: dict[str, Any]) -> None:
    """The instance's own tags and its stack's, which are among its properties, before the launch template's."""
    specifications = wanted.get("TagSpecifications") or []
    of_template = [tag for each in specifications if each.get("ResourceType") == "instance" for tag in each["Tags"]]
    values = {str(tag["Key"]): str(tag["Value"]) for tag in [*of_template, *(wanted.get("Tags") or [])]}
    tags = [{"Key": key, "Value": value} for key, value in values.items()]
    # In one step: whoever looks meanwhile sees the tags of before or of now.
    if tags:
        ec2._tags[instance_id] = tags
    else:
        ec2._tags.pop(instance_id, None)


def _attributes(instance: dict[str, Any]) -> dict[str, Any]:
    return {
        "InstanceId": instance["InstanceId"],
        "AvailabilityZone": instance["Placement"]["AvailabilityZone"],
        "PrivateDnsName": re.sub(r"\s", "", instance["PrivateDnsName"]),
        "PrivateIp": instance["PrivateIpAddress"],
        "PublicDnsName": instance["PublicDnsName"],
        "PublicIp": instance["PublicIpAddress"],
        "VpcId": instance["VpcId"],
    }


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


def install(settings: Settings) -> None:
    """Register the type; a deletion ends when the edge server of the instance, if it is one, has ended."""

    def delete_and_wait(instance_id: str, properties: dict[str, Any]) -> None:
        delete(instance_id, properties)
        # As on AWS: what is deleted next, the thing and its certificate, is not in use any more.
        deadline = time.monotonic() + _TERMINATION_LIMIT_S
        while (instances_folder(settings.home) / instance_id).exists():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the edge server of {instance_id} must end within {_TERMINATION_LIMIT_S:.0f} s, it did not: see "
                    "`python -m twin logs edge_server`"
                )
            time.sleep(0.05)

    provisioners._STACK_TAG_PROPERTY["AWS::EC2::Instance"] = ("Tags", "list")
    register_type(
        "AWS::EC2::Instance",
        create=create,
        update=update,
        delete=delete_and_wait,
        replacing=REPLACING,
        blocking=True,
    )

"""A core device on EC2: its network with a way out and no way in, and the function that gives it its certificate."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import CfnWaitCondition, CfnWaitConditionHandle, Duration, Fn, RemovalPolicy, Stack, Tags
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from constructs import Construct

from edge_constructs.handler_provider import HandlerProvider, called_function
from edge_constructs.permission import Permission, ServiceRole, acknowledge, arn, ending_certificates
from edge_handlers import server_join

#: What a core device opens connections to: AWS APIs and S3, IoT Core, the Greengrass data plane.
_EGRESS_PORTS = {"https": 443, "mqtt": 8883, "greengrass": 8443}
_ANYWHERE = "0.0.0.0/0"
_VPC_FINDINGS = {
    "NIST.800.53.R5-VPCDefaultSecurityGroupClosed": "nothing uses the default group: the server has one of its own",
}
_WITHOUT_FLOW_LOGS = {
    "VPC7": "network.flow_logs is off for this stage: its cloud cannot deploy flow logs (the twin)",
    "NIST.800.53.R5-VPCFlowLogsEnabled": "network.flow_logs is off for this stage: the twin cannot deploy flow logs",
}
_ROUTE_FINDINGS = {
    "NIST.800.53.R5-VPCNoUnrestrictedRouteToIGW": "a core device calls AWS from behind a group without inbound rules; "
    "NAT costs more than the server",
}
_FLOW_LOG_FINDINGS = {
    "NIST.800.53.R5-CloudWatchLogGroupEncrypted": "the log holds addresses and ports; CloudWatch encrypts it with a "
    "key of its own",
}


@dataclass(frozen=True)
class _System:
    """An operating system.

    Attributes:
        name: In words.
        image: Parameter with its newest image, but for the architecture.
        architectures: As `uname -m` prints one to its name in the parameter.
        root_device: Name of the root volume.
        ports: What its package manager opens connections to, besides HTTPS.
    """

    name: str
    image: str
    architectures: Mapping[str, str]
    root_device: str
    ports: Mapping[str, int]


_SYSTEMS = {
    "amazon-linux": _System(
        "Amazon Linux 2023",
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{}",
        {"x86_64": "x86_64", "aarch64": "arm64"},
        "/dev/xvda",
        {},
    ),
    "ubuntu": _System(
        "Ubuntu 24.04",
        "/aws/service/canonical/ubuntu/server/24.04/stable/current/{}/hvm/ebs-gp3/ami-id",
        {"x86_64": "amd64", "aarch64": "arm64"},
        "/dev/sda1",
        # EC2's mirrors of the archive speak no TLS; what comes from them is signed.
        {"apt": 80},
    ),
}


class EdgeNetwork(Construct):
    """A VPC with one public subnet and a security group without ingress; an address costs less than a NAT gateway.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: Shown in the console.
        cidr: IPv4 range, all of it the subnet's.
        flow_logs: Whether all traffic is logged.
        system: Of the server, `amazon-linux` or `ubuntu`: its packages come over this network.
        cameras: IPv4 range and port of each camera that it reads.

    Attributes:
        cidr: As given.
        security_group_id: Of the group.
        subnet_id: Of the subnet.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        cidr: str,
        flow_logs: bool,
        system: str,
        cameras: Sequence[tuple[str, int]] = (),
    ) -> None:
        super().__init__(scope, construct_id)
        vpc = ec2.CfnVPC(self, "Vpc", cidr_block=cidr, enable_dns_support=True, enable_dns_hostnames=True)
        subnet = ec2.CfnSubnet(
            self,
            "Subnet",
            vpc_id=vpc.ref,
            cidr_block=cidr,
            map_public_ip_on_launch=False,  # the instance asks for its address itself
        )
        self._open_way_out(vpc, subnet)
        self.cidr = cidr
        everywhere = {**_EGRESS_PORTS, **_SYSTEMS[system].ports}
        ways = [(use, _ANYWHERE, port) for use, port in everywhere.items()]
        ways += [("camera", ip_range, port) for ip_range, port in cameras if port not in everywhere.values()]
        self.security_group_id = self._security_group(vpc, ways)
        self.subnet_id = subnet.ref
        Tags.of(self).add("Name", name)
        acknowledge(vpc, _VPC_FINDINGS if flow_logs else {**_VPC_FINDINGS, **_WITHOUT_FLOW_LOGS})
        if flow_logs:
            self._log_flows(vpc)

    def _open_way_out(self, vpc: ec2.CfnVPC, subnet: ec2.CfnSubnet) -> None:
        gateway = ec2.CfnInternetGateway(self, "Gateway")
        attachment = ec2.CfnVPCGatewayAttachment(
            self, "GatewayAttachment", vpc_id=vpc.ref, internet_gateway_id=gateway.ref
        )
        table = ec2.CfnRouteTable(self, "RouteTable", vpc_id=vpc.ref)
        self.route = ec2.CfnRoute(
            self,
            "DefaultRoute",
            route_table_id=table.ref,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=gateway.ref,
        )
        acknowledge(self.route, _ROUTE_FINDINGS)
        self.route.add_resource_dependency(attachment)
        self.route_association = ec2.CfnSubnetRouteTableAssociation(
            self, "RouteTableAssociation", route_table_id=table.ref, subnet_id=subnet.ref
        )

    def _security_group(self, vpc: ec2.CfnVPC, ways: Sequence[tuple[str, str, int]]) -> str:
        group = ec2.CfnSecurityGroup(
            self,
            "SecurityGroup",
            group_description="Edge server: no ingress, egress to AWS",
            vpc_id=vpc.ref,
            security_group_egress=[
                ec2.CfnSecurityGroup.EgressProperty(
                    ip_protocol="tcp", from_port=port, to_port=port, cidr_ip=ip_range, description=use
                )
                for use, ip_range, port in ways
            ],
        )
        return group.attr_group_id

    def _log_flows(self, vpc: ec2.CfnVPC) -> None:
        log_group = logs.CfnLogGroup(self, "FlowLog", retention_in_days=30)
        log_group.apply_removal_policy(RemovalPolicy.DESTROY)
        acknowledge(log_group, _FLOW_LOG_FINDINGS)
        role = ServiceRole(
            self,
            "FlowLogRole",
            service="vpc-flow-logs.amazonaws.com",
            permissions=[
                Permission(
                    actions=("logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"),
                    resources=(log_group.attr_arn,),
                )
            ],
        )
        ec2.CfnFlowLog(
            self,
            "VpcFlowLog",
            resource_id=vpc.ref,
            resource_type="VPC",
            traffic_type="ALL",
            log_destination_type="cloud-watch-logs",
            log_group_name=log_group.ref,
            deliver_logs_permission_arn=role.arn,
        )


_METADATA = {"httpEndpoint": "enabled", "httpTokens": "required", "httpPutResponseHopLimit": 1}
#: EC2 refuses longer user data.
USER_DATA_LIMIT_BYTES = 16384
#: Stands for a value that CloudFormation fills in; its number changes with unrelated code.
_TOKEN = re.compile(r"\$\{Token\[[^\]]*\]\}")
_REASONS = {
    "NIST.800.53.R5-EC2InstanceNoPublicIp": "an address without any inbound rule costs less than a NAT gateway",
    "NIST.800.53.R5-EC2InstancesInVPC": "it is in the stage's VPC: the network interface names the subnet",
    "EC29": "a core device holds nothing of its own: a new instance provisions itself as the same thing",
}


class EdgeServer(Construct):
    """An instance that makes itself a core device when it first starts; another fingerprint replaces it.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        network: Where it runs.
        instance_profile: Name of the profile with the edge instance role.
        instance_type: EC2 type.
        architecture: Of the type, as `uname -m` prints it.
        volume_gib: Size of the root volume, GiB.
        image: Date of the image, `YYYY-MM-DD`: the server keeps the image that was the newest when it was launched,
            until another date replaces it.
        settings: What the script is told: key without `EDGEWRIGHT_` to value, which may be a token.
        script: The text that follows the settings in the user data; it signals its outcome to EDGEWRIGHT_SIGNAL_URL.
        system: `amazon-linux` or `ubuntu`.
        patience: After so long without a signal the stack's deploy fails.
        name: Shown in the console.

    Attributes:
        fingerprint: Of all that replaces the instance; whoever must do something anew for a new server names it.
        resource: The instance.
        provisioned: Done when the instance is a core device.

    Raises:
        ValueError: The user data is longer than EC2 takes, or a setting cannot be quoted.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        network: EdgeNetwork,
        instance_profile: str,
        instance_type: str,
        architecture: str,
        volume_gib: int,
        image: str,
        settings: Mapping[str, str],
        script: str,
        system: str,
        patience: Duration,
        name: str,
    ) -> None:
        super().__init__(scope, construct_id)
        running = _SYSTEMS[system]
        # EC2 looks the parameter up when it launches an instance, and only then: a template's own parameter would name
        # another image at the first deploy after each release, which replaces the server.
        launch = {
            "imageId": f"resolve:ssm:{running.image.format(running.architectures[architecture])}",
            "metadataOptions": _METADATA,
        }
        fixed = _fixed(network, running, volume_gib)
        # A new server needs a new id, and so does the wait for it, which CloudFormation never repeats. User data runs
        # on a first start only, so a new text is a new server, too.
        text = _TOKEN.sub("", compose_user_data(settings, script))
        content = json.dumps([Stack.of(self).resolve(fixed), launch, image, network.cidr, text], sort_keys=True)
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:8]
        template = ec2.CfnLaunchTemplate(self, f"Launch{self.fingerprint}", launch_template_data=launch)
        signal = CfnWaitConditionHandle(self, f"Signal{self.fingerprint}")
        user_data = compose_user_data({**settings, "SIGNAL_URL": signal.ref}, script)
        self.resource = ec2.CfnInstance(
            self,
            f"Instance{self.fingerprint}",
            launch_template=ec2.CfnInstance.LaunchTemplateSpecificationProperty(
                # Never changed in place: its first version is the only one.
                launch_template_id=template.ref,
                version="1",
            ),
            instance_type=instance_type,
            iam_instance_profile=instance_profile,
            monitoring=True,
            ebs_optimized=True,
            metadata_options=_METADATA,
            user_data=Fn.base64(user_data),
            propagate_tags_to_volume_on_creation=True,
            **fixed,
        )
        # Without its route the first start finds no network.
        self.resource.add_resource_dependency(network.route)
        self.resource.add_resource_dependency(network.route_association)
        Tags.of(self.resource).add("Name", name)
        self.provisioned = CfnWaitCondition(
            self, f"Provisioned{self.fingerprint}", handle=signal.ref, timeout=str(int(patience.to_seconds())), count=1
        )
        self.provisioned.add_resource_dependency(self.resource)
        acknowledge(self.resource, _REASONS)


def _fixed(network: EdgeNetwork, running: _System, volume_gib: int) -> dict[str, Any]:
    """What CloudFormation cannot change without another instance; the launch template is so, too."""
    return {
        "network_interfaces": [
            ec2.CfnInstance.NetworkInterfaceProperty(
                device_index="0",
                associate_public_ip_address=True,
                subnet_id=network.subnet_id,
                group_set=[network.security_group_id],
            )
        ],
        "block_device_mappings": [
            ec2.CfnInstance.BlockDeviceMappingProperty(
                device_name=running.root_device,
                ebs=ec2.CfnInstance.EbsProperty(
                    volume_size=volume_gib, volume_type="gp3", encrypted=True, delete_on_termination=True
                ),
            )
        ],
    }


def compose_user_data(settings: Mapping[str, str], script: str) -> str:
    """Put the settings before the script.

    Args:
        settings: Key without `EDGEWRIGHT_` to value.
        script: Text of a bash script.

    Returns:
        The user data: an interpreter line, which cloud-init insists on, one export a setting, and the script.

    Raises:
        ValueError: It is longer than EC2 takes, or a value holds a single quote or a line break.
    """
    for key, value in settings.items():
        if "'" in value or "\n" in value:
            raise ValueError(f"EDGEWRIGHT_{key} must be free of single quotes and line breaks, got {value!r}")
    exports = [f"export EDGEWRIGHT_{key}='{value}'" for key, value in settings.items()]
    text = "\n".join(["#!/bin/bash", *exports, script])
    if (size := len(text.encode())) > USER_DATA_LIMIT_BYTES:
        raise ValueError(f"user data must fit into {USER_DATA_LIMIT_BYTES} bytes, got {size}: shorten the script")
    return text


_CERTIFICATES = "a certificate's id is known when it is made"
_NO_RESOURCE = "the service knows no resource for these actions; the function names the thing"


class ServerJoin(Construct):
    """Lets one machine join as one thing, once, and no machine as any other.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The function's name, which the machine's user data and its role know.
        thing: The thing.
        thing_group: The group that it joins.
        policy: IoT policy of its certificate.
        fingerprint: Of the machine.

    Attributes:
        function: To be made before the machine.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        thing: str,
        thing_group: str,
        policy: str,
        fingerprint: str,
    ) -> None:
        super().__init__(scope, construct_id)
        self._contract = server_join.ServerJoin(thing, policy, fingerprint)
        self.function = called_function(
            self,
            "Function",
            name=name,
            entry=server_join.on_request,
            permissions=[
                *_taking_away(thing),
                Permission(
                    ("iot:AddThingToThingGroup",),
                    (arn("iot", f"thing/{thing}"), arn("iot", f"thinggroup/{thing_group}")),
                ),
                Permission(
                    ("iot:AttachPolicy",),
                    (arn("iot", "cert/*"), arn("iot", f"policy/{policy}")),
                    wildcard_reason=_CERTIFICATES,
                ),
                Permission(
                    ("iot:CreateCertificateFromCsr", "iot:DescribeEndpoint"), ("*",), wildcard_reason=_NO_RESOURCE
                ),
            ],
            timeout=Duration.minutes(1),
            environment={
                "THING_NAME": thing,
                "THING_GROUP": thing_group,
                "POLICY_NAME": policy,
                "FINGERPRINT": fingerprint,
            },
            called="one instance calls it, once in its life",
            awaited="the instance waits for the answer, and reports a refusal to CloudFormation",
        )

    def confirm_after(self, *last: Construct) -> None:
        """End former certificates when all else is done: nothing that fails later may want them back.

        Args:
            last: What must be made before.
        """
        thing = self._contract.thing
        provider = HandlerProvider(
            self,
            "Confirmation",
            handler=server_join,
            permissions=[
                *_taking_away(thing),
                Permission(("iot:DescribeCertificate",), (arn("iot", "cert/*"),), wildcard_reason=_CERTIFICATES),
                Permission(("greengrass:GetCoreDevice",), (arn("greengrass", f"coreDevices:{thing}"),)),
            ],
            limit=Duration.minutes(10),
        )
        provider.resource(self, "Joined", self._contract).node.add_dependency(*last)


def _taking_away(thing: str) -> list[Permission]:
    """Look at the thing and its certificates, mark it, and delete certificates."""
    return [
        Permission(("iot:DescribeThing", "iot:UpdateThing"), (arn("iot", f"thing/{thing}"),)),
        ending_certificates(_CERTIFICATES),
        Permission(
            (
                "iot:AttachThingPrincipal",
                "iot:DetachThingPrincipal",
                "iot:ListAttachedPolicies",
                "iot:ListPrincipalThings",
                "iot:ListThingPrincipals",
            ),
            ("*",),
            wildcard_reason=_NO_RESOURCE,
        ),
    ]

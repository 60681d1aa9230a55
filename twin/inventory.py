"""What exists in the twin's account: the proof that a destroyed app has left nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import jmespath  # type: ignore[import-untyped]
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from twin.errors import TwinError
from twin.state import TwinState

BOOTSTRAP = "bootstrap"
"""Key of what `cdk bootstrap` made; everything else should be gone after `cdk destroy --all`."""

_BOOTSTRAP_STACK = "CDKToolkit"
_PAGE_LIMIT = 200
_BOUNDED = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})


@dataclass(frozen=True)
class _Listing:
    """How to list one kind: an operation of a service, and a JMESPath expression for the names in its answer."""

    kind: str
    service: str
    operation: str
    names: str
    arguments: dict[str, Any] = field(default_factory=dict)


_LISTINGS = (
    _Listing("stacks", "cloudformation", "list_stacks", "StackSummaries[?StackStatus!='DELETE_COMPLETE'].StackName"),
    _Listing("things", "iot", "list_things", "things[].thingName"),
    _Listing("certificates", "iot", "list_certificates", "certificates[].certificateId"),
    _Listing("IoT policies", "iot", "list_policies", "policies[].policyName"),
    _Listing("thing groups", "iot", "list_thing_groups", "thingGroups[].groupName"),
    _Listing("thing types", "iot", "list_thing_types", "thingTypes[].thingTypeName"),
    _Listing("role aliases", "iot", "list_role_aliases", "roleAliases[]"),
    _Listing("IoT jobs", "iot", "list_jobs", "jobs[].jobId"),
    _Listing("IoT rules", "iot", "list_topic_rules", "rules[].ruleName"),
    _Listing("provisioning templates", "iot", "list_provisioning_templates", "templates[].templateName"),
    _Listing("deployments", "greengrassv2", "list_deployments", "deployments[].deploymentId", {"historyFilter": "ALL"}),
    _Listing("core devices", "greengrassv2", "list_core_devices", "coreDevices[].coreDeviceThingName"),
    _Listing("compilation jobs", "sagemaker", "list_compilation_jobs", "CompilationJobSummaries[].CompilationJobName"),
    _Listing("log groups", "logs", "describe_log_groups", "logGroups[].logGroupName"),
    _Listing("buckets", "s3", "list_buckets", "Buckets[].Name"),
    _Listing("IAM roles", "iam", "list_roles", "Roles[?!starts_with(Path, '/aws-service-role/')].RoleName"),
    _Listing("IAM policies", "iam", "list_policies", "Policies[].PolicyName", {"Scope": "Local"}),
    _Listing("instance profiles", "iam", "list_instance_profiles", "InstanceProfiles[].InstanceProfileName"),
    _Listing("functions", "lambda", "list_functions", "Functions[].FunctionName"),
    _Listing("state machines", "stepfunctions", "list_state_machines", "stateMachines[].name"),
    _Listing(
        "instances",
        "ec2",
        "describe_instances",
        "Reservations[].Instances[?State.Name!='terminated'].InstanceId[]",
    ),
    _Listing("volumes", "ec2", "describe_volumes", "Volumes[].VolumeId"),
    _Listing("launch templates", "ec2", "describe_launch_templates", "LaunchTemplates[].LaunchTemplateName"),
    _Listing("VPCs", "ec2", "describe_vpcs", "Vpcs[?!IsDefault].VpcId"),
    _Listing("SSM parameters", "ssm", "describe_parameters", "Parameters[].Name"),
    _Listing("KMS aliases", "kms", "list_aliases", "Aliases[?!starts_with(AliasName, 'alias/aws/')].AliasName"),
    _Listing("topics", "sns", "list_topics", "Topics[].TopicArn"),
    _Listing("alarms", "cloudwatch", "describe_alarms", "MetricAlarms[].AlarmName"),
    _Listing("dashboards", "cloudwatch", "list_dashboards", "DashboardEntries[].DashboardName"),
    _Listing("event rules", "events", "list_rules", "Rules[].Name"),
    _Listing(
        "fleet indexing",
        "iot",
        "get_indexing_configuration",
        "[thingIndexingConfiguration.thingIndexingMode][?@ && @ != 'OFF']",
    ),
    _Listing("container repositories", "ecr", "describe_repositories", "repositories[].repositoryName"),
)

# Parts of a VPC; those of the default VPC, which every account has, are left out.
_VPC_PARTS = (
    _Listing("subnets", "ec2", "describe_subnets", "Subnets[].[SubnetId, VpcId]"),
    _Listing("route tables", "ec2", "describe_route_tables", "RouteTables[].[RouteTableId, VpcId]"),
    _Listing("security groups", "ec2", "describe_security_groups", "SecurityGroups[].[GroupId, VpcId]"),
    _Listing(
        "internet gateways",
        "ec2",
        "describe_internet_gateways",
        "InternetGateways[].[InternetGatewayId, Attachments[0].VpcId]",
    ),
    _Listing("VPC endpoints", "ec2", "describe_vpc_endpoints", "VpcEndpoints[].[VpcEndpointId, VpcId]"),
    _Listing(
        "network interfaces", "ec2", "describe_network_interfaces", "NetworkInterfaces[].[NetworkInterfaceId, VpcId]"
    ),
)


def take(state: TwinState) -> dict[str, list[str]]:
    """List everything in the account.

    Args:
        state: Of a running twin.

    Returns:
        Sorted names or ids by kind, kinds without any left out; under `bootstrap` as `kind name` what `cdk bootstrap`
        made. Not counted: the default VPC with its parts, AWS's own policies and keys, keys whose deletion is
        scheduled, terminated instances.

    Raises:
        TwinError: If a listing fails; it names the call.
    """
    account = _Account(state)
    found = {listing.kind: account.names(listing) for listing in _LISTINGS}
    found["component versions"] = account.component_versions()
    found["KMS keys"] = account.usable_keys()
    found.update(account.vpc_parts())
    bootstrap = account.bootstrap_resources()
    kept: dict[str, list[str]] = {}
    apart: list[str] = []
    for kind, names in found.items():
        apart += [f"{kind} {name}" for name in names if name in bootstrap]
        if left := sorted(name for name in names if name not in bootstrap):
            kept[kind] = left
    if apart:
        kept[BOOTSTRAP] = sorted(apart)
    return kept


def is_empty(found: dict[str, list[str]]) -> bool:
    """Whether nothing but the CDK bootstrap is left."""
    return not any(names for kind, names in found.items() if kind != BOOTSTRAP)


class _Account:
    """The account's clients, and the listings that need more than one call."""

    def __init__(self, state: TwinState) -> None:
        self._arguments = state.client_arguments()
        self._clients: dict[str, Any] = {}

    def names(self, listing: _Listing) -> list[Any]:
        found: list[Any] = []
        for page in self._pages(listing.service, listing.operation, listing.arguments):
            found += jmespath.search(listing.names, page) or []
        return found

    def component_versions(self) -> list[str]:
        components = self.names(_Listing("", "greengrassv2", "list_components", "components[].arn"))
        versions: list[str] = []
        for arn in components:
            expression = "componentVersions[].join(' ', [componentName, componentVersion])"
            versions += self.names(_Listing("", "greengrassv2", "list_component_versions", expression, {"arn": arn}))
        return versions

    def usable_keys(self) -> list[str]:
        keys = []
        for key in self.names(_Listing("", "kms", "list_keys", "Keys[].KeyId")):
            (page,) = self._pages("kms", "describe_key", {"KeyId": key})
            metadata = page["KeyMetadata"]
            if metadata["KeyManager"] == "CUSTOMER" and metadata["KeyState"] != "PendingDeletion":
                keys.append(key)
        return keys

    def vpc_parts(self) -> dict[str, list[str]]:
        default = set(self.names(_Listing("", "ec2", "describe_vpcs", "Vpcs[?IsDefault].VpcId")))
        return {part.kind: [name for name, vpc in self.names(part) if vpc not in default] for part in _VPC_PARTS}

    def bootstrap_resources(self) -> set[str]:
        """Names, ids and last parts of ARNs of the bootstrap stack and what belongs to it."""
        stacks = self.names(_LISTINGS[0])
        if _BOOTSTRAP_STACK not in stacks:
            return set()
        expression = "StackResourceSummaries[].PhysicalResourceId"
        listing = _Listing("", "cloudformation", "list_stack_resources", expression, {"StackName": _BOOTSTRAP_STACK})
        identifiers = [identifier for identifier in self.names(listing) if identifier]
        return {_BOOTSTRAP_STACK, *identifiers, *(identifier.rsplit("/", 1)[-1] for identifier in identifiers)}

    def _pages(self, service: str, operation: str, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        client = self._clients.get(service)
        if client is None:
            client = self._clients[service] = boto3.client(service, config=_BOUNDED, **self._arguments)
        try:
            if not client.can_paginate(operation):
                yield getattr(client, operation)(**arguments)
                return
            for number, page in enumerate(client.get_paginator(operation).paginate(**arguments), start=1):
                if number > _PAGE_LIMIT:
                    raise TwinError(f"{service} {operation} must end within {_PAGE_LIMIT} pages, it did not")
                yield page
        except (ClientError, BotoCoreError) as exc:
            raise TwinError(f"{service} {operation} {json.dumps(arguments)} failed: {exc}") from exc

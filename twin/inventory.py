"""What an account holds, a twin's or a real one; of a twin's it is the proof that a destroyed app has left nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import jmespath  # type: ignore[import-untyped]
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from twin import TwinError
from twin.operator import OPERATORS
from twin.state import TwinState

_BOOTSTRAP_STACK = "CDKToolkit"
#: Core devices of a stage that a listing, or a file of them, may have.
DEVICES_LIMIT = 50_000
#: A page that nobody asks to be larger holds 25 at IoT; more pages than this are an answer without an end.
_PAGE_LIMIT = DEVICES_LIMIT // 25
_BOUNDED = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})


@dataclass(frozen=True)
class Listing:
    """How to list one kind: an operation of a service, and a JMESPath expression for the names in its answer."""

    kind: str
    service: str
    operation: str
    names: str
    arguments: dict[str, Any] = field(default_factory=dict)


LISTINGS = (
    Listing("stacks", "cloudformation", "list_stacks", "StackSummaries[?StackStatus!='DELETE_COMPLETE'].StackName"),
    Listing("things", "iot", "list_things", "things[].thingName"),
    Listing("certificates", "iot", "list_certificates", "certificates[].certificateId"),
    Listing("IoT policies", "iot", "list_policies", "policies[].policyName"),
    Listing("thing groups", "iot", "list_thing_groups", "thingGroups[].groupName"),
    Listing("thing types", "iot", "list_thing_types", "thingTypes[].thingTypeName"),
    Listing("role aliases", "iot", "list_role_aliases", "roleAliases[]"),
    Listing("IoT jobs", "iot", "list_jobs", "jobs[].jobId"),
    Listing("IoT rules", "iot", "list_topic_rules", "rules[].ruleName"),
    Listing("provisioning templates", "iot", "list_provisioning_templates", "templates[].templateName"),
    Listing("deployments", "greengrassv2", "list_deployments", "deployments[].deploymentId", {"historyFilter": "ALL"}),
    Listing("core devices", "greengrassv2", "list_core_devices", "coreDevices[].coreDeviceThingName"),
    Listing("compilation jobs", "sagemaker", "list_compilation_jobs", "CompilationJobSummaries[].CompilationJobName"),
    Listing("device fleets", "sagemaker", "list_device_fleets", "DeviceFleetSummaries[].DeviceFleetName"),
    Listing("endpoints", "sagemaker", "list_endpoints", "Endpoints[].EndpointName"),
    Listing("endpoint configurations", "sagemaker", "list_endpoint_configs", "EndpointConfigs[].EndpointConfigName"),
    Listing("SageMaker models", "sagemaker", "list_models", "Models[].ModelName"),
    Listing("log groups", "logs", "describe_log_groups", "logGroups[].logGroupName"),
    Listing("buckets", "s3", "list_buckets", "Buckets[].Name"),
    Listing("IAM roles", "iam", "list_roles", "Roles[?!starts_with(Path, '/aws-service-role/')].RoleName"),
    Listing("IAM policies", "iam", "list_policies", "Policies[].PolicyName", {"Scope": "Local"}),
    Listing("instance profiles", "iam", "list_instance_profiles", "InstanceProfiles[].InstanceProfileName"),
    Listing("functions", "lambda", "list_functions", "Functions[].FunctionName"),
    Listing("state machines", "stepfunctions", "list_state_machines", "stateMachines[].name"),
    Listing(
        "instances",
        "ec2",
        "describe_instances",
        "Reservations[].Instances[?State.Name!='terminated'].InstanceId[]",
    ),
    Listing("volumes", "ec2", "describe_volumes", "Volumes[].VolumeId"),
    Listing("launch templates", "ec2", "describe_launch_templates", "LaunchTemplates[].LaunchTemplateName"),
    Listing("VPCs", "ec2", "describe_vpcs", "Vpcs[?!IsDefault].VpcId"),
    Listing("SSM parameters", "ssm", "describe_parameters", "Parameters[].Name"),
    Listing("KMS aliases", "kms", "list_aliases", "Aliases[?!starts_with(AliasName, 'alias/aws/')].AliasName"),
    Listing("topics", "sns", "list_topics", "Topics[].TopicArn"),
    Listing("alarms", "cloudwatch", "describe_alarms", "MetricAlarms[].AlarmName"),
    Listing("dashboards", "cloudwatch", "list_dashboards", "DashboardEntries[].DashboardName"),
    Listing("event rules", "events", "list_rules", "Rules[].Name"),
    Listing(
        "fleet indexing",
        "iot",
        "get_indexing_configuration",
        "[thingIndexingConfiguration.thingIndexingMode][?@ && @ != 'OFF']",
    ),
    Listing("container repositories", "ecr", "describe_repositories", "repositories[].repositoryName"),
)

# Parts of a VPC; those of the default VPC, which every account has, are left out.
VPC_PARTS = (
    Listing("subnets", "ec2", "describe_subnets", "Subnets[].[SubnetId, VpcId]"),
    Listing("route tables", "ec2", "describe_route_tables", "RouteTables[].[RouteTableId, VpcId]"),
    Listing("security groups", "ec2", "describe_security_groups", "SecurityGroups[].[GroupId, VpcId]"),
    Listing(
        "internet gateways",
        "ec2",
        "describe_internet_gateways",
        "InternetGateways[].[InternetGatewayId, Attachments[0].VpcId]",
    ),
    Listing("VPC endpoints", "ec2", "describe_vpc_endpoints", "VpcEndpoints[].[VpcEndpointId, VpcId]"),
    Listing(
        "network interfaces", "ec2", "describe_network_interfaces", "NetworkInterfaces[].[NetworkInterfaceId, VpcId]"
    ),
)


class Account:
    """An account's clients, and the listings that need more than one call.

    Args:
        arguments: Keyword arguments of `boto3.client`, such as the region and, for a twin, its address.
        config: Time limits and retries of its clients; three attempts by default.
    """

    def __init__(self, arguments: dict[str, Any], config: Config = _BOUNDED) -> None:
        self._arguments, self._config = arguments, config
        self._clients: dict[str, Any] = {}

    def names(self, listing: Listing) -> list[Any]:
        """What a listing finds.

        Raises:
            TwinError: A call failed; the text names it.
        """
        found: list[Any] = []
        for page in self._pages(listing.service, listing.operation, listing.arguments):
            found += jmespath.search(listing.names, page) or []
        return found

    def component_versions(self) -> list[str]:
        """Name and version of each component version, with a space between."""
        components = self.names(Listing("", "greengrassv2", "list_components", "components[].arn"))
        versions: list[str] = []
        for arn in components:
            expression = "componentVersions[].join(' ', [componentName, componentVersion])"
            versions += self.names(Listing("", "greengrassv2", "list_component_versions", expression, {"arn": arn}))
        return versions

    def usable_keys(self) -> list[str]:
        """Ids of the account's own keys, those to be deleted left out."""
        keys = []
        for key in self.names(Listing("", "kms", "list_keys", "Keys[].KeyId")):
            (page,) = self._pages("kms", "describe_key", {"KeyId": key})
            metadata = page["KeyMetadata"]
            if metadata["KeyManager"] == "CUSTOMER" and metadata["KeyState"] != "PendingDeletion":
                keys.append(key)
        return keys

    def vpc_parts(self) -> dict[str, list[str]]:
        """Ids by kind, the default VPC's left out."""
        default = set(self.names(Listing("", "ec2", "describe_vpcs", "Vpcs[?IsDefault].VpcId")))
        return {part.kind: [name for name, vpc in self.names(part) if vpc not in default] for part in VPC_PARTS}

    def bootstrap_resources(self) -> set[str]:
        """Names, ids and last parts of ARNs of the bootstrap stack and what belongs to it."""
        stacks = self.names(LISTINGS[0])
        if _BOOTSTRAP_STACK not in stacks:
            return set()
        expression = "StackResourceSummaries[].PhysicalResourceId"
        listing = Listing("", "cloudformation", "list_stack_resources", expression, {"StackName": _BOOTSTRAP_STACK})
        identifiers = [identifier for identifier in self.names(listing) if identifier]
        return {_BOOTSTRAP_STACK, *identifiers, *(identifier.rsplit("/", 1)[-1] for identifier in identifiers)}

    def _pages(self, service: str, operation: str, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        client = self._clients.get(service)
        if client is None:
            client = self._clients[service] = boto3.client(service, config=self._config, **self._arguments)
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


BOOTSTRAP = "bootstrap"
"""Key of what `cdk bootstrap` made; everything else should be gone after `cdk destroy --all`."""


def take(state: TwinState) -> dict[str, list[str]]:
    """List everything in the account.

    Args:
        state: Of a running twin.

    Returns:
        Sorted names or ids by kind, kinds without any left out; under `bootstrap` as `kind name` what `cdk bootstrap`
        made. Not counted: the default VPC with its parts, AWS's own policies and keys, keys whose deletion is
        scheduled, terminated instances, and what the operator's clients (`predict`, `ui`) have while they run.

    Raises:
        TwinError: If a listing fails; it names the call.
    """
    account = Account(state.client_arguments())
    found = {listing.kind: account.names(listing) for listing in LISTINGS}
    found["component versions"] = account.component_versions()
    found["KMS keys"] = account.usable_keys()
    found.update(account.vpc_parts())
    _leave_out_operators(account, found)
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


def _leave_out_operators(account: Account, found: dict[str, list[str]]) -> None:
    """Take out policies and certificates of connected clients: they are none of the app's, and go with the client."""
    for policy in [name for name in found["IoT policies"] if name.startswith(OPERATORS)]:
        found["IoT policies"].remove(policy)
        targets = Listing("", "iot", "list_targets_for_policy", "targets[]", {"policyName": policy})
        try:
            held = {target.rpartition("/")[2] for target in account.names(targets)}
        except TwinError:  # it went this moment
            continue
        found["certificates"] = [name for name in found["certificates"] if name not in held]


def is_empty(found: dict[str, list[str]]) -> bool:
    """Whether nothing but the CDK bootstrap is left."""
    return not any(names for kind, names in found.items() if kind != BOOTSTRAP)

"""Rules on what devices may do in the cloud, and on who made their identity."""

import re
from collections.abc import Iterator

from edge_rules.fleet_view import FleetView, Resource, assumed_by, of_resource, of_role, start_scripts
from edge_rules.rule import Finding, rule

_CREDENTIALS = "credentials.iot.amazonaws.com"
#: Greengrass' data plane knows no narrower resource than `*` for a device.
_ANYWHERE = re.compile(r"greengrass:\w+")
#: A pattern such as that of a UUID is no thing's name.
_ANY_CLIENT = re.compile(r":client/\?*\*")
_EVERYTHING = re.compile(r"^\*$|:(topic|topicfilter|rolealias)/[*#]")
_WHOLE_BUCKET = re.compile(r"^arn:[^:]*:s3:::[^/]*(/\*)?$")


def _token_exchange_roles(fleet: FleetView) -> Iterator[Resource]:
    return (role for role in fleet.of_type("AWS::IAM::Role") if _CREDENTIALS in assumed_by(role))


@rule(
    "IotPolicyAction",
    "an IoT policy must name its actions",
    reason="iot:* lets one stolen certificate act as the whole fleet",
    fix="list Connect, Publish, Subscribe, Receive and what else the device calls",
)
def iot_policies_name_actions(fleet: FleetView) -> Iterator[Finding]:
    for policy in fleet.of_type("AWS::IoT::Policy"):
        for statement in of_resource(policy):
            for action in statement.actions:
                if action.endswith("*"):
                    yield Finding(policy, statement.location, action)


@rule(
    "IotPolicyResource",
    "an IoT policy must name its topics, filters and role aliases",
    reason="a device reads and writes the messages of all others",
    fix="use ${iot:Connection.Thing.ThingName} and exact topics",
)
def iot_policies_name_resources(fleet: FleetView) -> Iterator[Finding]:
    for policy in fleet.of_type("AWS::IoT::Policy"):
        for statement in of_resource(policy):
            wide = [each for each in statement.resources if _EVERYTHING.search(each)]
            if wide and not all(_ANYWHERE.fullmatch(action) for action in statement.actions):
                yield Finding(policy, statement.location, wide[0])


@rule(
    "IotClientId",
    "an IoT policy must tie the client id to the thing",
    reason="a device connects under another one's name and throws it off",
    fix="allow iot:Connect on client/${iot:Connection.Thing.ThingName}*",
)
def clients_are_things(fleet: FleetView) -> Iterator[Finding]:
    for policy in fleet.of_type("AWS::IoT::Policy"):
        for statement in of_resource(policy):
            if {"iot:Connect", "iot:*", "*"} & set(statement.actions):
                for each in statement.resources:
                    if each == "*" or _ANY_CLIENT.search(each):
                        yield Finding(policy, statement.location, each)


@rule(
    "TokenExchangeScope",
    "the token exchange role must only read below named prefixes",
    reason="every component on every device can read, or overwrite, all that is in the bucket",
    fix="allow s3:GetObject on arn:aws:s3:::<bucket>/<prefix>/*",
)
def token_exchange_is_narrow(fleet: FleetView) -> Iterator[Finding]:
    for role in _token_exchange_roles(fleet):
        for statement in of_role(role):
            for action in statement.actions:
                if action in {"*", "s3:*"} or re.match(r"s3:(Delete|PutBucket|PutObjectAcl)", action):
                    yield Finding(role, statement.location, action)
                elif re.match(r"s3:(Get|Put)Object", action):
                    for each in statement.resources:
                        if each == "*" or _WHOLE_BUCKET.match(each):
                            yield Finding(role, statement.location, f"{action} on {each}")


@rule(
    "TokenExchangeManaged",
    "the token exchange role must take no broad managed policy",
    reason="AmazonS3FullAccess on a device gives its finder the account's buckets",
    fix="replace it by an inline policy with exact actions",
)
def token_exchange_has_no_broad_policy(fleet: FleetView) -> Iterator[Finding]:
    for role in _token_exchange_roles(fleet):
        for policy in role.texts(role.properties.get("ManagedPolicyArns") or []):
            if re.search(r"FullAccess|AdministratorAccess|PowerUser|ReadOnlyAccess", policy):
                yield Finding(role, "Properties/ManagedPolicyArns", policy)


@rule(
    "TokenExchangeGroups",
    "the token exchange role must allow greengrass:ListThingGroupsForCoreDevice",
    reason="without it a device never notices that a component was removed from its group",
    fix="allow it on coreDevices:*",
)
def token_exchange_lists_groups(fleet: FleetView) -> Iterator[Finding]:
    for role in _token_exchange_roles(fleet):
        actions = {action for statement in of_role(role) for action in statement.actions}
        if not actions & {"greengrass:ListThingGroupsForCoreDevice", "greengrass:*", "greengrass:List*", "*"}:
            yield Finding(role, "Properties/Policies", "not allowed")


@rule(
    "InstallerProvision",
    "the Greengrass installer must not provision the device",
    reason="with --provision true it makes roles, policies and groups that no stack owns and no destroy finds",
    fix="provision in the user data with the stack's own policy, role alias and group",
)
def installer_does_not_provision(fleet: FleetView) -> Iterator[Finding]:
    for resource, place, script in start_scripts(fleet):
        if found := re.search(r"--provision[ =]+true", script):
            yield Finding(resource, place, found.group())


@rule(
    "InstallerRoleAlias",
    "the role alias must be made by a stack, not by the installer",
    reason="the installer's role and alias outlive every stack, and allow more than a device needs",
    fix="define AWS::IoT::RoleAlias and name it in the nucleus' configuration",
)
def installer_makes_no_alias(fleet: FleetView) -> Iterator[Finding]:
    for resource, place, script in start_scripts(fleet):
        if found := re.search(r"--tes-role(-alias)?-name|-trn\b|-tra\b", script):
            yield Finding(resource, place, found.group())

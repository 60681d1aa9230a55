"""How registered devices get certificates of their own, and fleet indexing, by which they are searched."""

import json
from collections.abc import Sequence
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_iot as iot
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from config.fleet import RINGS
from config.names import Names
from edge_constructs.handler_provider import HandlerProvider, called_function
from edge_constructs.identities import ClaimPolicy
from edge_constructs.permission import ACCOUNT, Permission, ServiceRole, arn, ending_certificates, everywhere
from edge_handlers import fleet_provisioning, provisioning_hook
from edge_handlers.provisioning_hook import PARAMETER

#: What thing groups of every stage begin with.
GROUPS = "edgewright-"
_DEVICES = "the device is known only when it joins"


class FleetProvisioning(Construct):
    """A provisioning template by claim with its hook, the claim certificates' policy, and fleet indexing.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        names: Of the stage.
        more_groups: Thing groups of the stage besides those of its rings: they keep no index on by themselves.
    """

    def __init__(self, scope: Construct, construct_id: str, *, names: Names, more_groups: Sequence[str] = ()) -> None:
        super().__init__(scope, construct_id)
        self._names = names
        claim = ClaimPolicy(self, "ClaimPolicy", name=names.claim, template=names.claim)
        hook = self._hook()
        template_arn = arn("iot", f"provisioningtemplate/{names.claim}")
        allowed = lambda_.CfnPermission(
            self,
            "HookPermission",
            action="lambda:InvokeFunction",
            function_name=hook.function_arn,
            principal="iot.amazonaws.com",
            source_account=ACCOUNT,
            source_arn=template_arn,
        )
        template = iot.CfnProvisioningTemplate(
            self,
            "Template",
            template_name=names.claim,
            description="A registered device trades a claim certificate for one of its own",
            enabled=True,
            template_type="FLEET_PROVISIONING",
            template_body=json.dumps(_template(names)),
            provisioning_role_arn=self._role().arn,
            pre_provisioning_hook=iot.CfnProvisioningTemplate.ProvisioningHookProperty(
                payload_version="2020-04-01", target_arn=hook.function_arn
            ),
        )
        template.add_resource_dependency(allowed)
        settings = HandlerProvider(
            self, "Settings", handler=fleet_provisioning, permissions=_settings_permissions(names.claim)
        )
        resource = settings.resource(
            self,
            "Indexing",
            fleet_provisioning.FleetSettings(
                policy=names.claim,
                group=names.thing_group,
                rings=(*(names.ring_group(ring) for ring in RINGS), *more_groups),
                prefix=GROUPS,
            ),
        )
        # At a destroy the claim certificates go first: a policy that is attached cannot be deleted.
        resource.node.add_dependency(claim)

    def _hook(self) -> lambda_.Function:
        names = self._names
        return called_function(
            self,
            "Hook",
            before="Hook",
            entry=provisioning_hook.on_request,
            permissions=[
                Permission(("iot:DescribeThing",), (arn("iot", f"thing/{names.prefix}-*"),), wildcard_reason=_DEVICES),
                everywhere("iot:ListThingPrincipals", "iot:ListPrincipalThings"),
            ],
            # AWS IoT waits no longer.
            timeout=Duration.seconds(5),
            environment={
                "THING_PREFIX": names.prefix,
                "THING_GROUP": names.thing_group,
                "RESERVED_THINGS": names.edge_server,
            },
            called="AWS IoT calls it once for each device that joins, and throttles them itself",
            awaited="AWS IoT waits for the answer: no answer refuses the device, which tries again",
        )

    def _role(self) -> ServiceRole:
        """What AWS IoT does for a device: of AWSIoTThingsRegistration what the template uses, on its things."""
        names = self._names
        thing, certificate = arn("iot", f"thing/{names.prefix}-*"), arn("iot", "cert/*")
        group, thing_type = arn("iot", f"thinggroup/{names.thing_group}"), arn("iot", f"thingtype/{names.thing_type}")
        return ServiceRole(
            self,
            "Role",
            service="iot.amazonaws.com",
            permissions=[
                _allow(("CreateThing", "DescribeThing", "UpdateThing", "ListThingGroupsForThing"), thing),
                _allow(("CreateThing", "UpdateThing", "DescribeThingType"), thing_type),
                _allow(("AddThingToThingGroup", "DescribeThingGroup"), thing, group),
                _allow(("DescribeCertificate", "UpdateCertificate", "AttachPolicy"), certificate),
                _allow(("GetPolicy",), arn("iot", f"policy/{names.iot_policy}")),
                everywhere(
                    "iot:AttachThingPrincipal",
                    "iot:ListAttachedPolicies",
                    "iot:ListPrincipalThings",
                    "iot:ListThingPrincipals",
                ),
            ],
        )


def _allow(verbs: tuple[str, ...], *resources: str) -> Permission:
    reason = _DEVICES if any("*" in resource for resource in resources) else ""
    return Permission(tuple(f"iot:{verb}" for verb in verbs), resources, wildcard_reason=reason)


def _template(names: Names) -> dict[str, Any]:
    """The provisioning template; the thing is on the register already, and keeps its attributes, type and group."""
    return {
        "Parameters": {
            PARAMETER: {"Type": "String"},
            "AWS::IoT::Certificate::Id": {"Type": "String"},
        },
        "Resources": {
            "thing": {
                "Type": "AWS::IoT::Thing",
                "Properties": {
                    "ThingName": {"Fn::Join": ["", [f"{names.prefix}-", {"Ref": PARAMETER}]]},
                    "ThingTypeName": names.thing_type,
                    "ThingGroups": [names.thing_group],
                },
                "OverrideSettings": {
                    "AttributePayload": "MERGE",
                    "ThingTypeName": "DO_NOTHING",
                    "ThingGroups": "DO_NOTHING",
                },
            },
            "certificate": {
                "Type": "AWS::IoT::Certificate",
                "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "Active"},
            },
            "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": names.iot_policy}},
        },
    }


def _settings_permissions(policy: str) -> list[Permission]:
    return [
        Permission(
            (
                "iot:GetIndexingConfiguration",
                "iot:UpdateIndexingConfiguration",
                "iot:ListThingGroups",
            ),
            ("*",),
            wildcard_reason="fleet indexing is one setting of the account, and a list is of the account",
        ),
        Permission(("iot:ListTargetsForPolicy",), (arn("iot", f"policy/{policy}"),)),
        everywhere("iot:ListPrincipalThings", "iot:ListAttachedPolicies"),
        ending_certificates("claim certificates are made by whoever builds the devices"),
    ]

"""The things of a fleet, in one resource however many there are."""

from collections.abc import Sequence

from aws_cdk import Duration
from constructs import Construct

from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn

_DEVICES = "the fleet's devices are configuration: a list of them here would grow with the fleet"
_CERTIFICATES = "a certificate's id is made by the device that joins"
_PRINCIPALS = "the service knows no resource for these actions"


class DeviceRegistry(Construct):
    """Registers devices and, on delete, takes them away with their certificates and core devices.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        thing_group: The group that they join.
        thing_type: Their type.
        policy: IoT policy on their certificates.
        devices: Thing names.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        thing_group: str,
        thing_type: str,
        policy: str,
        devices: Sequence[str],
    ) -> None:
        super().__init__(scope, construct_id)
        provider = HandlerProvider(
            self,
            "Handler",
            capability="device_registry",
            permissions=_permissions(thing_group, thing_type, policy),
            limit=Duration.minutes(14),
        )
        self.resource = provider.resource(
            self,
            "Devices",
            properties={
                "ThingGroupName": thing_group,
                "ThingTypeName": thing_type,
                "PolicyName": policy,
                "Devices": list(devices),
            },
        )


def _permissions(thing_group: str, thing_type: str, policy: str) -> list[Permission]:
    things = arn("iot", "thing/*")
    lifecycle = _iot("CreateThing", "UpdateThing", "DescribeThing", "DeleteThing", "DescribeJobExecution")
    membership = _iot("ListThingPrincipals", "ListThingGroupsForThing", "AttachThingPrincipal", "DetachThingPrincipal")
    return [
        Permission(lifecycle + membership, (things,), wildcard_reason=_DEVICES),
        Permission(_iot("CreateThing", "UpdateThing"), (arn("iot", f"thingtype/{thing_type}"),)),
        Permission(
            _iot("AddThingToThingGroup", "RemoveThingFromThingGroup"),
            (things, arn("iot", f"thinggroup/{thing_group}")),
            wildcard_reason=_DEVICES,
        ),
        Permission(
            _iot("DetachPolicy", "UpdateCertificate", "DeleteCertificate"),
            (arn("iot", "cert/*"),),
            wildcard_reason=_CERTIFICATES,
        ),
        Permission(
            _iot(
                "ListPrincipalThings",
                "ListThingPrincipals",
                "ListAttachedPolicies",
                "AttachThingPrincipal",
                "DetachThingPrincipal",
            ),
            ("*",),
            wildcard_reason=_PRINCIPALS,
        ),
        Permission(_iot("ListTargetsForPolicy"), (arn("iot", f"policy/{policy}"),)),
        Permission(("greengrass:DeleteCoreDevice",), (arn("greengrass", "coreDevices:*"),), wildcard_reason=_DEVICES),
        Permission(
            _iot("DescribeJobExecution"),
            (arn("iot", "job/*"),),
            wildcard_reason="Greengrass names the jobs by which it deletes a core device's deployments",
        ),
    ]


def _iot(*verbs: str) -> tuple[str, ...]:
    return tuple(f"iot:{verb}" for verb in verbs)

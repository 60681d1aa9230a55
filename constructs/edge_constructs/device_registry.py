"""The things of a fleet, in one resource however many there are, who may discover them, SageMaker's devices of them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aws_cdk import Duration
from constructs import Construct

from edge_constructs.artifact_store import asset_reading, file_asset
from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, acknowledge, arn, ending_certificates, everywhere
from edge_handlers import client_devices, device_registry, sagemaker_devices
from edge_handlers.device_list import CLIENTS, DeviceList, write_devices

_DEVICES = "the fleet's devices are configuration: a list of them here would grow with the fleet"


@dataclass(frozen=True)
class Clients:
    """Client devices that a registry keeps beside its core devices: things with a group, a type and a policy of theirs.

    Attributes:
        names: Their thing names.
        group: Their thing group, which no deployment reaches.
        thing_type: Their type.
        policy: IoT policy on their certificates.
    """

    names: Sequence[str]
    group: str
    thing_type: str
    policy: str


class DeviceRegistry(Construct):
    """Registers devices and, on delete, takes them away with their certificates and core devices.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        rings: Ring to its thing group; `all` names the registry.
        thing_type: Their type.
        policy: IoT policy on their certificates.
        devices: Thing name to ring; the list travels as a file, so that the template does not grow with it.
        folder: Gets that file.
        bootstrap_key: Whether the CDK's bootstrap bucket is encrypted with a key of the account's own.
        clients: Client devices; none by default.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        rings: Mapping[str, str],
        thing_type: str,
        policy: str,
        devices: Mapping[str, str],
        folder: Path,
        bootstrap_key: bool = False,
        clients: Clients | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        provider = HandlerProvider(
            self,
            "Handler",
            handler=device_registry,
            permissions=[
                *_permissions(
                    [*rings.values(), *([clients.group] if clients else [])],
                    [policy, *([clients.policy] if clients else [])],
                ),
                *asset_reading(self, bootstrap_key=bootstrap_key),
            ],
            limit=Duration.minutes(50),
            query_interval=Duration.seconds(5),
        )
        #: Where handlers find the list.
        self.listing = list_asset(self, devices, folder)
        self.resource = provider.resource(
            self,
            "Devices",
            device_registry.Registry(
                group=rings["all"], rings=dict(rings), thing_type=thing_type, policy=policy, listing=self.listing
            ),
        )
        if clients:
            #: The client devices, of which the associations come later and go before.
            self.clients = provider.resource(
                self,
                "Clients",
                device_registry.Registry(
                    group=clients.group,
                    rings={CLIENTS: clients.group},
                    thing_type=clients.thing_type,
                    policy=clients.policy,
                    listing=list_asset(self, dict.fromkeys(clients.names, CLIENTS), folder),
                ),
            )


def list_asset(scope: Construct, devices: Mapping[str, str], folder: Path) -> DeviceList:
    """Write a list of devices to a file of the assembly, so that no template grows with it.

    Args:
        scope: Whose stack's asset.
        devices: Thing name to text.
        folder: Gets the file.

    Returns:
        Where handlers find it.
    """
    content = write_devices(devices)
    sha256 = hashlib.sha256(content).hexdigest()
    file = folder / "devices" / f"{sha256}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    asset = file_asset(scope, file, sha256)
    return DeviceList(asset.bucket_name, asset.object_key, sha256)


def _permissions(thing_groups: list[str], policies: list[str]) -> list[Permission]:
    things = arn("iot", "thing/*")
    groups = tuple(arn("iot", f"thinggroup/{name}") for name in thing_groups)
    lifecycle = _iot("CreateThing", "UpdateThing", "DescribeThing", "DeleteThing", "DescribeJobExecution")
    membership = _iot("ListThingGroupsForThing", "AttachThingPrincipal", "DetachThingPrincipal")
    return [
        Permission(lifecycle + membership, (things,), wildcard_reason=_DEVICES),
        Permission(
            _iot("AddThingToThingGroup", "RemoveThingFromThingGroup"),
            (things, *groups),
            wildcard_reason=_DEVICES,
        ),
        Permission(_iot("ListThingsInThingGroup"), groups),
        ending_certificates("a certificate's id is made by the device that joins"),
        everywhere(
            *_iot("ListThings", "ListPrincipalThings", "ListThingPrincipals", "ListAttachedPolicies"),
            *_iot("AttachThingPrincipal", "DetachThingPrincipal"),
        ),
        Permission(_iot("ListTargetsForPolicy"), tuple(arn("iot", f"policy/{policy}") for policy in policies)),
        Permission(("greengrass:DeleteCoreDevice",), (arn("greengrass", "coreDevices:*"),), wildcard_reason=_DEVICES),
        Permission(
            _iot("DescribeJobExecution"),
            (arn("iot", "job/*"),),
            wildcard_reason="Greengrass names the jobs by which it deletes a core device's deployments",
        ),
    ]


def _iot(*verbs: str) -> tuple[str, ...]:
    return tuple(f"iot:{verb}" for verb in verbs)


class ClientAssociations(Construct):
    """Lets client devices discover core devices, in one resource however many there are.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        group: Thing group of the client devices, which is the mark on them.
        associations: Core device to its client devices; the list travels as a file.
        folder: Gets that file.
        bootstrap_key: Whether the CDK's bootstrap bucket is encrypted with a key of the account's own.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        group: str,
        associations: Mapping[str, Sequence[str]],
        folder: Path,
        bootstrap_key: bool = False,
    ) -> None:
        super().__init__(scope, construct_id)
        provider = HandlerProvider(
            self,
            "Handler",
            handler=client_devices,
            permissions=[
                Permission(
                    (
                        "greengrass:BatchAssociateClientDeviceWithCoreDevice",
                        "greengrass:BatchDisassociateClientDeviceFromCoreDevice",
                        "greengrass:ListClientDevicesAssociatedWithCoreDevice",
                    ),
                    (arn("greengrass", "coreDevices:*"),),
                    wildcard_reason=_DEVICES,
                ),
                everywhere("iot:ListThings"),
                *asset_reading(self, bootstrap_key=bootstrap_key),
            ],
            limit=Duration.minutes(30),
            query_interval=Duration.seconds(5),
        )
        listing = list_asset(self, client_devices.listed(associations), folder)
        self.resource = provider.resource(self, "Resource", client_devices.Associations(group, listing))


_ACCEPTED = {
    "Edge-EdgeManager": "a stage asks for it by its registry, in an account where the service still answers; by "
    "default the registry is IoT's own"
}


class SageMakerFleet(Construct):
    """A device fleet with the things of a registry as its devices.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The fleet's name, at most 63 characters.
        registry: Its things, which exist before the devices and are deleted after them.
        role_arn: The role that SageMaker takes.
        output_uri: S3 prefix of what devices send.
        key_arn: Encrypts it.
        bootstrap_key: Whether the CDK's bootstrap bucket is encrypted with a key of the account's own.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        registry: DeviceRegistry,
        role_arn: str,
        output_uri: str,
        key_arn: str,
        bootstrap_key: bool = False,
    ) -> None:
        super().__init__(scope, construct_id)
        # A fifth of what a synth imports of the CDK, and most stages have no such fleet.
        from aws_cdk import aws_sagemaker as sagemaker

        self.resource = sagemaker.CfnDeviceFleet(
            self,
            "Resource",
            device_fleet_name=name,
            role_arn=role_arn,
            output_config=sagemaker.CfnDeviceFleet.EdgeOutputConfigProperty(
                s3_output_location=output_uri, kms_key_id=key_arn
            ),
        )
        acknowledge(self.resource, _ACCEPTED)
        fleet = arn("sagemaker", f"device-fleet/{name}")
        provider = HandlerProvider(
            self,
            "Handler",
            handler=sagemaker_devices,
            permissions=[
                everywhere("sagemaker:ListDevices"),
                Permission(
                    ("sagemaker:RegisterDevices", "sagemaker:DeregisterDevices"),
                    (fleet, f"{fleet}/device/*"),
                    wildcard_reason="the fleet's devices are configuration: a list of them here would grow with it",
                ),
                *asset_reading(self, bootstrap_key=bootstrap_key),
            ],
            limit=Duration.minutes(14),
            accepted=_ACCEPTED,
        )
        devices = provider.resource(
            self,
            "Devices",
            sagemaker_devices.FleetDevices(self.resource.device_fleet_name, registry.listing),
        )
        devices.node.add_dependency(self.resource, registry.resource)

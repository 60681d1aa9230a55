"""A SageMaker device fleet: retired by AWS, kept behind a switch for accounts and twins that still have it."""

from aws_cdk import Duration
from aws_cdk import aws_sagemaker as sagemaker
from constructs import Construct

from edge_constructs.acknowledgement import acknowledge
from edge_constructs.artifact_store import asset_reading
from edge_constructs.device_registry import DeviceRegistry
from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn

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
            capability="sagemaker_devices",
            permissions=[
                Permission(
                    ("sagemaker:ListDevices",), ("*",), wildcard_reason="the service knows no resource for this action"
                ),
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
            properties={"DeviceFleetName": self.resource.device_fleet_name, **registry.listing.properties()},
        )
        devices.node.add_dependency(self.resource, registry.resource)

"""AWS::IAM::InstanceProfile: `Ref` is the profile's name, as on AWS; MiniStack's is its ARN."""

from __future__ import annotations

from typing import Any

from ministack.services import iam
from ministack.services.cloudformation import provisioners

from twin.cloud.registry import Settings


def _name(arn: str) -> str:
    return arn.rsplit("/", 1)[-1]


def _arn(name: str) -> str:
    profile = iam._instance_profiles.get(name)
    return str(profile["Arn"]) if profile else name


def install(settings: Settings) -> None:
    """Translate between name and ARN around MiniStack's provisioner."""
    del settings
    handler = provisioners._RESOURCE_HANDLERS["AWS::IAM::InstanceProfile"]
    create_profile, update_profile, delete_profile = handler["create"], handler["update"], handler["delete"]

    def create(logical_id: str, properties: dict[str, Any], stack_name: str) -> tuple[str, dict[str, Any]]:
        arn, attributes = create_profile(logical_id, properties, stack_name)
        return _name(arn), attributes

    def update(name: str, old: dict[str, Any], new: dict[str, Any], *rest: Any) -> tuple[str, dict[str, Any]]:
        arn, attributes = update_profile(_arn(name), old, new, *rest)
        return _name(arn), attributes

    def delete(name: str, properties: dict[str, Any]) -> None:
        delete_profile(_arn(name), properties)

    handler.update(create=create, update=update, delete=delete)

"""The fleet's register: the list of its devices, and the marks on its things.

The list is a JSON object of thing name to ring. It travels to handlers as a file, so that no template grows with it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from edge_handlers.custom_resource import Contract, Key
from edge_handlers.s3_objects import S3Location
from edge_handlers.service_client import explaining

#: The thing's attribute that names the registry which it belongs to, by its thing group.
OWNER = "edgewright-registry"
#: Set on a thing that was there before its registry: the registry lets go of it instead of deleting it, and gives it
#: the type back that is the attribute's value.
ADOPTED, UNTYPED = "edgewright-adopted", "true"
#: What stands in place of a ring in the register of client devices, which no deployment reaches.
CLIENTS = "client-devices"
#: Set by the provisioning template on what joined by claim: no list holds it, so no list takes it away.
CLAIMED = "edgewright-claimed"
#: Fingerprint and certificate id of the edge server that is confirmed, and of the one that is on trial.
JOINED, JOINING = "edgewright-server", "edgewright-joining"


def check_thing_group(arn: str, where: str) -> None:
    """Refuse what is not the ARN of a thing group.

    Args:
        arn: What is given.
        where: What the error calls it.
    """
    if not re.fullmatch(r"arn:[^:]+:iot:[^:]+:\d{12}:thinggroup/.+", arn):
        raise ValueError(f"{where} must be the ARN of a thing group, got {arn!r}")


def write_devices(devices: Mapping[str, str]) -> bytes:
    """Write the list; the same devices give the same bytes.

    Args:
        devices: Thing name to ring.
    """
    return json.dumps(dict(sorted(devices.items())), separators=(",", ":")).encode()


def read_devices(content: bytes, where: str) -> dict[str, str]:
    """Read what `write_devices` wrote: thing name to ring.

    Args:
        content: The file's content.
        where: What the error calls the file.

    Raises:
        ValueError: It is no list of devices.
    """
    try:
        devices = json.loads(content)
    except ValueError as exc:
        raise ValueError(f"{where} must be a JSON object of thing name to ring: {exc}") from exc
    if not isinstance(devices, dict) or not all(isinstance(ring, str) for ring in devices.values()):
        raise ValueError(f"{where} must be a JSON object of thing name to ring, got {content[:80]!r}")
    return devices


@dataclass(frozen=True)
class DeviceList(Contract):
    """Where the list lies.

    Args:
        bucket: The bucket of the CDK's assets.
        object_key: In it.
        sha256: The list's digest.
    """

    bucket: Annotated[str, Key("ListBucket")]
    object_key: Annotated[str, Key("ListKey")]
    sha256: Annotated[str, Key("ListSha256")]

    @property
    def location(self) -> S3Location:
        """Bucket and key."""
        return S3Location(self.bucket, self.object_key)

    def read(self, s3: Any) -> dict[str, str]:
        """Fetch the list.

        Args:
            s3: A boto3 S3 client.

        Returns:
            Thing name to ring.

        Raises:
            ValueError: The file has another digest, or is no list of devices.
            AwsCallError: S3 refused the call.
        """
        with explaining(f"read the list of devices {self.location}"):
            content = s3.get_object(Bucket=self.bucket, Key=self.object_key)["Body"].read()
        return self.parse(content)

    def parse(self, content: bytes) -> dict[str, str]:
        """Read the list from the file's content.

        Returns:
            Thing name to ring.

        Raises:
            ValueError: The content has another digest, or is no list of devices.
        """
        if (digest := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise ValueError(
                f"sha-256 of {self.location} must be {self.sha256}, got {digest}: publish the assets again"
            )
        return read_devices(content, str(self.location))

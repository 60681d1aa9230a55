"""The fleet's list of devices, which travels to handlers as a file so that no template grows with it."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from edge_handlers.custom_resource import Properties
from edge_handlers.s3_location import S3Location
from edge_handlers.service_client import explaining


@dataclass(frozen=True)
class DeviceList:
    """Where the list lies.

    Args:
        location: A JSON object of thing name to ring.
        sha256: Its digest.
    """

    location: S3Location
    sha256: str

    @classmethod
    def of(cls, properties: Properties) -> "DeviceList":
        """Read ListBucket, ListKey and ListSha256.

        Raises:
            ValueError: One is missing.
        """
        location = S3Location(properties.text("ListBucket"), properties.text("ListKey"))
        return cls(location, properties.text("ListSha256"))

    def read(self, s3: Any) -> dict[str, str]:
        """Read the list.

        Args:
            s3: A boto3 S3 client.

        Returns:
            Thing name to ring.

        Raises:
            ValueError: The file has another digest.
            AwsCallError: S3 refused the call.
        """
        with explaining(f"read the list of devices {self.location}"):
            content = s3.get_object(Bucket=self.location.bucket, Key=self.location.key)["Body"].read()
        if (digest := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise ValueError(
                f"sha-256 of {self.location} must be {self.sha256}, got {digest}: publish the assets again"
            )
        devices: dict[str, str] = json.loads(content)
        return devices

"""The fleet's list of devices, which travels to handlers as a file so that no template grows with it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_handlers.custom_resource import Properties
from edge_handlers.s3_location import S3Location


def list_content(devices: Mapping[str, str]) -> bytes:
    """Write the file that `DeviceList.parse` reads; equal lists give equal files.

    Args:
        devices: Thing name to ring.
    """
    return json.dumps(dict(sorted(devices.items())), separators=(",", ":")).encode()


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

    def properties(self) -> dict[str, str]:
        """Write what `of` reads."""
        return {"ListBucket": self.location.bucket, "ListKey": self.location.key, "ListSha256": self.sha256}

    def read(self, s3: Any) -> dict[str, str]:
        """Read the list.

        Args:
            s3: A boto3 S3 client.

        Returns:
            Thing name to ring.

        Raises:
            ValueError: The file has another digest, or is no list of devices.
            AwsCallError: S3 refused the call.
        """
        # A synth writes lists only, and is half a second faster without botocore.
        from edge_handlers.service_client import explaining

        with explaining(f"read the list of devices {self.location}"):
            content = s3.get_object(Bucket=self.location.bucket, Key=self.location.key)["Body"].read()
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
        try:
            devices = json.loads(content)
        except ValueError as exc:
            raise ValueError(f"{self.location} must be a JSON object of thing name to ring: {exc}") from exc
        if not isinstance(devices, dict) or not all(isinstance(ring, str) for ring in devices.values()):
            raise ValueError(f"{self.location} must be a JSON object of thing name to ring, got {content[:80]!r}")
        return devices

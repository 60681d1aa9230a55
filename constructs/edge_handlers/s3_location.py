"""An object's place in S3."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class S3Location:
    """A bucket and a key; as text `s3://bucket/key`."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> "S3Location":
        """Read `s3://bucket/key`.

        Raises:
            ValueError: The text has another form.
        """
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(.+)", uri)
        if match is None:
            raise ValueError(f"an S3 location must look like s3://bucket/key, got {uri!r}")
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

"""What a stage's file may say of the core device on EC2 and its network."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from config.section import Section

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Nucleus(Section):
    """The Greengrass release that the edge server installs.

    Attributes:
        kind: `classic` runs on Java, `lite` needs 15 MB of memory, `docker` is the classic one in a container.
        version: The release; one with a known digest unless given.
        sha256: Digest of its zip, required for a release whose digest is not known; a download that differs is refused.
    """

    kind: Literal["classic", "lite", "docker"] = "classic"
    version: Annotated[str, StringConstraints(pattern=r"^2\.\d+\.\d+$")] | None = None
    sha256: Sha256 | None = None


class EdgeServer(Section):
    """The core device on EC2.

    Attributes:
        instance_type: EC2 type of the runtime's architecture; by default the cheapest that holds a nucleus and a model.
        volume_gib: Size of the encrypted gp3 root volume, GiB.
        nucleus: The Greengrass release on it.
        provisioning_minutes: After so long without a word from the instance the deploy fails.
    """

    instance_type: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$")] | None = None
    volume_gib: int = Field(default=20, ge=8, le=16384)
    nucleus: Nucleus = Nucleus()
    provisioning_minutes: int = Field(default=15, ge=1, le=720)


class Network(Section):
    """The edge server's network.

    Attributes:
        flow_logs: Whether the VPC's traffic is logged.
        cidr: IPv4 range of the VPC; its only subnet takes all of it.
    """

    flow_logs: bool = True
    cidr: Annotated[str, StringConstraints(pattern=r"^(\d{1,3}\.){3}\d{1,3}/(1[6-9]|2[0-8])$")] = "10.42.0.0/24"

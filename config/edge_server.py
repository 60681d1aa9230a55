"""What a stage's file may say of its devices: interpreter and agent, the core device on EC2, nucleus and network."""

import ipaddress
import platform
import sys
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from config.section import Section

HOST = "host"
MACHINES = ("x86_64", "aarch64")


CPU: Literal["cpu"] = "cpu"
Accelerator = Literal["cpu", "openvino", "cuda", "tensorrt"]


@dataclass(frozen=True)
class Wheels:
    """What a build of ONNX Runtime has wheels for, that load with the oldest glibc of a device.

    Attributes:
        lock: In `edge_assets/runtime`, in place of the plain build's pin.
        architectures: As `uname -m` prints them.
        pythons: Versions of CPython.
    """

    lock: str
    architectures: tuple[str, ...]
    pythons: tuple[str, ...]


#: By accelerator. NVIDIA's wheels for aarch64 need glibc 2.34; a test compares this with requirements-metadata.json.
_NVIDIA = Wheels("cuda.lock", ("x86_64",), ("3.11", "3.12", "3.13", "3.14"))
WHEELS = {
    "openvino": Wheels("openvino.lock", ("x86_64",), ("3.11", "3.12", "3.13")),
    "cuda": _NVIDIA,
    "tensorrt": _NVIDIA,
}


class Runtime(Section):
    """The devices' interpreter and machine, for which wheels are packed and models compiled.

    Attributes:
        python: Version as `3.11`, or `host`: the interpreter that runs the synth.
        architecture: As `uname -m` prints it, or `host`: the machine that runs the synth.
        accelerator: Which build of ONNX Runtime devices get, and where models run first: `openvino` on Intel's
            processors, `cuda` and `tensorrt` on NVIDIA's cards; a device that cannot runs them on its processor as
            `cpu` does, and says so.
    """

    python: Annotated[str, StringConstraints(pattern=r"^(3\.\d{1,2}|host)$")] = "3.11"
    architecture: Literal["x86_64", "aarch64", "host"] = "x86_64"
    accelerator: Accelerator = CPU

    @model_validator(mode="after")
    def _has_wheels(self) -> "Runtime":
        wheels = WHEELS.get(self.accelerator)
        if wheels and not (self.architecture in wheels.architectures and self.python in wheels.pythons):
            raise ValueError(
                f"accelerator {self.accelerator} has wheels for {' and '.join(wheels.architectures)} and Python "
                f"{', '.join(wheels.pythons)} only, got {self.architecture} and {self.python}: set accelerator to cpu, "
                "or build such a wheel and add it to the lock"
            )
        return self

    @field_validator("python")
    @classmethod
    def _resolve_python(cls, value: str) -> str:
        return f"{sys.version_info.major}.{sys.version_info.minor}" if value == HOST else value

    @field_validator("architecture")
    @classmethod
    def _resolve_architecture(cls, value: str) -> str:
        machine = platform.machine() if value == HOST else value
        if machine not in MACHINES:
            raise ValueError(f"host must be one of {', '.join(MACHINES)}, this machine is {machine}")
        return machine


class Agent(Section):
    """The Edge Manager agent's gRPC service on the devices, for client programs written for that agent.

    Attributes:
        enabled: Whether devices get its code and its wheels (about 7 MB) and serve it; off by default.
        socket: The Unix socket's path, at most 107 bytes; a relative one lies in the inference component's work folder.
    """

    enabled: bool = False
    socket: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9/._-]+$", max_length=107)] = "agent.sock"


#: What each kind installs unless the stage says otherwise; `docker` holds the classic one.
DEFAULT_VERSIONS = {"classic": "2.18.3", "docker": "2.18.3", "lite": "2.6.0"}
_AMAZON_LINUX_PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: What the server's system has as packages: Amazon Linux 2023, or for nucleus lite, a Debian package, Ubuntu 24.04.
SERVER_PYTHONS = {"classic": _AMAZON_LINUX_PYTHONS, "docker": _AMAZON_LINUX_PYTHONS, "lite": ("3.12",)}
#: SHA-256 of https://…/greengrass-<version>.zip as others have published it: 2.16.0 in the recipe greengrass-bin of
#: aws4embeddedlinux/meta-aws, 2.18.3 in AWS's sample of an upgrade from V1. AWS publishes no digest of its own, and
#: nobody one of nucleus lite's packages.
DIGESTS = {
    "2.16.0": "f07742c76eca868617127b5c6c9028e41c45c2b4ec25dd0db6f3b40ef7638b4e",
    "2.18.3": "538eb3a10dbfcb534865d1da3ede39dcfe3db705bd1938088a07ce3dfd575237",
}
_CLASSIC = "https://d2s8p88vqu9w66.cloudfront.net/releases/greengrass-{version}.zip"
_LITE = (
    "https://github.com/aws-greengrass/aws-greengrass-lite/releases/download/"
    "v{version}/aws-greengrass-lite-deb-{machine}.zip"
)
_LITE_MACHINES = {"x86_64": "x86-64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Download:
    """A file to fetch.

    Attributes:
        url: Where it lies.
        sha256: Its digest; a download that differs is refused.
    """

    url: str
    sha256: str


def nucleus_download(kind: str, version: str | None, sha256: str | None, architecture: str) -> Download:
    """Find the download of a nucleus.

    Args:
        kind: `classic`, `docker` or `lite`.
        version: The kind's default unless given.
        sha256: Digest of the download; a known one unless given.
        architecture: Of the edge server, as `uname -m` prints it.

    Returns:
        The download.

    Raises:
        ValueError: No digest is known.
    """
    version = version or DEFAULT_VERSIONS[kind]
    url = _LITE.format(version=version, machine=_LITE_MACHINES[architecture])
    digest = sha256
    if kind != "lite":
        url = _CLASSIC.format(version=version)
        digest = sha256 or DIGESTS.get(version)
    if digest is None:
        known = ", ".join(DIGESTS)
        raise ValueError(
            f"edge_server.nucleus.sha256 is required for {kind} {version} on {architecture}, as nobody has published "
            f"its digest (known: classic and docker {known}): take it from a download of {url} that you trust"
        )
    return Download(url, digest)


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


def _optimised_for_ebs(kind: str) -> str:
    """Check that EC2 launches it optimised for EBS, as the server is (EC2 User Guide, EBS optimization)."""
    if kind.startswith(("t1.", "t2.")):
        raise ValueError("must be a kind that EC2 optimises for EBS: take t3, or t4g with aarch64")
    return kind


class EdgeServer(Section):
    """The core device on EC2.

    Attributes:
        instance_type: EC2 type of the runtime's architecture; by default the cheapest that holds a nucleus and a model.
        volume_gib: Size of the encrypted gp3 root volume, GiB; another size replaces the server.
        image: Date of the server's image, `YYYY-MM-DD`. A server keeps the image that was the newest of its
            distribution at its launch; another date replaces the server, which then takes the newest one.
        nucleus: The Greengrass release on it.
        provisioning_minutes: After so long without a word from the instance the deploy fails.
    """

    instance_type: (
        Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$"), AfterValidator(_optimised_for_ebs)]
        | None
    ) = None
    volume_gib: int = Field(default=20, ge=8, le=16384)
    image: date = date(2026, 11, 29)
    nucleus: Nucleus = Nucleus()
    provisioning_minutes: int = Field(default=15, ge=1, le=720)


#: What AWS takes for no VPC, each with its name (RFC 6890).
_NO_NETWORKS = {
    "0.0.0.0/8": "this network",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}


def _vpc_range(cidr: str) -> str:
    """Check an IPv4 range as a VPC takes it."""
    rule = "must be an IPv4 range of /16 to /28 such as 10.42.0.0/24"
    try:
        network = ipaddress.IPv4Network(cidr, strict=False)
    except ValueError as exc:
        raise ValueError(f"{rule}: {exc}") from exc
    if "/" not in cidr or not 16 <= network.prefixlen <= 28:
        raise ValueError(rule)
    if cidr.partition("/")[0] != str(network.network_address):
        raise ValueError(f"{rule}, without bits of a host: write {network}")
    for taken, name in _NO_NETWORKS.items():
        if network.overlaps(ipaddress.IPv4Network(taken)):
            raise ValueError(f"{rule}, not of {taken} ({name})")
    return str(network)


class Network(Section):
    """The edge server's network.

    Attributes:
        flow_logs: Whether the VPC's traffic is logged.
        cidr: IPv4 range of the VPC; its only subnet takes all of it.
    """

    flow_logs: bool = True
    cidr: Annotated[str, AfterValidator(_vpc_range)] = "10.42.0.0/24"

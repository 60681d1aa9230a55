"""The devices' interpreter, and what serves beside the models."""

import platform
import sys
from typing import Annotated, Literal

from pydantic import StringConstraints, field_validator

from config.section import Section

HOST = "host"
MACHINES = ("x86_64", "aarch64")


class Runtime(Section):
    """The devices' interpreter and machine, for which wheels are packed and models compiled.

    Attributes:
        python: Version as `3.11`, or `host`: the interpreter that runs the synth.
        architecture: As `uname -m` prints it, or `host`: the machine that runs the synth.
    """

    python: Annotated[str, StringConstraints(pattern=r"^(3\.\d{1,2}|host)$")] = "3.11"
    architecture: Literal["x86_64", "aarch64", "host"] = "x86_64"

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

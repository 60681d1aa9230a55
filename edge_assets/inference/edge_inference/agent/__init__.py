"""The gRPC service of the SageMaker Edge Manager agent, served beside the MQTT topics by the same process.

Only a device whose stage asks for it has this package and the wheels that it needs.
"""

from enum import Enum


class Status(Enum):
    """The gRPC status codes that the agent's documentation names, by their names in gRPC."""

    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    INTERNAL = "INTERNAL"


class AgentError(Exception):
    """A call that cannot be answered.

    Args:
        status: What the client's code branches on.
        message: What its developer reads.
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status

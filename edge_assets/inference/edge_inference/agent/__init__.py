"""The gRPC service of the SageMaker Edge Manager agent, served beside the MQTT topics by the same process.

Only a device whose stage asks for it has this package and the wheels that it needs.
"""

from grpc import StatusCode as Status

__all__ = ["AgentError", "Status"]


class AgentError(Exception):
    """A call that cannot be answered.

    Args:
        status: One of those that the agent's documentation names; what the client's code branches on.
        message: What its developer reads.
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status

"""The errors of the core device."""

from __future__ import annotations


class CoreDeviceError(Exception):
    """The core device cannot do what it was asked; the text says what, where and what helps."""


class ConfigurationError(CoreDeviceError):
    """The device's `config.yaml` has mistakes; the text lists all of them."""


class RequestRejectedError(CoreDeviceError):
    """The cloud refused a request.

    Args:
        message: What was refused and why.
        code: The cloud's name for the reason, such as `TerminalStateReached`; empty when it gave none.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class DeploymentError(CoreDeviceError):
    """A deployment cannot be carried out.

    Args:
        message: What failed, with component, step and value.
        kind: The error type reported to the cloud, in the manner of the nucleus (`ARTIFACT_CHECKSUM_MISMATCH`).
    """

    def __init__(self, message: str, kind: str = "DEPLOYMENT_FAILURE") -> None:
        super().__init__(message)
        self.kind = kind

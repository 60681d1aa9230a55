"""Clients by name."""

from typing import Any


def client(client_type: str, *args: Any, **kwargs: Any) -> Any:
    """Make a client.

    Args:
        client_type: `iot-data`, `lambda` or `secretsmanager`; the latter two refuse when they are called.
        args: For the client.
        kwargs: For the client.

    Returns:
        The client.

    Raises:
        Exception: The type is not known.
        ImportError: It is `streammanager`, which has a client of its own for Greengrass V2.
    """
    if client_type == "iot-data":
        from .IoTDataPlane import Client as Data

        return Data(*args, **kwargs)
    if client_type == "lambda":
        from .Lambda import Client as Lambda

        return Lambda(*args, **kwargs)
    if client_type == "secretsmanager":
        from .SecretsManager import Client as SecretsManager

        return SecretsManager(*args, **kwargs)
    if client_type == "streammanager":
        from . import stream_manager  # noqa: F401 - it says why there is none
    raise Exception(f"Client type {client_type!r} is not recognized.")

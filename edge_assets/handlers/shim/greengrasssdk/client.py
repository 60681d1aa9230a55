"""Clients by name."""

from typing import Any


def client(client_type: str, *args: Any, **kwargs: Any) -> Any:
    """Make a client.

    Args:
        client_type: `iot-data` or `lambda`.
        args: For the client.
        kwargs: For the client.

    Returns:
        The client.

    Raises:
        Exception: The type is not known, or Greengrass V2 serves it in another way.
    """
    if client_type == "iot-data":
        from .IoTDataPlane import Client as Data

        return Data(*args, **kwargs)
    if client_type == "lambda":
        from .Lambda import Client as Lambda

        return Lambda(*args, **kwargs)
    if client_type in ("secretsmanager", "streammanager"):
        raise Exception(f"Client type {client_type!r} is not served here: use the component of Greengrass V2 for it.")
    raise Exception(f"Client type {client_type!r} is not recognized.")

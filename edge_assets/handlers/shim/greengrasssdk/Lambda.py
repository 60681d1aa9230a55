"""What handlers import from the SDK's Lambda module; other functions cannot be invoked on Greengrass V2."""

from io import BytesIO
from typing import Any


class InvocationException(Exception):
    """A call that the core did not take."""


class Client:
    """The Lambda client.

    Args:
        endpoint: Not used.
        port: Not used.
    """

    def __init__(self, endpoint: str = "localhost", port: Any = None) -> None:
        del endpoint, port

    def invoke(self, **kwargs: Any) -> Any:
        """Refuse: Greengrass V2 has no functions to invoke.

        Raises:
            ValueError: FunctionName is missing.
            InvocationException: Otherwise.
        """
        if "FunctionName" not in kwargs:
            raise ValueError(
                '"FunctionName" argument of Lambda.Client.invoke is a required argument but was not provided.'
            )
        raise InvocationException(
            f"Failed to invoke function {kwargs['FunctionName']}: there are no local functions on Greengrass V2; "
            "publish to a topic that the other handler subscribes to, and take its answer on another one "
            "(docs/migration.md)"
        )


class StreamingBody:
    """A payload to read.

    Args:
        payload: All of it.
    """

    def __init__(self, payload: bytes) -> None:
        self._raw_stream = BytesIO(payload)
        self._amount_read = 0

    def read(self, amt: int | None = None) -> bytes:
        """Read at most so many bytes; all that is left by default."""
        chunk = self._raw_stream.read(amt)
        self._amount_read += len(chunk)
        return chunk

    def close(self) -> None:
        """Free it."""
        self._raw_stream.close()

"""What the outbox publishes by."""

from typing import Protocol


class Publication(Protocol):
    """A message that is being published."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, which comes by itself within a few seconds.

        Args:
            timeout_s: How long at most.

        Returns:
            Whether it is published; False while it is on its way.

        Raises:
            RefusedError: It will never be accepted.
            IpcError: Another attempt may work.
        """
        ...


class Publisher(Protocol):
    """Sends one message."""

    def publish(self, topic: str, payload: bytes) -> Publication:
        """Begin to publish, at least once.

        Args:
            topic: Exact topic.
            payload: At most 6,000 bytes.

        Returns:
            Tells when it is done.

        Raises:
            RefusedError: It will never be accepted.
            IpcError: Another attempt may work.
        """
        ...

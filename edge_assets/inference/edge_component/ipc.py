"""What a component needs of its device: the seam between it and the Greengrass IPC."""

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol


class Side(StrEnum):
    """Where messages come from and go to: the topics of AWS IoT Core, or those of the device's own components."""

    CLOUD = "cloud"
    LOCAL = "local"


class IpcError(Exception):
    """A call to the device failed; another attempt may work."""


class RefusedError(IpcError):
    """The device refuses the call, and would refuse it again: another topic or another policy is needed."""


class HungUpError(IpcError):
    """The device took the connection and ended it without a word.

    Nucleus lite does that with a process that it does not know, and with one client too many.
    """


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


class Subscription(Protocol):
    """A subscription that can be ended."""

    def close(self) -> None:
        """End it; nothing arrives afterwards."""
        ...


class IpcClient(Publisher, Protocol):
    """One connection to the device; it never reconnects by itself. Every call is bounded in time.

    It publishes to the cloud; `local` publishes to the device's own components.
    """

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        ...

    @property
    def local(self) -> Publisher:
        """The way to the device's own components: whoever listens gets the bytes, in a BinaryMessage, or nobody."""
        ...

    @property
    def unheard(self) -> list[str]:
        """Topics of the cloud whose subscriptions wait: its line is cut, or it refuses them."""
        ...

    def configuration(self) -> object:
        """Read the component's configuration.

        Returns:
            The whole JSON value.

        Raises:
            IpcError: The device did not answer.
        """
        ...

    def watch_configuration(self, on_change: Callable[[], None]) -> None:
        """Be told when the configuration changes.

        Args:
            on_change: Called from the connection's thread; it must not block.

        Raises:
            IpcError: The device did not accept it.
        """
        ...

    def subscribe(self, topic: str, on_message: Callable[[bytes], None], side: Side = Side.CLOUD) -> Subscription:
        """Receive the messages of a topic.

        Where the device cannot reach the cloud, the subscription waits: `renew` tries it again.

        Args:
            topic: Exact topic.
            on_message: Called from the connection's thread with the payload; it must not block. What a component sends
                as JSON comes as its text.
            side: Whose topic.

        Returns:
            The subscription.

        Raises:
            RefusedError: The recipe's access control does not list the topic.
            IpcError: The device did not accept it.
        """
        ...

    def renew(self, silent_s: float) -> None:
        """Subscribe where a subscription waits, and anew to every topic of a side that has been silent.

        Nucleus lite forgets what its components have subscribed to when its MQTT or its messaging daemon starts anew,
        and tells nobody.

        Args:
            silent_s: A message within so long shows that the device listens for this client.
        """
        ...

    def configuration_of(self, component: str) -> object:
        """Read another component's configuration.

        Raises:
            RefusedError: It has none.
            IpcError: The device did not answer.
        """
        ...

    def report_running(self) -> None:
        """Tell the device that the component serves: a deployment need not watch it for a while to believe it.

        Raises:
            IpcError: The device did not take it.
        """
        ...

    def close(self) -> None:
        """End the connection and everything on it."""
        ...


class Connect(Protocol):
    """Makes a connection."""

    def __call__(self, on_lost: Callable[[], None]) -> IpcClient:
        """Connect to the device.

        Args:
            on_lost: Called once when the connection ends by itself, from the connection's thread.

        Returns:
            A live connection.

        Raises:
            RefusedError: The device does not know this process: it was started by an earlier one.
            IpcError: There is no device to connect to.
        """
        ...

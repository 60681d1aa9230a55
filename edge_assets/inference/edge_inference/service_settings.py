"""The part of the configuration that concerns the component as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass

from edge_component import settings as rules
from edge_component.settings import ConfigurationError

DAY_S = 86_400.0
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class ServiceSettings:
    """What concerns the component as a whole.

    Args:
        heartbeat_topic: Where the heartbeat goes; empty for none.
        heartbeat_s: Seconds between two heartbeats.
        capture_bucket: S3 bucket that takes captured inputs and outputs; empty for none.
        capture_bytes: Captures that wait for their upload take no more disk than this; the oldest go first.
    """

    heartbeat_topic: str = ""
    heartbeat_s: float = 60
    capture_bucket: str = ""
    capture_bytes: int = 64 * MEBIBYTE


def parse_service(value: object) -> ServiceSettings:
    """Check the keys heartbeatTopic, heartbeatSeconds, captureBucket and captureBytes.

    Args:
        value: The whole configuration.

    Returns:
        The settings, complete with defaults.

    Raises:
        ConfigurationError: Every mistake at once.
    """
    given = value if isinstance(value, Mapping) else {}
    mistakes: list[str] = []
    topic = given.get("heartbeatTopic", "")
    if topic != "":
        rules.topic("heartbeatTopic", topic, mistakes)
    settings = ServiceSettings(
        heartbeat_topic=str(topic),
        heartbeat_s=rules.number("heartbeatSeconds", given.get("heartbeatSeconds", 60), (60, 1, DAY_S), mistakes),
        capture_bucket=rules.path("captureBucket", given.get("captureBucket", ""), mistakes),
        capture_bytes=rules.whole_number(
            "captureBytes",
            given.get("captureBytes", 64 * MEBIBYTE),
            (64 * MEBIBYTE, MEBIBYTE, 1 << 40),
            mistakes,
        ),
    )
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))
    return settings

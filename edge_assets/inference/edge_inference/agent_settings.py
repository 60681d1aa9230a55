"""The configuration's `agent`: whether and how the agent's clients are served."""

from collections.abc import Mapping
from dataclasses import dataclass

from edge_component.settings import ConfigurationError

#: sizeof(sockaddr_un.sun_path) on Linux, less the terminating zero (unix(7)).
SOCKET_BYTES = 107

#: Optional whole numbers: key to field, default, least and largest value.
NUMBERS = {
    "maxModels": ("max_models", 8, 1, 64),
    "maxTensorBytes": ("max_tensor_bytes", 32 << 20, 1 << 10, 256 << 20),
    "pendingCaptures": ("pending_captures", 16, 1, 1000),
    "captureBytes": ("capture_bytes", 64 << 20, 1 << 20, 1 << 40),
}
TEXTS = {"socket": "agent.sock", "captureFolder": "agent-captures"}


@dataclass(frozen=True)
class AgentSettings:
    """How the agent serves. Paths that are not absolute lie in the component's work folder.

    Args:
        socket: Unix socket to listen on.
        capture_folder: Where captures are kept.
        max_models: Models that clients may load.
        max_tensor_bytes: The largest tensor.
        pending_captures: Captures that wait to be written.
        capture_bytes: All captures on disk.
    """

    socket: str
    capture_folder: str
    max_models: int
    max_tensor_bytes: int
    pending_captures: int
    capture_bytes: int


def parse_agent(configuration: object) -> AgentSettings | None:
    """Check the component's configuration.

    Args:
        configuration: The whole of it; `agent` is an object with the optional keys `enabled` (default true),
            `socket` (`agent.sock`), `captureFolder` (`agent-captures`), `maxModels` (8), `maxTensorBytes` (32 MiB),
            `pendingCaptures` (16) and `captureBytes` (64 MiB).

    Returns:
        The settings; None without `agent`, or where it is not enabled.

    Raises:
        ConfigurationError: Every mistake at once.
    """
    value = configuration.get("agent") if isinstance(configuration, Mapping) else None
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"agent must be an object, got {_shown(value)}")
    known = {"enabled", *NUMBERS, *TEXTS}
    mistakes = [f"agent.{key} is unknown" for key in sorted(set(map(str, value)) - known)]
    enabled = value.get("enabled", True)
    if not isinstance(enabled, bool):
        mistakes.append(f"agent.enabled must be true or false, got {_shown(enabled)}")
    texts = {key: _text(key, value.get(key, default), mistakes) for key, default in TEXTS.items()}
    if len(texts["socket"].encode()) > SOCKET_BYTES:
        mistakes.append(f"agent.socket must have at most {SOCKET_BYTES} bytes, got {len(texts['socket'].encode())}")
    numbers = {
        field: _number(key, value.get(key, default), least, largest, mistakes)
        for key, (field, default, least, largest) in NUMBERS.items()
    }
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))
    if not enabled:
        return None
    return AgentSettings(socket=texts["socket"], capture_folder=texts["captureFolder"], **numbers)


def _text(key: str, value: object, mistakes: list[str]) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        mistakes.append(f"agent.{key} must be a path, got {_shown(value)}")
    return str(value)


def _number(key: str, value: object, least: int, largest: int, mistakes: list[str]) -> int:
    # A device may store every number as a floating-point one.
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(whole, int) or isinstance(whole, bool) or not least <= whole <= largest:
        mistakes.append(f"agent.{key} must be a whole number from {least} to {largest}, got {_shown(value)}")
        return least
    return whole


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"

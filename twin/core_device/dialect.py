"""Whose limits and quirks the device has: nucleus lite's, or the classic nucleus'."""

from __future__ import annotations

from dataclasses import dataclass

from .ipc.service_model import IpcLimits

LITE_PACKET_LIMIT_BYTES = 5_000
_CLASSIC_IPC = IpcLimits(
    message_bytes=24 << 20,  # the clients' own limit
    clients=1_000,
    subscriptions=10_000,
    payload_bytes=128 << 10,  # IoT Core's quota
    nesting=None,
    items=None,
    receive_modes=True,
    pings=True,
    tells_refusal=True,
)


@dataclass(frozen=True)
class Dialect:
    """The behaviour of a nucleus, as far as components can tell.

    Args:
        name: As in the device's configuration.
        runtime: The platform attribute that manifests are selected by.
        patterns: A manifest's attribute may be a regular expression between slashes.
        all_steps: `shutdown`, `recover` and `Skipif` work, and variables of other components.
        binds_to: A HARD dependency that ends stops its dependents, whatever its exit status (systemd's `BindsTo`).
        packet_bytes: Longest MQTT packet that it can receive; a longer one drops the link. None for no own limit.
        keeps_messages: Messages of QoS 1 are taken while the device is not connected, and sent later.
        ipc: What components may ask.
        file_mode: Rights of an artifact's files where the recipe has no Permission; those in a ZIP do not count.
    """

    name: str
    runtime: str
    patterns: bool
    all_steps: bool
    binds_to: bool
    packet_bytes: int | None
    keeps_messages: bool
    ipc: IpcLimits
    file_mode: int


LITE = Dialect("lite", "aws_nucleus_lite", False, False, True, LITE_PACKET_LIMIT_BYTES, False, IpcLimits(), 0o755)
CLASSIC = Dialect("classic", "aws_nucleus_classic", True, True, False, None, True, _CLASSIC_IPC, 0o440)

DIALECTS = {dialect.name: dialect for dialect in (LITE, CLASSIC)}

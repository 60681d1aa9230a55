"""TCP on 127.0.0.1: free ports, who may ask, and connections that end at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket

LOOPBACK = "127.0.0.1"

FOREIGN_SITES = frozenset({"cross-site", "same-site"})
"""Values of Sec-Fetch-Site with which a browser says that another site's page asks."""


def own_hosts(port: int) -> frozenset[str]:
    """Host headers by which a server on this machine is asked for; any other one is another site's name for it."""
    return frozenset({f"{LOOPBACK}:{port}", f"localhost:{port}"})


def is_free(port: int) -> bool:
    """Whether a listener could take the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def accepts_connections(port: int) -> bool:
    """Whether something listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def free_ports(count: int) -> list[int]:
    """That many different free ports, chosen by the operating system.

    They are free when this returns; nobody keeps them free until they are used.
    """
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def abort(transport: asyncio.WriteTransport) -> None:
    """End a connection at once, also one that was closed before.

    A TLS transport of Python 3.11.2, which Debian 12 brings, has forgotten its connection when it is closed twice, and
    then ends an abort with an AttributeError.
    """
    with contextlib.suppress(AttributeError):
        transport.abort()

"""TCP on 127.0.0.1: free ports, who may ask, and connections that end at once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket

LOOPBACK = "127.0.0.1"
PORTS = range(16384, 32768)
_TRIES = 100

FOREIGN_SITES = frozenset({"cross-site", "same-site"})
"""Values of Sec-Fetch-Site with which a browser says that another site's page asks."""


def own_hosts(port: int) -> frozenset[str]:
    """Host headers by which a server on this machine is asked for; any other one is another site's name for it."""
    return frozenset({f"{LOOPBACK}:{port}", f"localhost:{port}"})


def is_free(port: int) -> bool:
    """Whether a listener could take the port now; a number that is no port is not free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError):
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Choose different TCP ports of 127.0.0.1 that nobody listens on now.

    They lie below those that systems give to outgoing connections (from 32768 on Linux, 49152 on macOS): a twin that is
    started again has its ports still, whatever was connected meanwhile.

    Args:
        count: How many.

    Raises:
        OSError: Nearly all are taken.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.sample(PORTS, _TRIES + count):
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                found.append(port)
            if len(found) == count:
                return found
    raise OSError(errno.EADDRINUSE, f"{count} ports of {PORTS[0]} to {PORTS[-1]} must be free, got {len(found)}")


def stay_paused(transport: asyncio.Transport) -> None:
    """Pause a transport again that was paused as its connection was made; to be called in the loop's next step.

    One of Python 3.11.2 begins to read all the same: what the peer sends before somebody takes the connection is lost.
    """
    transport.resume_reading()
    transport.pause_reading()


def abort(transport: asyncio.WriteTransport) -> None:
    """End a connection at once, also one that was closed before.

    A TLS transport of Python 3.11.2, which Debian 12 brings, has forgotten its connection when it is closed twice, and
    then ends an abort with an AttributeError.
    """
    with contextlib.suppress(AttributeError):
        transport.abort()

"""A TCP connection through an HTTP proxy."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

_HEAD_LIMIT_BYTES = 8192


def open_tunnel(proxy_url: str, host: str, port: int, timeout_s: float) -> socket.socket:
    """Ask a proxy for a tunnel (CONNECT, RFC 9110 section 9.3.6).

    Args:
        proxy_url: `http://host:port`, port 3128 when it has none.
        host: Where the tunnel ends.
        port: Where the tunnel ends.
        timeout_s: Limit of every single wait.

    Returns:
        The connected socket, on which the far end speaks next.

    Raises:
        OSError: The proxy cannot be reached or refuses.
    """
    proxy = urlsplit(proxy_url)
    tunnel = socket.create_connection((proxy.hostname or "", proxy.port or 3128), timeout=timeout_s)
    try:
        target = f"{host}:{port}"
        tunnel.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = b""
        # Byte by byte: what follows the head belongs to the far end.
        while not head.endswith(b"\r\n\r\n"):
            byte = tunnel.recv(1)
            if not byte or len(head) >= _HEAD_LIMIT_BYTES:
                raise ConnectionError(f"the proxy {proxy_url} gave no answer to CONNECT {target}")
            head += byte
        status_line = head.split(b"\r\n", 1)[0].decode(errors="replace")
        if status_line.split(" ")[1:2] != ["200"]:
            raise ConnectionError(f"the proxy {proxy_url} refused CONNECT {target}: {status_line}")
    except BaseException:
        tunnel.close()
        raise
    return tunnel

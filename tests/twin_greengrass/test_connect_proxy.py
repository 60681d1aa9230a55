"""The CONNECT proxy: AWS's names at the three ports, and nothing else."""

from __future__ import annotations

import socket

import pytest

from tests.twin_greengrass.device import Device
from tests.twin_greengrass.started_cloud import Cloud


def asked(cloud: Cloud, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", cloud.proxy_port), timeout=30) as connection:
        connection.sendall(raw)
        answer = connection.recv(4096)
        # What is refused is closed; its head and its reason need not come together.
        while not answer.startswith(b"HTTP/1.1 200") and (more := connection.recv(4096)):
            answer += more
        return answer


@pytest.mark.parametrize("port", [443, 8443, 8883])
def test_aws_names_are_connected(cloud: Cloud, port: int) -> None:
    answer = asked(cloud, f"CONNECT x.iot.us-east-1.amazonaws.com:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("CONNECT example.com:443 HTTP/1.1", b"403"),
        ("CONNECT amazonaws.com.example.com:443 HTTP/1.1", b"403"),
        ("CONNECT 127.0.0.1:443 HTTP/1.1", b"403"),
        ("CONNECT x.amazonaws.com:22 HTTP/1.1", b"403"),
        ("CONNECT x.amazonaws.com HTTP/1.1", b"403"),
        ("GET http://x.amazonaws.com/ HTTP/1.1", b"405"),
        ("CONNECT", b"400"),
        ("\x00\x01\x02", b"400"),
    ],
)
def test_everything_else_is_refused_with_a_reason(cloud: Cloud, request_line: str, status: bytes) -> None:
    answer = asked(cloud, request_line.encode() + b"\r\nHost: h\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"must be" in answer


def test_a_thousand_connections_leave_the_others_alone(cloud: Cloud, device: Device) -> None:
    idle = []
    try:
        for _ in range(1000):
            connection = socket.socket()
            connection.settimeout(30)
            if connection.connect_ex(("127.0.0.1", cloud.data_port)) == 0:
                idle.append(connection)
    finally:
        for connection in idle:
            connection.close()

    assert device.thing_groups().status_code == 200
    assert "at most 512 connections" in cloud.log()

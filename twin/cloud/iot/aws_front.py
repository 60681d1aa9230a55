"""What a device finds behind port 443 of AWS: the credential endpoint, S3 by virtual host, every other service."""

from __future__ import annotations

import asyncio

from twin.cloud.iot.credential_provider import credentials
from twin.cloud.iot.device_identity import identify
from twin.cloud.iot.http_message import HttpError, read_head, write_json
from twin.cloud.iot.listener import Serve
from twin.cloud.iot.splice import splice

IDLE_LIMIT_S = 60.0


def front(gateway_port: int) -> Serve:
    """The handler of a TLS connection to the front.

    Args:
        gateway_port: Where the twin's gateway serves everything but credentials; one request a connection.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        if not head.host:
            raise HttpError(400, "Host header must name the AWS host, got none")
        if ".credentials.iot." in head.host:
            await write_json(writer, 200, credentials(identify(writer), head))
            return
        await splice(reader, writer, gateway_port, first=head.closing(), idle_limit_s=IDLE_LIMIT_S)

    return serve

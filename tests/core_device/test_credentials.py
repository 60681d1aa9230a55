"""Token exchange, its local endpoint, and what is signed with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from cryptography import x509

from tests.core_device.tls_identity import HOST, make_identity, renew
from twin.core_device.cloud.credentials import (
    CredentialEndpoint,
    Credentials,
    TokenExchange,
    object_url,
    signed_headers,
)
from twin.core_device.cloud.https import CloudHttp
from twin.core_device.configuration import Configuration, Nucleus, System
from twin.core_device.errors import RequestRejectedError


class Http(CloudHttp):
    """The real client's retries around an answer that the test gives."""

    def __init__(self, configuration: Configuration, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        super().__init__(configuration)
        self._clients = {True: httpx.AsyncClient(transport=httpx.MockTransport(answer))}


def exchange(answer: Callable[[httpx.Request], httpx.Response]) -> TokenExchange:
    system = System(Path(), Path(), Path(), Path(), "thing-1")
    configuration = Configuration(system, Nucleus("us-east-1", "c.amazonaws.com", "d.amazonaws.com", "alias"))
    return TokenExchange(configuration, Http(configuration, answer))


def answer_for(lifetime: timedelta, requests: list[httpx.Request]) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        expiration = (datetime.now(UTC) + lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"accessKeyId": f"A{len(requests)}", "secretAccessKey": "s", "sessionToken": "t"}
        return httpx.Response(200, json={"credentials": {**keys, "expiration": expiration}})

    return answer


@pytest.mark.parametrize(("minutes", "requests_made"), [(60, 1), (4, 2)])
def test_credentials_are_kept_until_five_minutes_before_they_expire(minutes: int, requests_made: int) -> None:
    requests: list[httpx.Request] = []

    async def main() -> None:
        tokens = exchange(answer_for(timedelta(minutes=minutes), requests))
        await tokens.credentials()
        await tokens.credentials()

    asyncio.run(main())
    assert len(requests) == requests_made
    assert str(requests[0].url) == "https://c.amazonaws.com/role-aliases/alias/credentials"
    assert requests[0].headers["x-amzn-iot-thingname"] == "thing-1"


def test_a_refusal_is_final_and_named() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(403, json={"message": "Access Denied"})

    with pytest.raises(RequestRejectedError, match=r"token exchange was refused .* HTTP 403.*Access Denied"):
        asyncio.run(exchange(answer).credentials())
    assert len(requests) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b'{"credentials": {}}', b'{"credentials": {"accessKeyId": 1}}'])
def test_an_answer_without_credentials_is_an_error(body: bytes) -> None:
    with pytest.raises(RequestRejectedError, match="gave no credentials"):
        asyncio.run(exchange(lambda _: httpx.Response(200, content=body)).credentials())


def test_the_secrets_are_not_shown() -> None:
    assert "secret" not in repr(Credentials("a", "secret", "secret", datetime.now(UTC)))


def test_the_local_endpoint_serves_components_only() -> None:
    async def main() -> list[tuple[int, dict[str, Any]]]:
        tokens = exchange(answer_for(timedelta(hours=1), []))
        endpoint = CredentialEndpoint(tokens, lambda token: "com.x" if token == "good" else None)
        url = await endpoint.start()
        async with httpx.AsyncClient(trust_env=False) as client:
            answers = [
                await client.get(url, headers={"Authorization": "good"}),
                await client.get(url, headers={"Authorization": "bad"}),
                await client.get(url),
                await client.get(url + "other", headers={"Authorization": "good"}),
                await client.post(url, headers={"Authorization": "good"}),
            ]
        await endpoint.stop()
        return [(answer.status_code, answer.json()) for answer in answers]

    answers = asyncio.run(main())

    assert [status for status, _ in answers] == [200, 403, 403, 404, 404]
    assert set(answers[0][1]) == {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}


def test_an_endpoint_that_starts_anew_is_at_another_port_and_no_more_at_the_one_before() -> None:
    async def main() -> tuple[str, str, int]:
        endpoint = CredentialEndpoint(exchange(answer_for(timedelta(hours=1), [])), lambda _: "com.x")
        before, after = await endpoint.start(), await endpoint.start()
        async with httpx.AsyncClient(trust_env=False) as client:
            # Whoever has taken the port since says something else, if anything.
            with contextlib.suppress(httpx.TransportError):
                assert (await client.get(before, headers={"Authorization": "t"})).status_code != 200
            answer = await client.get(after, headers={"Authorization": "t"})
        await endpoint.stop()
        return before, after, answer.status_code

    before, after, status = asyncio.run(main())

    assert (before != after, status) == (True, 200)


@pytest.mark.parametrize("as_lite", [True, False])
def test_lite_keeps_no_credentials_and_answers_null_without_a_cloud(as_lite: bool) -> None:
    requests: list[httpx.Request] = []
    given = answer_for(timedelta(hours=1), requests)
    away = False

    async def main() -> list[httpx.Response]:
        nonlocal away
        tokens = exchange(lambda request: httpx.Response(403, json={}) if away else given(request))
        endpoint = CredentialEndpoint(tokens, lambda _: "com.x", as_lite=as_lite)
        url = await endpoint.start()
        async with httpx.AsyncClient(trust_env=False) as client:
            answers = [await client.get(url, headers={"Authorization": "t"}) for _ in range(2)]
            away = True
            answers.append(await client.get(url, headers={"Authorization": "t"}))
        await endpoint.stop()
        return answers

    first, second, last = asyncio.run(main())

    assert len(requests) == (2 if as_lite else 1)
    assert (first.json() != second.json()) == as_lite
    assert (last.status_code, last.text) == ((200, "null") if as_lite else (200, second.text))


@pytest.mark.parametrize("key", ["a/b.zip", "with space+plus/ü~.zip"])
def test_signs_as_botocore_does(key: str) -> None:
    url = object_url("bucket", key, "eu-west-1")
    request = AWSRequest("GET", url)
    S3SigV4Auth(BotocoreCredentials("AKID", "secret", "session"), "s3", "eu-west-1").add_auth(request)
    at = datetime.strptime(request.context["timestamp"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    headers = signed_headers(url, "eu-west-1", Credentials("AKID", "secret", "session", at), at)

    assert headers["authorization"] == request.headers["Authorization"]


def test_a_bucket_with_dots_is_addressed_by_path() -> None:
    assert object_url("my.bucket", "k", "us-east-1") == "https://s3.us-east-1.amazonaws.com/my.bucket/k"


def test_requests_show_the_certificate_that_is_on_disk_and_wait_for_one_that_is_whole(
    tmp_path: Path,
) -> None:
    identity = make_identity(tmp_path)
    shown: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        while (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET"):
            shown.append(x509.load_der_x509_certificate(certificate).serial_number)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=identity.server_context())
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        system = System(tmp_path / "device.key", tmp_path / "device.pem", tmp_path / "ca.pem", tmp_path, "thing-1")
        http = CloudHttp(Configuration(system, Nucleus("us-east-1", HOST, HOST, "alias")))
        ask = partial(http.request, "GET", url, what="a test", extensions={"sni_hostname": HOST})
        await ask()
        await ask()
        old = (tmp_path / "device.key").read_bytes()
        shown.append(renew(identity))
        new = (tmp_path / "device.key").read_bytes()
        (tmp_path / "device.key").write_bytes(old)
        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.3)
        (tmp_path / "device.key").write_bytes(new)
        await asking
        await http.close()
        server.close()

    asyncio.run(main())

    first, again, renewed, last = shown
    assert first == again != renewed
    assert last == renewed

"""What the cloud said of client devices, kept for when it says nothing."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import cast

import pytest

from twin.core_device.client_devices.device_auth import DeviceCloud, Identities, UnreachableError
from twin.core_device.files import JSON_FILES

OWN, OTHER = b"certificate of camera-1", b"certificate of camera-2"


class Cloud:
    """Knows camera-1 by its own certificate, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.things = {"camera-1"}

    async def verify(self, _pem: str, certificate_id: str, thing: str) -> str:
        if self.away:
            raise UnreachableError("the line is cut")
        known = thing in self.things and certificate_id == hashlib.sha256(OWN).hexdigest()
        return "" if known else "it is another's"

    async def associated(self) -> set[str]:
        return set(self.things)


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def identities(cloud: Cloud, tmp_path: Path) -> Identities:
    return Identities(cast(DeviceCloud, cloud), tmp_path / "kept.json", JSON_FILES)


def refusal(identities: Identities, certificate: bytes, thing: str = "camera-1") -> str:
    return asyncio.run(identities.refusal(certificate, thing, 600.0))


def test_whom_the_cloud_has_verified_comes_in_without_it_by_the_same_certificate(
    cloud: Cloud, identities: Identities
) -> None:
    assert refusal(identities, OWN) == ""
    cloud.away = True

    assert refusal(identities, OWN) == ""
    assert "was not verified within 10 min" in refusal(identities, OTHER)
    assert "was not verified within 10 min" in refusal(identities, OWN, "camera-2")
    assert refusal(identities, b"") == "camera-1 has shown no certificate"


def test_whoever_claims_to_be_another_device_does_not_shut_it_out(cloud: Cloud, identities: Identities) -> None:
    assert refusal(identities, OWN) == ""

    assert "no client device of this core by this certificate" in refusal(identities, OTHER)

    cloud.away = True
    assert refusal(identities, OWN) == ""


def test_a_device_that_the_cloud_refuses_is_not_trusted_any_more(cloud: Cloud, identities: Identities) -> None:
    assert refusal(identities, OWN) == ""
    cloud.things.clear()
    assert "no client device of this core" in refusal(identities, OWN)

    cloud.away = True

    assert "was not verified" in refusal(identities, OWN)


def test_a_device_that_is_verified_while_the_cloud_lists_the_others_stays_trusted(
    cloud: Cloud, identities: Identities
) -> None:
    async def main() -> set[str]:
        cloud.things = {"camera-2"}
        waiting: list[asyncio.Task[str]] = []

        async def listed() -> set[str]:
            cloud.things.add("camera-1")
            waiting.append(asyncio.create_task(identities.refusal(OWN, "camera-1", 600.0)))
            await waiting[0]
            return {"camera-2"}

        cloud.associated = listed  # type: ignore[method-assign]
        return await identities.gone(["camera-2", "camera-3"])

    assert asyncio.run(main()) == {"camera-3"}
    cloud.away = True
    assert refusal(identities, OWN) == ""

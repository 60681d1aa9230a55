"""Who may trade a claim for a certificate: registered devices without one, and nobody else."""

import json
import logging
from typing import Any

import pytest

from edge_handlers.provisioning_hook import on_request
from edge_handlers.service_client import AwsCallError
from tests.handlers.event import EVENTS, Context
from tests.handlers.fake_iot import FakeIot

THING = "edgewright-dev-line-1"
ALLOWED, REFUSED = {"allowProvisioning": True}, {"allowProvisioning": False}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THING_PREFIX", "edgewright-dev")
    monkeypatch.setenv("THING_GROUP", "edgewright-dev")
    monkeypatch.setenv("RESERVED_THINGS", "edgewright-dev-edge-server")


@pytest.fixture
def registered(iot: FakeIot) -> FakeIot:
    for name in (THING, "edgewright-dev-edge-server"):
        iot.things[name] = {"thingTypeName": "core", "attributes": {"edgewright-registry": "edgewright-dev"}}
    return iot


def request(serial: Any = "line-1", **changes: Any) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((EVENTS / "provisioning_hook.json").read_text())
    return {**event, "parameters": {"SerialNumber": serial}, **changes}


def test_a_registered_device_without_a_certificate_may_join(registered: FakeIot) -> None:
    assert on_request(request(), Context()) == ALLOWED
    assert {name for name, _ in registered.calls} == {
        "describe_thing",
        "list_thing_principals",
        "list_principal_things",
    }


def test_a_device_that_is_not_registered_may_not(registered: FakeIot, caplog: pytest.LogCaptureFixture) -> None:
    assert on_request(request("line-2"), Context()) == REFUSED
    told = "edgewright-dev-line-2 must be on the register: add it to fleet.devices, or to the list of fleet.file, and"
    assert told in caplog.text


def test_a_device_joins_once(registered: FakeIot, caplog: pytest.LogCaptureFixture) -> None:
    registered.provision("0123456789abcdef", THING)

    assert on_request(request(), Context()) == REFUSED
    assert f"{THING} has the certificate 0123456789ab… already" in caplog.text


def test_a_certificate_that_is_another_things_makes_no_second_one(
    registered: FakeIot, caplog: pytest.LogCaptureFixture
) -> None:
    registered.attached.add(("edgewright-dev-line-0", f"arn:aws:iot:eu-west-1:111122223333:cert/{'b' * 64}"))

    assert on_request(request(), Context()) == REFUSED
    assert f"bbbbbbbbbbbb… is the certificate of edgewright-dev-line-0 already: {THING} needs its own" in caplog.text


@pytest.mark.parametrize("identifier", [None, "", "b" * 63, "b" * 65, "../" + "b" * 61, 5])
def test_a_request_for_no_certificate_is_refused(registered: FakeIot, identifier: Any) -> None:
    assert on_request(request(certificateId=identifier), Context()) == REFUSED
    assert registered.calls == []


@pytest.mark.parametrize("attributes", [{}, {"edgewright-registry": "edgewright-prod"}])
def test_a_thing_of_another_register_may_not(registered: FakeIot, attributes: dict[str, str]) -> None:
    registered.things[THING]["attributes"] = attributes

    assert on_request(request(), Context()) == REFUSED


def test_nobody_takes_the_edge_servers_name(registered: FakeIot) -> None:
    assert on_request(request("edge-server"), Context()) == REFUSED
    assert registered.calls == []


@pytest.mark.parametrize(
    "serial",
    [
        "",
        " ",
        "a b",
        "-a",
        "a/b",
        "a\n",
        "ä",
        "a" * 65,
        "x" * 1_000_000,
        None,
        5,
        True,
        ["line-1"],
        {"a": 1},
        "*",
        "$x",
    ],
    ids=lambda serial: ascii(serial)[:20],
)
def test_a_malformed_serial_number_is_refused_before_anybody_is_asked(
    registered: FakeIot, caplog: pytest.LogCaptureFixture, serial: Any
) -> None:
    assert on_request(request(serial), Context()) == REFUSED
    assert registered.calls == []
    assert "parameters.SerialNumber must be 1 to 64 letters, digits, _ or -" in caplog.text
    assert len(caplog.text) < 500


@pytest.mark.parametrize("event", [None, [], "text", 5, {}, request(parameters=None), request(parameters=["line-1"])])
def test_a_malformed_event_is_refused(registered: FakeIot, event: Any) -> None:
    assert on_request(event, Context()) == REFUSED
    assert registered.calls == []


def test_what_a_device_sends_forges_no_line_of_the_log(registered: FakeIot, caplog: pytest.LogCaptureFixture) -> None:
    on_request(request("x\nallowed: edgewright-dev-line-1"), Context())

    assert len(registered.calls) == 0
    assert "\nallowed" not in caplog.text


def test_the_log_says_who_joined_and_holds_no_certificate(
    registered: FakeIot, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        on_request(request(), Context())

    assert registered.calls
    assert f"allowed: {THING}" in caplog.text
    assert "BEGIN CERTIFICATE" not in caplog.text


@pytest.mark.parametrize("operation", ["describe_thing", "list_thing_principals"])
def test_a_register_that_cannot_be_read_lets_nobody_join(registered: FakeIot, operation: str) -> None:
    registered.refuse(operation, "ThrottlingException")

    with pytest.raises(AwsCallError, match=f"cannot look {THING} up in the register: .*ThrottlingException"):
        on_request(request(), Context())

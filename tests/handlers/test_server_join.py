"""One machine gets a certificate of one thing, once; the former ones go when it has reported."""

from datetime import timedelta
from typing import Any

import pytest

from edge_handlers.server_join import JoinError, on_event, on_request
from edge_handlers.service_client import AwsCallError
from tests.handlers.event import Context, create, delete, update
from tests.handlers.fake_greengrass import FakeGreengrass
from tests.handlers.fake_iot import JOINED_AT, FakeIot

THING, GROUP, POLICY = "edgewright-dev-edge-server", "edgewright-dev", "edgewright-dev-core-device"
CSR = "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n"
FIRST, SECOND = "1a2b3c4d", "5e6f7a8b"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("THING_NAME", THING), ("THING_GROUP", GROUP), ("POLICY_NAME", POLICY), ("FINGERPRINT", FIRST)):
        monkeypatch.setenv(name, value)


@pytest.fixture
def registered(iot: FakeIot) -> FakeIot:
    for name in (THING, "edgewright-dev-line-1"):
        iot.things[name] = {"thingTypeName": "core", "attributes": {"edgewright-registry": GROUP}}
    return iot


def ask(monkeypatch: pytest.MonkeyPatch | None = None, fingerprint: str = FIRST, **request: Any) -> dict[str, str]:
    if monkeypatch:
        monkeypatch.setenv("FINGERPRINT", fingerprint)
    return on_request(request or {"csr": CSR}, Context())


def confirmed(fingerprint: str = FIRST, before: str | None = None, seconds: float = 300) -> dict[str, Any]:
    event = create("server_join", Fingerprint=fingerprint)
    if before:
        event = update("server_join", f"{THING}/joined", {"Fingerprint": before}, Fingerprint=fingerprint)
    return on_event(event, Context(seconds))


def certificates(iot: FakeIot) -> dict[str, str]:
    """Id to status of the thing's certificates."""
    return {arn.rpartition("/")[2]: iot.certificates[arn] for thing, arn in iot.attached if thing == THING}


def test_a_server_gets_a_certificate_of_its_thing(registered: FakeIot) -> None:
    answer = ask()

    assert answer == {
        "certificatePem": "the certificate",
        "certificateId": answer["certificateId"],
        "dataEndpoint": "data-ats.example",
        "credentialEndpoint": "credentialprovider.example",
    }
    assert certificates(registered) == {answer["certificateId"]: "ACTIVE"}
    assert registered.policies[POLICY] == {arn for _, arn in registered.attached}
    assert registered.exclusive == set(registered.certificates), "policy variables need it on second connections"
    assert THING in registered.groups[GROUP]


def test_a_server_that_asks_again_on_trial_has_one_certificate(registered: FakeIot) -> None:
    first, second = ask()["certificateId"], ask()["certificateId"]

    assert first != second
    assert certificates(registered) == {second: "ACTIVE"}
    assert len(registered.certificates) == 1


def test_a_server_joins_once(registered: FakeIot, greengrass: FakeGreengrass) -> None:
    only = ask()["certificateId"]
    confirmed()

    with pytest.raises(JoinError, match=f"must join once, server {FIRST} has: replace the server by another date"):
        ask()
    assert certificates(registered) == {only: "ACTIVE"}


@pytest.mark.parametrize(
    "request_",
    [
        {"csr": CSR, "thing": "edgewright-dev-line-1"},
        {"csr": CSR, "THING_NAME": "edgewright-dev-line-1"},
        {"thing": "edgewright-dev-line-1"},
        {"csr": CSR + CSR},
        {"csr": "x" * 9000},
        {"csr": ["a"]},
        {},
        [],
        "csr",
        None,
    ],
    ids=str,
)
def test_nobody_names_another_thing_or_asks_for_anything_else(registered: FakeIot, request_: Any) -> None:
    with pytest.raises(JoinError, match="must be"):
        on_request(request_, Context())

    assert not registered.certificates
    assert {name for name, _ in registered.calls} <= {"describe_thing"}


@pytest.mark.parametrize(
    "operation", ["update_thing", "attach_policy", "attach_thing_principal", "add_thing_to_thing_group"]
)
def test_a_certificate_that_cannot_be_attached_is_deleted_again(registered: FakeIot, operation: str) -> None:
    registered.refuse(operation, "ThrottlingException")

    with pytest.raises(AwsCallError, match=f"cannot let {THING} join"):
        ask()

    assert not registered.certificates


def test_of_two_requests_at_a_time_one_goes_on(registered: FakeIot) -> None:
    registered.before("create_certificate_from_csr", lambda: registered.versions.update({THING: 7}))

    with pytest.raises(AwsCallError, match="VersionConflictException"):
        ask()

    assert not registered.certificates


def test_a_thing_that_is_not_on_the_register_is_named(iot: FakeIot) -> None:
    with pytest.raises(JoinError, match=f"thing {THING} must be on the register"):
        ask()

    assert not iot.certificates


def test_a_server_on_trial_gives_its_certificate_back(registered: FakeIot) -> None:
    name = ask()["certificateId"]

    assert ask(leave=name) == {}

    assert not registered.certificates
    assert ask()["certificateId"]


def test_nobody_gives_another_certificate_back(registered: FakeIot, greengrass: FakeGreengrass) -> None:
    other = registered.provision("0123", "edgewright-dev-line-1")
    name = ask()["certificateId"]
    with pytest.raises(JoinError, match="leave must be the id of a certificate on trial"):
        ask(leave="0123")
    confirmed()

    with pytest.raises(JoinError, match="leave must be the id of a certificate on trial"):
        ask(leave=name)

    assert registered.certificates[other] == "ACTIVE"
    assert certificates(registered) == {name: "ACTIVE"}


def test_the_first_server_is_confirmed_without_waiting_for_it(
    registered: FakeIot, greengrass: FakeGreengrass, pauses: list[float]
) -> None:
    ask()

    assert confirmed() == {"PhysicalResourceId": f"{THING}/joined"}

    assert not greengrass.calls
    assert not pauses
    assert registered.things[THING]["attributes"]["edgewright-server"].startswith(f"{FIRST}/")


def test_former_certificates_go_when_the_new_server_has_reported(
    registered: FakeIot, greengrass: FakeGreengrass, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask()
    confirmed()
    greengrass.reported[THING] = JOINED_AT - timedelta(seconds=1)
    new = ask(monkeypatch, SECOND)["certificateId"]
    seen: list[list[str]] = []

    def report() -> None:
        seen.append(sorted(certificates(registered).values()))
        if len(seen) == 3:
            greengrass.reported[THING] = JOINED_AT + timedelta(seconds=1)
        greengrass.before("get_core_device", report)

    greengrass.before("get_core_device", report)

    confirmed(SECOND, FIRST)

    assert seen == [["ACTIVE", "INACTIVE"]] * 3
    assert certificates(registered) == {new: "ACTIVE"}
    assert len(registered.certificates) == 1
    assert registered.policies[POLICY] == set(registered.certificates)


def test_former_certificates_work_again_if_the_new_server_never_reports(
    registered: FakeIot, greengrass: FakeGreengrass, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ask()["certificateId"]
    confirmed()
    greengrass.reported[THING] = JOINED_AT - timedelta(seconds=1)
    ask(monkeypatch, SECOND)

    with pytest.raises(JoinError, match=f"must report to Greengrass as server {SECOND}"):
        confirmed(SECOND, FIRST, seconds=20)
    assert set(certificates(registered).values()) == {"ACTIVE"}

    confirmed(FIRST, SECOND)
    assert certificates(registered) == {old: "ACTIVE"}
    assert len(registered.certificates) == 1


def test_former_certificates_work_again_if_the_report_cannot_be_read(
    registered: FakeIot, greengrass: FakeGreengrass, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask()
    confirmed()
    ask(monkeypatch, SECOND)
    greengrass.refuse("get_core_device", "AccessDeniedException")

    with pytest.raises(AwsCallError, match="AccessDeniedException"):
        confirmed(SECOND, FIRST)

    assert set(certificates(registered).values()) == {"ACTIVE"}


def test_a_rollback_switches_on_what_a_function_that_died_had_switched_off(
    registered: FakeIot, greengrass: FakeGreengrass, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ask()["certificateId"]
    confirmed()
    ask(monkeypatch, SECOND)
    registered.update_certificate(certificateId=old, newStatus="INACTIVE")

    confirmed(FIRST, SECOND)

    assert certificates(registered) == {old: "ACTIVE"}


def test_another_server_on_trial_keeps_its_certificate_until_one_is_confirmed(
    registered: FakeIot, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ask()["certificateId"], ask(monkeypatch, SECOND)["certificateId"]

    assert certificates(registered) == {first: "ACTIVE", second: "ACTIVE"}


def test_a_certificate_that_another_thing_has_too_only_lets_go(registered: FakeIot, greengrass: FakeGreengrass) -> None:
    shared = registered.provision("0123", THING, "edgewright-dev-line-1")
    ask()

    confirmed()

    assert registered.certificates[shared] == "ACTIVE"
    assert registered.list_principal_things(shared)["things"] == ["edgewright-dev-line-1"]
    assert shared in registered.policies[POLICY]
    assert not greengrass.calls


def test_certificates_that_an_operator_adds_later_stay(registered: FakeIot, greengrass: FakeGreengrass) -> None:
    ask()
    confirmed()
    registered.provision("0456", THING)

    confirmed(FIRST, FIRST)

    assert len(certificates(registered)) == 2
    assert not greengrass.calls


def test_after_a_delete_a_server_of_the_same_fingerprint_may_join(
    registered: FakeIot,
    greengrass: FakeGreengrass,
) -> None:
    ask()
    confirmed()

    on_event(delete("server_join", f"{THING}/joined"), Context())

    assert registered.things[THING]["attributes"] == {"edgewright-registry": GROUP}
    assert ask()["certificateId"]


def test_a_delete_without_the_thing_is_fine(iot: FakeIot, greengrass: FakeGreengrass) -> None:
    on_event(delete("server_join", f"{THING}/joined"), Context())

    assert not iot.called("update_thing")

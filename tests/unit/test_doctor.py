"""What the doctor finds, and what it sends with a question."""

import http.server
import json
import socket
import sys
import threading
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from config.client_devices import ClientDevices
from config.loader import load_stage
from tools import doctor
from tools.doctor import FAULT, OK, WARNING, Finding, main, of_account, of_clock, of_machine, of_network, report_of

DEV = load_stage("dev")
CLIENTS = ClientDevices.model_validate({"things": ["camera-1"]})
STAGE = DEV.model_copy(update={"client_devices": CLIENTS})
TODAY: dict[str, Any] = {"ResponseMetadata": {"HTTPHeaders": {}}}
USUAL: dict[str, Any] = {
    "get_caller_identity": {"Arn": "arn:aws:iam::111122223333:role/deployer", **TODAY},
    "get_parameter": {"Parameter": {"Value": "28"}},
    "describe_endpoint": {},
    "list_core_devices": {},
    "list_compilation_jobs": {},
    "get_service_role_for_account": {"roleArn": "arn:aws:iam::111122223333:role/Greengrass_ServiceRole"},
    "get_account_settings": {"AccountLimit": {"ConcurrentExecutions": 1000}},
    "describe_instance_type_offerings": {"InstanceTypeOfferings": [{}] * 6},
    "describe_availability_zones": {"AvailabilityZones": [{}] * 6},
    "describe_vpcs": {"Vpcs": [{}]},
    "get_service_quota": {"Quota": {"Value": 5.0}},
}


class Account:
    """Every service; a call gives what it is told, or raises it."""

    def __init__(self, **changes: Any) -> None:
        self._answers = {**USUAL, **changes}

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**_arguments: Any) -> Any:
            answer = self._answers[operation]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def looked_at(**changes: Any) -> dict[str, Finding]:
    return {each.what: each for each in of_account(STAGE, lambda _service: Account(**changes))}


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "Operation")


def test_an_account_that_is_ready() -> None:
    found = looked_at()

    assert {each.state for each in found.values()} == {OK}
    assert {"credentials", "bootstrap", "iot", "greengrass", "lambda concurrency", "VPCs"} <= set(found)


@pytest.mark.parametrize(
    ("changes", "what", "state", "fix"),
    [
        ({"get_caller_identity": NoCredentialsError()}, "credentials", FAULT, "aws sso login"),
        ({"get_parameter": refused("ParameterNotFound")}, "bootstrap", FAULT, "npx cdk bootstrap -c stage=dev"),
        ({"get_parameter": {"Parameter": {"Value": "5"}}}, "bootstrap", FAULT, "npx cdk bootstrap -c stage=dev"),
        ({"get_parameter": {"Parameter": {"Value": "x"}}}, "bootstrap", FAULT, "npx cdk bootstrap -c stage=dev"),
        ({"list_core_devices": refused("AccessDenied")}, "greengrass", FAULT, "the role may ask it"),
        (
            {"get_account_settings": {"AccountLimit": {"ConcurrentExecutions": 5}}},
            *("lambda concurrency", WARNING, "Concurrent executions"),
        ),
        ({"describe_vpcs": {"Vpcs": [{}] * 5}}, "VPCs", WARNING, "VPCs per Region"),
        ({"describe_availability_zones": {"AvailabilityZones": [{}] * 7}}, "edge server", WARNING, "may succeed anew"),
        ({"describe_instance_type_offerings": {"InstanceTypeOfferings": []}}, "edge server", FAULT, "instance_type"),
        (
            {"get_service_role_for_account": refused("ResourceNotFoundException")},
            *("greengrass's service role", FAULT, "associate-service-role-to-account"),
        ),
        ({"get_service_role_for_account": {}}, "greengrass's service role", FAULT, "associate-service-role-to-account"),
    ],
)
def test_what_an_account_lacks_has_its_fix(changes: dict[str, Any], what: str, state: str, fix: str) -> None:
    found = looked_at(**changes)[what]

    assert found.state == state
    assert fix in found.fix


def test_who_has_no_client_devices_needs_no_service_role() -> None:
    found = [each.what for each in of_account(DEV, lambda _service: Account())]

    assert "greengrass's service role" not in found


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "cdk.json must be JSON in UTF-8, got Expecting"),
        (b"\xff", "cdk.json must be JSON in UTF-8, got 'utf-8' codec"),
        (b"[" * 100_000, "cdk.json must be JSON in UTF-8, got maximum recursion"),
        (b"[]", "cdk.json must be a JSON object with an object context, got []"),
        (b'{"context": []}', "cdk.json must be a JSON object with an object context, got {'context': []}"),
        (b'{"context": {"@aws-cdk/core:bootstrapQualifier": 5}}', "bootstrapQualifier must be a text, got 5"),
        (None, "cdk.json must be a file that can be read, got [Errno 21] Is a directory"),
    ],
)
def test_a_damaged_cdk_json_is_a_fault_among_others(content: bytes | None, told: str, tmp_path: Path) -> None:
    if content is None:
        (tmp_path / "cdk.json").mkdir()
    else:
        (tmp_path / "cdk.json").write_bytes(content)

    found = {each.what: each for each in of_account(STAGE, lambda _service: Account(), tmp_path)}

    assert found["cdk.json"].state == FAULT
    assert told in found["cdk.json"].found
    assert found["VPCs"].state == OK


def test_an_app_without_a_context_has_the_usual_bootstrap(tmp_path: Path) -> None:
    (tmp_path / "cdk.json").write_text("{}")

    found = {each.what: each for each in of_account(STAGE, lambda _service: Account(), tmp_path)}

    assert found["bootstrap"].state == OK


def test_a_clock_that_is_wrong_is_a_fault() -> None:
    assert of_clock("Thu, 01 Jan 2015 00:00:00 GMT", "account").state == FAULT
    assert "set the clock" in of_clock("Thu, 01 Jan 2015 00:00:00 GMT", "account").fix


Usage = namedtuple("Usage", ["free"])


def test_a_machine_without_room_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _folder: Usage(1 << 20))  # type: ignore[attr-defined]
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _kind: (256, 256))  # type: ignore[attr-defined]
    monkeypatch.setenv("TWIN_HOME", str(tmp_path))
    (tmp_path / "state.json").write_text("{")

    found = {each.what: each for each in of_machine(tmp_path)}

    assert found["disk"].state == found["temporary folder"].state == FAULT
    assert found["open files"].state == WARNING
    assert found["cdk command"].fix == found["wheels of the devices"].fix == "make setup"
    assert found["twin"].state == FAULT
    assert all(each.fix for each in found.values() if each.state != OK)


@pytest.fixture
def registry() -> Iterator[str]:
    class Registry(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_registries_are_asked_where_pip_and_npm_are_told(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", registry)
    monkeypatch.setattr(doctor, "_said", lambda *_command: "file:///etc/passwd")

    found = {each.what: each for each in of_network()}

    assert found["python registry"].state == OK
    assert found["clock"].state == OK
    assert found["npm registry"].state == WARNING


def test_a_registry_that_is_not_there_is_a_fault(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/")
    monkeypatch.setattr(doctor, "_said", lambda *_command: registry)

    found = {each.what: each for each in of_network()}

    assert found["python registry"].state == FAULT
    assert "docs/set-up.md" in found["python registry"].fix


def test_a_registry_with_a_login_is_asked_without_it(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", registry.replace("://", "://aws:pass@word@"))
    monkeypatch.setattr(doctor, "_said", lambda *_command: registry.replace("://", "://token:@"))

    found = {each.what: each for each in of_network()}

    assert found["python registry"].state == found["npm registry"].state == OK


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nDate: tomorrow\r\n\r\n"])
def test_an_answer_that_no_registry_gives_ends_no_look(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            with server.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=speak)
        thread.start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/")
        monkeypatch.setattr(doctor, "_said", lambda *_command: "http://127.0.0.1:1/a b/")

        found = {each.what: each for each in of_network()}
        thread.join()

    assert found["python registry"].state == (FAULT if answer.startswith(b"SSH") else OK)
    assert found["npm registry"].state == FAULT
    assert "clock" not in found


def test_the_exit_code_says_whether_something_must_be_mended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "of_machine", lambda: [Finding("a", WARNING, "b", "c")])
    assert main([]) == 0
    assert capsys.readouterr().out == "warning  a: b\n         fix: c\n"

    assert main(["--stage", "nowhere"]) == 1
    assert "stage must be one of dev, prod, twin" in capsys.readouterr().out


SECRETS = {
    "key id": "AKIAIOSFODNN7EXAMPLE",
    "access key": "aws_secret_access_key = wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
    "json": '"SecretAccessKey": "abc/def+123"',
    "url": "https://x/?X-Amz-Signature=deadbeefcafe&X-Amz-Security-Token=FwoGZXIvYXdz&a=b",
    "bearer": "Authorization: Bearer s3cr3tbearer",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sflKxwRJSMeKKF2QT4",
    "login": "http://joe:hunter22@proxy:3128",
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKC\n-----END RSA PRIVATE KEY-----",
    "cut pem": "-----BEGIN CERTIFICATE-----\nMIIDWTCCAk",
    "end of a key": "MIIEpAIBAAKCAQEAx3oVzG9yU4Jm0X0n5Q2n7sN1bXo2Z3Jm0X0n5Q2n7sN1bXo2\n-----END RSA PRIVATE KEY-----",
    "svcuid": "SVCUID=ipc-t0ken-1",
    "account": "arn:aws:iam::111122223333:role/x",
    "address": "joe@example.com",
    "session": "sessionToken='IQoJb3JpZ2lu'",
}
HIDDEN = (
    *("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI", "abc/def+123", "deadbeefcafe", "FwoGZXIvYXdz", "s3cr3tbearer"),
    *(
        "sflKxwRJSMeKKF2QT4",
        "hunter22",
        "MIIEowIBAAKC",
        "MIIDWTCCAk",
        "MIIEpAIBAAKCAQEA",
        "ipc-t0ken-1",
        "111122223333",
    ),
    *("joe@example.com", "IQoJb3JpZ2lu"),
)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_each_kind_is_taken_out(name: str) -> None:
    text = doctor.redacted(f"before {SECRETS[name]}\n")

    assert text.startswith("before ")
    assert not [secret for secret in HIDDEN if secret in text], text


def test_what_helps_stays() -> None:
    text = f"synth: sha256 {'0a' * 32} of 000000000000 at 2026-11-29T16:30:19.069Z, line 12: keys: 3, tokenizer ok"

    assert doctor.redacted(text) == text


def test_a_bundle_has_logs_and_versions_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, home = tmp_path / "root", tmp_path / "home"
    for file in (root / "config" / "dev.toml", root / "out" / "demo" / "cdk-deploy.log", home / "log" / "cloud.log"):
        file.parent.mkdir(parents=True)
        file.write_text("\n".join(SECRETS.values()) + "\nthe-twins-own, from-the-shell\n")
    (home / "state.json").write_text(json.dumps({"secret": "the-twins-own"}))
    (home / "log" / "linked.log").symlink_to(home / "state.json")
    monkeypatch.setenv("MY_API_TOKEN", "from-the-shell")

    names = doctor.write_bundle(tmp_path / "new" / "s.zip", report_of([]), root, home)

    expected = {"doctor.txt", "versions.txt", "config/dev.toml", "out/demo/cdk-deploy.log", "twin/cloud.log"}
    assert set(names) == expected
    with zipfile.ZipFile(tmp_path / "new" / "s.zip") as archive:
        text = "\n".join(archive.read(name).decode() for name in archive.namelist())
    assert "boto3 " in text
    assert not [secret for secret in (*HIDDEN, "the-twins-own", "from-the-shell") if secret in text]


@pytest.mark.parametrize("state", ["[]", "5", "[" * 100_000])
def test_a_damaged_state_and_what_cannot_be_read_are_in_no_bundles_way(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state.json").write_text(state)
    (tmp_path / "cdk.json").write_text("{}")
    real = Path.open

    def refused_open(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name == "cdk.json":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", refused_open)

    assert "cdk.json" in doctor.write_bundle(tmp_path / "s.zip", "", tmp_path, tmp_path)

    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert archive.read("cdk.json").decode() == "cannot be read: [Errno 13] Permission denied"


def test_a_bundle_is_made_where_what_the_twin_needs_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cdk.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "twin.status", None)  # as if it could not be imported

    names = doctor.write_bundle(tmp_path / "s.zip", "", tmp_path, tmp_path)

    assert {"doctor.txt", "versions.txt", "cdk.json"} <= set(names)


def test_a_long_log_is_sent_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log" / "cloud.log"
    log.parent.mkdir()
    log.write_text("first\n" + "a line\n" * 100_000 + "last\n")

    doctor.write_bundle(tmp_path / "s.zip", "", tmp_path, tmp_path)

    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        text = archive.read("twin/cloud.log").decode()
    assert len(text) <= doctor.LOG_BYTES
    assert text.endswith("last\n")

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography import x509

from benchmarks import refusing_s3
from tests.stand_in import NEEDED
from tests.twin.conftest import wait_until
from twin import TwinError, lifecycle
from twin.core_device.files import Layout
from twin.ports import free_ports
from twin.process import COMPONENT_VARIABLE, DEVICE_VARIABLE, ProcessIdentity, instances_folder, listened_on
from twin.state import PORT_NAMES, TwinState, load_state, save_state

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def certificate_authority(state: TwinState) -> bytes:
    with urllib.request.urlopen(f"{state.gateway_url}/_ministack/iot/ca.pem", timeout=30) as answer:  # noqa: S310
        return bytes(answer.read())


def test_a_running_twin_is_reported_not_doubled(twin: TwinState) -> None:
    again = lifecycle.start(twin.home)

    assert again == twin


def test_every_listener_is_on_loopback(twin: TwinState) -> None:
    listening = [c for c in psutil.Process(twin.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]

    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}
    assert {connection.laddr.port for connection in listening} >= set(twin.ports.values())


def test_a_killed_cloud_comes_up_again_with_what_it_had(home: Path) -> None:
    state = lifecycle.start(home)
    s3, iot = (boto3.client(service, **state.client_arguments()) for service in ("s3", "iot"))
    s3.create_bucket(Bucket="survivor")
    s3.put_object(Bucket="survivor", Key="key", Body=b"content")
    iot.create_thing(thingName="survivor")
    certificate = iot.create_keys_and_certificate(setAsActive=True)["certificateId"]
    authority = certificate_authority(state)
    files = home / "state"  # what it had means: what the last snapshot has
    wait_until(lambda: any(certificate in path.read_text() for path in files.glob("*.json")))

    os.kill(state.pid, signal.SIGKILL)
    os.waitpid(state.pid, 0)
    again = lifecycle.start(home)

    assert again.pid != state.pid
    assert again.ports == state.ports
    assert s3.get_object(Bucket="survivor", Key="key")["Body"].read() == b"content"
    assert [thing["thingName"] for thing in iot.list_things()["things"]] == ["survivor"]
    assert [found["certificateId"] for found in iot.list_certificates()["certificates"]] == [certificate]
    assert certificate_authority(again) == authority


def test_a_cloud_that_ends_while_somebody_waits_for_it_is_started_anew(home: Path) -> None:
    state = lifecycle.start(home)
    os.kill(state.pid, signal.SIGSTOP)
    killer = threading.Timer(1.0, os.kill, (state.pid, signal.SIGKILL))
    killer.start()

    again = lifecycle.start(home)

    killer.join()
    assert again.running
    assert again.pid != state.pid


def test_an_extension_is_installed_besides_the_twins_own(home: Path) -> None:
    state = lifecycle.start(home, extensions=["benchmarks.refusing_s3"])
    s3 = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}), **state.client_arguments())
    s3.create_bucket(Bucket="bucket")

    refusing_s3.switch(home, 503)
    with pytest.raises(ClientError, match="SlowDown"):
        s3.put_object(Bucket="bucket", Key="captures/thing/1.jsonl", Body=b"")
    s3.put_object(Bucket="bucket", Key="results/1.json", Body=b"")
    refusing_s3.switch(home, None)
    s3.put_object(Bucket="bucket", Key="captures/thing/1.jsonl", Body=b"")

    assert s3.list_objects_v2(Bucket="bucket")["KeyCount"] == 2


def test_an_extension_that_is_not_there_is_named(home: Path) -> None:
    with pytest.raises(TwinError, match="extension no_such_module cannot be installed"):
        lifecycle.start(home, extensions=["no_such_module"])


def test_stop_and_start_keep_the_state_and_the_ports(home: Path) -> None:
    state = lifecycle.start(home)
    boto3.client("ssm", **state.client_arguments()).put_parameter(Name="/kept", Value="1", Type="String")

    assert lifecycle.stop(home)
    assert not lifecycle.stop(home)
    again = lifecycle.start(home)

    assert again.ports == state.ports
    assert boto3.client("ssm", **again.client_arguments()).get_parameter(Name="/kept")["Parameter"]["Value"] == "1"


def test_a_pid_that_another_process_has_now_is_not_taken_for_the_twin(home: Path) -> None:
    home.mkdir()
    stale = TwinState(home, os.getpid(), 1.0, 1, 2, 3, 4, 5, "us-east-1", "000000000000", "secret")
    save_state(stale)

    assert not stale.running
    assert not lifecycle.stop(home)


def test_a_state_file_that_is_damaged_says_what_to_do_and_down_repairs_it(home: Path) -> None:
    home.mkdir()
    (home / "state.json").write_text('{"pid": 1')

    with pytest.raises(TwinError, match="run `python -m twin down`"):
        lifecycle.start(home)
    lifecycle.stop(home)

    assert load_state(home) is None


def test_persisted_state_that_is_damaged_is_refused_by_name(home: Path) -> None:
    (home / "state").mkdir(parents=True)
    (home / "state" / "iot.json").write_text('{"__ministack_format__": 3, "payl')

    with pytest.raises(TwinError, match=r"iot\.json.*down --purge"):
        lifecycle.start(home)


def test_a_cloud_that_does_not_start_shows_the_end_of_its_log(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_ports", lambda known, progress: dict.fromkeys(PORT_NAMES, 70_000))
    monkeypatch.setattr(lifecycle, "_PORT_CHOICES", 1)

    with pytest.raises(TwinError, match="GATEWAY_PORT must be a port from 1 to 65535, got '70000'"):
        lifecycle.start(home)


def test_new_ports_are_chosen_when_one_is_taken(home: Path, twin: TwinState) -> None:
    home.mkdir()
    stale = replace(twin, home=home, pid=os.getpid(), started=1.0, data_port=70_000)
    save_state(stale)

    state = lifecycle.start(home)

    assert not set(state.ports.values()) & set(twin.ports.values())


def test_a_port_that_another_twin_takes_during_the_start_is_chosen_anew(
    home: Path, twin: TwinState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each port once: a second passes between choice and use, and another twin answers as this one would."""
    missed = list(PORT_NAMES)

    def choose(count: int) -> list[int]:
        chosen = free_ports(count)
        if missed:
            name = missed.pop(0)
            chosen[PORT_NAMES.index(name)] = twin.ports[name]
        return chosen

    monkeypatch.setattr(lifecycle, "free_ports", choose)
    monkeypatch.setattr(lifecycle, "_PORT_CHOICES", len(PORT_NAMES) + 1)
    told: list[str] = []

    state = lifecycle.start(home, progress=told.append)

    assert [line for line in told if "taken" in line] == [
        f"taken meanwhile by other programs: {name} {twin.ports[name]}; choosing new ports" for name in PORT_NAMES
    ]
    assert listened_on(state.pid) >= set(state.ports.values())
    boto3.client("iot", **state.client_arguments()).create_thing_group(thingGroupName="its-own")
    assert state == load_state(home)


def test_ports_that_are_always_taken_are_named(home: Path, twin: TwinState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "free_ports", lambda count: [*free_ports(count - 1), twin.proxy_port])
    monkeypatch.setattr(lifecycle, "_PORT_CHOICES", 2)

    with pytest.raises(TwinError, match=f"others took proxy_port {twin.proxy_port}; the end of .*cloud.log"):
        lifecycle.start(home)

    state = load_state(home)
    assert state is not None
    assert not state.running


def test_down_finds_devices_and_orphaned_components_after_a_crash(home: Path) -> None:
    root = instances_folder(home) / "i-1"
    root.mkdir(parents=True)
    device = subprocess.Popen(SLEEP, env={**NEEDED, DEVICE_VARIABLE: str(root)}, start_new_session=True)
    component = subprocess.Popen(
        SLEEP, env={**NEEDED, COMPONENT_VARIABLE: str(root / "ipc.socket")}, start_new_session=True
    )
    # The path of this one's socket is too long for the kernel, so that it lies in a temporary folder.
    deep = instances_folder(home) / ("i-" + "2" * 100)
    socket = Layout(deep).ipc_socket()
    far = subprocess.Popen(SLEEP, env={**NEEDED, COMPONENT_VARIABLE: str(socket)}, start_new_session=True)
    bystander = subprocess.Popen(SLEEP, env={**NEEDED, "TWIN_HOME": str(home)}, start_new_session=True)

    try:
        # A process that has just begun has no environment to be found by for a moment.
        wait_until(lambda: all(psutil.Process(each.pid).environ() for each in (device, component, far, bystander)))
        assert lifecycle.stop(home)

        assert not psutil.pid_exists(device.pid)
        assert not psutil.pid_exists(component.pid)
        assert not psutil.pid_exists(far.pid)
        assert not socket.parent.exists()
        assert bystander.poll() is None
    finally:
        for process in (device, component, far, bystander):
            process.kill()
            process.wait(30)


def test_an_identity_ends_with_its_process() -> None:
    process = subprocess.Popen(SLEEP)
    identity = ProcessIdentity.of(process.pid)

    assert identity.process() is not None
    assert replace(identity, started=identity.started - 10).process() is None
    process.kill()
    process.wait(30)
    assert identity.process() is None


def test_an_identity_outlives_a_jump_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(SLEEP)
    try:
        identity = ProcessIdentity.of(process.pid)
        boot = psutil.boot_time()

        # The time of the boot is the clock's, less what has gone since.
        for days in (1, -1):
            monkeypatch.setattr("psutil._pslinux.boot_time", lambda days=days: boot + days * 86_400)

            assert identity.process() is not None
    finally:
        process.kill()
        process.wait(30)


def test_certificates_are_valid_where_the_clock_is_a_day_behind(twin: TwinState) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    shown = ssl.get_server_certificate(("127.0.0.1", twin.data_port))
    made = boto3.client("iot", **twin.client_arguments()).create_keys_and_certificate()
    boto3.client("iot", **twin.client_arguments()).delete_certificate(certificateId=made["certificateId"])

    for pem in (certificate_authority(twin), shown.encode(), made["certificatePem"].encode()):
        assert x509.load_pem_x509_certificate(pem).not_valid_before_utc < yesterday


def test_status_of_no_twin_is_exit_code_1(tmp_path: Path) -> None:
    environment = {**os.environ, "TWIN_HOME": str(tmp_path)}

    result = subprocess.run(
        [sys.executable, "-m", "twin", "status", "--json"],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 1
    assert json.loads(result.stdout) == {"running": False, "home": str(tmp_path)}


def test_env_of_a_running_twin_points_boto3_at_it(twin: TwinState) -> None:
    environment = {**os.environ, "TWIN_HOME": str(twin.home)}

    result = subprocess.run(
        [sys.executable, "-m", "twin", "env"], env=environment, capture_output=True, text=True, timeout=60, check=True
    )

    assert f"export AWS_ENDPOINT_URL={twin.gateway_url}" in result.stdout.splitlines()


def test_env_leads_to_the_twin_from_a_shell_with_a_profile_and_a_proxy(twin: TwinState) -> None:
    nowhere = "http://127.0.0.1:1"
    foreign = {"AWS_PROFILE": "mine", "AWS_ENDPOINT_URL_STS": nowhere, "http_proxy": nowhere, "NO_PROXY": "a.example"}
    given = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    ask = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
    script = f"eval \"$('{sys.executable}' -m twin env)\" && '{sys.executable}' -c \"{ask}\" && echo $no_proxy"

    result = subprocess.run(
        ["sh", "-c", script],
        env={**given, **foreign, "TWIN_HOME": str(twin.home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.stdout.splitlines() == [twin.account, "a.example,127.0.0.1,localhost"], result.stderr


def test_a_process_that_knows_a_twin_reaches_it_past_the_users_settings(
    twin: TwinState, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "AWS_PROFILE", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert load_state(twin.home) == twin

    assert certificate_authority(twin)
    assert boto3.client("sts", **twin.client_arguments()).get_caller_identity()["Account"] == twin.account

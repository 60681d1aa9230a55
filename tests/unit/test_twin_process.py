"""The twin's processes, also those that end while they are looked at."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from twin.cloud.edge_server.device_process import DeviceProcess
from twin.cloud_process import cloud_environment, spawn_cloud
from twin.ports import is_free
from twin.process import ProcessIdentity, end_processes, heads, with_descendants
from twin.state import PORT_NAMES

PARENT = "import subprocess, sys; child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); child.wait()"


def test_a_process_that_has_ended_is_no_head_and_stops_nobody_from_finding_the_others() -> None:
    ended = subprocess.Popen(["sleep", "60"])
    gone = psutil.Process(ended.pid)
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        family = [*with_descendants([psutil.Process(parent.pid)]), gone]
        ended.kill()
        ended.wait()

        assert {member.pid for member in family} == {parent.pid, child, ended.pid}
        assert [head.pid for head in heads(family)] == [parent.pid]

        assert end_processes(family, term_s=5) == []


def test_a_process_whose_parent_never_asks_for_its_status_has_ended_all_the_same() -> None:
    careless = PARENT.replace("child.wait()", "sys.stdin.read()")
    with subprocess.Popen(
        [sys.executable, "-c", careless], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))

        left = end_processes([child], term_s=30, kill_s=30)

        assert child.status() == psutil.STATUS_ZOMBIE
        parent.kill()
    assert left == []


LEADERLESS = """
import ctypes, os, socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
def outlive():
    sys.stdin.readline()
    os._exit(0)
threading.Thread(target=outlive).start()
print(listener.getsockname()[1], flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a first thread that ends before the others is Linux's zombie")
def test_a_process_has_not_ended_while_one_of_its_threads_holds_its_ports() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LEADERLESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        watched = psutil.Process(process.pid)
        wait_for(lambda: watched.status() == psutil.STATUS_ZOMBIE)

        identity = ProcessIdentity.of(process.pid)
        assert not is_free(port)
        assert identity.process() is not None

        assert process.stdin
        process.stdin.write("end\n")
        process.stdin.flush()
        wait_for(lambda: identity.process() is None)
        assert is_free(port)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start_cloud(home: Path) -> None:
    ports = dict.fromkeys(PORT_NAMES, 1)
    spawn_cloud(
        home, cloud_environment(home, ports, region="us-east-1", account="000000000000", secret="s", auth=False)
    )


@pytest.mark.parametrize("start", [start_cloud, lambda home: DeviceProcess(home).start()], ids=["cloud", "device"])
def test_an_interpreter_that_the_loader_finds_by_its_path_only_starts_everywhere(
    start: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needy, started = tmp_path / "python with space", tmp_path / "started"
    needy.write_text(f'#!/bin/sh\n[ "$LD_LIBRARY_PATH" = /opt/lib ] && echo "$2" >"{started}"\n')
    needy.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(needy))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")

    start(tmp_path / "home")

    deadline = time.monotonic() + 30
    while not started.exists():
        assert time.monotonic() < deadline, "the interpreter did not start"
        time.sleep(0.02)

"""The twin's time: who goes by it, who by the machine's, and what a component says by its own clock."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from twin.clock import FASTEST, Clock
from twin.cloud import function_template
from twin.core_device.components.configuration_store import ConfigurationStore
from twin.core_device.ipc import service as service_module
from twin.core_device.ipc.operations import IpcError
from twin.core_device.ipc.service import IpcService

#: Where the cloud and its devices go by the machine's clock, by file: what for, and in which functions. All else is the
#: twin's time.
REAL = {
    "twin/cloud/bounds.py": ("room for other tasks", "_expire"),
    "twin/cloud/credentials.py": ("life of credentials", "_evict role_session"),
    "twin/cloud/ec2.py": ("end of a process", "install.delete_and_wait"),
    "twin/cloud/edge_server/device_process.py": ("restarts of a process", "KeptDevice.adopt KeptDevice.look"),
    "twin/cloud/edge_server/edge_server.py": ("looks at a process, for `status`", "EdgeServer._note EdgeServer.run"),
    "twin/cloud/function_template.py": ("replaces them", "_keep_time"),
    "twin/cloud/greengrass/api.py": ("network", "serve"),
    "twin/cloud/iot/front.py": ("network", "_pump splice"),
    "twin/cloud/iot/jobs.py": (
        "half a second to gather, room for other tasks",
        "JobNotifier._notify_late JobNotifier.queue_changed JobNotifier.replied",
    ),
    "twin/cloud/iot/connections.py": ("MQTT keep-alive", "_Client.__init__ _Client.hear _look"),
    "twin/cloud/iot/listener.py": ("network", "close read_body read_head write_json"),
    "twin/cloud/iot/registry.py": (
        "life of a token, room for other tasks",
        "_fleet_provisioning_reply _register _remove",
    ),
    "twin/cloud/ministack/registry.py": ("looks at stores", "register_periodic.repeat"),
    "twin/cloud/rules_engine.py": ("life of credentials", "_session"),
    "twin/cloud/sagemaker/neo.py": (
        "times that are shown",
        "CompilationJobs._run CompilationJobs.create DeviceFleets._update_resource DeviceFleets.create "
        "DeviceFleets.register EdgePackagingJobs._run EdgePackagingJobs.create _enter",
    ),
    "twin/cloud/sagemaker/api.py": ("times that are shown", "Endpoints._bring_up Endpoints.create"),
    "twin/cloud/stack_deletion.py": ("pauses between retries", "QuickWaits.__init__ stop_executions"),
    "twin/cloud/stack_operations.py": ("an answer is held", "_hold"),
    "twin/core_device/client_devices/authority.py": ("life of certificates", "_now"),
    "twin/core_device/client_devices/broker.py": ("network", "Broker.stop"),
    "twin/core_device/client_devices/client_connection.py": ("network", "Connection._wait"),
    "twin/core_device/client_devices/plugins.py": (
        "network, questions to the cloud",
        "ClientDevices._listen ClientDevices._refreshed",
    ),
    "twin/core_device/cloud/connection.py": (
        "network",
        "Connection._look Connection._request_subscription Connection._wait_for",
    ),
    "twin/core_device/cloud/credentials.py": ("network, signatures", "CredentialEndpoint._serve signed_headers"),
    "twin/core_device/components/component.py": (
        "looks at states",
        "ComponentSupervisor._wait_for_dependencies ComponentSupervisor.wait_settled",
    ),
    "twin/core_device/components/process.py": ("stamps of a log", "ComponentLog.note"),
    "twin/core_device/deployment/jobs.py": ("network", "JobQueue._request"),
    "twin/core_device/device.py": ("memory of a process", "Machine.keep_memory_low"),
    "twin/core_device/ipc/server.py": ("a local socket", "Client._linger Client.run"),
    "twin/core_device/processes.py": ("end of a process", "end_process_group"),
    "twin/simulation/fleet.py": ("looks at files, restarts of a device", "Fleet._live Fleet._look Fleet.run"),
}
REPOSITORY = Path(__file__).parents[2]
_CLOCKS = {
    *(("time", name) for name in ("time", "monotonic", "sleep", "perf_counter")),
    *(("asyncio", name) for name in ("sleep", "timeout", "timeout_at")),
    *(("datetime", name) for name in ("now", "utcnow", "today")),
}


def uses(node: ast.AST, scope: tuple[str, ...] = ()) -> Iterator[str]:
    """Functions that go by the machine's clock."""
    for child in ast.iter_child_nodes(node):
        inner = scope
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = (*scope, child.name)
        elif isinstance(child, ast.Attribute):
            base = getattr(child.value, "id", getattr(child.value, "attr", ""))
            if (base, child.attr) in _CLOCKS or (child.attr in ("call_later", "call_at") and base != "CLOCK"):
                yield ".".join(scope) or "the module"
        elif isinstance(child, ast.ImportFrom) and child.module in ("time", "asyncio"):
            yield from (f"import of {each.name}" for each in child.names if (child.module, each.name) in _CLOCKS)
        yield from uses(child, inner)


@pytest.mark.parametrize("folder", ["cloud", "core_device", "simulation"])
def test_all_but_the_named_go_by_the_twins_time(folder: str) -> None:
    found = {
        str(path.relative_to(REPOSITORY)): " ".join(sorted(set(uses(ast.parse(path.read_text("utf-8"))))))
        for path in sorted((REPOSITORY / "twin" / folder).rglob("*.py"))
    }

    assert {name: functions for name, functions in found.items() if functions} == {
        name: functions for name, (_, functions) in REAL.items() if name.startswith(f"twin/{folder}/")
    }, "use twin.clock.CLOCK, or say here what the machine's clock is for"


def test_the_gate_sees_each_way_to_the_machines_clock() -> None:
    written = (
        "from asyncio import sleep\ndef a():\n    time.time()\nclass B:\n    def c(self):\n        loop.call_later(1)"
    )

    assert list(uses(ast.parse(written))) == ["import of sleep", "a", "B.c"]


@pytest.mark.parametrize("speed", [1, 60, FASTEST])
def test_a_real_time_of_a_year_is_a_time_of_the_twin(speed: float) -> None:
    began = time.time()
    clock = Clock(speed, began, began + 500)

    assert clock.at(began + 31_536_000) == pytest.approx(began + 500 + 31_536_000 * speed, abs=1)
    assert time.gmtime(clock.at(began + 31_536_000)).tm_year >= time.gmtime(began).tm_year
    assert Clock.read(clock.text) == clock
    assert clock.when(clock.at(began + 31_536_000)) == pytest.approx(began + 31_536_000, abs=1)


@pytest.fixture
def store(tmp_path: Path) -> ConfigurationStore:
    return ConfigurationStore(tmp_path / "config.json")


def test_a_component_changes_by_its_own_clock_what_a_deployment_set_by_the_twins(
    store: ConfigurationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: Any = None
    now = time.time()
    clock = Clock(60, now - 600, now - 600)
    monkeypatch.setattr(service_module, "CLOCK", clock)
    service = IpcService(nothing, store, lambda: None, nothing, nothing)
    store.merge("line.Counter", (), {"count": 1}, int(clock.at(now - 30) * 1000))

    service.update_configuration("line.Counter", ["count"], 2, int(now * 1000))

    assert store.get("line.Counter", ("count",)) == 2
    with pytest.raises(IpcError, match="older than"):
        service.update_configuration("line.Counter", ["count"], 3, int((now - 60) * 1000))


def test_a_function_that_looks_again_and_again_leaves_the_machine_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "time", time.time)
    monkeypatch.setattr(function_template, "CLOCK", Clock(3600, time.time(), time.time()))
    function_template._keep_time()

    for seconds in (0.05, 2, 7200):
        time.sleep(seconds)

    assert slept == [0.05, 0.2, 2]

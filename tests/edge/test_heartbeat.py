import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_component.outbox import Outbox
from edge_inference.endpoint import Endpoint, Latencies
from edge_inference.heartbeat import Heartbeat, resident_mb
from edge_inference.settings import ServiceSettings, parse
from tests.edge.file_bench import Bench, Sent, serving
from tests.edge.local_device import configuration


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Bench]:
    return lambda **changes: Bench(tmp_path / "device", **changes)


def test_the_heartbeat_tells_what_each_model_does(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.endpoint.submit(b'{"index": 1}')
    bench.endpoint.submit(b"no json")
    bench.messages(2)
    now = 0.0
    heartbeat = Heartbeat("thing-1", bench.outbox, lambda: {"uploaded": 4}, lambda: now)
    heartbeat.settings = ServiceSettings(heartbeat_topic="edgewright/test/heartbeat", heartbeat_s=10)

    heartbeat.beat([bench.endpoint])
    assert bench.outbox.waiting == 0, "nothing piles up without a connection"
    bench.outbox.attach(Sent())
    heartbeat.beat([bench.endpoint])
    heartbeat.beat([bench.endpoint])

    ((topic, message),) = bench.messages(1)
    assert topic == "edgewright/test/heartbeat"
    assert message["captures"] == {"uploaded": 4}
    assert message["rss_mb"] > 10
    model = message["models"]["digits"]
    assert (model["version"], model["loads"], model["answered"], model["refused"]) == ("1.0.0", 1, 1, 1)
    assert set(model["latency_ms"]) == {"p50", "p95", "p99"}
    now = 10
    heartbeat.beat([bench.endpoint])
    assert bench.outbox.waiting == 1


def test_a_heartbeat_always_fits_and_says_what_is_wrong(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.store._problem = "x" * 1000
    endpoints: list[Any] = []
    for number in range(100):
        endpoint = Endpoint(serving(), "thing-1", bench.store, bench.outbox)
        endpoint.settings = parse({"models": {f"m{number}": configuration()["models"]["digits"]}})[f"m{number}"]
        endpoints.append(endpoint)

    payload = Heartbeat("thing-1", bench.outbox).message(endpoints)

    assert len(payload) <= 6000
    assert json.loads(payload)["models"]["m0"]["problem"] == "x" * 400


def test_memory_is_0_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert resident_mb(tmp_path / "statm") == 0


def test_percentiles_are_those_of_the_latest_values() -> None:
    latencies = Latencies(window=100)
    assert latencies.percentiles() == {}

    for value in range(1, 201):
        latencies.add(value)

    assert latencies.percentiles()["p50"] == pytest.approx(150.5)


def test_a_topic_that_the_cloud_refuses_is_told_where_the_device_works_otherwise(make: Callable[..., Bench]) -> None:
    bench, local = make(), Outbox()
    local.put("t", b"1")
    topics = [f"{number}/request" for number in range(9)]

    message = json.loads(Heartbeat("thing-1", bench.outbox, local=local, unheard=lambda: topics).message([]))

    assert message["unheard"] == topics[:5]
    assert message["local_outbox"] == {"waiting": 1, "dropped": 0}
    assert "unheard" not in json.loads(Heartbeat("thing-1", bench.outbox).message([]))

from collections.abc import Callable
from typing import Any

import pytest

from edge_component.ipc import IpcError, RefusedError
from edge_component.settings import ConfigurationError
from edge_inference.router import Router
from edge_inference.settings import ModelSettings, parse
from tests.edge.local_device import configuration


class FakeSubscription:
    def __init__(self, client: "FakeClient", topic: str) -> None:
        self._client = client
        self._topic = topic

    def close(self) -> None:
        del self._client.topics[self._topic]


class FakeClient:
    """Holds subscriptions; refuses the topics it was told to."""

    def __init__(self) -> None:
        self.topics: dict[str, Callable[[bytes], None]] = {}
        self.failures: dict[str, Exception] = {}

    def subscribe(self, topic: str, on_message: Callable[[bytes], None]) -> FakeSubscription:
        if topic in self.failures:
            raise self.failures[topic]
        self.topics[topic] = on_message
        # A message may come before the call returns.
        on_message(b"early")
        return FakeSubscription(self, topic)


class FakeEndpoint:
    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.messages: list[bytes] = []
        self.finished = False

    def submit(self, payload: bytes) -> None:
        self.messages.append(payload)

    def finish(self) -> None:
        self.finished = True

    def join(self, timeout_s: float) -> int:
        return len(self.messages)


@pytest.fixture
def made() -> list[FakeEndpoint]:
    return []


@pytest.fixture
def router(made: list[FakeEndpoint]) -> Router:
    def make(settings: ModelSettings) -> Any:
        made.append(FakeEndpoint(settings))
        return made[-1]

    return Router(make)


@pytest.fixture
def client() -> Any:
    return FakeClient()


def models(**topics: str) -> dict[str, ModelSettings]:
    """Settings of models by the first level of their topics."""
    config: dict[str, Any] = {"models": {}}
    for name, topic in topics.items():
        changes = {"requestTopic": f"{topic}/in", "responseTopic": f"{topic}/out", "component": f"model.{name}"}
        config["models"][name] = configuration(**changes)["models"]["digits"]
    return parse(config)


def test_each_topic_leads_to_its_model_from_the_first_message_on(
    router: Router, made: list[FakeEndpoint], client: Any
) -> None:
    router.apply(client, models(a="a", b="b"))

    client.topics["b/in"](b"x")

    assert {endpoint.settings.name: endpoint.messages for endpoint in made} == {"a": [b"early"], "b": [b"early", b"x"]}


def test_a_changed_topic_moves_the_endpoint_and_others_are_not_touched(
    router: Router, made: list[FakeEndpoint], client: Any
) -> None:
    router.apply(client, models(a="a", b="b"))
    untouched = client.topics["b/in"]

    router.apply(client, models(a="new", b="b"))

    assert sorted(client.topics) == ["b/in", "new/in"]
    assert client.topics["b/in"] is untouched
    assert len(made) == 2
    assert {endpoint.settings.name: endpoint.settings.response_topic for endpoint in made} == {
        "a": "new/out",
        "b": "b/out",
    }


def test_a_model_that_is_gone_finishes_what_it_has(router: Router, made: list[FakeEndpoint], client: Any) -> None:
    router.apply(client, models(a="a", b="b"))

    router.apply(client, models(b="b"))

    assert {endpoint.settings.name: endpoint.finished for endpoint in made} == {"a": True, "b": False}
    assert [endpoint.settings.name for endpoint in router.endpoints] == ["b"]


@pytest.mark.parametrize(("failure", "raised"), [(RefusedError("no"), ConfigurationError), (IpcError("x"), IpcError)])
def test_a_topic_that_cannot_be_had_changes_nothing(
    failure: Exception, raised: type[Exception], router: Router, made: list[FakeEndpoint], client: Any
) -> None:
    router.apply(client, models(a="a"))
    client.failures["z/in"] = failure

    with pytest.raises(raised):
        router.apply(client, models(a="a", b="b", z="z"))

    assert sorted(client.topics) == ["a/in"]
    assert [endpoint.settings.name for endpoint in router.endpoints] == ["a"]
    assert [endpoint.finished for endpoint in made] == [False, True, True]


def test_after_a_lost_connection_all_topics_are_subscribed_again_for_the_same_endpoints(
    router: Router, made: list[FakeEndpoint], client: Any
) -> None:
    router.apply(client, models(a="a", b="b"))
    router.disconnected()
    client.topics.clear()

    router.apply(client, models(a="a", b="b"))

    assert sorted(client.topics) == ["a/in", "b/in"]
    assert len(made) == 2


def test_finishing_ends_subscriptions_and_counts_what_is_left(
    router: Router, made: list[FakeEndpoint], client: Any
) -> None:
    router.apply(client, models(a="a", b="b"))

    assert router.finish(1) == 2
    assert client.topics == {}
    assert all(endpoint.finished for endpoint in made)

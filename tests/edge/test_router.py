from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edge_component.ipc import IpcError, RefusedError, Side
from edge_component.settings import ConfigurationError
from edge_inference.service import Router
from edge_inference.settings import ModelSettings, parse
from tests.edge.local_device import configuration


class FakeSubscription:
    def __init__(self, topics: dict[str, Callable[[bytes], None]], topic: str) -> None:
        self._topics = topics
        self._topic = topic

    def close(self) -> None:
        del self._topics[self._topic]


class FakeClient:
    """Holds subscriptions; refuses the topics it was told to."""

    def __init__(self) -> None:
        self.topics: dict[str, Callable[[bytes], None]] = {}
        self.local: dict[str, Callable[[bytes], None]] = {}
        self.asked: list[Side] = []
        self.failures: dict[str, Exception] = {}

    def subscribe(self, topic: str, on_message: Callable[[bytes], None], side: Side) -> FakeSubscription:
        self.asked.append(side)
        if topic in self.failures:
            raise self.failures[topic]
        topics = self.topics if side is Side.CLOUD else self.local
        topics[topic] = on_message
        # A message may come before the call returns.
        if side is Side.CLOUD:
            on_message(b"early")
        return FakeSubscription(topics, topic)


class FakeEndpoint:
    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.messages: list[bytes] = []
        self.from_sides: list[Side] = []
        self.finished = False

    def submit(self, payload: bytes, side: Side) -> None:
        self.messages.append(payload)
        self.from_sides.append(side)

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
    before = sorted(client.topics), sorted(client.local)
    client.failures["b/in"] = failure

    with pytest.raises(raised):
        router.apply(client, models(a="a", b="b", z="z"))

    assert client.asked.count(Side.LOCAL) > len(client.local), "what was subscribed before is given back"
    assert (sorted(client.topics), sorted(client.local)) == before
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


def test_neighbours_ask_on_topics_of_the_same_name_unless_a_model_says_no(
    router: Router, made: list[FakeEndpoint], client: Any
) -> None:
    router.apply(client, models(a="a", b="b"))
    client.local["a/in"](b"x")
    assert client.asked[:2] == [Side.LOCAL] * 2, "those of the cloud may take long to fail"

    settings = models(a="a", b="b")
    router.apply(client, {**settings, "a": replace(settings["a"], local=False)})

    assert (sorted(client.local), sorted(client.topics)) == (["b/in"], ["a/in", "b/in"])
    assert [(endpoint.settings.name, endpoint.from_sides) for endpoint in made] == [
        ("a", [Side.CLOUD, Side.LOCAL]),
        ("b", [Side.CLOUD]),
    ]

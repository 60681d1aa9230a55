"""Routes: what follows from them, and what is refused."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from config.loader import ConfigurationError, load_stage
from config.model import Model
from config.names import Names
from config.routes import (
    CONNECTION_SUBSCRIPTIONS,
    NUCLEUS_SUBSCRIPTIONS,
    Handler,
    HandlerTopics,
    Route,
    Wiring,
    _loops,
    _Way,
    wire,
)
from edge_constructs.component_library import fill_recipe
from edge_constructs.edge_assets import HANDLER_RECIPE
from edge_constructs.handler_component import check_access, recipe_values
from nucleus_lite import ipc

NAMES = Names("lab")
REQUEST, RESPONSE = NAMES.request_topic("digits"), NAMES.response_topic("digits")
SIDES = ("cloud", "devices", "digits", "a", "b")


def handler(name: str, **changes: Any) -> Handler:
    return Handler(**{"name": name, "folder": "digits", "handler": "m.f", "pinned": True, **changes})


def route(source: str, target: str, topic: str | None = None) -> Route:
    return Route(source=source, target=target, topic=topic)


def wired(*routes: Route, lite: bool = False, models: Any = (), handlers: Any = ()) -> Wiring:
    some = models or [Model(folder="digits"), Model(folder="iris")]
    return wire(NAMES, some, handlers or [handler("a"), handler("b"), handler("c")], routes, lite=lite)


def refusals(*routes: Route, **options: Any) -> list[str]:
    with pytest.raises(ValueError) as caught:
        wired(*routes, **options)
    return str(caught.value).splitlines()


def access(name: str, topics: HandlerTopics) -> dict[str, dict[str, list[str]]]:
    """Operation to topics, of a handler's recipe: what the device allows."""
    values = recipe_values(name, handler(name), topics, "runtime")
    filled = {**values, "VERSION": "1.0.0", "ARTIFACT_URI": "a", "DEPENDENCIES_URI": "d"}
    recipe = json.loads(fill_recipe(HANDLER_RECIPE, filled))
    check_access(recipe)
    control = recipe["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
    return {
        service: {
            operation.partition("#")[2]: policy["resources"]
            for policy in policies.values()
            for operation in policy["operations"]
            if policy["resources"]
        }
        for service, policies in control.items()
    }


CLOUD, LOCAL = "aws.greengrass.ipc.mqttproxy", "aws.greengrass.ipc.pubsub"
#: Every pair of cloud, client devices, model and handlers to what the handlers of it are allowed; None is refused.
PAIRS: dict[tuple[str, str], dict[str, dict[str, dict[str, list[str]]]] | None] = {
    ("cloud", "devices"): {},
    ("cloud", "digits"): {},
    ("cloud", "a"): {"a": {CLOUD: {"SubscribeToIoTCore": ["t"]}}},
    ("devices", "cloud"): {},
    ("devices", "digits"): {},
    ("devices", "a"): {"a": {LOCAL: {"SubscribeToTopic": ["t"]}}},
    ("digits", "cloud"): {},
    ("digits", "devices"): {},
    ("digits", "a"): {"a": {LOCAL: {"SubscribeToTopic": [RESPONSE]}}},
    ("digits", "iris"): None,
    ("a", "cloud"): {"a": {CLOUD: {"PublishToIoTCore": ["t"]}}},
    ("a", "devices"): {"a": {LOCAL: {"PublishToTopic": ["t"]}}},
    ("a", "digits"): {"a": {LOCAL: {"PublishToTopic": [REQUEST]}}},
    ("a", "b"): {"a": {LOCAL: {"PublishToTopic": ["t"]}}, "b": {LOCAL: {"SubscribeToTopic": ["t"]}}},
    ("cloud", "cloud"): None,
    ("devices", "devices"): None,
    ("digits", "digits"): None,
    ("a", "a"): None,
}


@pytest.mark.parametrize(("pair", "allowed"), PAIRS.items(), ids=[" → ".join(pair) for pair in PAIRS])
def test_a_route_allows_what_it_needs_and_nothing_else(
    pair: tuple[str, str], allowed: dict[str, dict[str, dict[str, list[str]]]] | None
) -> None:
    source, target = pair
    only = route(source, target, None if "digits" in pair else "t")
    if allowed is None:
        assert len(refusals(only)) == 1
        return

    found = wired(only)

    granted = {name: access(name, topics) for name, topics in found.handlers.items()}
    nothing: dict[str, dict[str, list[str]]] = {CLOUD: {}, LOCAL: {}}
    expected = {name: nothing | allowed.get(name, {}) for name in found.handlers}
    assert granted == expected
    topic = {"devices": REQUEST, "digits": RESPONSE}[source] if set(pair) == {"devices", "digits"} else "t"
    assert found.bridged == (((topic, source, target),) if "devices" in pair else ())


def test_every_pair_of_sides_is_in_the_table() -> None:
    pairs = {(source, target) for source, target in itertools.product(SIDES[:-1], SIDES[:-1])}

    assert pairs <= set(PAIRS)


def test_taking_a_route_away_takes_its_rights_away_and_no_other() -> None:
    routes = [route("cloud", "a", "in"), route("a", "b", "between"), route("b", "cloud", "out"), route("b", "digits")]
    before = wired(*routes).handlers

    after = wired(*routes[:1], *routes[2:]).handlers

    assert before["a"] == HandlerTopics(("in",), (), (), ("between",))
    assert after["a"] == HandlerTopics(("in",), (), (), ())
    assert before["b"] == HandlerTopics((), ("out",), ("between",), (REQUEST,))
    assert after["b"] == HandlerTopics((), ("out",), (), (REQUEST,))


def test_what_a_handler_lists_is_short_for_routes_from_and_to_the_cloud() -> None:
    listed = wired(handlers=[handler("a", subscribe=("in",), publish=("out",))])
    routed = wired(route("cloud", "a", "in"), route("a", "cloud", "out"), handlers=[handler("a")])
    both = wired(route("cloud", "a", "in"), handlers=[handler("a", subscribe=("in",), publish=("out",))])

    assert listed == routed == both


@pytest.mark.parametrize(
    ("routes", "told"),
    [
        ([route("cloud", "digist")], "routes.0 (cloud → digist): target must be one of cloud, devices, digits, iris, a, b, c, got 'digist'; did you mean digits?"),  # noqa: E501
        ([route("cloud", "a")], "routes.0 (cloud → a): topic is missing: only a model has one of its own"),
        ([route("a", "digits", "other")], f"routes.0 (a → digits on other): digits takes requests on {REQUEST} only, got topic other: leave it out"),  # noqa: E501
        ([route("digits", "a", "other")], f"routes.0 (digits → a on other): digits answers on {RESPONSE} only, got topic other: leave it out"),  # noqa: E501
        ([route("a", "b", REQUEST)], f"routes.0 (a → b on {REQUEST}): topic belongs to digits: use another one, or make digits source or target"),  # noqa: E501
        ([route("a", "b", "edgewright/lab/heartbeat")], "routes.0 (a → b on edgewright/lab/heartbeat): topic belongs to the heartbeat: use another one, or make the heartbeat source or target"),  # noqa: E501
        ([route("a", "b", "$aws/things/x/shadow/update")], "routes.0 (a → b on $aws/things/x/shadow/update): a topic that begins with $ is AWS IoT's: one side must be cloud"),  # noqa: E501
        ([route("a", "b", "t"), route("a", "b", "t")], "routes.1 (a → b on t): is there twice, also as routes.0 (a → b on t): remove one"),  # noqa: E501
        ([route("cloud", "a", "t"), route("a", "cloud", "t")], "routes: a message on t would go round: cloud → a → cloud: answer on another topic than the one that is asked on"),  # noqa: E501
        ([route("a", "b", "t"), route("b", "c", "t"), route("a", "c", "t"), route("c", "cloud", "t"), route("cloud", "a", "t")], "routes: a message on t would go round: a → b → c → cloud → a: answer on another topic than the one that is asked on"),  # noqa: E501
        ([route("devices", "cloud", "t"), route("cloud", "devices", "t")], "routes: a message on t would go round: devices → cloud → devices: answer on another topic than the one that is asked on"),  # noqa: E501
        ([route("a", "b", "t"), route("devices", "c", "t")], "routes: c would also get what a publishes on t"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_route_rule_and_fix(routes: list[Route], told: str) -> None:
    assert any(line.startswith(told) for line in refusals(*routes)), refusals(*routes)


def test_a_chain_on_one_topic_without_a_way_back_is_no_loop() -> None:
    assert wired(route("cloud", "a", "t"), route("a", "b", "u"), route("b", "cloud", "u")).handlers["b"].publish == (
        "u",
    )


def test_many_topics_are_looked_through_once_and_not_once_each() -> None:
    class Ways(list[Any]):
        looks = 0

        def __iter__(self) -> Any:
            Ways.looks += 1
            return super().__iter__()

    ways = Ways(_Way("", "a", f"topic/{number}", "b") for number in range(100))

    assert list(_loops(ways)) == []
    assert Ways.looks <= 2


def test_a_model_that_is_silent_on_the_device_is_no_end_of_a_route() -> None:
    deaf = [Model(folder="digits", local=False)]
    files = [Model(folder="digits", serving={"PublishResultsOnTopic": "files"})]

    assert refusals(route("a", "digits"), models=deaf) == [
        "routes.0 (a → digits): digits hears nothing on the device: remove its local = false"
    ]
    assert refusals(route("digits", "a"), models=deaf) == [
        f"routes.0 (digits → a): digits says nothing on the device on {RESPONSE}: remove its local = false"
    ]
    assert refusals(route("digits", "a", "files"), models=files) == [
        'routes.0 (digits → a on files): digits says nothing on the device on files: write results = "both"'
    ]
    spoken = [Model(folder="digits", results="both", serving={"PublishResultsOnTopic": "files"})]
    assert wired(route("digits", "a", "files"), models=spoken).handlers["a"].local_subscribe == ("files",)


def test_nucleus_lite_has_local_topics_and_no_client_devices() -> None:
    assert wired(route("a", "b", "t"), lite=True).handlers["b"].local_subscribe == ("t",)
    (told,) = refusals(route("devices", "a", "t"), lite=True)
    assert "nucleus lite has no components for client devices: let a component of the device take" in told


def test_a_handler_that_nothing_starts_is_told() -> None:
    idle = [handler("a"), handler("b", pinned=False)]

    assert refusals(route("cloud", "a", "t"), handlers=idle) == [
        "handlers.b: no route leads to it, so that nothing ever starts it: add one, or write pinned = true"
    ]


def test_the_one_connection_of_nucleus_lite_has_so_many_subscriptions() -> None:
    room = CONNECTION_SUBSCRIPTIONS - NUCLEUS_SUBSCRIPTIONS - 2  # two models

    wired(*(route("cloud", "a", f"t/{number}") for number in range(room)), lite=True)
    wired(*(route("cloud", each, f"t/{number}") for number in range(room) for each in ("a", "b")), lite=True)
    wired(*(route("cloud", "a", f"t/{number}") for number in range(200)))
    (told,) = refusals(*(route("cloud", "a", f"t/{number}") for number in range(room + 1)), lite=True)

    assert "at most 40 topics from the cloud, got 41" in told


def test_nucleus_lite_has_so_many_for_all_components() -> None:
    taken = 2 * 2 + 2 * 4  # two models on both sides, four components that watch their settings twice
    room = ipc.SUBSCRIPTIONS.value - taken

    wired(*(route("a", "b", f"t/{number}") for number in range(room)), lite=True)
    assert wired(*(route("a", "b", f"t/{number}") for number in range(room + 1)))
    (told,) = refusals(*(route("a", "b", f"t/{number}") for number in range(room + 1)), lite=True)

    assert f"at most {ipc.SUBSCRIPTIONS.value} subscriptions of all components together, got 101" in told


def test_every_mistake_of_a_file_is_told_at_once_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(
        'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n'
        '[[handlers]]\nname = "a"\nfolder = "digits"\nhandler = "m.f"\n'
        '[[routes]]\nsource = "a"\ntarget = "z"\n[[routes]]\nsource = "cloud"\ntarget = "a"\n'
    )

    with pytest.raises(ConfigurationError) as caught:
        load_stage("lab", tmp_path)

    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{tmp_path.name}/lab.toml: ") for line in lines)
    assert [line.partition(": ")[2].partition(" ")[0] for line in lines] == ["routes.0", "routes.1", "handlers.a:"]

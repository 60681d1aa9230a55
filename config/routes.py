"""Functions of Greengrass V1, and routes: which message goes from whom to whom, as subscriptions of V1 said it."""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from config.model import Model, serving
from config.names import Names
from config.section import Section, Slug
from nucleus_lite import ipc

#: As AWS IoT takes it; exact, because access control and IoT policies name it: `*`, `?`, `$` and braces mean something
#: there. Of AWS's own topics only a shadow's are of use to a function.
_SHADOW = r"\$aws/things/[\w:-]+/shadow/(name/[\w:-]+/)?(get|update|delete)(/(accepted|rejected|documents|delta))?"
_TOPIC = re.compile(rf"({_SHADOW}|[^+#*?${{}}\"\\\s\x00-\x1f\x7f]+)", re.ASCII)
#: Stands for the device's name in a topic.
THING = "{thing}"
#: Characters of the longest thing name that a stage may list.
_LONGEST_THING = 124


def _exact(topic: str) -> str:
    longest = topic.replace(THING, "x" * _LONGEST_THING)
    if not _TOPIC.fullmatch(longest) or len(longest.encode()) > 256:
        raise ValueError(
            "a topic must be exact, with at most 256 bytes, without wildcards, spaces, control characters and any of "
            f'+#*?${{}}"\\, or one of a shadow ($aws/things/<thing>/shadow/update …), got {topic[:100]!r}: '
            f"declare each topic of a V1 subscription; {THING} in it stands for the device's name"
        )
    return topic


Topic = Annotated[str, AfterValidator(_exact)]
VariableValue = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Handler(Section):
    """A Python function written for Greengrass V1, run unmodified as a component.

    Attributes:
        name: The function's name, part of its component's.
        folder: Folder below `edge_assets/handlers/functions`.
        handler: `module.function` in it.
        pinned: Whether it is long-lived; else it starts with an event and ends when idle.
        encoding: `json`: an event is the parsed message; `binary`: its bytes.
        subscribe: Exact topics in the cloud whose messages are its events; `{thing}` in one is the device's name. Short
            for routes from the cloud.
        publish: Exact topics in the cloud that it may publish on; `{thing}` in one is the device's name. Short for
            routes to the cloud.
        environment: Its environment variables.
        timeout_s: After so long an event's process is killed, s.
        idle_s: Without an event for so long a function that is not pinned ends, s.
        queue_size: Events that wait at most.
        memory_mb: What its context says, MB; not enforced.
        provided: Top-level modules that the function imports and the device brings, from outside of what is deployed.
        aws_credentials: Whether boto3 in it gets the stage's token exchange role, as it got the group's role on V1.
    """

    name: Slug
    folder: Slug
    handler: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
    pinned: bool = False
    encoding: Literal["json", "binary"] = "json"
    subscribe: tuple[Topic, ...] = ()
    publish: tuple[Topic, ...] = ()
    environment: dict[VariableName, VariableValue] = Field(default_factory=dict)
    timeout_s: int = Field(default=3, ge=1, le=3600)
    idle_s: int = Field(default=60, ge=1, le=86400)
    queue_size: int = Field(default=64, ge=1, le=10_000)
    memory_mb: int = Field(default=128, ge=1, le=65_536)
    provided: tuple[VariableName, ...] = ()
    aws_credentials: bool = False


CLOUD, DEVICES = "cloud", "devices"
#: AWS IoT's quota ("Maximum subscriptions per connection"). Nucleus lite has one connection; the classic one opens
#: another, as <thing>#2, when one is full, which the devices' IoT policy allows.
CONNECTION_SUBSCRIPTIONS = 50
#: Those of them that the nucleus makes for itself, rounded up.
NUCLEUS_SUBSCRIPTIONS = 10
#: What a component watches besides its topics: its own configuration and the settings beside it.
_WATCHED = 2


class Route(Section):
    """One way of messages.

    Attributes:
        source: Who publishes: `cloud`, a model, a handler, or `devices` (client devices around the core).
        topic: Exact topic; may be left out where a model is source or target, whose own it then is.
        target: Who gets it: the same.
    """

    source: str
    topic: Topic | None = None
    target: str


@dataclass(frozen=True)
class HandlerTopics:
    """What one handler hears and says.

    Attributes:
        subscribe: Topics in the cloud whose messages are its events.
        publish: Topics in the cloud that it may publish on.
        local_subscribe: Topics of the device whose messages are its events.
        local_publish: Topics of the device that it may publish on.
    """

    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    local_subscribe: tuple[str, ...] = ()
    local_publish: tuple[str, ...] = ()

    @property
    def name_the_thing(self) -> bool:
        """Whether one of them has the device's name in it."""
        listed = (*self.subscribe, *self.publish, *self.local_subscribe, *self.local_publish)
        return any(THING in topic for topic in listed)


@dataclass(frozen=True)
class Wiring:
    """Routes, with all that follows from them.

    Attributes:
        handlers: Handler's name to its topics.
        bridged: Topic, source and target of each route from or to client devices: what a bridge between their broker
            and the device's topics or the cloud has to do.
    """

    handlers: Mapping[str, HandlerTopics] = field(default_factory=dict)
    bridged: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class _Way:
    """A route whose topic is known."""

    where: str
    source: str
    topic: str
    target: str

    @property
    def is_local(self) -> bool:
        return CLOUD not in (self.source, self.target)


def wire(
    names: Names,
    models: Sequence[Model],
    handlers: Sequence[Handler],
    routes: Sequence[Route],
    *,
    lite: bool,
    asking: Sequence[str] = (),
) -> Wiring:
    """Work out what each handler hears and says, and check that nothing else follows.

    Args:
        names: Of the stage.
        models: Those of the stage.
        handlers: Those of the stage; what they list by themselves are routes from and to the cloud.
        routes: Those of the stage.
        lite: Whether the devices have nucleus lite.
        asking: Models that client devices may ask, short for a route to each and one back.

    Returns:
        The topics of every handler.

    Raises:
        ValueError: Every mistake, one a line.
    """
    mistakes: list[str] = []
    listed = [_Way(f"handlers.{h.name}.subscribe", CLOUD, topic, h.name) for h in handlers for topic in h.subscribe]
    listed += [_Way(f"handlers.{h.name}.publish", h.name, topic, CLOUD) for h in handlers for topic in h.publish]
    check = _Check(names, models, handlers, lite=lite)
    short = [Route(source=DEVICES, target=name) for name in asking] + [
        Route(source=name, target=DEVICES) for name in asking
    ]
    listed += [way for route in short if (way := check.way("client_devices.models", route, mistakes))]
    ways = [way for number, route in enumerate(routes) if (way := check.way(f"routes.{number}", route, mistakes))]
    mistakes += _twice(ways)
    # What the stage's file says twice in its two forms is said once.
    ways = list({(way.source, way.topic, way.target): way for way in (*listed, *ways)}.values())
    mistakes += _loops(ways)
    mistakes += _relayed(ways)
    mistakes += check.overheard(ways)
    mistakes += check.silent(ways) if routes else ()
    mistakes += check.subscriptions(ways)
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return Wiring(
        {handler.name: _topics_of(handler.name, ways) for handler in handlers},
        tuple((way.topic, way.source, way.target) for way in ways if DEVICES in (way.source, way.target)),
    )


def _topics_of(name: str, ways: Iterable[_Way]) -> HandlerTopics:
    def topics(*, says: bool, local: bool) -> tuple[str, ...]:
        found = [way.topic for way in ways if name == (way.source if says else way.target) and way.is_local is local]
        return tuple(dict.fromkeys(found))

    return HandlerTopics(
        topics(says=False, local=False),
        topics(says=True, local=False),
        topics(says=False, local=True),
        topics(says=True, local=True),
    )


class _Check:
    """The rules between routes and what they name."""

    def __init__(self, names: Names, models: Sequence[Model], handlers: Sequence[Handler], *, lite: bool) -> None:
        self._models = {model.folder: model for model in models}
        self._handlers = {handler.name: handler for handler in handlers}
        self._lite = lite
        self._requests = {name: names.request_topic(name) for name in self._models}
        self._answers = {name: self._said_by(names, model) for name, model in self._models.items()}
        #: Topics that have an owner, which no other route may use.
        self._owned = {topic: name for name, topic in self._requests.items()}
        self._owned |= {topic: name for name, topics in self._answers.items() for topic in topics}
        self._owned[names.heartbeat_topic] = "the heartbeat"

    @staticmethod
    def _said_by(names: Names, model: Model) -> tuple[str, ...]:
        files = serving(model, names).get("PublishResultsOnTopic")
        return (names.response_topic(model.folder), *([files] if isinstance(files, str) and files else []))

    def way(self, place: str, route: Route, mistakes: list[str]) -> _Way | None:
        """Check one route by itself; None where it has mistakes."""
        source, target = route.source, route.target
        where = f"{place} ({source} → {target}{f' on {route.topic}' if route.topic else ''})"
        before = len(mistakes)
        known = (CLOUD, DEVICES, *self._models, *self._handlers)
        for key, name in (("source", source), ("target", target)):
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                mistakes.append(f"{where}: {key} must be one of {', '.join(known)}, got {name!r}{hint}")
            elif name in self._models and name in self._handlers:
                mistakes.append(f"{where}: {key} {name} is a model and a handler: rename the handler")
        if len(mistakes) > before:
            return None
        if source == target:
            mistakes.append(f"{where}: target must be another one than source: it would get its own messages, for ever")
        elif source in self._models and target in self._models:
            mistakes.append(f"{where}: an answer is no request: put a handler between two models")
        elif DEVICES in (source, target) and self._lite:
            mistakes.append(
                f"{where}: nucleus lite has no components for client devices: let a component of the device take their "
                "messages and publish them on its local topics, or ask by the agent's socket (docs/workloads.md)"
            )
        topic = self._topic(where, route, mistakes)
        if topic is None or len(mistakes) > before:
            return None
        for name in (source, target):
            model = self._models.get(name)
            if model is None or CLOUD in (source, target):
                continue
            if name == target and not model.local:
                mistakes.append(f"{where}: {name} hears nothing on the device: remove its local = false")
            if name == source and not (model.local if topic == self._answers[name][0] else model.results != CLOUD):
                key = "remove its local = false" if topic == self._answers[name][0] else 'write results = "both"'
                mistakes.append(f"{where}: {name} says nothing on the device on {topic}: {key}")
        if DEVICES in (source, target) and THING in topic:
            mistakes.append(
                f"{where}: the bridge knows no {THING}: write the core's name out, or put it into the message"
            )
        if topic.startswith("$") and CLOUD not in (source, target):
            mistakes.append(f"{where}: a topic that begins with $ is AWS IoT's: one side must be cloud")
        return None if len(mistakes) > before else _Way(where, source, topic, target)

    def _topic(self, where: str, route: Route, mistakes: list[str]) -> str | None:
        """The route's topic, which of a model is its own."""
        if route.target in self._models:
            allowed: tuple[str, ...] = (self._requests[route.target],)
            what = f"{route.target} takes requests on {allowed[0]} only"
        elif route.source in self._models:
            allowed = self._answers[route.source]
            what = f"{route.source} answers on {' and '.join(allowed)} only"
        elif route.topic is None:
            mistakes.append(f"{where}: topic is missing: only a model has one of its own")
            return None
        elif owner := self._owned.get(route.topic):
            mistakes.append(f"{where}: topic belongs to {owner}: use another one, or make {owner} source or target")
            return None
        else:
            return route.topic
        if route.topic is not None and route.topic not in allowed:
            mistakes.append(f"{where}: {what}, got topic {route.topic}: leave it out")
            return None
        return route.topic or allowed[0]

    def overheard(self, ways: Sequence[_Way]) -> Iterator[str]:
        """Who would get messages on the device that no route brings: all who listen to a topic hear all who publish."""
        local = [way for way in ways if way.is_local]
        declared = {(way.source, way.topic, way.target) for way in local}
        for topic, on_it in _by_topic(local).items():
            sources = dict.fromkeys(way.source for way in on_it)
            targets = dict.fromkeys(way.target for way in on_it)
            for source, target in ((source, target) for source in sources for target in targets):
                if source != target and (source, topic, target) not in declared:
                    yield (
                        f"routes: {target} would also get what {source} publishes on {topic}: on a device all who "
                        "listen to a topic hear all who publish on it; use another topic, or declare that route, too"
                    )

    def silent(self, ways: Sequence[_Way]) -> Iterator[str]:
        """Handlers that nothing ever starts."""
        reached = {way.target for way in ways}
        for name, handler in self._handlers.items():
            if name not in reached and not handler.pinned:
                yield (
                    f"handlers.{name}: no route leads to it, so that nothing ever starts it: add one, or write "
                    "pinned = true"
                )

    def subscriptions(self, ways: Sequence[_Way]) -> Iterator[str]:
        """More subscriptions than nucleus lite may have."""
        if not self._lite:
            return
        heard = {(way.target, way.topic) for way in ways if way.source == CLOUD and way.target in self._handlers}
        topics = {topic for _, topic in heard} | set(self._requests.values())
        room = CONNECTION_SUBSCRIPTIONS - NUCLEUS_SUBSCRIPTIONS
        if len(topics) > room:
            yield (
                f"routes: nucleus lite must have at most {room} topics from the cloud, got {len(topics)}: AWS IoT lets "
                f"its one connection have {CONNECTION_SUBSCRIPTIONS} subscriptions, of which it takes up to "
                f"{NUCLEUS_SUBSCRIPTIONS} itself; put the kind of a message into its payload instead of its topic"
            )
        local = {(way.target, way.topic) for way in ways if way.is_local and way.target in self._handlers}
        count = len(heard) + len(local) + _WATCHED * (1 + len(self._handlers))
        count += sum(2 if model.local else 1 for model in self._models.values())
        if count > ipc.SUBSCRIPTIONS.value:
            yield (
                f"routes: nucleus lite serves at most {ipc.SUBSCRIPTIONS.value} subscriptions of all components "
                f"together, got {count}: use fewer topics"
            )


def _twice(ways: Iterable[_Way]) -> Iterator[str]:
    seen: dict[Any, str] = {}
    for way in ways:
        key = (way.source, way.topic, way.target)
        if key in seen:
            yield f"{way.where}: is there twice, also as {seen[key]}: remove one"
        seen.setdefault(key, way.where)


def _by_topic(ways: Iterable[_Way]) -> dict[str, list[_Way]]:
    found: dict[str, list[_Way]] = {}
    for way in ways:
        found.setdefault(way.topic, []).append(way)
    return found


def _loops(ways: Sequence[_Way]) -> Iterator[str]:
    """Ways on one topic that lead back to where they began."""
    for topic, on_it in _by_topic(ways).items():
        onward: dict[str, list[str]] = {}
        for way in on_it:
            onward.setdefault(way.source, []).append(way.target)
        if circle := _circle(onward):
            yield (
                f"routes: a message on {topic} would go round: {' → '.join(circle)}: answer on another topic than the "
                "one that is asked on"
            )


def _relayed(ways: Sequence[_Way]) -> Iterator[str]:
    """Topics on which the bridge would take back from the client devices' broker what it has just brought there."""
    for topic in dict.fromkeys(way.topic for way in ways):
        there = next((way for way in ways if way.topic == topic and way.target == DEVICES), None)
        back = next((way for way in ways if way.topic == topic and way.source == DEVICES), None)
        # A way there and back between the same two is a loop already.
        if there and back and there.source != back.target:
            yield (
                f"routes: what {there.source} sends to devices on {topic} would go on to {back.target}: the bridge "
                "hands on all that is on their broker; use another topic for one of them"
            )


def _circle(onward: Mapping[str, Collection[str]]) -> list[str] | None:
    """A way back to where it began, or None; a walk in depth without recursion, each place once."""
    done: set[str] = set()
    for start in onward:
        path, todo = [start], [iter(onward[start])]
        while todo and start not in done:
            step = next(todo[-1], None)
            if step is None:
                done.add(path.pop())
                todo.pop()
            elif step in path:
                return [*path[path.index(step) :], step]
            elif step not in done:
                path.append(step)
                todo.append(iter(onward.get(step, ())))
    return None

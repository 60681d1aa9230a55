"""What a stage's file may say of the client devices around its cores: their names, cores, rights."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, StringConstraints, model_validator

from config.fleet import FileName, Listing, Ring, RosterError, ThingName, read_list
from config.public_components import (
    AUTH,
    BRIDGE,
    BROKER_PORT,
    EMQX,
    GROUPS_FORMAT,
    IP_DETECTOR,
    MOQUETTE,
)
from config.routes import CLOUD, DEVICES, THING, Topic
from config.section import Section, Slug

#: Filled by the Auth component with the name of the client device that is connected.
CONNECTED_THING = "${iot:Connection.Thing.ThingName}"
#: Associations of a stage; a hundred calls make them.
ASSOCIATIONS = 10_000
#: A day: so often a core renews what it knows of all its client devices ("Authenticating clients while offline").
OFFLINE_MINUTES = 24 * 60
#: Room for names in the client devices' IoT policy of 2,048 characters, each in an ARN of this many more.
_POLICY_ROOM, _ARN = 1500, len('"arn:aws-us-gov:iot:*:*:thing/",')
_GROUP = "client-devices"

#: A name, or what names begin with. Auth's selection rules and IoT policies know `*` at the end; with less before it,
#: things of others in the account would be let in.
NamePattern = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9:_-]{3,123}\*$|^[a-zA-Z0-9:_-]{1,124}$")]


def _own_topic(topic: str) -> str:
    if topic.startswith("$"):
        raise ValueError(f"a topic that begins with $ is AWS IoT's, which a local broker does not have, got {topic!r}")
    return topic


def _filter(text: str) -> str:
    levels = text.split("/")
    plain = all(re.fullmatch(r"\+|[^+#*?$\s\"\\]+", level.replace(THING, "x")) for level in levels[:-1])
    if not plain or not re.fullmatch(r"\+|#|[^+#*?$\s\"\\]+", levels[-1].replace(THING, "x")) or len(text) > 256:
        raise ValueError(
            "a topic filter must have at most 256 characters, + for a whole level and # at the end only, and neither "
            f"spaces nor any of *?$\"\\, got {text[:100]!r}; {THING} in it stands for the client device's name"
        )
    if levels[0] in ("+", "#"):
        raise ValueError(
            f"a topic filter must begin with a level of its own, got {text!r}: with a wildcard there every client "
            "device would hear everything"
        )
    return text


ClientTopic = Annotated[Topic, AfterValidator(_own_topic)]
ClientFilter = Annotated[str, AfterValidator(_filter)]


class ClientDevices(Section):
    """Devices that connect to a core's local broker: things, rights, and AWS's components on classic core devices.

    Attributes:
        things: Their thing names.
        file: Name of a CSV or YAML file beside the stage's, a device a row with the `core` that it belongs to, which is
            a name or what names begin with (`press-*`); without one it goes by `cores` and `rings`.
        cores: Names of core devices that they may discover, or what names begin with, as `press-*`.
        rings: Rings whose core devices they may discover; where neither is given, every core of the stage.
        select: What the names of the client devices begin with, as `camera-*`. Needed for more than about 25, as the
            IoT policy and the core's selection rule have no room for their names.
        models: Models that they may ask: short for a route from `devices` to each and one back.
        publish: Further topics that they may publish on the local broker; `{thing}` in one is the device's own name.
        subscribe: Further topic filters that they may subscribe to there, to the letter.
        broker: `moquette`, MQTT 3.1.1 in the nucleus' own process; or `emqx`, MQTT 5 in a container.
        port: Where the broker listens.
        offline_minutes: How long a core that is cut off lets a device in that AWS has verified before; 1 is AWS's
            default, by which only those stay that are connected.
    """

    things: tuple[ThingName, ...] = ()
    file: FileName | None = None
    cores: tuple[NamePattern, ...] = ()
    rings: tuple[Ring, ...] = ()
    select: tuple[NamePattern, ...] = ()
    models: tuple[Slug, ...] = ()
    publish: tuple[ClientTopic, ...] = ()
    subscribe: tuple[ClientFilter, ...] = ()
    broker: Literal["moquette", "emqx"] = "moquette"
    port: int = Field(default=BROKER_PORT, ge=1024, le=65535)
    offline_minutes: int = Field(default=OFFLINE_MINUTES, ge=1, le=2**31 - 1)
    _associations: Mapping[str, tuple[str, ...]] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _some_devices(self) -> "ClientDevices":
        if not self.things and self.file is None:
            raise ValueError("things or file must name at least one client device: list them, or remove the table")
        if twice := sorted({name for name in self.things if self.things.count(name) > 1}):
            raise ValueError(f"things must be listed once, twice there: {', '.join(twice[:5])}")
        return self

    @property
    def associations(self) -> Mapping[str, tuple[str, ...]]:
        """Core to the client devices that may discover it, both sorted; cores without one are left out."""
        return self._associations

    @property
    def names(self) -> tuple[str, ...]:
        """All client devices, sorted."""
        return tuple(sorted({name for names in self._associations.values() for name in names}))

    @property
    def selection(self) -> tuple[str, ...]:
        """Names or beginnings of names that cover all of them and, of what the stage knows, nothing else."""
        return self.select or self.names

    def read(self, folder: Path, cores: Mapping[str, str]) -> None:
        """Read the file and work out who may discover which core, once, when the stage is loaded.

        Args:
            folder: Where the file lies.
            cores: Every core device of the stage, with its ring.

        Raises:
            RosterError: The file cannot be used, or something fits no core or no device.
        """
        column = Listing("a core", lambda core: _core_problem(core, cores))
        listed = read_list(folder / self.file, "core", column) if self.file else {}
        mistakes = [
            f"device must be listed once, also in client_devices.things: {name}"
            for name in self.things
            if name in listed
        ]
        mistakes += [
            f"cores: {_core_problem(core, cores)}, got {core!r}" for core in self.cores if _core_problem(core, cores)
        ]
        wanted = {**dict.fromkeys(self.things, ""), **listed}
        mistakes += _clashes(wanted, cores, self.select)
        if not self.select and sum(len(name) + _ARN for name in wanted) > _POLICY_ROOM:
            mistakes.append(
                f"select must say what the names of {len(wanted)} client devices begin with, such as "
                '["camera-*"]: their IoT policy has no room for each name'
            )
        reached = {own: self._reached(own, cores) for own in set(wanted.values())}
        by_core: dict[str, list[str]] = {}
        for name, own in sorted(wanted.items()):
            for core in reached[own]:
                by_core.setdefault(core, []).append(name)
        if (count := sum(map(len, by_core.values()))) > ASSOCIATIONS:
            mistakes.append(
                f"at most {ASSOCIATIONS} associations of client devices and cores may be asked for, got {count}: give "
                "each device the core that it belongs to"
            )
        if mistakes:
            raise RosterError(mistakes)
        self._associations = {core: tuple(names) for core, names in sorted(by_core.items())}

    def _reached(self, own: str, cores: Mapping[str, str]) -> list[str]:
        """The cores that a device may discover: by its own entry, else by the table's rule."""
        if own in cores:
            return [own]
        if own or self.cores:
            patterns = (own,) if own else self.cores
            by_name = {core for core in cores if any(fnmatchcase(core, each) for each in patterns)}
        else:
            by_name = set() if self.rings else set(cores)
        by_ring = () if own else (core for core, ring in cores.items() if ring in self.rings)
        return sorted(by_name.union(by_ring))

    def components(self, bridged: Iterable[tuple[str, str, str]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """AWS's components for a ring's core devices, each with what its configuration becomes.

        Args:
            bridged: Topic, source and target of each route from or to client devices.
            names: Client devices of the ring's cores.

        Returns:
            Component to the keys that replace those of its default configuration.
        """
        ways = tuple(bridged)
        broker = {"moquette": {"ssl_port": str(self.port)}} if self.broker == "moquette" else _emqx(self.port)
        uri = {"broker": {"uri": f"ssl://localhost:{self.port}"}} if self.port != BROKER_PORT else {}
        return {
            AUTH: {
                "deviceGroups": self._groups(ways, names),
                "security": {"clientDeviceTrustDurationMinutes": self.offline_minutes},
            },
            MOQUETTE if self.broker == "moquette" else EMQX: broker if self.port != BROKER_PORT else {},
            BRIDGE: {"mqttTopicMapping": topic_mapping(ways), **uri},
            IP_DETECTOR: {"defaultPort": self.port},
        }

    def _groups(self, ways: Iterable[tuple[str, str, str]], names: Sequence[str]) -> dict[str, Any]:
        said = [topic for topic, source, _ in ways if source == DEVICES]
        heard = [topic for topic, _, target in ways if target == DEVICES]
        statements = {
            "connect": ("Connect as itself", "mqtt:connect", [f"mqtt:clientId:{THING}"]),
            "publish": ("What it may say", "mqtt:publish", _resources("topic", said, self.publish)),
            "subscribe": ("What it may hear", "mqtt:subscribe", _resources("topicfilter", heard, self.subscribe)),
        }
        rule = " OR ".join(f"thingName: {name.replace(':', chr(92) + ':')}" for name in self.select or names)
        policy = {
            key: {
                "statementDescription": text,
                "operations": [operation],
                "resources": [each.replace(THING, CONNECTED_THING) for each in resources],
            }
            for key, (text, operation, resources) in statements.items()
            if resources
        }
        return {
            "formatVersion": GROUPS_FORMAT,
            "definitions": {_GROUP: {"selectionRule": rule, "policyName": _GROUP}},
            "policies": {_GROUP: policy},
        }


def topic_mapping(ways: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    """Write routes from and to client devices as the bridge's `mqttTopicMapping`, one entry a pair of brokers.

    Args:
        ways: Topic, source and target of each.
    """
    mapping: dict[str, dict[str, str]] = {}
    for topic, source, target in sorted(ways):
        entry = {"topic": topic, "source": _BROKERS.get(source, "Pubsub"), "target": _BROKERS.get(target, "Pubsub")}
        if entry not in mapping.values():
            name = f"{entry['source']}-{entry['target']}-{re.sub('[^A-Za-z0-9]+', '-', topic)}"
            same = sum(each.rpartition("~")[0] == name or each == name for each in mapping)
            mapping[f"{name}~{same}" if same else name] = entry
    return mapping


_BROKERS = {DEVICES: "LocalMqtt", CLOUD: "IotCore"}


def _emqx(port: int) -> dict[str, Any]:
    return {"emqxConfig": {"listeners": {"ssl": {"default": {"bind": port}}}}}


def _resources(kind: str, routed: Sequence[str], more: Sequence[str]) -> list[str]:
    return [f"mqtt:{kind}:{topic}" for topic in dict.fromkeys((*routed, *more))]


def _core_problem(core: str, cores: Mapping[str, str]) -> str:
    """What is wrong with a core's name, or with what cores' names begin with."""
    if not re.fullmatch(r"[a-zA-Z0-9:_-]{1,124}\*?", core):
        return "must be a core device's name, or what names begin with and *"
    if core in cores or any(fnmatchcase(name, core) for name in cores):
        return ""
    some = ", ".join(sorted(cores)[:5])
    return f"must fit a core device of the stage ([fleet], or the edge server), of which there are {some}" + (
        " and more" if len(cores) > 5 else ""
    )


def _clashes(wanted: Mapping[str, str], cores: Mapping[str, str], select: Sequence[str]) -> Iterable[str]:
    if both := sorted(wanted.keys() & cores.keys()):
        yield f"client devices must be other things than core devices, got {', '.join(both[:5])}"
    if not select:
        return
    if outside := [name for name in sorted(wanted) if not any(fnmatchcase(name, each) for each in select)]:
        yield f"select must fit every client device, not {', '.join(outside[:5])}: add what it begins with"
    if inside := [name for name in sorted(cores) if any(fnmatchcase(name, each) for each in select)]:
        yield f"select must fit no core device, got {', '.join(inside[:5])}: write more of what the names begin with"

"""Rules on AWS's components for client devices: who is let in, what goes round, where there are none."""

from collections.abc import Iterator, Mapping
from typing import Any

from edge_rules.fleet_view import Finding, FleetView, Resource, rule
from edge_rules.recipe_view import DEPLOYMENT, components_of, merge_of, on_lite

_PREFIX = "aws.greengrass.clientdevices."
AUTH, BRIDGE = f"{_PREFIX}Auth", f"{_PREFIX}mqtt.Bridge"
_GUIDE = "Greengrass developer guide, "


def _configuration(deployment: Resource, component: str) -> Mapping[str, Any] | None:
    """What a deployment merges into a component; None where only the cloud knows it."""
    return merge_of(deployment, components_of(deployment).get(component) or {})


def _groups(deployment: Resource) -> Mapping[str, Any] | None:
    """The groups of client devices that a deployment gives Auth; None where only the cloud knows them."""
    if (merged := _configuration(deployment, AUTH)) is None:
        return None
    found = merged.get("deviceGroups")
    return found if isinstance(found, Mapping) else {}


def _entries(value: Any) -> dict[str, Mapping[str, Any]]:
    """The objects in an object; nothing where it is none."""
    found = value if isinstance(value, Mapping) else {}
    return {name: each for name, each in found.items() if isinstance(each, Mapping)}


def _place(component: str, path: str = "") -> str:
    return f"Properties/Components/{component}{f'/ConfigurationUpdate/Merge/{path}' if path else ''}"


@rule(
    "ClientDeviceNucleus",
    "components for client devices must go to devices of the classic nucleus only",
    reason="nucleus lite runs no plugins and is offered none of them: the deployment fails there",
    fix='write "runtime": "aws_nucleus_classic" (here: fleet.nucleus = "classic"); on nucleus lite, let a component of '
    "the device take their messages, or let programs ask by the agent's socket",
    source=f"{_GUIDE}component types",
)
def classic_devices_alone_have_them(fleet: FleetView) -> Iterator[Finding]:
    for device in on_lite(fleet):
        for deployment in device.deployments:
            for name in components_of(deployment):
                if name.startswith(_PREFIX):
                    yield Finding(deployment, _place(name), name)


@rule(
    "ClientDeviceAuth",
    "a deployment with a broker or the bridge for client devices must say by the Auth component who may connect",
    reason="Auth comes along as a dependency, without a device group: every client device is refused",
    fix=f"deploy {AUTH} in the same deployment, with deviceGroups that have a definition and its policy",
    source=f"{_GUIDE}client device auth",
)
def somebody_may_connect(fleet: FleetView) -> Iterator[Finding]:
    for deployment in fleet.of_type(DEPLOYMENT):
        components = components_of(deployment)
        others = [name for name in components if name.startswith(f"{_PREFIX}mqtt.")]
        if not others:
            continue
        if (groups := _groups(deployment)) is None:
            continue
        policies = _entries(groups.get("policies"))
        named = [each.get("policyName") for each in _entries(groups.get("definitions")).values()]
        if AUTH not in components:
            yield Finding(deployment, _place(others[0]), f"{others[0]} without {AUTH}")
        elif not named:
            yield Finding(deployment, _place(AUTH, "deviceGroups/definitions"), "none")
        elif missing := [str(name) for name in named if name not in policies]:
            yield Finding(deployment, _place(AUTH, "deviceGroups/policies"), f"no {missing[0]}")


@rule(
    "ClientDeviceWildcard",
    "the policy of a group of client devices must name operations, topics and things",
    reason="with a * alone, any thing of the account connects under any name, or says and hears everything on the site",
    fix="name the operations, give resources as mqtt:topic:…, and select things by what their names begin with",
    source=f"{_GUIDE}client device auth",
)
def client_devices_may_do_what_is_named(fleet: FleetView) -> Iterator[Finding]:
    for deployment in fleet.of_type(DEPLOYMENT):
        groups = _groups(deployment) or {}
        for name, definition in _entries(groups.get("definitions")).items():
            clauses = str(definition.get("selectionRule", "")).split(" OR ")
            if any(clause.replace(" ", "") == "thingName:*" for clause in clauses):
                place = f"deviceGroups/definitions/{name}/selectionRule"
                yield Finding(deployment, _place(AUTH, place), "thingName: *")
        for name, policy in _entries(groups.get("policies")).items():
            for statement, entry in _entries(policy).items():
                wild = [key for key in ("operations", "resources") if _is_wild(entry.get(key))]
                for key in wild:
                    place = f"deviceGroups/policies/{name}/{statement}/{key}"
                    yield Finding(deployment, _place(AUTH, place), str(entry[key]))


def _is_wild(values: Any) -> bool:
    listed = values if isinstance(values, list) else [values]
    return any(
        str(value) in ("*", "mqtt:*", "mqtt:topic:*", "mqtt:topicfilter:#", "mqtt:clientId:*") for value in listed
    )


@rule(
    "BridgeLoop",
    "no two mappings of the bridge may hand a message back to where it came from",
    reason="one message goes round for ever, between the brokers or through AWS IoT, where each turn is paid for",
    fix="use another topic for one direction, or a targetTopicPrefix",
    source=f"{_GUIDE}MQTT bridge",
)
def mappings_lead_nowhere_twice(fleet: FleetView) -> Iterator[Finding]:
    for deployment in fleet.of_type(DEPLOYMENT):
        mappings = _entries((_configuration(deployment, BRIDGE) or {}).get("mqttTopicMapping"))
        for name in mappings:
            if way := _way_back(name, mappings):
                yield Finding(deployment, _place(BRIDGE, f"mqttTopicMapping/{name}"), " → ".join(way))
                break


#: A way that a message goes so often goes on for ever: each turn in which its topic grows has been seen by then.
_TURNS = 3
#: Mappings of a way: there are three places, and a message of one topic is in each of them once.
_LONGEST_WAY = 6


def _way_back(start: str, mappings: Mapping[str, Mapping[str, Any]]) -> list[str] | None:
    """Mappings that a message passes again and again, the first one at both ends."""
    first = str(mappings[start].get("topic", ""))
    todo, seen = [([start], _said(mappings[start], first))], {(start, first)}
    while todo:
        way, said = todo.pop()
        for name, entry in mappings.items():
            met = _met(str(entry.get("topic", "")), said)
            if met is None or entry.get("source") != mappings[way[-1]].get("target"):
                continue
            if name == start:
                if _goes_on([mappings[each] for each in way], said):
                    return [*way, name]
            elif (name, met) not in seen and len(way) < _LONGEST_WAY:
                seen.add((name, met))
                todo.append(([*way, name], _said(entry, met)))
    return None


def _goes_on(way: list[Mapping[str, Any]], topic: str) -> bool:
    """Whether what has gone a way once is taken in each further turn: a prefix makes its topic longer."""
    for entry in way * _TURNS:
        if (met := _met(str(entry.get("topic", "")), topic)) is None:
            return False
        topic = _said(entry, met)
    return True


def _said(entry: Mapping[str, Any], topic: str) -> str:
    return f"{entry.get('targetTopicPrefix', '')}{topic}"


def _met(one: str, other: str) -> str | None:
    """The topics that two filters have in common, as a filter; None where there are none."""
    found: list[str] = []
    left, right = one.split("/"), other.split("/")
    while True:
        if left[:1] == ["#"] or right[:1] == ["#"]:
            return "/".join([*found, *(right if left[:1] == ["#"] else left)])
        if not left or not right:
            return "/".join(found) if left == right else None
        if left[0] != right[0] and "+" not in (left[0], right[0]):
            return None
        found.append(right[0] if left[0] == "+" else left[0])
        left, right = left[1:], right[1:]

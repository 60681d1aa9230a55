"""Client devices of a stage: whom they reach, what follows for the core's components, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from config.client_devices import ASSOCIATIONS, ClientDevices
from config.fleet import RosterError
from config.loader import ConfigurationError, load_stage
from config.public_components import AUTH, BRIDGE, EMQX, IP_DETECTOR, MOQUETTE
from config.stage import Stage

SERVER = "edgewright-lab-edge-server"
CORES = {SERVER: "all", "press-1": "canary", "press-2": "all"}
STAGE = """region = "eu-west-1"
[[models]]
folder = "digits"
[[handlers]]
name = "gate"
folder = "digits"
handler = "m.f"
pinned = true
[fleet]
nucleus = "classic"
devices = ["press-2"]
"""


def loaded(folder: Path, text: str, stage: str = STAGE) -> Stage:
    (folder / "lab.toml").write_text(stage + text)
    return load_stage("lab", folder)


def read(folder: Path, rows: str = "", **table: Any) -> ClientDevices:
    if rows:
        (folder / "cameras.csv").write_text(rows)
        table["file"] = "cameras.csv"
    devices = ClientDevices(**table)
    devices.read(folder, CORES)
    return devices


@pytest.mark.parametrize(
    ("table", "cores"),
    [
        ({}, {SERVER, "press-1", "press-2"}),
        ({"cores": ["press-*"]}, {"press-1", "press-2"}),
        ({"cores": [SERVER]}, {SERVER}),
        ({"rings": ["canary"]}, {"press-1"}),
        ({"rings": ["canary"], "cores": [SERVER]}, {SERVER, "press-1"}),
    ],
)
def test_things_reach_the_cores_of_the_rule(tmp_path: Path, table: dict[str, Any], cores: set[str]) -> None:
    assert read(tmp_path, things=["camera-1"], **table).associations == dict.fromkeys(cores, ("camera-1",))


def test_a_row_says_its_own_core(tmp_path: Path) -> None:
    found = read(tmp_path, "device,core\ncamera-2,press-1\ncamera-3,press-*\ncamera-4,\n", rings=["canary"])

    assert found.associations == {"press-1": ("camera-2", "camera-3", "camera-4"), "press-2": ("camera-3",)}
    assert found.names == ("camera-2", "camera-3", "camera-4")


@pytest.mark.parametrize(
    ("rows", "table", "told"),
    [
        (
            "device,core\ncamera-1,press-9\n",
            {},
            "cameras.csv line 2: core must fit a core device of the stage .*press-9",
        ),
        ("device,ring\ncamera-1,all\n", {}, "the first line must name the columns device and core"),
        (
            "device\ncamera-1\n",
            {"things": ["camera-1"]},
            "must be listed once, also in client_devices.things: camera-1",
        ),
        ("", {"things": ["camera-1"], "cores": ["presse-*"]}, r"cores: must fit a core .*, got 'presse-\*'"),
        ("", {"things": ["press-1"]}, "client devices must be other things than core devices, got press-1"),
        ("", {"things": ["camera-1"], "select": ["cam-*"]}, "select must fit every client device, not camera-1"),
        ("", {"things": ["press-9"], "select": ["press-*"]}, "select must fit no core device, got press-1, press-2"),
        ("", {"things": [f"camera-{n}" for n in range(60)]}, "select must say what the names of 60 .* begin with"),
        (
            "",
            {"things": [f"camera-{n}" for n in range(ASSOCIATIONS // 3 + 1)], "select": ["camera-*"]},
            f"at most {ASSOCIATIONS} associations .*, got 10002",
        ),
    ],
)
def test_what_fits_nothing_is_told(tmp_path: Path, rows: str, table: dict[str, Any], told: str) -> None:
    with pytest.raises(RosterError, match=told):
        read(tmp_path, rows, **table)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("things = []", "client_devices: things or file must name at least one client device"),
        ('things = ["c1"]\nselect = ["*"]', "client_devices.select.0: string should match pattern"),
        ('things = ["c1"]\nselect = ["c*"]', "client_devices.select.0: string should match pattern"),
        ('things = ["c1"]\nsubscribe = ["#"]', "begin with a level of its own, got '#'"),
        ('things = ["c1"]\nsubscribe = ["+/a"]', "begin with a level of its own"),
        ('things = ["c1"]\nsubscribe = ["a/#/b"]', "at the end only"),
        ('things = ["c1"]\nsubscribe = ["a/b+"]', "for a whole level"),
        ('things = ["c1"]\npublish = ["a/+"]', "a topic must be exact"),
        ('things = ["c1"]\npublish = ["$aws/things/c1/shadow/update"]', "begins with \\$ is AWS IoT's"),
        ('things = ["c1"]\nmodels = ["iris"]', "client_devices.models .*target must be one of .*digits.*, got 'iris'"),
        ('things = ["c1"]\nport = 80', "client_devices.port: input should be greater than or equal to 1024"),
        ('things = ["c1"]\ncores = ["nobody"]', "lab.toml: client_devices: cores: must fit a core device"),
    ],
)
def test_a_mistake_in_the_table_is_told_with_its_place(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        loaded(tmp_path, f"[client_devices]\n{line}\n")


def test_nucleus_lite_is_refused_with_the_way_out(tmp_path: Path) -> None:
    either = STAGE.replace('nucleus = "classic"\n', "")

    with pytest.raises(
        ConfigurationError, match=r"client_devices needs fleet.nucleus = .classic.: nucleus lite.*agent"
    ):
        loaded(tmp_path, '[client_devices]\nthings = ["c1"]\n', either)


def test_topics_that_the_bridge_would_carry_on_are_refused(tmp_path: Path) -> None:
    there_and_back = (
        '[[routes]]\nsource = "cloud"\ntopic = "t"\ntarget = "devices"\n'
        '[[routes]]\nsource = "devices"\ntopic = "t"\ntarget = "gate"\n'
    )

    with pytest.raises(ConfigurationError, match="what cloud sends to devices on t would go on to gate"):
        loaded(tmp_path, there_and_back)
    with pytest.raises(ConfigurationError, match=r"the bridge knows no \{thing\}"):
        loaded(tmp_path, '[[routes]]\nsource = "devices"\ntopic = "a/{thing}"\ntarget = "gate"\n')


ROUTES = """[[routes]]
source = "devices"
topic = "site/measured"
target = "gate"
[[routes]]
source = "devices"
topic = "site/measured"
target = "cloud"
[[routes]]
source = "gate"
topic = "site/horn"
target = "devices"
[[routes]]
source = "cloud"
topic = "site/orders"
target = "devices"
"""


def test_the_components_are_configured_by_the_stage(tmp_path: Path) -> None:
    table = (
        '[client_devices]\nthings = ["camera-1", "lab:2"]\nmodels = ["digits"]\n'
        'publish = ["hello/{thing}"]\nsubscribe = ["hello/#"]\n'
    )
    stage = loaded(tmp_path, ROUTES + table)
    assert stage.client_devices

    made = stage.client_devices.components(stage.wiring.bridged, ("camera-1", "lab:2"))

    assert list(made) == [AUTH, MOQUETTE, BRIDGE, IP_DETECTOR]
    groups = made[AUTH]["deviceGroups"]
    (definition,) = groups["definitions"].values()
    assert definition["selectionRule"] == r"thingName: camera-1 OR thingName: lab\:2"
    assert {
        operation: each["resources"]
        for each in groups["policies"][definition["policyName"]].values()
        for operation in each["operations"]
    } == {
        "mqtt:connect": ["mqtt:clientId:${iot:Connection.Thing.ThingName}"],
        "mqtt:publish": [
            "mqtt:topic:edgewright/lab/digits/request",
            "mqtt:topic:site/measured",
            "mqtt:topic:hello/${iot:Connection.Thing.ThingName}",
        ],
        "mqtt:subscribe": [
            "mqtt:topicfilter:edgewright/lab/digits/response",
            "mqtt:topicfilter:site/horn",
            "mqtt:topicfilter:site/orders",
            "mqtt:topicfilter:hello/#",
        ],
    }
    assert {tuple(each.values()) for each in made[BRIDGE]["mqttTopicMapping"].values()} == {
        ("edgewright/lab/digits/request", "LocalMqtt", "Pubsub"),
        ("edgewright/lab/digits/response", "Pubsub", "LocalMqtt"),
        ("site/measured", "LocalMqtt", "Pubsub"),
        ("site/measured", "LocalMqtt", "IotCore"),
        ("site/horn", "Pubsub", "LocalMqtt"),
        ("site/orders", "IotCore", "LocalMqtt"),
    }
    assert made[IP_DETECTOR] == {"defaultPort": 8883}
    assert made[MOQUETTE] == {}


def test_another_broker_and_port(tmp_path: Path) -> None:
    found = read(tmp_path, things=["camera-1"], broker="emqx", port=9883, select=["camera-*"])

    made = found.components([], found.names)

    assert made[AUTH]["deviceGroups"]["definitions"]["client-devices"]["selectionRule"] == "thingName: camera-*"
    assert list(made[AUTH]["deviceGroups"]["policies"]["client-devices"]) == ["connect"]
    assert made[EMQX] == {"emqxConfig": {"listeners": {"ssl": {"default": {"bind": 9883}}}}}
    assert made[BRIDGE] == {"mqttTopicMapping": {}, "broker": {"uri": "ssl://localhost:9883"}}
    assert made[IP_DETECTOR] == {"defaultPort": 9883}

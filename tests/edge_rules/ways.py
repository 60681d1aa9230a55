"""Changes to the sample fleet that many tests make."""

from collections.abc import Callable
from typing import Any

from tests.edge_rules.sample_fleet import Fleet

Break = Callable[[Fleet], Any]


def script(text: str) -> Break:
    return lambda fleet: fleet.manifest["Lifecycle"]["run"].update(Script=text)


def platform(**values: str) -> Break:
    return lambda fleet: fleet.manifest["Platform"].update(values)


def deployment(path: str, value: Any) -> Break:
    def change(fleet: Fleet) -> None:
        node: Any = fleet.properties("Deployment")
        *parents, last = path.split("/")
        for parent in parents:
            node = node[parent]
        node[last] = value

    return change


def access(**values: Any) -> Break:
    def change(fleet: Fleet) -> None:
        control = fleet.inference["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
        control["aws.greengrass.ipc.mqttproxy"]["other"] = {
            "operations": ["aws.greengrass#PublishToIoTCore"],
            "resources": ["plant/other"],
            **values,
        }

    return change


def configuration(**values: Any) -> Break:
    return lambda fleet: fleet.inference["ComponentConfiguration"]["DefaultConfiguration"].update(values)

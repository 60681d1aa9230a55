"""Sizes that nucleus lite just takes or just does not: what synth says, and what the twin's device says of the same."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from nucleus_lite.deployment import job_document, packet_bytes
from tests.edge_rules.device_breaks import add_tools
from tests.edge_rules.nucleus_breaks import merge
from tests.edge_rules.sample_fleet import Fleet
from tests.edge_rules.ways import configuration
from twin.core_device import dialect
from twin.core_device.errors import DeploymentError

#: Components of the sample, to which tools are added.
SAMPLE = 2


def refused(check: Callable[[], None]) -> bool:
    """Whether the twin's device in the lite dialect refuses it, for its size."""
    try:
        check()
    except DeploymentError as exc:
        return "at most" in str(exc)
    return False


@pytest.mark.parametrize(("count", "at_synth", "on_device"), [(18, False, False), (19, True, False), (30, True, True)])
def test_components_of_a_device(count: int, at_synth: bool, on_device: bool, fleet: Fleet) -> None:
    add_tools(count - SAMPLE)(fleet)

    # Synth leaves a place for a component that an update takes away, which still counts then.
    assert fleet.findings() == ([("Edge-DeploymentComponents", "Deployment")] if at_synth else [])
    names = [f"com.part{number}" for number in range(count)]
    assert refused(lambda: dialect.check_components(names, [])) == on_device
    assert refused(lambda: dialect.check_components(names[1:], names[:1])) == on_device
    assert refused(lambda: dialect.check_components(names, ["com.gone"])) == (count > 18)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("x" * 1022, True),
        ("x" * 1023, False),
        ('"' * 511, True),
        ('"' * 512, False),
        ("ä" * 511, True),
        ("ä" * 511 + "x", False),
    ],
    ids=["1,022 characters", "1,023", "511 quotes", "512", "511 of two bytes", "and one more"],
)
@pytest.mark.parametrize("where", ["default", "merged"])
def test_values_of_a_configuration(text: str, fits: bool, where: str, fleet: Fleet) -> None:
    (configuration(labels=text) if where == "default" else merge({"labels": text}))(fleet)
    manifest = fleet.inference["Manifests"][0]
    on_device: dict[str, Any] = {"components": {"com.a": {"configurationUpdate": {"merge": {"labels": text}}}}}

    logical_id = "Inference" if where == "default" else "Deployment"
    assert fleet.findings() == ([] if fits else [("Edge-ConfigurationValueSize", logical_id)])
    if where == "default":
        assert refused(lambda: dialect.check_recipe(fleet.inference, manifest)) == (not fits)
    else:
        assert refused(lambda: dialect.check_document(on_device)) == (not fits)


# What a device does with packets of these sizes: tests/core_device/test_connection.py.
@pytest.mark.parametrize(("size", "fits"), [(4_900, True), (5_100, False)])
def test_deployment_documents(size: int, fits: bool, fleet: Fleet) -> None:
    def merged(filled: int) -> dict[str, str]:
        return {f"label{number}": "x" * length for number, length in enumerate((900, 900, 900, 500, filled))}

    merge(merged(0))(fleet)
    (seen,) = {packet_bytes(document) for document in documents(fleet)}
    merge(merged(size - seen))(fleet)

    assert {packet_bytes(document) for document in documents(fleet)} == {size}
    assert fleet.findings() == ([] if fits else [("Edge-DeploymentPacket", "Deployment")])


def documents(fleet: Fleet) -> list[dict[str, Any]]:
    """The deployment's document, composed here, not by the rule."""
    properties = fleet.properties("Deployment")
    entries = {}
    for name, wanted in properties["Components"].items():
        entries[name] = {"version": wanted["ComponentVersion"]}
        if update := wanted.get("ConfigurationUpdate"):
            content = json.loads(update["Merge"])
            entries[name]["configurationUpdate"] = {"merge": content}
    return [job_document(properties.get("DeploymentName", ""), "Group", entries)]

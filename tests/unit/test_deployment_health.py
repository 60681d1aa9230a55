"""A deploy goes from ring to ring, each when the one before is healthy."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from config.loader import ConfigurationError, load_stage
from config.places import PROJECT as ROOT
from tests.synthesis import template


def by_ring(stage: str, kind: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Ring to logical id and resource of a type."""
    found = {}
    for logical_id, resource in template(stage, "Inference")["Resources"].items():
        if resource["Type"] == kind:
            properties = resource["Properties"]
            name = properties.get("Ring") or properties["DeploymentName"].partition(" ")[0]
            name = name.removeprefix(f"edgewright-{stage}-")
            found["all" if name == f"edgewright-{stage}" else name] = (logical_id, resource)
    return found


def needs(stage: str, logical_id: str) -> set[str]:
    """All that CloudFormation makes before a resource."""
    resources = template(stage, "Inference")["Resources"]
    found: set[str] = set()
    todo = [logical_id]
    while todo:
        resource = resources[todo.pop()]
        direct = {*resource.get("DependsOn", []), *re.findall(r'"Fn::GetAtt": \["(\w+)"', json.dumps(resource))}
        todo += direct - found
        found |= direct
    return found


DEPLOYMENT, HEALTH = "AWS::GreengrassV2::Deployment", "Custom::DeploymentHealth"


@pytest.mark.parametrize("stage", ["dev", "twin"])
def test_each_ring_is_healthy_before_the_next_one_is_deployed_to(stage: str) -> None:
    deployments, checks = by_ring(stage, DEPLOYMENT), by_ring(stage, HEALTH)

    assert set(checks) == set(deployments) == {"canary", "early", "all"}
    for ring, (logical_id, _) in checks.items():
        assert deployments[ring][0] in needs(stage, logical_id)
    assert checks["canary"][0] in needs(stage, deployments["early"][0])
    assert checks["early"][0] in needs(stage, deployments["all"][0])


def test_a_stage_may_wait_for_its_first_rings_only() -> None:
    deployments, checks = by_ring("prod", DEPLOYMENT), by_ring("prod", HEALTH)

    assert set(checks) == {"canary", "early"}
    assert {checks["canary"][0], checks["early"][0]} <= needs("prod", deployments["all"][0])


def test_the_edge_server_must_report_and_no_device_by_list() -> None:
    expected = {ring: check["Properties"]["ExpectedDevices"] for ring, (_, check) in by_ring("dev", HEALTH).items()}

    assert expected == {"canary": [], "early": [], "all": ["edgewright-dev-edge-server"]}


def test_cloudformation_waits_longer_than_the_check_which_names_the_devices() -> None:
    for _, check in by_ring("twin", HEALTH).values():
        assert int(check["Properties"]["ServiceTimeout"]) > int(check["Properties"]["TimeoutSeconds"]) == 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rings = ['first']", "health.rings.0: "),
        ("timeout_minutes = 51", "health.timeout_minutes: input should be less than or equal to 50"),
        (
            "away_minutes = 20",
            "health: away_minutes must be below timeout_minutes 20, at which the deploy fails, got 20",
        ),
        ("present_percentage = 0", "health.present_percentage: input should be greater than or equal to 1"),
        ("healthy_percentage = 0", "health.healthy_percentage: input should be greater than or equal to 1"),
    ],
)
def test_refuses_a_wait_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    stage = (ROOT / "config" / "dev.toml").read_text()
    (tmp_path / "lab.toml").write_text(f"{stage}\n[health]\n{text}\n")

    with pytest.raises(ConfigurationError, match=re.escape(message)):
        load_stage("lab", tmp_path)

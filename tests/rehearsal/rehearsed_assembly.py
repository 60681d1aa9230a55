"""Assemblies of a small stage with three rings, and its fleet, for rehearsals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_handlers.deployment_health import HealthCheck

NAME = "plant.Camera"
GROUPS = {"canary": "plant-canary", "early": "plant-early", "all": "plant"}
RUN = {"run": "exec ./camera"}


def recipe(version: str, lifecycle: Mapping[str, Any]) -> dict[str, Any]:
    """A component with an artifact that the cloud makes at a deploy."""
    manifest = {
        "Platform": {"os": "linux", "runtime": "*"},
        "Lifecycle": dict(lifecycle),
        "Artifacts": [{"Uri": f"s3://plant/{version}/camera.bin"}],
    }
    head = {"RecipeFormatVersion": "2020-01-25", "ComponentName": NAME, "ComponentVersion": version}
    return {**head, "Manifests": [manifest]}


def write_assembly(folder: Path, version: str, lifecycle: Mapping[str, Any], *, away_s: int = 0, **job: Any) -> Path:
    """Write an assembly that deploys a version to three rings; the deploy waits for canary and early.

    Args:
        folder: Becomes the assembly.
        version: Of the component.
        lifecycle: Its steps.
        away_s: After so long a device that has not taken it up is not waited for; 0: each is.
        job: The IoT job's configuration.
    """
    inline = json.dumps(recipe(version, lifecycle))
    resources: dict[str, Any] = {
        "Camera": {"Type": "AWS::GreengrassV2::ComponentVersion", "Properties": {"InlineRecipe": inline}}
    }
    for ring, group in GROUPS.items():
        resources[f"{ring}Group"] = {"Type": "AWS::IoT::ThingGroup", "Properties": {"ThingGroupName": group}}
        arn = {"Fn::GetAtt": [f"{ring}Group", "Arn"]}
        resources[f"{ring}Deployment"] = {
            "Type": "AWS::GreengrassV2::Deployment",
            "Properties": {
                "TargetArn": arn,
                "Components": {NAME: {"ComponentVersion": version}},
                "IotJobConfiguration": job,
            },
        }
        if ring != "all":
            values = {"deployment": "d", "group_arn": arn, "ring": ring}
            number = {"healthy_percentage": "90", "timeout_s": "2700", "expected": []}
            number |= {"away_s": str(away_s)} if away_s else {}
            properties = {HealthCheck.key(name): value for name, value in {**values, **number}.items()}
            resources[f"{ring}Health"] = {"Type": HealthCheck.TYPE, "Properties": properties}
    folder.mkdir()
    (folder / "Plant.template.json").write_text(json.dumps({"Resources": resources}))
    return folder


def device(thing: str, ring: str, nucleus: str | None = None, seen: str = "2026-11-29T08:00:00Z") -> dict[str, Any]:
    """A row of an export."""
    if nucleus is None:
        return {"thing": thing, "ring": ring}
    row = {"thing": thing, "ring": ring, "nucleus": nucleus, "nucleus_version": "2.16.0", "architecture": "aarch64"}
    return {**row, "status": "HEALTHY", "last_seen": seen, "components": {NAME: "1.0.0"}}


def write_fleet(path: Path, devices: list[dict[str, Any]]) -> Path:
    """Write a fleet's file."""
    head = {"schema": 1, "stage": "plant", "region": "us-east-1", "taken": "2026-11-30T00:00:00Z"}
    path.write_text(json.dumps({**head, "groups": GROUPS, "devices": devices}))
    return path

"""How fast a deployment reaches a ring, and what becomes of what fails: from a stage's file to Greengrass's API."""

import json
from pathlib import Path
from typing import Any

import pytest

from config.loader import ConfigurationError, load_stage
from config.places import PROJECT as ROOT
from twin.cloud.aws.shapes import request_from_properties


def stage_file(folder: Path, rollout: str) -> None:
    head, _, _ = (ROOT / "config" / "twin.toml").read_text().partition("[rollout]")
    (folder / "lab.toml").write_text(f"{head}\n[rollout]\n{rollout}\n")


def request(folder: Path, rollout: str) -> dict[str, Any]:
    """The CreateDeployment request of the ring `all`, as Greengrass's service model has it."""
    from config.loader import read_context
    from edge_constructs.synth import new_app
    from stacks.edgewright import define_stacks

    stage_file(folder, rollout)
    app = new_app(read_context(), outdir=folder / "out")
    define_stacks(app, load_stage("lab", folder))
    app.synth()
    content = json.loads((folder / "out" / "Inference.template.json").read_text())["Resources"].values()
    (properties,) = [
        each["Properties"]
        for each in content
        if each["Type"] == "AWS::GreengrassV2::Deployment"
        and each["Properties"]["DeploymentName"].startswith("edgewright-lab ")
    ]
    return request_from_properties(
        "greengrassv2",
        "CreateDeployment",
        {key: properties[key] for key in ("DeploymentPolicies", "IotJobConfiguration")},
    )


def test_every_setting_reaches_the_request(tmp_path: Path) -> None:
    made = request(
        tmp_path,
        "devices_per_minute = 40\ngrowth = { devices_per_minute = 2, factor = 1.5, after_devices = 7 }\n"
        'timeout_minutes = 9\nabort_percentage = 2.5\nabort_after = 3\non_failure = "keep"\nnotify = false\n'
        "notify_timeout_s = 30",
    )

    assert made == {
        "deploymentPolicies": {
            "failureHandlingPolicy": "DO_NOTHING",
            "componentUpdatePolicy": {"action": "SKIP_NOTIFY_COMPONENTS", "timeoutInSeconds": 30},
        },
        "iotJobConfiguration": {
            "jobExecutionsRolloutConfig": {
                "maximumPerMinute": 40,
                "exponentialRate": {
                    "baseRatePerMinute": 2,
                    "incrementFactor": 1.5,
                    "rateIncreaseCriteria": {"numberOfSucceededThings": 7},
                },
            },
            "abortConfig": {
                "criteriaList": [
                    {
                        "failureType": kind,
                        "action": "CANCEL",
                        "thresholdPercentage": 2.5,
                        "minNumberOfExecutedThings": 3,
                    }
                    for kind in ("FAILED", "REJECTED", "TIMED_OUT")
                ]
            },
            "timeoutConfig": {"inProgressTimeoutInMinutes": 9},
        },
    }


def test_the_defaults_ask_components_and_roll_devices_back_at_a_constant_rate(tmp_path: Path) -> None:
    made = request(tmp_path, "")

    assert made["deploymentPolicies"] == {
        "failureHandlingPolicy": "ROLLBACK",
        "componentUpdatePolicy": {"action": "NOTIFY_COMPONENTS", "timeoutInSeconds": 60},
    }
    assert made["iotJobConfiguration"]["jobExecutionsRolloutConfig"] == {"maximumPerMinute": 50}


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        ("devices_per_minute = 1001", "rollout.devices_per_minute: input should be less than or equal to 1000"),
        ("abort_percentage = 0", "rollout.abort_percentage: input should be greater than 0"),
        ("timeout_minutes = 0", "rollout.timeout_minutes: input should be greater than or equal to 1"),
        ('on_failure = "retry"', "rollout.on_failure: input should be 'rollback' or 'keep', got 'retry'"),
        ("growth = { factor = 2 }", "rollout.growth.devices_per_minute: field required"),
        (
            "growth = { devices_per_minute = 1, factor = 6 }",
            "rollout.growth.factor: input should be less than or equal to 5, got 6",
        ),
        (
            "devices_per_minute = 5\ngrowth = { devices_per_minute = 6 }",
            "rollout: growth.devices_per_minute must be at most devices_per_minute 5, .*grows, got 6$",
        ),
    ],
)
def test_refuses_what_the_service_would_refuse(tmp_path: Path, rollout: str, message: str) -> None:
    stage_file(tmp_path, rollout)

    with pytest.raises(ConfigurationError, match=message):
        load_stage("lab", tmp_path)


def test_a_ring_cannot_bring_a_signing_key_of_its_own(tmp_path: Path) -> None:
    text = (ROOT / "config" / "twin.toml").read_text()
    (tmp_path / "lab.toml").write_text(f"{text}\n[configuration.canary.inference]\nsigningKey = 'x'\n")

    with pytest.raises(ConfigurationError, match=r"configuration: signingKey must be left to the stack, .*of canary"):
        load_stage("lab", tmp_path)

"""The pipelines: pinned, with few rights, and nothing in them that a laptop cannot run."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.loader import load_stage, stage_names
from edge_constructs.deploy_pipeline import DEPLOY_MINUTES
from edge_constructs.model_package import LIMIT
from edge_constructs.neo_compilation import MAX_RUNTIME_MINUTES

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def steps(workflow: Path) -> list[dict[str, Any]]:
    content = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    return [step for job in content["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(workflow: Path) -> None:
    used = [step["uses"] for step in steps(workflow) if "uses" in step]

    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", each) for each in used)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_the_token_reads_and_every_job_ends(workflow: Path) -> None:
    content = yaml.safe_load(workflow.read_text(encoding="utf-8"))

    assert content["permissions"] == {"contents": "read"}
    assert "concurrency" in content
    assert all(job["timeout-minutes"] <= DEPLOY_MINUTES for job in content["jobs"].values())
    assert "secrets." not in workflow.read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", stage_names())
def test_a_deploy_has_the_time_that_its_stage_may_take(stage: str) -> None:
    settings = load_stage(stage)
    content = yaml.safe_load((ROOT / ".github/workflows/deploy.yml").read_text(encoding="utf-8"))
    (session,) = [
        int(step["with"]["role-duration-seconds"])
        for step in steps(ROOT / ".github/workflows/deploy.yml")
        if "role-to-assume" in step.get("with", {})
    ]

    models = MAX_RUNTIME_MINUTES + LIMIT.to_minutes() + 15
    rings = len(settings.health.rings) * settings.health.timeout_minutes
    needed = settings.edge_server.provisioning_minutes + models + rings
    assert needed <= DEPLOY_MINUTES
    assert needed <= content["jobs"]["deploy"]["timeout-minutes"]
    assert needed * 60 <= session


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_make_target_exists(workflow: Path) -> None:
    called = re.findall(r"\bmake ([a-z-]+)", "\n".join(step.get("run", "") for step in steps(workflow)))

    assert called
    assert set(called) <= TARGETS

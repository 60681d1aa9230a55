"""Plans of the working tree against a commit, in a repository whose app writes the sample fleet."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.plan.test_plan import assert_agreed
from tools import plan, two_versions
from tools.cloud_assembly import synth

REPOSITORY = Path(__file__).resolve().parents[2]
APP = f"""
import json, os, sys
from pathlib import Path
sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / "constructs")!r}]
from tests.plan.sample_assembly import PlannedFleet

stage = json.loads(os.environ["CDK_CONTEXT_JSON"])["stage"]
if "broken" in Path(f"config/{{stage}}.toml").read_text():
    sys.exit("this stage is broken")
fleet = PlannedFleet(Path(os.environ["CDK_OUTDIR"]))
fleet.stage = f"edgewright-{{stage}}"
fleet.write()
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One commit, called `base`, with the stage `plant`."""
    root = tmp_path / "repository"
    (root / "config").mkdir(parents=True)
    (root / "app.py").write_text(APP)
    shutil.copyfile(REPOSITORY / "config" / "dev.toml", root / "config" / "plant.toml")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.com")
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "base"], ["branch", "base"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    monkeypatch.setattr(two_versions, "ROOT", root)
    return root


def test_nothing_changed_and_no_checkout_is_left(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--base", "base", "--stage", "plant"]) == 0

    told = capsys.readouterr()
    assert told.out.startswith("plant: unchanged\n")
    listed = ["git", "worktree", "list"]
    left = subprocess.run(listed, cwd=repository, capture_output=True, text=True, check=True).stdout
    assert len(left.splitlines()) == 1


def test_a_git_that_takes_too_long_is_an_error(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_long(command: list[str], **_arguments: Any) -> Any:
        raise subprocess.TimeoutExpired(command, 300)

    monkeypatch.setattr(two_versions.subprocess, "run", too_long)  # type: ignore[attr-defined]

    assert plan.main(["--base", "base", "--stage", "plant"]) == 1

    told = f"plan: git rev-parse --git-dir must end within 300 s in {repository}, it did not: try again\n"
    assert capsys.readouterr().err == told


def test_progress_is_told_apart_from_the_plan(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.main(["--base", "base", "--stage", "plant"])

    lines = sorted(capsys.readouterr().err.splitlines())
    assert [line.partition(" in ")[0] for line in lines] == [
        "plan: synthesised plant of the base base",
        "plan: synthesised plant of the working tree",
        "plan: synthesising plant of the base base",
        "plan: synthesising plant of the working tree",
    ]


def test_a_stop_of_a_job_runner_leaves_no_checkout(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*words: Any, **named: Any) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        return synth(*words, **named)

    monkeypatch.setattr("tools.two_versions.synth", stopped)
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        plan.main(["--base", "base", "--stage", "plant"])

    assert signal.getsignal(signal.SIGTERM) is before
    listed = ["git", "worktree", "list"]
    left = subprocess.run(listed, cwd=repository, capture_output=True, text=True, check=True).stdout
    assert len(left.splitlines()) == 1


def test_a_new_stage_has_a_plan(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(repository / "config" / "plant.toml", repository / "config" / "mill.toml")

    code = plan.main(["--base", "base", "--stage", "mill", "--markdown", str(tmp_path / "plan.md")])

    told = capsys.readouterr()
    assert code == 0
    assert "plan: base has no stage mill\n" in told.err
    assert_agreed("stage-new", f"{told.out}\n{(tmp_path / 'plan.md').read_text()}")


def test_a_stage_of_another_name_leaves_the_former_one(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "config" / "plant.toml").rename(repository / "config" / "mill.toml")

    code = plan.main(["--base", "base", "--stage", "mill"])

    told = capsys.readouterr()
    assert code == plan.UNANNOUNCED
    assert "plan: base has no stage mill, the working tree no plant\n" in told.err
    assert told.out.startswith(
        "other names: 2 new stacks (edgewright-mill-*) in us-east-1\n"
        "  the stacks edgewright-plant-* in us-east-1 stay as they are, with 120 devices registered there\n"
        "  no deploy of this version touches them; take them away when nothing needs them any more:\n"
        "    git switch --detach base && npx cdk destroy --all -c stage=plant\n"
    )


def test_a_stage_that_is_gone_leaves_everything(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "config" / "plant.toml").rename(repository / "config" / "mill.toml")

    code = plan.main(["--base", "base", "--stage", "plant"])

    text = capsys.readouterr().out
    assert code == plan.UNANNOUNCED
    assert text.startswith(
        "the stage is gone: nothing is deployed, its stacks edgewright-plant-* stay in us-east-1, "
        "with 120 devices registered there\n"
    )
    assert "    git switch --detach base && npx cdk destroy --all -c stage=plant\n" in text
    assert (
        "  ! 2 stacks stay behind (edgewright-plant-model, edgewright-plant-plant): no file is left to announce it\n"
        in text
    )
    assert "bill: 0.00 → 0.00" in text
    assert "  and 44.13 USD a month for what stays in us-east-1, until it is destroyed\n" in text


@pytest.mark.parametrize("side", ["the working tree", "the base base"])
def test_a_version_that_cannot_be_synthesised_is_named(
    side: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = repository / "config" / "plant.toml"
    sound = file.read_text()
    file.write_text(f"{sound}# broken\n")
    if side != "the working tree":
        subprocess.run(["git", "commit", "--quiet", "-am", "broken", "--amend"], cwd=repository, check=True)
        subprocess.run(["git", "branch", "--force", "base"], cwd=repository, check=True)
        file.write_text(sound)

    assert plan.main(["--base", "base", "--stage", "plant"]) == 1
    told = capsys.readouterr().err
    assert f"plan: {side} cannot be synthesised for plant:\nthis stage is broken\n" in told


def test_a_model_that_changes_is_run_beside_the_one_before(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = repository / "edge_assets" / "models"
    shutil.copytree(REPOSITORY / "edge_assets" / "models" / "digits", models / "digits")
    for command in (["add", "."], ["commit", "--quiet", "-m", "a model"], ["branch", "with-model"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    file = models / "digits" / "model.json"
    declared = json.loads(file.read_text())
    file.write_text(json.dumps(declared | {"labels": declared["labels"][::-1]}))
    kept = {name: tmp_path / f"plan.{name}" for name in ("markdown", "html", "json")}

    arguments = [part for name, path in kept.items() for part in (f"--{name}", str(path))]
    plan.main(["--base", "with-model", "--stage", "plant", *arguments])

    assert "model digits changes: agrees on 0 of 360 held out inputs, right " in capsys.readouterr().out
    assert "| `digits` | 360 held out | 0.0% | " in kept["markdown"].read_text()
    assert kept["html"].read_text().count("data:image/png;base64,") == 10
    assert json.loads(kept["json"].read_text())["models"][0]["inputs"] == 360
    assert plan.main(["--base", "with-model", "--stage", "plant", "--captures", str(tmp_path / "none")]) == 1

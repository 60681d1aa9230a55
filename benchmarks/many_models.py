"""Thirty small models on a classic device of the twin: the deploy beside that of three, one more, and one less.

    .venv/bin/python -m benchmarks.many_models [--models 30] [--runs 1]

Ends with code 1 if the deploy of all takes more than 1.5 times that of three, one more takes more than 15 s, or
something of a removed model is left.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.deployed_twin import NAMES, ROOT, DeployedTwin
from tests.many_models import names, stage_text, write_models

FEW, MOST_TIMES, MORE_S = 3, 1.5, 15.0


class Stage:
    """A stage of small models on a twin of its own; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._synths = folder, 0
        self._twin = DeployedTwin(folder)
        self._text = (ROOT / "config" / "twin.toml").read_text(encoding="utf-8")

    def __enter__(self) -> "Stage":
        self._twin.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._twin.__exit__()

    def deploy(self, count: int) -> float:
        """Deploy so many models; returns seconds of the deploy, without the synth."""
        folder, self._synths = self._folder / f"out-{self._synths}", self._synths + 1
        models = self._twin.app / "edge_assets" / "models"
        write_models(models, [name for name in names(count) if not (models / name).exists()])
        (self._twin.app / "config" / "twin.toml").write_text(
            stage_text(self._text, names(count), "classic"), encoding="utf-8"
        )
        deploy = replace(self._twin.deploy, out=folder)
        deploy.synth()
        if self._synths == 1:
            deploy.bootstrap()
        return deploy.deploy()

    def traces(self, model: str) -> list[str]:
        """What the account and the device still have of a model."""
        greengrass = self._twin.deploy.client("greengrassv2")
        component = NAMES.model_component(model)
        installed = greengrass.list_installed_components(coreDeviceThingName=NAMES.edge_server)["installedComponents"]
        listed = greengrass.list_components(scope="PRIVATE")["components"]
        stacks = self._twin.deploy.client("cloudformation")
        resources = stacks.get_paginator("list_stack_resources").paginate(StackName="edgewright-twin-models")
        return [
            *(f"installed {each['componentName']}" for each in installed if each["componentName"] == component),
            *(f"component {each['componentName']}" for each in listed if each["componentName"] == component),
            *(
                f"resource {each['LogicalResourceId']}"
                for page in resources
                for each in page["StackResourceSummaries"]
                if model.replace("-", "").lower() in each["LogicalResourceId"].lower()
            ),
        ]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--runs", type=int, default=1, help="of both sizes, in turn (default: %(default)s)")
    arguments = parser.parse_args()
    few, many = [], []
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory(prefix="ew-") as folder, Stage(Path(folder)) as stage:
            few.append(stage.deploy(FEW))
        with tempfile.TemporaryDirectory(prefix="ew-") as folder, Stage(Path(folder)) as stage:
            many.append(stage.deploy(arguments.models))
            more_s = stage.deploy(arguments.models + 1)
            less_s = stage.deploy(arguments.models)
            left = stage.traces(names(arguments.models + 1)[-1])
    times = statistics.median(many) / statistics.median(few)
    print(f"{FEW} models: {statistics.median(few):.1f} s")
    print(f"{arguments.models} models: {statistics.median(many):.1f} s, {times:.2f} times")
    print(f"one more: {more_s:.1f} s; one less: {less_s:.1f} s, left of it: {', '.join(left) or 'nothing'}")
    sys.exit(times > MOST_TIMES or more_s > MORE_S or bool(left))


if __name__ == "__main__":
    main()

"""The account is made ready by the real command line, for which no template has to be there."""

from pathlib import Path

import boto3

from tools.offline_deploy import OfflineDeploy
from twin import lifecycle


def test_an_account_is_bootstrapped_before_there_is_a_template_as_the_app_says(home: Path, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "cdk.json").write_text('{"app": "false", "toolkitStackName": "Other"}')
    state = lifecycle.start(home)

    OfflineDeploy(environment=state.environment(), out=tmp_path / "out", app=app).bootstrap()

    stacks = boto3.client("cloudformation", **state.client_arguments()).describe_stacks()["Stacks"]
    assert [(stack["StackName"], stack["StackStatus"]) for stack in stacks] == [("Other", "CREATE_COMPLETE")]

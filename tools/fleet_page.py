"""The live page over a stage in an AWS account, read-only: devices, rollouts, predictions, alarms, logs.

python -m tools.fleet_page --stage dev

It needs `make setup-dev` (awsiotsdk) and credentials in this shell; docs/ui.md lists the rights. On the twin, where it
can also ask, and let something fail: `python -m twin ui`.
"""

from __future__ import annotations

from typing import Annotated

import boto3
import typer
from botocore.exceptions import BotoCoreError, ClientError

from config.loader import stage_names
from config.stage import Stage
from tools.inventory import take
from tools.predict import clients_of, connected, errors_told
from tools.set_up import require
from twin import TwinError
from twin.inventory import Account
from twin.page.fleet import Source
from twin.page.server import run
from twin.predict import stage_of


def of_account(session: boto3.Session, stage: Stage) -> Source:
    """Where the page of a real account looks; it has nothing that changes anything.

    Args:
        session: Whose credentials.
        stage: Whose page.

    Raises:
        TwinError: The credentials lead to no account.
    """
    clients = clients_of(session, stage)
    try:
        account = clients("sts").get_caller_identity()["Account"]
    except (ClientError, BotoCoreError) as exc:
        raise TwinError(f"credentials must be in this shell, got {exc}: set AWS_PROFILE, or run aws sso login") from exc
    return Source(
        stage=stage,
        where=f"AWS account {account}, {stage.region}, read-only",
        clients=clients,
        connect=lambda: connected(session, stage.region),
        left=lambda: take(stage, Account({"region_name": stage.region}), stage_names()),
        rest_s=2.0,
    )


@errors_told("fleet_page")
def main(
    stage: Annotated[str, typer.Option("--stage", help="The deployed stage.")] = "dev",
    port: Annotated[int | None, typer.Option("--port", min=1024, max=65535, help="By default a free one.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser, too.")] = False,
) -> None:
    """Serve the live page of a stage in AWS on this machine until Ctrl-C."""
    require("python -m tools.fleet_page", "dev", "awsiot", "awscrt")
    run(of_account(boto3.Session(), stage_of(stage)), port, open_it=open_it)


if __name__ == "__main__":
    typer.run(main)

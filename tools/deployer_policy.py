"""Tries docs/deployer-policy.json: a user with that policy alone deploys and destroys a stage on a twin that evaluates IAM.

    python -m tools.deployer_policy        exit code 1 if it is too little, or holds a statement that nothing needs

Everything else, the bootstrap included, is done by the twin's administrator, as docs/deploy.md tells.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from config.names import Names
from tools.cdk_cli import ROOT, CdkError
from tools.least_privilege import Grant, denials, examine, read_trail
from tools.offline_deploy import OfflineDeploy
from twin import lifecycle
from twin.state import TwinState

POLICY = ROOT / "docs" / "deployer-policy.json"
STAGE, USER = "twin", "deployer"
DEVICE_LIMIT_S = 180
#: Why a statement that no recorded request needs is there all the same; by its Sid and action.
console = Console(highlight=False, width=200)


@dataclass(frozen=True)
class Trial:
    """What a deploy and a destroy by the deployer showed.

    Attributes:
        grants: The policy's statements, one action and one resource each, with the request that needed it.
        denied: Requests that were denied, whoever made them.
        others: Requests of other principals than the deployer that were evaluated, by principal.
        left: Stacks that the destroy left, besides the bootstrap's.
        refused: What the command line says where the deployer's policy is taken away.
    """

    grants: Sequence[Grant]
    denied: Sequence[str]
    others: Mapping[str, int]
    left: Sequence[str]
    refused: str


def policy_for(account: str, region: str) -> dict[str, Any]:
    """The deployer's policy for one account and region."""
    text = POLICY.read_text(encoding="utf-8").replace("ACCOUNT", account).replace("REGION", region)
    found: dict[str, Any] = json.loads(text)
    return found


def single_grants(policy: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Take the statements apart: one for each action and resource, so that each is judged by itself."""
    return [
        {**statement, "Action": action, "Resource": resource}
        for statement in policy["Statement"]
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    ]


def run(out: Path) -> Trial:
    """Go through bootstrap, deploy and destroy on a twin of its own.

    Args:
        out: Folder for state and logs.

    Raises:
        CdkError: The policy does not suffice, or something else failed.
    """
    home = out / "home"
    lifecycle.stop(home)
    (home / "log" / "access.jsonl").unlink(missing_ok=True)
    state = lifecycle.start(home, auth=True)
    try:
        administrator = OfflineDeploy(environment=state.environment(), out=out, stage=STAGE)
        administrator.synth()
        administrator.bootstrap()
        policy = policy_for(state.account, state.region)
        iam = administrator.client("iam")
        deployer = replace(
            administrator, environment=_user(iam, state, policy), out=out / USER
        )
        # The assembly is the administrator's: a pipeline's deploy step takes what an earlier step has made, too.
        deployer = _with_assembly(deployer, administrator.assembly)
        refused = _refusal(iam, deployer, policy)
        console.print(f"deploy: {deployer.deploy():.1f} s")
        administrator.wait_for_device(Names(STAGE).edge_server, timeout_s=DEVICE_LIMIT_S)
        console.print(f"destroy: {deployer.destroy():.1f} s")
        left = _stacks(administrator)
    finally:
        lifecycle.stop(home)
    return _judge(policy, read_trail(home), left, refused)

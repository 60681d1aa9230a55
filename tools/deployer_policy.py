"""Tries docs/deployer-policy.json on a twin that evaluates IAM: a user with it alone deploys and destroys a stage.

    python -m tools.deployer_policy        exit code 1 if it is too little, or holds what nothing needs

Everything else, the bootstrap included, is done by the twin's administrator, as docs/deploy.md tells.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from config.names import Names
from config.places import PROJECT as ROOT
from tools.least_privilege import Grant, denials, examine, read_trail
from tools.offline_deploy import CdkError, DeploymentError, OfflineDeploy
from twin import TwinError, lifecycle
from twin.state import TwinState

POLICY = ROOT / "docs" / "deployer-policy.json"
STAGE, USER = "twin", "deployer"
DEVICE_LIMIT_S = 180
_BOOTSTRAP_STACK = "CDKToolkit"
console = Console(highlight=False, width=200)


@dataclass(frozen=True)
class Trial:
    """What a deploy and a destroy by the deployer showed.

    Attributes:
        grants: The policy, one action and one resource each, with a request that needs it.
        denied: Requests that were denied while the deployer had the policy, whoever made them.
        requests: Evaluated requests by principal.
        left: Stacks that the destroy left, besides the bootstrap's.
        refusal: What the command line said while the deployer had no policy.
    """

    grants: Sequence[Grant]
    denied: Sequence[str]
    requests: Mapping[str, int]
    left: Sequence[str]
    refusal: str

    @property
    def mistakes(self) -> list[str]:
        """What is wrong, a line each."""
        unneeded = [each.statement for each in self.grants if each.needed_by is None]
        return [
            *(f"denied: {request}" for request in self.denied),
            *(f"left behind: {stack}" for stack in self.left),
            *(f"needed by nothing: {each['Action']} on {each['Resource']}" for each in unneeded),
        ]


def policy_for(account: str, region: str) -> dict[str, Any]:
    """The deployer's policy for one account and region."""
    text = POLICY.read_text(encoding="utf-8").replace("ACCOUNT", account).replace("REGION", region)
    found: dict[str, Any] = json.loads(text)
    return found


def single_grants(policy: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Take a policy apart, a statement for each action and resource, so that each is judged by itself."""
    return [
        {**statement, "Action": action, "Resource": resource}
        for statement in policy["Statement"]
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    ]


def run(out: Path) -> Trial:
    """Go through bootstrap, a refused deploy, deploy and destroy on a twin of its own.

    Args:
        out: Folder for state and logs.

    Raises:
        CdkError: The policy does not suffice, or a command failed for another reason.
        DeploymentError: The device did not run what was deployed.
        TwinError: The twin cannot be started, or something else than a twin is in its place.
    """
    home = out / "home"
    # What an interrupted run left: its user is in the way.
    lifecycle.purge(home)
    trail = home / "log" / "access.jsonl"
    state = lifecycle.start(home, auth=True)
    try:
        administrator = OfflineDeploy(environment=state.environment(), out=out, stage=STAGE)
        administrator.synth()
        administrator.bootstrap()
        iam = administrator.client("iam")
        deployer = replace(administrator, environment=_user(iam, state))
        refusal = _refusal(deployer)
        before = len(read_trail(home))
        policy = policy_for(state.account, state.region)
        iam.put_user_policy(UserName=USER, PolicyName="Deploy", PolicyDocument=json.dumps(policy))
        console.print(f"deploy: {deployer.deploy():.1f} s")
        administrator.wait_for_device(Names(STAGE).edge_server, timeout_s=DEVICE_LIMIT_S)
        console.print(f"destroy: {deployer.destroy():.1f} s")
        left = _stacks(administrator)
    finally:
        lifecycle.stop(home)
    requests = read_trail(home)[before:]
    trail.unlink()
    return judge(policy, requests, left, refusal)


def judge(policy: Mapping[str, Any], requests: Sequence[Mapping[str, Any]], left: Sequence[str], refusal: str) -> Trial:
    """Say which permission which recorded request needed.

    Args:
        policy: The deployer's.
        requests: As twin.cloud.authorization records them.
        left: Stacks that are still there.
        refusal: Passed on.
    """
    grants = examine({USER: single_grants(policy)}, requests, {USER: USER})
    return Trial(grants, denials(requests), Counter(str(each["principal"]) for each in requests), left, refusal)


def _user(iam: Any, state: TwinState) -> dict[str, str]:
    """Make the deployer, who may do nothing yet; returns the environment of the deployer's shell."""
    iam.create_user(UserName=USER)
    key = iam.create_access_key(UserName=USER)["AccessKey"]
    return {
        **state.environment(),
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


def _refusal(deployer: OfflineDeploy) -> str:
    """Deploy without the policy: a twin that let it through would prove nothing afterwards."""
    try:
        deployer.deploy()
    except CdkError as exc:
        return str(exc)
    raise CdkError(
        f"a user without a policy must be refused, got a deploy of {STAGE}: is the twin evaluating policies?"
    )


def _stacks(deploy: OfflineDeploy) -> list[str]:
    pages = deploy.client("cloudformation").get_paginator("describe_stacks").paginate()
    names = [stack["StackName"] for page in pages for stack in page["Stacks"]]
    return sorted(name for name in names if name != _BOOTSTRAP_STACK)


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def main(out: Annotated[Path, typer.Option(help="Folder of the run.")] = ROOT / "out" / "deployer-policy") -> None:
    """Report what of the policy is needed by which request, and what is missing."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    try:
        trial = run(out.resolve())
    except (CdkError, DeploymentError, TwinError, OSError) as exc:
        print(f"deployer_policy: {exc}", file=sys.stderr)
        sys.exit(1)
    console.print(f"without the policy: {trial.refusal.splitlines()[-1].strip()}")
    table = Table("action", "resource", "needed by", box=None, pad_edge=False)
    for grant in trial.grants:
        table.add_row(grant.statement["Action"], grant.statement["Resource"], grant.needed_by or "nothing")
    console.print(table)
    for principal, count in sorted(trial.requests.items()):
        console.print(f"{count:4} requests of {principal}")
    for mistake in trial.mistakes:
        console.print(mistake)
    sys.exit(1 if trial.mistakes else 0)


if __name__ == "__main__":
    typer.run(main)

"""Greengrass works on a deployment's job with the rights of its caller."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.twin_greengrass.started_cloud import ACCOUNT, REGION, Cloud, started_cloud

Caller = Callable[..., Any]
JOBS, GROUPS = (f"arn:aws:iot:{REGION}:{ACCOUNT}:{kind}/*" for kind in ("job", "thinggroup"))
CALLS = {
    "get_deployment": (["greengrass:GetDeployment"], {"iot:DescribeJob": JOBS, "iot:DescribeThingGroup": GROUPS}),
    "cancel_deployment": (
        ["greengrass:CancelDeployment"],
        {
            "iot:DescribeJob": JOBS,
            "iot:CancelJob": JOBS,
            "iot:UpdateJob": JOBS,
            "iot:DescribeThingGroup": GROUPS,
        },
    ),
    "delete_deployment": (["greengrass:DeleteDeployment"], {"iot:DeleteJob": JOBS}),
}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with started_cloud(tmp_path_factory.mktemp("caller"), auth=True) as started:
        yield started


@pytest.fixture
def caller(cloud: Cloud) -> Caller:
    """A Greengrass client of a role that may do these actions on any resource."""

    def make(actions: list[str], rights: dict[str, str]) -> Any:
        iam, name = cloud.client("iam"), f"caller-{uuid.uuid4().hex[:8]}"
        principal = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
        trust = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=_document(trust))["Role"]["Arn"]
        statements = [{"Effect": "Allow", "Action": actions, "Resource": "*"}]
        statements += [{"Effect": "Allow", "Action": each, "Resource": where} for each, where in rights.items()]
        iam.put_role_policy(RoleName=name, PolicyName="rights", PolicyDocument=_document(*statements))
        keys = cloud.client("sts").assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
        return boto3.client(
            "greengrassv2",
            endpoint_url=cloud.state.gateway_url,
            region_name=REGION,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
        )

    return make


def _document(*statements: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


@pytest.fixture
def deployment(cloud: Cloud) -> str:
    group = cloud.client("iot").create_thing_group(thingGroupName=f"group-{uuid.uuid4().hex[:8]}")["thingGroupArn"]
    made = cloud.client("greengrassv2").create_deployment(targetArn=group, components={})
    return str(made["deploymentId"])


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_denied_without_any_one_of_its_rights(
    cloud: Cloud, caller: Caller, deployment: str, call: str
) -> None:
    actions, rights = CALLS[call]
    if call == "delete_deployment":
        cloud.client("greengrassv2").cancel_deployment(deploymentId=deployment)

    for missing in rights:
        lesser = caller(actions, {each: where for each, where in rights.items() if each != missing})
        with pytest.raises(ClientError, match="AccessDenied"):
            getattr(lesser, call)(deploymentId=deployment)
    getattr(caller(actions, rights), call)(deploymentId=deployment)

"""The provisioning template, its hook and the claim certificates' policy: no more than joining takes."""

import fnmatch
import json
import re
import uuid
from typing import Any

from config.names import Names
from tests.synthesis import resources, template


def policy() -> dict[str, Any]:
    (found,) = resources("dev", "Provisioning", "AWS::IoT::Policy")
    return dict(found["Properties"])


def named(statement: dict[str, Any]) -> list[str]:
    """The resources without partition, region and account."""
    joined = [
        "".join(part if isinstance(part, str) else "_" for part in arn["Fn::Join"][1]) for arn in statement["Resource"]
    ]
    return [text.removeprefix("arn:_:iot:*:*:") for text in joined]


def test_a_claim_certificate_may_trade_itself_for_another_and_nothing_else() -> None:
    calls = (
        "$aws/certificates/create/json",
        "$aws/certificates/create-from-csr/json",
        "$aws/provisioning-templates/edgewright-dev-claim/provision/json",
    )
    answers = [f"{call}/{answer}" for call in calls for answer in ("accepted", "rejected")]

    statements = {(each["Effect"], each["Action"]): named(each) for each in policy()["PolicyDocument"]["Statement"]}

    assert statements == {
        ("Allow", "iot:Connect"): ["client/????????-????-????-????-????????????"],
        ("Allow", "iot:Publish"): [f"topic/{call}" for call in calls],
        ("Allow", "iot:Subscribe"): [f"topicfilter/{answer}" for answer in answers],
        ("Allow", "iot:Receive"): [f"topic/{answer}" for answer in answers],
    }


def test_a_claim_connects_as_no_thing_of_any_stage() -> None:
    pattern = policy()["PolicyDocument"]["Statement"][0]["Resource"][0]["Fn::Join"][1][-1].rpartition("/")[2]

    assert fnmatch.fnmatchcase(str(uuid.uuid4()), pattern)
    # 36 characters, and a hyphen where each name of a thing has the last but one of "edgewright".
    for serial in ("0123456789-abc-1234-5678-012345", "a" * 20, "-" * 21):
        name = f"{Names('dev').prefix}-{serial}"
        assert not any(fnmatch.fnmatchcase(name[:length], pattern) for length in range(len(name) + 1))


def test_the_claims_policy_fits_with_the_longest_names_of_a_stage() -> None:
    document = json.dumps(policy()["PolicyDocument"], separators=(",", ":"))
    joined = re.sub(
        r'\{"Fn::Join":\["",\["arn:",\{"Ref":"AWS::Partition"\},"([^"]*)"\]\]\}', r'"arn:aws-us-gov\1"', document
    )

    assert "Fn::" not in joined
    assert len(joined.replace("edgewright-dev", "edgewright-twelve-chars")) <= 2048


def test_the_template_gives_a_registered_thing_the_devices_policy() -> None:
    (found,) = resources("dev", "Provisioning", "AWS::IoT::ProvisioningTemplate")
    body = json.loads(found["Properties"]["TemplateBody"])["Resources"]

    assert found["Properties"]["TemplateName"] == policy()["PolicyName"] == "edgewright-dev-claim"
    assert body["thing"]["Properties"]["ThingName"] == {"Fn::Join": ["", ["edgewright-dev-", {"Ref": "SerialNumber"}]]}
    assert body["policy"]["Properties"] == {"PolicyName": "edgewright-dev-core-device"}
    assert found["Properties"]["PreProvisioningHook"]["PayloadVersion"] == "2020-04-01"


def test_only_this_template_may_call_the_hook() -> None:
    (permission,) = resources("dev", "Provisioning", "AWS::Lambda::Permission")

    assert permission["Properties"]["Principal"] == "iot.amazonaws.com"
    assert permission["Properties"]["SourceAccount"] == {"Ref": "AWS::AccountId"}
    assert json.dumps(permission["Properties"]["SourceArn"]).endswith(':provisioningtemplate/edgewright-dev-claim"]]}')


def test_the_hook_reads_the_register_and_writes_its_log() -> None:
    (role,) = [
        each["Properties"]
        for name, each in template("dev", "Provisioning")["Resources"].items()
        if name.startswith("ProvisioningHookRole")
    ]
    log, register, principals = role["Policies"][0]["PolicyDocument"]["Statement"]

    assert set(log["Action"]) == {"logs:CreateLogStream", "logs:PutLogEvents"}
    assert register["Action"] == ["iot:DescribeThing"]
    assert named(register) == ["arn:_:iot:_:_:thing/edgewright-dev-*"]
    # IAM knows no resource for it.
    assert (principals["Action"], principals["Resource"]) == (
        ["iot:ListThingPrincipals", "iot:ListPrincipalThings"],
        ["*"],
    )


def test_the_hook_answers_before_aws_iot_gives_up() -> None:
    (hook,) = [
        each["Properties"]
        for each in resources("dev", "Provisioning", "AWS::Lambda::Function")
        if "provisioning_hook" in each["Properties"]["Handler"]
    ]

    assert hook["Timeout"] == 5
    assert hook["Environment"]["Variables"] == {
        "THING_PREFIX": "edgewright-dev",
        "THING_GROUP": "edgewright-dev",
        "RESERVED_THINGS": "edgewright-dev-edge-server",
    }


def test_claim_certificates_go_before_their_policy() -> None:
    (settings,) = resources("dev", "Provisioning", "Custom::FleetProvisioning")

    assert settings["Properties"]["PolicyName"] == "edgewright-dev-claim"
    assert any(name.startswith("ProvisioningClaimPolicy") for name in settings["DependsOn"])

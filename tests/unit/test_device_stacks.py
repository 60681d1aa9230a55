"""Each actor has its own role; things, rings and their register; the closed core device on EC2."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Match, Template
from ministack.core import iam_evaluator

from config.loader import load_stage, read_context
from edge_constructs.edge_server import EdgeNetwork, EdgeServer
from edge_constructs.identities import CoreDevicePolicy, by_namespace
from edge_constructs.synth import new_app
from stacks.device_stacks import EdgeServerStack, FleetStack, IdentityStack, policy_topics
from stacks.stage_stack import StorageStack
from tests.synthesis import assembly, resources, template
from tests.wheel_archive import wheel_archive
from twin.cloud.ec2 import REPLACING


def roles() -> dict[str, list[dict[str, Any]]]:
    """Service to the statements of its role."""
    return {
        role["Properties"]["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["Service"]: role["Properties"][
            "Policies"
        ][0]["PolicyDocument"]["Statement"]
        for role in resources("twin", "Identity", "AWS::IAM::Role")
    }


def actions(service: str) -> set[str]:
    return {action for statement in roles()[service] for action in statement["Action"]}


def test_three_actors_have_three_roles_without_managed_policies() -> None:
    assert set(roles()) == {"ec2.amazonaws.com", "credentials.iot.amazonaws.com", "sagemaker.amazonaws.com"}
    assert "ManagedPolicyArns" not in json.dumps(resources("twin", "Identity", "AWS::IAM::Role"))


def test_no_role_has_an_action_with_a_wildcard() -> None:
    assert not [action for service in roles() for action in actions(service) if "*" in action]


def test_devices_read_artifacts_and_model_packages_and_write_their_own_captures_only() -> None:
    reads = [each for each in roles()["credentials.iot.amazonaws.com"] if each["Action"] == ["s3:GetObject"]]

    assert [resource["Fn::Join"][1][-1] for resource in reads[0]["Resource"]] == [
        "-us-east-1/artifacts/*",
        "-us-east-1/models/*",
    ]
    assert len(reads) == 1
    writes = [each for each in roles()["credentials.iot.amazonaws.com"] if "s3:PutObject" in each["Action"]]
    (written,) = [resource for each in writes for resource in each["Resource"]]
    assert written["Fn::Join"][1][-1] == "-us-east-1/captures/${credentials-iot:ThingName}/*"
    assert not {each for each in actions("credentials.iot.amazonaws.com") if ":Delete" in each}


def test_the_compiler_reads_sources_and_writes_compiled_models() -> None:
    told = json.dumps(roles()["sagemaker.amazonaws.com"])

    assert "/sources/*" in told
    assert "/compiled/*" in told
    assert "/artifacts/*" not in told
    assert "/models/*" not in told


def test_the_edge_server_may_ask_one_function_and_nothing_of_iot() -> None:
    assert {action.partition(":")[0] for action in actions("ec2.amazonaws.com")} == {"lambda", "ssm", "ssmmessages"}


IOT = "arn:aws:iot:us-east-1:000000000000:"
OTHER = f"{IOT}thing/edgewright-twin-line-1"
FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:"
#: Ways to act for another device, or to get the rights to.
WAYS = [
    ("iot:AttachThingPrincipal", "*"),
    ("iot:AttachThingPrincipal", OTHER),
    ("iot:DetachThingPrincipal", OTHER),
    ("iot:AttachPolicy", f"{IOT}cert/0123"),
    ("iot:DetachPolicy", f"{IOT}cert/0123"),
    ("iot:CreateKeysAndCertificate", "*"),
    ("iot:CreateCertificateFromCsr", "*"),
    ("iot:RegisterCertificate", "*"),
    ("iot:UpdateCertificate", f"{IOT}cert/0123"),
    ("iot:DeleteCertificate", f"{IOT}cert/0123"),
    ("iot:RegisterThing", "*"),
    ("iot:CreateProvisioningClaim", f"{IOT}provisioningtemplate/edgewright-twin-claim"),
    ("iot:CreatePolicyVersion", f"{IOT}policy/edgewright-twin-core-device"),
    ("iot:UpdateThing", OTHER),
    ("iot:DeleteThing", OTHER),
    ("iot:AddThingToThingGroup", f"{IOT}thinggroup/edgewright-twin"),
    ("iot:Connect", f"{IOT}client/edgewright-twin-line-1"),
    ("iot:Publish", f"{IOT}topic/$aws/things/edgewright-twin-line-1/shadow/update"),
    ("iot:UpdateThingShadow", OTHER),
    ("iot:CreateJob", f"{IOT}job/any"),
    ("greengrass:CreateDeployment", "*"),
    ("greengrass:DeleteCoreDevice", "arn:aws:greengrass:us-east-1:000000000000:coreDevices:edgewright-twin-line-1"),
    ("lambda:InvokeFunction", f"{FUNCTION}edgewright-twin-provisioning-hook"),
    ("lambda:InvokeFunction", f"{FUNCTION}edgewright-twin-join-other"),
    ("lambda:UpdateFunctionCode", f"{FUNCTION}edgewright-twin-join"),
    ("lambda:UpdateFunctionConfiguration", f"{FUNCTION}edgewright-twin-join"),
    ("lambda:AddPermission", f"{FUNCTION}edgewright-twin-join"),
    ("iam:PassRole", "arn:aws:iam::000000000000:role/any"),
    ("sts:AssumeRole", "arn:aws:iam::000000000000:role/any"),
    ("s3:GetObject", "arn:aws:s3:::edgewright-twin-artifacts-000000000000-us-east-1/models/any"),
    ("s3:PutObject", "arn:aws:s3:::edgewright-twin-artifacts-000000000000-us-east-1/artifacts/any"),
]


def decision(action: str, resource: str) -> str:
    """What the twin's evaluator says of a request of the edge server's role."""
    text = json.dumps({"Version": "2012-10-17", "Statement": roles()["ec2.amazonaws.com"]})
    document = as_text_of(json.loads(text))
    context = iam_evaluator.EvalContext(
        principal_arn="arn:aws:sts::000000000000:assumed-role/edge/i-0",
        principal_type="AssumedRole",
        principal_account="000000000000",
        action=action,
        resource_arn=resource,
        region="us-east-1",
    )
    found: str = iam_evaluator.evaluate(context, [iam_evaluator.parse_policy_document(document)]).decision
    return found


def as_text_of(value: Any) -> Any:
    """A template's value with the pseudo parameters of the twin's account."""
    known = {"AWS::Partition": "aws", "AWS::Region": "us-east-1", "AWS::AccountId": "000000000000"}
    if isinstance(value, dict) and set(value) == {"Fn::Join"}:
        separator, parts = value["Fn::Join"]
        return str(separator).join(as_text_of(part) for part in parts)
    if isinstance(value, dict) and set(value) == {"Ref"}:
        return known[value["Ref"]]
    if isinstance(value, dict):
        return {name: as_text_of(each) for name, each in value.items()}
    return [as_text_of(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("action", "resource"), WAYS)
def test_the_edge_servers_role_can_act_for_no_other_device(action: str, resource: str) -> None:
    assert decision(action, resource) != "Allow"


def test_the_edge_servers_role_may_ask_to_join() -> None:
    assert decision("lambda:InvokeFunction", f"{FUNCTION}edgewright-twin-join") == "Allow"


def iot_statements() -> dict[str, list[str]]:
    """Action to the resources that it is allowed on, without the part that all ARNs share."""
    (policy,) = resources("twin", "Identity", "AWS::IoT::Policy")
    return {
        statement["Action"]: [
            resource["Fn::Join"][1][-1].removeprefix(":iot:*:*:") for resource in statement["Resource"]
        ]
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if isinstance(statement["Action"], str)
    }


def test_a_device_connects_only_as_its_own_thing() -> None:
    assert iot_statements()["iot:Connect"] == [
        "client/${iot:Connection.Thing.ThingName}",
        "client/${iot:Connection.Thing.ThingName}#*",
    ]


def test_every_reserved_topic_is_the_devices_own() -> None:
    topics = [each for resources_ in iot_statements().values() for each in resources_ if "/$aws/" in each]

    assert len(topics) == 3
    assert all("/$aws/things/${iot:Connection.Thing.ThingName}/" in topic for topic in topics)


def test_a_device_may_follow_its_jobs_and_report_its_health() -> None:
    own = "$aws/things/${iot:Connection.Thing.ThingName}/*"
    statements = iot_statements()

    assert f"topicfilter/{own}" in statements["iot:Subscribe"]
    assert f"topic/{own}" in statements["iot:Publish"]
    assert f"topic/{own}" in statements["iot:Receive"]


def test_an_iot_policy_longer_than_aws_allows_is_refused() -> None:
    topics = [f"plant/a-model-with-quite-a-long-name-{number}/request" for number in range(20)]

    with pytest.raises(
        ValueError,
        match=r"IoT policy long must have at most 2048 characters, got \d{4}: 40 of its topics lie outside "
        r"edgewright/prod/<name>/<kind>: plant/a-model.*; move them there",
    ):
        CoreDevicePolicy(
            cdk.Stack(),
            "Policy",
            name="long",
            role_alias="alias",
            namespace="edgewright/prod",
            request_topics=topics,
            response_topics=topics,
        )


def test_topics_of_the_namespace_are_covered_by_their_kind_and_others_stay_exact() -> None:
    topics = ["edgewright/prod/a/request", "edgewright/prod/b/c/request", "edgewright/prod/heartbeat"]
    others = ["edgewright/prod2/a/request", "gg/results", "edgewright/prod/${iot:Connection.Thing.ThingName}/out"]

    covered = by_namespace("edgewright/prod", [*topics, *others])

    assert covered == ["edgewright/prod/*/request", "edgewright/prod/heartbeat", *others]


def test_a_topic_with_the_devices_name_is_that_devices_alone() -> None:
    declared = ["dt/{thing}/out", "plain/out", "$aws/things/{thing}/shadow/update"]

    assert policy_topics(declared) == ["dt/${iot:Connection.Thing.ThingName}/out", "plain/out"]


def test_model_topics_are_of_the_stage_and_one_way() -> None:
    statements = iot_statements()

    assert "topic/edgewright/twin/*/response" in statements["iot:Publish"]
    assert "topic/edgewright/twin/*/request" in statements["iot:Receive"]
    assert "topicfilter/edgewright/twin/*/request" in statements["iot:Subscribe"]
    assert not [each for each in statements["iot:Publish"] if each.endswith("/request")]


def test_the_alias_gives_the_token_exchange_role_for_an_hour() -> None:
    (alias,) = resources("twin", "Identity", "AWS::IoT::RoleAlias")

    assert alias["Properties"]["RoleAlias"] == "edgewright-twin-token-exchange"
    assert alias["Properties"]["CredentialDurationSeconds"] == 3600


def registry(stage: str) -> dict[str, Any]:
    (found,) = resources(stage, "Fleet", "Custom::DeviceRegistry")
    return found


def listed(stage: str) -> dict[str, str]:
    """The list that the registry's asset holds."""
    sha256 = registry(stage)["Properties"]["ListSha256"]
    content: dict[str, str] = json.loads((assembly(stage) / "artifacts" / "devices" / f"{sha256}.json").read_text())
    return content


@pytest.mark.parametrize(
    ("stage", "devices"),
    [
        ("twin", {"edgewright-twin-edge-server": "all"}),
        (
            "prod",
            {
                "edgewright-prod-edge-server": "all",
                "edgewright-prod-line-1": "canary",
                "edgewright-prod-line-2": "all",
            },
        ),
    ],
)
def test_one_resource_registers_the_edge_server_and_all_devices(stage: str, devices: dict[str, str]) -> None:
    assert listed(stage) == devices
    assert registry(stage)["Properties"]["ThingGroupName"] == f"edgewright-{stage}"
    assert registry(stage)["Properties"]["PolicyName"] == f"edgewright-{stage}-core-device"


def test_each_ring_is_a_thing_group() -> None:
    names = {group["Properties"]["ThingGroupName"] for group in resources("twin", "Fleet", "AWS::IoT::ThingGroup")}

    assert names == {"edgewright-twin", "edgewright-twin-canary", "edgewright-twin-early"}


def test_devices_go_before_their_groups_and_type() -> None:
    needed = {name.rstrip("0123456789ABCDEF") for name in registry("twin")["DependsOn"]}

    # And while the function that waits for them may still be asked for.
    assert needed == {"ThingGroup", "CanaryThingGroup", "EarlyThingGroup", "ThingType", "RegistryHandlerWaiter"}


def test_the_list_is_an_asset_of_the_stack() -> None:
    sha256 = registry("twin")["Properties"]["ListSha256"]
    (manifest,) = Path(assembly("twin")).glob("Fleet.assets.json")

    assert sha256 in json.loads(manifest.read_text())["files"]


def test_an_edge_server_that_the_list_makes_a_canary_joins_that_ring_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stacks.device_stacks.runtime_archive", wheel_archive)
    (tmp_path / "devices.csv").write_text("device,ring\nedgewright-lab-edge-server,canary\n")
    (tmp_path / "lab.toml").write_text(
        'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n[fleet]\nfile = "devices.csv"\n'
    )
    stage = load_stage("lab", tmp_path)
    app = new_app(read_context(), outdir=tmp_path / "out")
    storage = StorageStack(app, "Storage", stage=stage)
    identity = IdentityStack(app, "Identity", stage=stage, storage=storage)
    fleet = FleetStack(app, "Fleet", stage=stage, identity=identity, storage=storage)
    server = EdgeServerStack(app, "EdgeServer", stage=stage, storage=storage, identity=identity, fleet=fleet)

    groups = [
        each["Properties"]["Environment"]["Variables"]["THING_GROUP"]
        for each in Template.from_stack(server).to_json()["Resources"].values()
        if "THING_GROUP" in each.get("Properties", {}).get("Environment", {}).get("Variables", {})
    ]
    assert groups == ["edgewright-lab-canary"]
    assert ":thinggroup/edgewright-lab-canary" in json.dumps(Template.from_stack(server).to_json())
    (listed,) = Path(tmp_path / "out").rglob("devices/*.json")
    assert json.loads(listed.read_text()) == {"edgewright-lab-edge-server": "canary"}


@pytest.fixture(scope="module")
def twin() -> Template:
    return Template.from_json(template("twin", "EdgeServer"))


def test_instance_is_hardened(twin: Template) -> None:
    twin.has_resource_properties(
        "AWS::EC2::Instance",
        {
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
            "BlockDeviceMappings": [
                {
                    "DeviceName": "/dev/xvda",
                    "Ebs": {"Encrypted": True, "VolumeType": "gp3", "VolumeSize": 20, "DeleteOnTermination": True},
                }
            ],
            "KeyName": Match.absent(),
        },
    )


def test_no_port_is_open_and_there_is_no_nat(twin: Template) -> None:
    twin.has_resource_properties("AWS::EC2::SecurityGroup", {"SecurityGroupIngress": Match.absent()})
    twin.resource_count_is("AWS::EC2::SecurityGroupIngress", 0)
    twin.resource_count_is("AWS::EC2::NatGateway", 0)
    (group,) = resources("twin", "EdgeServer", "AWS::EC2::SecurityGroup")
    assert {rule["FromPort"] for rule in group["Properties"]["SecurityGroupEgress"]} == {443, 8443, 8883}


def test_image_is_the_newest_amazon_linux_of_the_day_on_which_the_server_starts() -> None:
    (launch,) = resources("dev", "EdgeServer", "AWS::EC2::LaunchTemplate")
    (instance,) = resources("dev", "EdgeServer", "AWS::EC2::Instance")

    assert launch["Properties"]["LaunchTemplateData"]["ImageId"] == (
        "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    )
    assert "ImageId" not in instance["Properties"]
    assert instance["Properties"]["LaunchTemplate"]["Version"] == "1"


def test_user_data_tells_the_script_all_that_it_asks_for() -> None:
    (instance,) = resources("dev", "EdgeServer", "AWS::EC2::Instance")
    told = json.dumps(instance["Properties"]["UserData"])

    for line in (
        "export EDGEWRIGHT_REGION='eu-central-1'",
        "export EDGEWRIGHT_STAGE='dev'",
        "export EDGEWRIGHT_THING_NAME='edgewright-dev-edge-server'",
        "export EDGEWRIGHT_JOIN_FUNCTION='edgewright-dev-join'",
        "export EDGEWRIGHT_ROLE_ALIAS='edgewright-dev-token-exchange'",
        "export EDGEWRIGHT_ARTIFACT_BUCKET='edgewright-dev-artifacts-",
        "export EDGEWRIGHT_NUCLEUS_URL='https://d2s8p88vqu9w66.cloudfront.net/releases/greengrass-2.18.3.zip'",
        "export EDGEWRIGHT_PYTHON='3.11'",
        "export EDGEWRIGHT_NUCLEUS_SHA256='538eb3a10dbfcb534865d1da3ede39dcfe3db705bd1938088a07ce3dfd575237'",
    ):
        assert line in told


SERVER: dict[str, Any] = {
    "instance_profile": "profile",
    "instance_type": "t3.small",
    "architecture": "x86_64",
    "volume_gib": 20,
    "image": "2026-11-29",
    "settings": {"THING_NAME": "lab"},
    "script": "main",
    "system": "amazon-linux",
    "name": "lab",
}
#: What is made anew for a new server; CloudFormation neither waits twice on one id nor changes a template's version 1.
RENEWED = {
    "AWS::EC2::Instance",
    "AWS::EC2::LaunchTemplate",
    "AWS::CloudFormation::WaitConditionHandle",
    "AWS::CloudFormation::WaitCondition",
}
REPLACES: dict[str, dict[str, Any]] = {
    "volume": {"volume_gib": 30},
    "image": {"image": "2026-12-24"},
    "network": {"cidr": "10.1.0.0/24"},
    "system": {"system": "ubuntu"},
    "architecture": {"architecture": "aarch64", "instance_type": "t4g.small"},
    "settings": {"settings": {"THING_NAME": "other"}},
    "script": {"script": "other"},
}
KEEPS: dict[str, dict[str, Any]] = {
    "type": {"instance_type": "t3.large"},
    "profile": {"instance_profile": "other"},
    "name": {"name": "other"},
    "cameras": {"cameras": [("10.0.0.9/32", 8080), ("0.0.0.0/0", 443)]},
}


def lab(*, cidr: str = "10.0.0.0/24", cameras: Sequence[tuple[str, int]] = (), **changes: Any) -> dict[str, Any]:
    stack = cdk.Stack(cdk.App(), "Lab", env=cdk.Environment(region="eu-west-1"))
    wanted = {**SERVER, **changes}
    network = EdgeNetwork(
        stack, "Network", name="lab", cidr=cidr, flow_logs=False, system=str(wanted["system"]), cameras=cameras
    )
    EdgeServer(stack, "Server", network=network, patience=cdk.Duration.minutes(15), **wanted)
    made: dict[str, Any] = Template.from_stack(stack).to_json()["Resources"]
    return made


def renewed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Types of what has another id."""
    return {before[each]["Type"] for each in before.keys() - after.keys()}


def properties(made: dict[str, Any]) -> dict[str, Any]:
    (found,) = [each["Properties"] for each in made.values() if each["Type"] == "AWS::EC2::Instance"]
    return dict(found)


@pytest.mark.parametrize("change", REPLACES.values(), ids=list(REPLACES))
def test_a_new_server_is_waited_for(change: dict[str, Any]) -> None:
    assert renewed(lab(), lab(**change)) == RENEWED


@pytest.mark.parametrize("change", KEEPS.values(), ids=list(KEEPS))
def test_a_change_in_place_changes_nothing_that_replaces_the_server(change: dict[str, Any]) -> None:
    before, after = lab(), lab(**change)

    assert renewed(before, after) == set()
    for name in REPLACING:
        assert properties(before).get(name) == properties(after).get(name), f"{name} replaces an instance"


def test_a_camera_is_let_out_to_itself_and_no_port_twice() -> None:
    (group,) = [
        each["Properties"] for each in lab(**KEEPS["cameras"]).values() if each["Type"] == "AWS::EC2::SecurityGroup"
    ]

    ways = [(way["CidrIp"], way["FromPort"]) for way in group["SecurityGroupEgress"]]

    assert ways == [("0.0.0.0/0", 443), ("0.0.0.0/0", 8883), ("0.0.0.0/0", 8443), ("10.0.0.9/32", 8080)]


@pytest.mark.parametrize("stage", ["dev", "prod", "twin"])
def test_a_new_server_is_sent_the_deployment_of_its_ring_anew(stage: str) -> None:
    (server,) = [
        name
        for name, each in template(stage, "EdgeServer")["Resources"].items()
        if each["Type"] == "AWS::EC2::Instance"
    ]
    names = [
        each["Properties"]["DeploymentName"] for each in resources(stage, "Inference", "AWS::GreengrassV2::Deployment")
    ]

    told = [name.partition(" (server ")[2].rstrip(")") for name in names]
    (fingerprint,) = filter(None, told)
    assert fingerprint in server


def test_flow_logs_follow_the_stage() -> None:
    assert not resources("twin", "EdgeServer", "AWS::EC2::FlowLog")
    (log,) = resources("prod", "EdgeServer", "AWS::EC2::FlowLog")
    assert log["Properties"]["TrafficType"] == "ALL"


def test_instance_waits_for_its_way_out(twin: Template) -> None:
    twin.has_resource(
        "AWS::EC2::Instance",
        {
            "DependsOn": Match.array_with(
                [Match.string_like_regexp("DefaultRoute"), Match.string_like_regexp("RouteTableAssociation")]
            )
        },
    )


def test_the_server_that_may_join_is_the_one_that_is_made(twin: Template) -> None:
    made = twin.to_json()["Resources"]
    (server,) = [name for name, each in made.items() if each["Type"] == "AWS::EC2::Instance"]
    (function,) = [
        name for name, each in made.items() if each.get("Properties", {}).get("FunctionName") == "edgewright-twin-join"
    ]
    (joined,) = [each for each in made.values() if each["Type"] == "Custom::ServerJoin"]

    environment = made[function]["Properties"]["Environment"]["Variables"]
    assert environment["THING_NAME"] == joined["Properties"]["ThingName"] == "edgewright-twin-edge-server"
    assert environment["FINGERPRINT"] == joined["Properties"]["Fingerprint"]
    assert environment["FINGERPRINT"] in server
    assert function in made[server]["DependsOn"]
    # Whatever fails after it would leave the server from before without a certificate.
    later = {name for name, each in made.items() if each is not joined and "JoinJoined" in json.dumps(each)}
    waits = {each["Type"] for name, each in made.items() if name in joined["DependsOn"]}
    assert not later
    assert {"AWS::CloudFormation::WaitCondition", "AWS::EC2::Instance", "AWS::EC2::SecurityGroup"} <= waits

"""Rules, alarms, dashboard and notifications: what they act on, with which rights."""

import json
import re
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Template

from config.loader import load_stage, read_context
from config.operations import HEARTBEAT_S, Observability
from config.places import MODELS
from edge_constructs.fleet_rules import DRIFT, FAILED, LATENCY, model_metric
from edge_constructs.observability import PATTERN_ROOM, DeploymentNotice, patterns
from edge_constructs.synth import new_app
from edge_inference.settings import ServiceSettings
from stacks.observability_stack import ObservabilityStack
from stacks.stage_stack import StorageStack
from tests.synthesis import resources, template

STAGES = ("dev", "prod", "twin")


def rules(stage: str = "twin") -> dict[str, dict[str, Any]]:
    found = resources(stage, "Observability", "AWS::IoT::TopicRule")
    return {each["Properties"]["RuleName"]: each["Properties"]["TopicRulePayload"] for each in found}


def alarms(stage: str = "twin") -> dict[str, dict[str, Any]]:
    found = resources(stage, "Observability", "AWS::CloudWatch::Alarm")
    return {each["Properties"]["AlarmName"]: each["Properties"] for each in found}


def statements_of(rule: str) -> list[dict[str, Any]]:
    content = template("twin", "Observability")["Resources"]
    (role,) = {json.dumps(spec["RoleArn"]) for action in rules()[rule]["Actions"] for spec in action.values()}
    name = json.loads(role)["Fn::GetAtt"][0]
    return list(content[name]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"])


def allowed(rule: str) -> set[str]:
    return {action for statement in statements_of(rule) for action in statement["Action"]}


LOGGING = {"logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"}


@pytest.mark.parametrize(
    ("rule", "actions"),
    [
        ("Results", {"s3:PutObject", "kms:GenerateDataKey", "cloudwatch:PutMetricData"}),
        ("Confidence", {"cloudwatch:PutMetricData"}),
        ("ObjectConfidence", {"cloudwatch:PutMetricData"}),
        ("Drift", {"cloudwatch:PutMetricData"}),
        ("Errors", {"cloudwatch:PutMetricData"}),
        ("Heartbeat", {"cloudwatch:PutMetricData"}),
        ("ImageClassificationFiles", {"s3:PutObject", "kms:GenerateDataKey"}),
    ],
)
def test_each_rule_has_a_role_with_exactly_what_its_actions_need(rule: str, actions: set[str]) -> None:
    assert allowed(f"edgewright_twin_{rule}") == actions | LOGGING


def test_rules_write_below_results_into_two_log_groups_and_into_their_namespaces_only() -> None:
    told = [statement for rule in rules() for statement in statements_of(rule)]

    text = json.dumps([each["Resource"] for each in told if "s3:PutObject" in each["Action"]])
    assert text.count("/results/*") == 2
    groups = json.dumps([each["Resource"] for each in told if "logs:PutLogEvents" in each["Action"]])
    assert groups.count("log-group:/edgewright/twin/errors:*") == 1
    assert groups.count("log-group:/edgewright/twin/rule-failures:*") == len(rules())
    namespaces = {
        each["Condition"]["StringEquals"]["cloudwatch:namespace"]
        for each in told
        if "cloudwatch:PutMetricData" in each["Action"]
    }
    assert namespaces == {"Edgewright/twin", "Edgewright/twin/devices"}


def test_a_role_can_be_assumed_for_its_own_rule_only() -> None:
    content = template("twin", "Observability")["Resources"]
    roles = [each["Properties"] for each in content.values() if each["Type"] == "AWS::IAM::Role"]
    sources = [
        json.dumps(role["AssumeRolePolicyDocument"]["Statement"][0]["Condition"]["ArnLike"]["aws:SourceArn"])
        for role in roles
    ]

    assert len(roles) == len(rules())
    for rule in rules():
        assert sum(f":rule/{rule}" in source for source in sources) == 1


def test_what_a_rule_cannot_do_goes_to_the_log_of_failures() -> None:
    content = template("twin", "Observability")["Resources"]
    for payload in rules().values():
        group = payload["ErrorAction"]["CloudwatchLogs"]["LogGroupName"]["Ref"]
        assert content[group]["Properties"]["LogGroupName"] == "/edgewright/twin/rule-failures"


def test_an_object_is_found_by_model_day_and_device() -> None:
    (key,) = [action["S3"]["Key"] for action in rules()["edgewright_twin_Results"]["Actions"] if "S3" in action]

    assert key == ("results/model=${topic(3)}/day=${parse_time('yyyy-MM-dd', timestamp())}/${clientid()}/${id}.json")


@pytest.mark.parametrize("stage", STAGES)
def test_every_alarm_tells_the_topic_when_it_goes_off_and_when_it_ends(stage: str) -> None:
    (topic,) = [
        name
        for name, each in template(stage, "Observability")["Resources"].items()
        if each["Type"] == "AWS::SNS::Topic"
    ]
    for name, alarm in alarms(stage).items():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": topic}], name
        assert alarm["AlarmDescription"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_model_has_its_alarms_and_the_fleet_its_own(stage: str) -> None:
    wanted = {f"edgewright-{stage}-{kind}" for kind in ("heartbeat", "rule-failures")}
    for model in load_stage(stage).models:
        wanted |= {f"edgewright-{stage}-{model.folder}-{kind}" for kind in ("error-rate", "latency")}
        if (MODELS / model.folder / "reference.json").is_file():
            wanted.add(f"edgewright-{stage}-{model.folder}-drift")
        # The committed image classifier has random weights: nothing is probable.
        elif model.folder != "image-classification":
            wanted.add(f"edgewright-{stage}-{model.folder}-confidence")

    assert set(alarms(stage)) == wanted


def test_alarms_look_at_metrics_that_rules_put() -> None:
    put = {
        action["CloudwatchMetric"]["MetricName"].replace("${topic(3)}", "digits").replace("${drift.model}", "digits")
        for rule in rules().values()
        for action in rule["Actions"]
        if "CloudwatchMetric" in action
    }
    looked_at = {
        alarm["MetricName"] for name, alarm in alarms().items() if not re.search("-iris-|-image|-detector-", name)
    }

    assert looked_at - put == {"RuleFailures"}
    assert {model_metric("digits", name) for name in (FAILED, LATENCY, DRIFT)} <= looked_at
    (counted,) = resources("twin", "Observability", "AWS::Logs::MetricFilter")
    assert counted["Properties"]["MetricTransformations"][0]["MetricName"] == "RuleFailures"


def test_silence_is_an_alarm() -> None:
    alarm = alarms()["edgewright-twin-heartbeat"]

    assert (alarm["TreatMissingData"], alarm["Statistic"], alarm["Threshold"]) == ("breaching", "Sum", 2.5)
    others = {each["TreatMissingData"] for name, each in alarms().items() if not name.endswith("-heartbeat")}
    assert others == {"notBreaching"}


def test_the_topic_is_encrypted_and_takes_messages_from_this_stage_over_tls() -> None:
    (topic,) = resources("dev", "Observability", "AWS::SNS::Topic")
    (policy,) = resources("dev", "Observability", "AWS::SNS::TopicPolicy")
    (key,) = resources("dev", "Observability", "AWS::KMS::Key")

    assert "Fn::GetAtt" in topic["Properties"]["KmsMasterKeyId"]
    alarm, event, deny = policy["Properties"]["PolicyDocument"]["Statement"]
    assert ":alarm:edgewright-dev-*" in json.dumps(alarm["Condition"])
    assert ":rule/edgewright-dev-deployment-failed" in json.dumps(event["Condition"])
    assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    alarm, event = [each for each in key["Properties"]["KeyPolicy"]["Statement"] if "Service" in each["Principal"]]
    assert [each["Principal"]["Service"] for each in (alarm, event)] == [
        "cloudwatch.amazonaws.com",
        "events.amazonaws.com",
    ]
    assert alarm["Action"] == event["Action"] == ["kms:Decrypt", "kms:GenerateDataKey*"]
    assert alarm["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
    ((context, topics),) = event["Condition"]["StringLike"].items()
    assert context == "kms:EncryptionContext:aws:sns:topicArn"
    assert topics["Fn::Join"][1][-2:] == [{"Ref": "AWS::StackName"}, "-*"]


def test_failed_and_rejected_deployments_of_this_stages_devices_are_told() -> None:
    (rule,) = resources("prod", "Observability", "AWS::Events::Rule")
    pattern = rule["Properties"]["EventPattern"]

    assert pattern["detail"] == {"coreDeviceExecutionStatus": ["FAILED", "REJECTED"]}
    (prefix,) = pattern["resources"]
    assert prefix["prefix"]["Fn::Join"][1][-1].endswith(":coreDevices:edgewright-prod-")


def test_no_text_of_an_event_is_put_into_the_message_as_it_stands() -> None:
    (rule,) = resources("prod", "Observability", "AWS::Events::Rule")
    (target,) = rule["Properties"]["Targets"]

    assert '"<' not in target["InputTransformer"]["InputTemplate"]


def test_a_device_with_another_name_is_named_in_the_pattern() -> None:
    stack = cdk.Stack(cdk.App(), "Notices")
    names = {"name": "n", "topic_arn": "arn:aws:sns:us-east-1:000000000000:t", "prefix": "edgewright-lab"}
    one = DeploymentNotice(stack, "One", **names, devices=["edgewright-lab-1", "press"])

    pattern = stack.resolve(one.resource.event_pattern)
    assert len(pattern["resources"]) == 2
    assert "coreDevices:press" in json.dumps(pattern["resources"][1])


@pytest.mark.parametrize(
    "devices",
    [
        [f"press-{number}" for number in range(5000)],
        [f"{place}-{'x' * 100}-{number}" for place in ("hall", "yard") for number in range(20)],
        [f"{first}{second}" for first in "abcdefghijklmnopqrstuvwxyz" for second in "0123456789"],
    ],
)
def test_many_devices_of_any_name_fit_into_a_pattern_that_has_them_all(devices: list[str]) -> None:
    found = [each["prefix"].rsplit(":", 1)[1] for each in patterns(devices)]

    assert all(any(device.startswith(start) for start in found) for device in devices)
    assert sum(len(start) + 95 for start in found) <= PATTERN_ROOM


def test_devices_of_a_file_are_told_of_and_waited_for(tmp_path: Path) -> None:
    (tmp_path / "devices.csv").write_text("device\npress-1\npress-2\n")
    (tmp_path / "lab.toml").write_text(
        'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n[fleet]\nfile = "devices.csv"\ndevices = ["drill"]\n'
    )
    app = new_app(read_context(), outdir=tmp_path / "out")
    stage = load_stage("lab", tmp_path)
    stack = ObservabilityStack(app, "Lab", stage=stage, storage=StorageStack(app, "Storage", stage=stage))

    found = Template.from_stack(stack).to_json()["Resources"].values()
    (rule,) = [each["Properties"] for each in found if each["Type"] == "AWS::Events::Rule"]
    told = json.dumps(rule["EventPattern"])
    assert [name for name in ("drill", "press-1", "press-2") if f"coreDevices:{name}" not in told] == []
    thresholds = {each["Properties"].get("Threshold") for each in found if each["Type"] == "AWS::CloudWatch::Alarm"}
    assert stage.observability.least_heartbeats(4) in thresholds


def test_dev_waits_for_its_edge_server_alone() -> None:
    (alarm,) = [
        each["Properties"]
        for each in resources("dev", "Observability", "AWS::CloudWatch::Alarm")
        if each["Properties"]["AlarmName"] == "edgewright-dev-heartbeat"
    ]

    assert alarm["Threshold"] == 2.5


@pytest.mark.parametrize("stage", STAGES)
def test_the_dashboard_shows_everything_and_does_not_grow_with_the_fleet(stage: str) -> None:
    (dashboard,) = resources(stage, "Observability", "AWS::CloudWatch::Dashboard")
    body = dashboard["Properties"]["DashboardBody"]
    text = "".join(part if isinstance(part, str) else json.dumps(part) for part in body["Fn::Join"][1])
    titles = [
        "Inferences a second",
        "Latency of digits, ms",
        "Errors",
        "Error rate",
        "Confidence",
        "Drift: index of inputs",
        "Heartbeats of each device",
        "Deployments: devices",
        "Cost: rules and messages",
        "Cost: storage and logs",
    ]

    for title in titles:
        assert f'"title": "{title}' in text, title
    for percentile in ("p50", "p95", "p99"):
        assert f'"stat": "{percentile}"' in text
    assert "line-1" not in text


def test_the_expected_heartbeats_are_those_that_devices_send() -> None:
    assert ServiceSettings().heartbeat_s == HEARTBEAT_S


@pytest.mark.parametrize(
    ("settings", "registered", "least"),
    [
        ({}, 1, 2.5),
        ({}, 3, 12.5),
        ({"silent_devices": 2}, 3, 7.5),
        ({"silent_devices": 5}, 3, 1.0),
        ({"expected_devices": 100, "period_s": 600}, 3, 995.0),
    ],
)
def test_a_silent_device_leaves_fewer_heartbeats_than_the_threshold(
    settings: dict[str, Any], registered: int, least: float
) -> None:
    observability = Observability(**settings)

    assert observability.least_heartbeats(registered) == least
    beats = observability.period_s / HEARTBEAT_S
    devices = observability.expected_devices or registered
    assert least < devices * beats or devices <= observability.silent_devices
    assert (devices - observability.silent_devices) * beats < least


def test_a_models_own_threshold_wins_over_the_stages() -> None:
    settings = Observability.model_validate(
        {"thresholds": {"error_rate": 0.2}, "models": {"digits": {"latency_p95_ms": 20}}}
    )

    digits, iris = settings.of_model("digits"), settings.of_model("iris")

    assert (digits.error_rate, digits.latency_p95_ms, digits.minimum_confidence) == (0.2, 20, 0.5)
    assert (iris.error_rate, iris.latency_p95_ms) == (0.2, 500)

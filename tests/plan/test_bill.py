"""The monthly estimate: every line from the templates and the dated table."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.plan.sample_assembly import PlannedFleet, larger_server_without_log, two_more_targets
from tools.bill import PRICES, bill_of, difference, main, read_prices
from tools.cloud_assembly import read_assembly


def test_a_bill_names_the_server_and_every_device(tmp_path: Path) -> None:
    bill = bill_of(read_assembly(PlannedFleet(tmp_path / "app").write()))

    items = {each.name: each for each in bill.items}
    assert items["EC2 t3.small"].usd == pytest.approx(0.0208 * 730)
    assert items["EC2 disk"].usd == pytest.approx(20 * 0.08)
    assert items["Greengrass devices"].usd == pytest.approx(120 * 0.16)
    assert bill.total == pytest.approx(sum(each.usd for each in bill.items))


def test_detailed_monitoring_is_paid_for(tmp_path: Path) -> None:
    fleet = PlannedFleet(tmp_path / "app")
    (server,) = [each for each in fleet.resources.values() if each["Type"] == "AWS::EC2::Instance"]
    server["Properties"]["Monitoring"] = True

    items = {each.name: each.usd for each in bill_of(read_assembly(fleet.write())).items}

    assert items["EC2 detailed monitoring"] == pytest.approx(7 * 0.30)


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({"BlockDeviceMappings": [{"Ebs": {"VolumeSize": {"Ref": "Size"}}}]}, "VolumeSize: must be a number"),
        ({"BlockDeviceMappings": {"Fn::If": ["Large", [], []]}}, "BlockDeviceMappings: must be a list of objects"),
        ({"NetworkInterfaces": {"Fn::If": ["Public", [], []]}}, "NetworkInterfaces: must be a list of objects"),
    ],
)
def test_a_size_that_only_a_deploy_knows_is_named(
    properties: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = PlannedFleet(tmp_path / "app")
    fleet.properties("Server").update(properties)

    assert main([str(fleet.write())]) == 1
    assert f"/Server.{told} in the template, got " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "properties", "told"),
    [
        ("AWS::Logs::MetricFilter", {"MetricTransformations": {"Ref": "Metrics"}}, "MetricTransformations"),
        ("AWS::Logs::MetricFilter", {"MetricTransformations": ["metric"]}, "MetricTransformations"),
        ("AWS::IoT::TopicRule", {"TopicRulePayload": {"Actions": {"Ref": "To"}}}, "TopicRulePayload.Actions"),
    ],
)
def test_a_list_that_only_a_deploy_knows_is_named(
    kind: str, properties: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = PlannedFleet(tmp_path / "app")
    fleet.resources["Open"] = {"Type": kind, "Properties": properties}

    assert main([str(fleet.write())]) == 1
    assert f"/Open.{told}: must be a list of objects in the template, got " in capsys.readouterr().err


def test_a_larger_server_shows_in_the_difference(tmp_path: Path) -> None:
    before, after = PlannedFleet(tmp_path / "before"), PlannedFleet(tmp_path / "after")
    larger_server_without_log(after)

    bill = difference(read_assembly(before.write()), read_assembly(after.write()))

    assert [name for name, _, _ in bill.changed()] == ["EC2 t3.small", "CloudWatch logs", "EC2 t3.medium"]
    assert "(+14.93)" in bill.markdown()


def test_what_rules_do_with_messages_is_paid_for(tmp_path: Path) -> None:
    fleet = PlannedFleet(tmp_path / "app")
    metric = {"CloudwatchMetric": {"MetricName": "${clientid()}"}}
    for name, sql, actions in (
        ("Heartbeat", "SELECT * FROM 'plant/heartbeat'", [metric]),
        ("Results", "SELECT * FROM 'plant/+/response'", [{"S3": {}}, {"CloudwatchMetric": {"MetricName": "Failed"}}]),
    ):
        payload = {"Sql": sql, "Actions": actions}
        fleet.resources[name] = {"Type": "AWS::IoT::TopicRule", "Properties": {"TopicRulePayload": payload}}

    items = {each.name: each.usd for each in bill_of(read_assembly(fleet.write())).items}

    heartbeats, answers = (120 * a_day * 365 / 12 for a_day in (1440, 560))
    assert items["IoT rules"] == pytest.approx((2 * heartbeats + 3 * answers) * 0.15 / 1e6)
    assert items["S3 objects"] == pytest.approx(answers * 0.005 / 1e3)
    assert items["CloudWatch metric calls"] == pytest.approx((heartbeats + answers) * 0.01 / 1e3)
    assert items["CloudWatch metrics of devices"] == pytest.approx(120 * 0.30)


def test_metrics_that_alarms_and_filters_make_are_counted_once_and_those_of_aws_are_free(tmp_path: Path) -> None:
    fleet = PlannedFleet(tmp_path / "app")
    for name, namespace, metric in (
        ("Silent", "Plant", "Heartbeats"),
        ("Quiet", "Plant", "Heartbeats"),
        ("Broken", "Plant", "Failures"),
        ("Full", "AWS/SQS", "Messages"),
    ):
        properties = {"Namespace": namespace, "MetricName": metric}
        fleet.resources[name] = {"Type": "AWS::CloudWatch::Alarm", "Properties": properties}
    made = [{"MetricNamespace": "Plant", "MetricName": "Failures"}, {"MetricNamespace": "Plant", "MetricName": "Lines"}]
    fleet.resources["Filter"] = {"Type": "AWS::Logs::MetricFilter", "Properties": {"MetricTransformations": made}}

    items = {each.name: each for each in bill_of(read_assembly(fleet.write())).items}

    assert items["CloudWatch metrics"].basis == "3 of the stage's own"
    assert items["CloudWatch metrics"].usd == pytest.approx(3 * 0.30)


def test_a_number_of_devices_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = PlannedFleet(tmp_path / "app").write()

    assert main([str(folder), "--devices", "plant=10000"]) == 0
    assert "1600.00 USD  Greengrass devices           10000 registered\n" in capsys.readouterr().out


def test_targets_without_a_number_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = PlannedFleet(tmp_path / "app")
    two_more_targets(fleet)

    assert main([str(fleet.write())]) == 0
    assert "120 registered, not counted: those of plant-mill, plant-press\n" in capsys.readouterr().out


def test_a_region_that_nothing_names_is_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = PlannedFleet(tmp_path / "app")
    fleet.region = "unknown-region"

    assert main([str(fleet.write())]) == 0
    assert capsys.readouterr().out.startswith("a month in us-east-1 (the assembly names no region), list prices")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cdk.out", "--stage", "dev"], "give an assembly or --stage, not both, got cdk.out and dev"),
        (["--stage", "prdo"], "stage must be one of dev, prod, twin, got 'prdo'"),
        (["/nonexistent"], "/nonexistent: must be a cloud assembly, got no folder"),
    ],
)
def test_a_bill_that_cannot_be_made_says_why(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith(f"bill: {says}")


def test_an_assumption_that_the_table_lacks_is_named(tmp_path: Path) -> None:
    table = tmp_path / "prices.toml"
    table.write_text(PRICES.read_text(encoding="utf-8").replace("answers_a_device_day", "answers_a_day"))

    with pytest.raises(ValueError, match=r"prices\.toml: \[assumptions\] must say answers_a_device_day: add it"):
        bill_of(read_assembly(PlannedFleet(tmp_path / "app").write()), prices=read_prices(table))


def test_an_endpoint_is_paid_by_the_hour(tmp_path: Path) -> None:
    fleet = PlannedFleet(tmp_path / "app")
    variants = [{"InstanceType": "ml.m5.large", "InitialInstanceCount": 2}]
    fleet.resources["Endpoint"] = {
        "Type": "AWS::SageMaker::EndpointConfig",
        "Properties": {"ProductionVariants": variants},
    }

    items = {each.name: each.usd for each in bill_of(read_assembly(fleet.write())).items}

    assert items["SageMaker endpoint ml.m5.large"] == pytest.approx(2 * 730 * 0.115)


def test_a_type_without_a_price_is_an_error_that_says_what_to_add(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = PlannedFleet(tmp_path / "app")
    fleet.properties("Server")["InstanceType"] = "x9.huge"

    assert main([str(fleet.write())]) == 1
    assert (
        "bill: config/tables/prices.toml: [ec2_hour] must have a price for x9.huge: add it" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("compared", "says"),
    [("false", "prices of 2026-11-01, not compared with AWS's price pages"), ("true", "prices of 2026-11-01")],
)
def test_every_sum_says_how_far_its_prices_may_be_trusted(compared: str, says: str, tmp_path: Path) -> None:
    table = tmp_path / "prices.toml"
    table.write_text(PRICES.read_text(encoding="utf-8").replace("compared = false", f"compared = {compared}"))

    bill = replace(bill_of(read_assembly(PlannedFleet(tmp_path / "app").write())), prices=read_prices(table))

    assert bill.text().startswith(f"a month in us-east-1, list {says}, without free tiers:")


def test_the_table_is_dated_and_complete() -> None:
    prices = read_prices(PRICES)

    assert prices.date <= date(2100, 1, 1)
    assert {"ec2", "kms", "s3", "iot", "greengrass", "cloudwatch", "lambda", "sagemaker"} <= set(prices.tables)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('date = "2026-11-01"', 'date = "soon"'), "date: must be a day as 2026-11-01, got 'soon'"),
        (("key_month = 1.0", "key_month = -1"), "kms.key_month: must be a number of at least 0, got -1"),
        (("[factors]", "[factor]"), "must have a table [factors]"),
        (("[kms]", "[kms"), "must be TOML"),
        (("compared = false", 'compared = "no"'), "compared: must be true or false, got 'no'"),
    ],
)
def test_a_broken_table_is_refused(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(PRICES.read_text(encoding="utf-8").replace(*change), encoding="utf-8")

    with pytest.raises(ValueError, match=r"prices\.toml") as failure:
        read_prices(path)
    assert says in str(failure.value)

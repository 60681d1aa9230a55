"""What of a stage costs how much."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_rules.fleet_view import FleetView
from tools.bill_prices import Prices
from tools.plan_assembly import Assembly

DAYS_A_MONTH = 365 / 12


@dataclass(frozen=True)
class Item:
    """One line of a bill.

    Attributes:
        name: What is paid for.
        usd: US dollars a month.
        basis: How it is reckoned.
    """

    name: str
    usd: float
    basis: str


def region_of(folder: Path, prices: Prices) -> str:
    """Read the region that the stacks of an assembly are for; without one, the first of the price table."""
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    for artifact in content.get("artifacts", {}).values():
        region = str(artifact.get("environment", "")).rsplit("/", 1)[-1]
        if region and region != "unknown-region":
            return region
    return next(iter(prices.tables["factors"]))


def items(assembly: Assembly, prices: Prices, region: str) -> Iterator[Item]:
    """Reckon every line of a stage's bill."""
    view = assembly.view
    devices = sum(target.devices or 0 for target in assembly.targets.values())
    yield from _servers(view, prices, region)
    yield from _endpoints(view, prices, region)
    yield from _storage(view, prices, region)
    yield from _devices(devices, prices, region)
    yield from _rules(view, devices, prices, region)
    yield from _watching(view, prices, region)
    yield from _deploys(view, prices, region)


def _servers(view: FleetView, prices: Prices, region: str) -> Iterator[Item]:
    for server in view.of_type("AWS::EC2::Instance"):
        kind = server.text(server.properties.get("InstanceType", "t3.small"))
        hourly = prices.price("ec2_hour", kind, region)
        yield Item(f"EC2 {kind}", hourly * prices.hours, f"{prices.hours:g} h of {hourly:.4f}")
        gib = sum(
            int((disk.get("Ebs") or {}).get("VolumeSize", 8))
            for disk in server.properties.get("BlockDeviceMappings") or [{}]
        )
        yield Item("EC2 disk", gib * prices.price("ec2", "gp3_gib_month", region), f"{gib} GiB gp3")
        interfaces = server.properties.get("NetworkInterfaces") or []
        if any(str(each.get("AssociatePublicIpAddress")).lower() == "true" for each in interfaces):
            yield Item("EC2 public address", prices.hours * prices.price("ec2", "public_ipv4_hour", region), "one IPv4")


def _endpoints(view: FleetView, prices: Prices, region: str) -> Iterator[Item]:
    for endpoint in view.of_type("AWS::SageMaker::EndpointConfig"):
        for variant in endpoint.properties.get("ProductionVariants") or []:
            kind, count = str(variant.get("InstanceType")), int(variant.get("InitialInstanceCount", 1))
            usd = count * prices.hours * prices.price("sagemaker", kind, region)
            yield Item(f"SageMaker endpoint {kind}", usd, f"{count} x {prices.hours:g} h")


def _storage(view: FleetView, prices: Prices, region: str) -> Iterator[Item]:
    if keys := len(list(view.of_type("AWS::KMS::Key"))):
        yield Item("KMS keys", keys * prices.price("kms", "key_month", region), f"{keys}")
    if list(view.of_type("AWS::S3::Bucket")):
        gib = prices.assumed("artifact_gib_a_deploy") * prices.assumed("artifact_deploys_kept")
        yield Item("S3 storage", gib * prices.price("s3", "gib_month", region), f"{gib:g} GiB of artifacts")


def _devices(devices: int, prices: Prices, region: str) -> Iterator[Item]:
    if not devices:
        return
    messages = devices * prices.assumed("messages_a_device_day") * DAYS_A_MONTH / 1e6
    minutes = devices * prices.hours * 60 / 1e6
    requests = devices * prices.assumed("kms_requests_a_device_month") / 1e4
    yield Item("Greengrass devices", devices * prices.price("greengrass", "device_month", region), f"{devices} active")
    yield Item("IoT messages", messages * prices.price("iot", "messages_million", region), f"{messages:.3f} M")
    usd = minutes * prices.price("iot", "connection_minutes_million", region)
    yield Item("IoT connections", usd, f"{devices} devices all month")
    yield Item("KMS requests", requests * prices.price("kms", "requests_10k", region), f"{requests * 1e4:.0f}")


def _rules(view: FleetView, devices: int, prices: Prices, region: str) -> Iterator[Item]:
    for rule in view.of_type("AWS::IoT::TopicRule"):
        actions = len((rule.properties.get("TopicRulePayload") or {}).get("Actions") or [])
        # Every message may trigger every rule: the upper end.
        millions = devices * prices.assumed("messages_a_device_day") * DAYS_A_MONTH / 1e6
        usd = millions * (
            prices.price("iot", "rules_triggered_million", region)
            + actions * prices.price("iot", "rule_actions_million", region)
        )
        yield Item(f"IoT rule {rule.logical_id}", usd, f"at most {millions:.3f} M x {actions} actions")


def _watching(view: FleetView, prices: Prices, region: str) -> Iterator[Item]:
    for kind, name, price in (
        ("AWS::CloudWatch::Alarm", "CloudWatch alarms", "alarm_month"),
        ("AWS::CloudWatch::CompositeAlarm", "CloudWatch composite alarms", "alarm_month"),
        ("AWS::CloudWatch::Dashboard", "CloudWatch dashboards", "dashboard_month"),
        ("AWS::Logs::MetricFilter", "CloudWatch metrics", "metric_month"),
    ):
        if count := len(list(view.of_type(kind))):
            yield Item(name, count * prices.price("cloudwatch", price, region), f"{count}")
    if list(view.of_type("AWS::Logs::LogGroup")):
        gib = prices.assumed("log_gib_a_server_month")
        yield Item("CloudWatch logs", gib * prices.price("cloudwatch", "logs_gib", region), f"{gib:g} GiB")


def _deploys(view: FleetView, prices: Prices, region: str) -> Iterator[Item]:
    if list(view.of_type("AWS::Lambda::Function")):
        deploys = prices.assumed("deploys_a_month")
        seconds = deploys * prices.assumed("lambda_seconds_a_deploy") * prices.assumed("lambda_gib")
        usd = seconds * prices.price("lambda", "gib_second", region)
        yield Item("Lambda", usd, f"{deploys:g} deploys, {seconds:g} GiB s")

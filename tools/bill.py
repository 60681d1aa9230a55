"""What a stage costs in a month, from its templates and the price table `config/tables/prices.toml`.

python -m tools.bill --stage prod   synthesises the stage first
python -m tools.bill cdk.out        one cloud assembly
"""

import argparse
import json
import sys
import tempfile
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from config.loader import ConfigurationError, load_stage
from config.places import PACKAGE
from edge_rules.fleet_view import FleetView, Resource
from tools.cloud_assembly import ROOT, Assembly, AssemblyError, given_devices, read_assembly, read_named, synth

PRICES = PACKAGE / "config" / "tables" / "prices.toml"
DAYS_A_MONTH = 365 / 12
#: The job's notifications, updates and their answers, and the device's fleet status.
MESSAGES_A_DEPLOYMENT = 12


@dataclass(frozen=True)
class Prices:
    """Prices in US dollars with the day they stand for.

    Attributes:
        date: That day.
        compared: Whether somebody compared them with AWS's price pages on that day.
        tables: Service to its prices; `factors` and `assumptions` are tables of their own.
        hours: Hours a month.
    """

    date: date
    compared: bool
    tables: Mapping[str, Mapping[str, float]]
    hours: float

    @property
    def standing(self) -> str:
        """How far the prices may be trusted, for whoever reads a sum."""
        return f"prices of {self.date}" + ("" if self.compared else ", not compared with AWS's price pages")

    def price(self, table: str, name: str, region: str) -> float:
        """Give a price.

        Raises:
            ValueError: The table does not have it, or knows no factor for the region.
        """
        if region not in self.tables["factors"]:
            known = ", ".join(self.tables["factors"])
            raise ValueError(
                f"config/tables/prices.toml: factors must name the region {region}, it has {known}: add it"
            )
        if name not in self.tables.get(table, {}):
            raise ValueError(f"config/tables/prices.toml: [{table}] must have a price for {name}: add it")
        return self.tables[table][name] * self.tables["factors"][region]

    def assumed(self, name: str) -> float:
        """Give an assumption about use.

        Raises:
            ValueError: The table does not have it.
        """
        if name not in self.tables["assumptions"]:
            raise ValueError(f"config/tables/prices.toml: [assumptions] must say {name}: add it")
        return self.tables["assumptions"][name]


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


@dataclass(frozen=True)
class Bill:
    """A month of one stage.

    Attributes:
        region: Where it runs.
        prices: The price table.
        items: What it consists of.
        region_named: Whether the assembly names the region; else it is the price table's first.
    """

    region: str
    prices: Prices
    items: tuple[Item, ...]
    region_named: bool = True

    @property
    def total(self) -> float:
        """Sum, US dollars."""
        return sum(each.usd for each in self.items)

    def as_dict(self) -> dict[str, Any]:
        """The bill for a program."""
        items = [{"item": each.name, "usd": round(each.usd, 4), "basis": each.basis} for each in self.items]
        return {"region": self.region, "total": round(self.total, 2), "items": items}

    def text(self) -> str:
        """Write the bill for a terminal, with what it assumes."""
        region = self.region if self.region_named else f"{self.region} (the assembly names no region)"
        lines = [f"a month in {region}, list {self.prices.standing}, without free tiers:"]
        lines += [f"  {each.usd:9.2f} USD  {each.name:28} {each.basis}" for each in self.items]
        lines += [f"  {self.total:9.2f} USD  in all, with", f"                 {_assumed(self.prices)}"]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class BillDifference:
    """The bills before and after a change.

    Attributes:
        before: What is deployed.
        after: What would be.
        staying: What the deploy leaves in the account, to be paid for until it is destroyed; part of neither.
    """

    before: Bill
    after: Bill
    staying: Bill | None = None

    def changed(self) -> list[tuple[str, float, float]]:
        """Name, US dollars before and after, of every item that differs by a cent or more."""
        old, new = ({each.name: each.usd for each in bill.items} for bill in (self.before, self.after))
        rows = [(name, old.get(name, 0.0), new.get(name, 0.0)) for name in dict.fromkeys([*old, *new])]
        return [row for row in rows if abs(row[1] - row[2]) >= 0.01]

    def text(self) -> str:
        """One line a change, for a terminal."""
        head = f"bill: {self.before.total:.2f} → {self.after.total:.2f} USD a month ({self.after.prices.standing})"
        lines = [head, *(f"  {name}: {old:.2f} → {new:.2f}" for name, old, new in self.changed())]
        return "\n".join([*lines, *(f"  {line}" for line in self._staying())]) + "\n"

    def markdown(self) -> str:
        """A section of a pull request's comment."""
        change = self.after.total - self.before.total
        lines = [f"**Bill**: {self.after.total:.2f} USD a month in {self.after.region} ({change:+.2f})"]
        if rows := self.changed():
            lines += ["", "| item | before | after |", "|---|--:|--:|"]
            lines += [f"| {name} | {old:.2f} | {new:.2f} |" for name, old, new in rows]
        lines += ["", *(f"A{line[1:]}." for line in self._staying())] if self._staying() else []
        lines += ["", f"<sub>List {self.after.prices.standing}; {_assumed(self.after.prices)}.</sub>"]
        return "\n".join(lines) + "\n"

    def _staying(self) -> list[str]:
        if self.staying is None or self.staying.total < 0.01:
            return []
        where = f"in {self.staying.region}"
        return [f"and {self.staying.total:.2f} USD a month for what stays {where}, until it is destroyed"]

    def as_dict(self) -> dict[str, Any]:
        """The difference for a program."""
        return {
            "currency": "USD",
            "prices_of": self.after.prices.date.isoformat(),
            "prices_compared": self.after.prices.compared,
            "before": round(self.before.total, 2),
            "after": round(self.after.total, 2),
            "staying": round(self.staying.total, 2) if self.staying else 0.0,
            "changed": [{"item": name, "before": old, "after": new} for name, old, new in self.changed()],
        }


def read_prices(path: Path = PRICES) -> Prices:
    """Read a price table.

    Raises:
        ValueError: It is no TOML, lacks the date or whether it was compared, or a figure is missing or negative.
    """
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as exc:
        raise ValueError(f"{path.name}: must be TOML: {exc}") from exc
    tables = {name: table for name, table in content.items() if isinstance(table, dict)}
    for name in ("factors", "assumptions"):
        if name not in tables:
            raise ValueError(f"{path.name}: must have a table [{name}]")
    for name, table in tables.items():
        for key, value in table.items():
            if not isinstance(value, (int, float)) or value < 0:
                raise ValueError(f"{path.name}: {name}.{key}: must be a number of at least 0, got {value!r}")
    try:
        day = date.fromisoformat(content.get("date", ""))
    except (TypeError, ValueError) as exc:
        raise ValueError(f"{path.name}: date: must be a day as 2026-11-01, got {content.get('date')!r}") from exc
    compared = content.get("compared")
    if not isinstance(compared, bool):
        raise ValueError(f"{path.name}: compared: must be true or false, got {compared!r}")
    return Prices(day, compared, tables, float(content.get("hours_a_month", 730)))


def bill_of(assembly: Assembly, devices: Mapping[str, int] | None = None, prices: Prices | None = None) -> Bill:
    """Estimate the bill of a cloud assembly.

    Args:
        assembly: The assembly.
        devices: Target to its number of devices, where the registry does not say or is wrong.
        prices: The price table; by default the repository's.

    Raises:
        ValueError: The table has no price for something in the templates, or the devices cannot be counted.
    """
    prices = prices or _prices()
    regions = [each.region for each in assembly.stacks.values() if each.region]
    region = regions[0] if regions else next(iter(prices.tables["factors"]))
    return Bill(region, prices, tuple(_items(assembly, devices or {}, prices, region)), bool(regions))


def difference(
    before: Assembly, after: Assembly, staying: Collection[str] = (), devices: Mapping[str, int] | None = None
) -> BillDifference:
    """Estimate the bills of two cloud assemblies with the same prices.

    Args:
        before: What is deployed.
        after: What would be.
        staying: Stacks of `before` that the deploy leaves alone.
        devices: As for `bill_of`.
    """
    if not staying:
        return BillDifference(bill_of(before, devices), bill_of(after, devices))
    # Parts of an assembly: a register and the targets that it counts for may be in different ones.
    left = replace(before.only(staying), targets={})
    kept = replace(before.only(set(before.stacks) - set(staying)), targets={})
    bill = bill_of(left)
    # No deploy reaches them.
    bill = replace(bill, items=tuple(each for each in bill.items if each.name != "Lambda"))
    return BillDifference(bill_of(kept), bill_of(after, devices), bill)


def rollout_items(region: str, executions: int, transferred_bytes: int) -> list[Item]:
    """Estimate what a rollout costs, once.

    Args:
        region: Where it runs.
        executions: Devices that are notified.
        transferred_bytes: What all of them download.

    Raises:
        ValueError: The table lacks a price, or knows no factor for the region.
    """
    prices = _prices()
    messages = executions * MESSAGES_A_DEPLOYMENT
    gib = transferred_bytes / (1 << 30)
    return [
        Item("IoT jobs", executions / 1e3 * prices.price("iot", "remote_actions_1k", region), f"{executions} devices"),
        Item("IoT messages", messages / 1e6 * prices.price("iot", "messages_million", region), f"{messages:g}"),
        Item("S3 transfer", gib * prices.price("transfer", "internet_gib", region), f"{gib:.3f} GiB to the internet"),
    ]


@cache
def _prices() -> Prices:
    return read_prices(PRICES)


def _assumed(prices: Prices) -> str:
    assumptions: Mapping[str, float] = prices.tables["assumptions"]
    return "assumed: " + ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in assumptions.items())


def _items(assembly: Assembly, given: Mapping[str, int], prices: Prices, region: str) -> Iterator[Item]:
    """Reckon every line of a stage's bill."""
    view, counts = assembly.view, assembly.counts(given)
    unknown = sorted(set(assembly.targets) - set(counts))
    yield from _servers(view, prices, region)
    yield from _endpoints(view, prices, region)
    yield from _storage(view, prices, region)
    yield from _devices(sum(counts.values()), unknown, prices, region)
    if clients := assembly.client_devices:
        # AWS charges for what reaches it: the broker is the core's, and discovery has no price of its own.
        yield Item("Client devices", 0.0, f"{clients} registered: free, but for what the bridge sends to AWS IoT")
    yield from _rules(view, sum(counts.values()), prices, region)
    yield from _watching(view, prices, region)
    yield from _deploys(view, prices, region)


def _servers(view: FleetView, prices: Prices, region: str) -> Iterator[Item]:
    for server in view.of_type("AWS::EC2::Instance"):
        kind = server.text(server.properties.get("InstanceType", "t3.small"))
        hourly = prices.price("ec2_hour", kind, region)
        yield Item(f"EC2 {kind}", hourly * prices.hours, f"{prices.hours:g} h of {hourly:.4f}")
        gib = sum(
            _number(server, "VolumeSize", (disk.get("Ebs") or {}).get("VolumeSize", 8))
            for disk in _rows(server, "BlockDeviceMappings") or [{}]
        )
        yield Item("EC2 disk", gib * prices.price("ec2", "gp3_gib_month", region), f"{gib} GiB gp3")
        if str(server.properties.get("Monitoring")).lower() == "true":
            metrics = prices.assumed("metrics_of_a_monitored_server")
            usd = metrics * prices.price("cloudwatch", "metric_month", region)
            yield Item("EC2 detailed monitoring", usd, f"{metrics:g} metrics")
        interfaces = _rows(server, "NetworkInterfaces")
        if any(str(each.get("AssociatePublicIpAddress")).lower() == "true" for each in interfaces):
            yield Item("EC2 public address", prices.hours * prices.price("ec2", "public_ipv4_hour", region), "one IPv4")


def _endpoints(view: FleetView, prices: Prices, region: str) -> Iterator[Item]:
    for endpoint in view.of_type("AWS::SageMaker::EndpointConfig"):
        for variant in _rows(endpoint, "ProductionVariants"):
            kind = endpoint.text(variant.get("InstanceType"))
            count = _number(endpoint, "InitialInstanceCount", variant.get("InitialInstanceCount", 1))
            usd = count * prices.hours * prices.price("sagemaker", kind, region)
            yield Item(f"SageMaker endpoint {kind}", usd, f"{count} x {prices.hours:g} h")


def _rows(resource: Resource, name: str, found: Any = None) -> list[Any]:
    rows = found or resource.properties.get(name) or []
    whole = isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows)
    return rows if whole else _deployed(resource, name, "a list of objects", rows)


def _number(resource: Resource, name: str, value: Any) -> int:
    return (
        int(value) if isinstance(value, int) or str(value).isdecimal() else _deployed(resource, name, "a number", value)
    )


def _deployed(resource: Resource, name: str, kind: str, value: Any) -> NoReturn:
    """Refuse what only a deploy knows, as of a parameter."""
    where = f"{resource.stack}/{resource.logical_id}.{name}"
    raise ValueError(f"{where}: must be {kind} in the template, got {resource.text(value)}: no bill is made of it")


def _storage(view: FleetView, prices: Prices, region: str) -> Iterator[Item]:
    if keys := len(list(view.of_type("AWS::KMS::Key"))):
        yield Item("KMS keys", keys * prices.price("kms", "key_month", region), f"{keys}")
    if list(view.of_type("AWS::S3::Bucket")):
        gib = prices.assumed("artifact_gib_a_deploy") * prices.assumed("artifact_deploys_kept")
        yield Item("S3 storage", gib * prices.price("s3", "gib_month", region), f"{gib:g} GiB of artifacts")


def _devices(devices: int, unknown: Sequence[str], prices: Prices, region: str) -> Iterator[Item]:
    if not devices and not unknown:
        return
    messages = devices * (_a_month("heartbeats", prices) + _a_month("answers", prices)) / 1e6
    minutes = devices * prices.hours * 60 / 1e6
    requests = devices * prices.assumed("kms_requests_a_device_month") / 1e4
    basis = f"{devices} registered" + (f", not counted: those of {', '.join(unknown)}" if unknown else "")
    yield Item("Greengrass devices", devices * prices.price("greengrass", "device_month", region), basis)
    yield Item("IoT messages", messages * prices.price("iot", "messages_million", region), f"{messages:.3f} M")
    usd = minutes * prices.price("iot", "connection_minutes_million", region)
    yield Item("IoT connections", usd, f"{devices} devices all month")
    yield Item("KMS requests", requests * prices.price("kms", "requests_10k", region), f"{requests * 1e4:.0f}")


def _a_month(messages: str, prices: Prices) -> float:
    """How many heartbeats or answers a device sends a month."""
    return prices.assumed(f"{messages}_a_device_day") * DAYS_A_MONTH


def _rules(view: FleetView, devices: int, prices: Prices, region: str) -> Iterator[Item]:
    """What messages cost once they are there, at the upper end: each answer triggers every rule for answers."""
    triggered = acted = calls = puts = 0.0
    metrics_of_devices = 0
    for rule in view.of_type("AWS::IoT::TopicRule"):
        payload = rule.properties.get("TopicRulePayload") or {}
        messages = devices * _a_month(
            "heartbeats" if "/heartbeat" in rule.text(payload.get("Sql")) else "answers", prices
        )
        actions = _rows(rule, "TopicRulePayload.Actions", payload.get("Actions"))
        metrics = [action["CloudwatchMetric"] for action in actions if "CloudwatchMetric" in action]
        triggered += messages
        acted += messages * len(actions)
        calls += messages * len(metrics)
        puts += messages * sum("S3" in action for action in actions)
        metrics_of_devices += sum("clientid()" in rule.text(each.get("MetricName")) for each in metrics)
    if not triggered:
        return
    usd = triggered * prices.price("iot", "rules_triggered_million", region)
    usd += acted * prices.price("iot", "rule_actions_million", region)
    yield Item("IoT rules", usd / 1e6, f"at most {triggered / 1e6:.3f} M, {acted / 1e6:.3f} M actions")
    yield Item("S3 objects", puts / 1e3 * prices.price("s3", "puts_1k", region), f"at most {puts / 1e6:.3f} M results")
    usd = calls / 1e3 * prices.price("cloudwatch", "metric_calls_1k", region)
    yield Item("CloudWatch metric calls", usd, f"at most {calls / 1e6:.3f} M")
    usd = devices * metrics_of_devices * prices.price("cloudwatch", "metric_month", region)
    yield Item("CloudWatch metrics of devices", usd, f"{devices * metrics_of_devices}")


def _watching(view: FleetView, prices: Prices, region: str) -> Iterator[Item]:
    for kind, name, price in (
        ("AWS::CloudWatch::Alarm", "CloudWatch alarms", "alarm_month"),
        ("AWS::CloudWatch::CompositeAlarm", "CloudWatch composite alarms", "alarm_month"),
        ("AWS::CloudWatch::Dashboard", "CloudWatch dashboards", "dashboard_month"),
    ):
        if count := len(list(view.of_type(kind))):
            yield Item(name, count * prices.price("cloudwatch", price, region), f"{count}")
    if metrics := _own_metrics(view):
        usd = len(metrics) * prices.price("cloudwatch", "metric_month", region)
        yield Item("CloudWatch metrics", usd, f"{len(metrics)} of the stage's own")
    if list(view.of_type("AWS::Logs::LogGroup")) and list(view.of_type("AWS::EC2::Instance")):
        gib = prices.assumed("log_gib_a_server_month")
        yield Item("CloudWatch logs", gib * prices.price("cloudwatch", "logs_gib", region), f"{gib:g} GiB")


def _own_metrics(view: FleetView) -> set[tuple[str, str]]:
    """Namespace and name of what alarms watch and filters count; AWS's own metrics are free."""
    found = {
        (alarm.text(alarm.properties.get("Namespace")), alarm.text(alarm.properties.get("MetricName")))
        for alarm in view.of_type("AWS::CloudWatch::Alarm")
    } | {
        (filtered.text(each.get("MetricNamespace")), filtered.text(each.get("MetricName")))
        for filtered in view.of_type("AWS::Logs::MetricFilter")
        for each in _rows(filtered, "MetricTransformations")
    }
    return {(namespace, name) for namespace, name in found if name and not namespace.startswith("AWS/")}


def _deploys(view: FleetView, prices: Prices, region: str) -> Iterator[Item]:
    if list(view.of_type("AWS::Lambda::Function")):
        deploys = prices.assumed("deploys_a_month")
        seconds = deploys * prices.assumed("lambda_seconds_a_deploy") * prices.assumed("lambda_gib")
        usd = seconds * prices.price("lambda", "gib_second", region)
        yield Item("Lambda", usd, f"{deploys:g} deploys, {seconds:g} GiB s")


def _assembly(folder: Path | None, stage: str | None) -> Assembly:
    if folder and stage:
        raise AssemblyError(f"give an assembly or --stage, not both, got {folder} and {stage}")
    if folder:
        return read_named(folder, str(folder))
    stage = load_stage(stage or "dev").name
    print(f"bill: synthesising {stage}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="edgewright-bill-") as made:
        return read_assembly(synth(ROOT, stage, Path(made) / "cdk.out"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.bill", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("assembly", nargs="?", type=Path, help="a cdk.out")
    parser.add_argument("--stage", help="synthesise this stage in place of an assembly (default: dev)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--devices", action="append", default=[], metavar="TARGET=N", help="devices of a target")
    options = parser.parse_args(arguments)
    try:
        assembly = _assembly(options.assembly, options.stage)
        bill = bill_of(assembly, given_devices(options.devices, assembly.targets))
    except (AssemblyError, ConfigurationError, OSError, ValueError) as exc:
        print(f"bill: {exc}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(bill.as_dict(), indent=1))
    else:
        print(bill.text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

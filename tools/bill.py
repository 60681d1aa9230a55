"""What a stage costs in a month, from its templates and the price table `config/tables/prices.toml`.

python -m tools.bill cdk.out        one cloud assembly
python -m tools.bill --stage prod   synthesises the stage first
"""

import argparse
import json
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "constructs"))

from edge_rules.fleet_view import FleetView
from tools.cloud_assembly import ROOT, Assembly, AssemblyError, read_assembly, synth

PRICES = ROOT / "config" / "tables" / "prices.toml"
DAYS_A_MONTH = 365 / 12


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
        """Give an assumption about use."""
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
    """

    region: str
    prices: Prices
    items: tuple[Item, ...]

    @property
    def total(self) -> float:
        """Sum, US dollars."""
        return sum(each.usd for each in self.items)

    def text(self) -> str:
        """Write the bill for a terminal, with what it assumes."""
        lines = [f"a month in {self.region}, list {self.prices.standing}, without free tiers:"]
        lines += [f"  {each.usd:9.2f} USD  {each.name:28} {each.basis}" for each in self.items]
        lines += [f"  {self.total:9.2f} USD  in all, with", f"                 {_assumed(self.prices)}"]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class BillDifference:
    """The bills before and after a change."""

    before: Bill
    after: Bill

    def changed(self) -> list[tuple[str, float, float]]:
        """Name, US dollars before and after, of every item that differs by a cent or more."""
        old, new = ({each.name: each.usd for each in bill.items} for bill in (self.before, self.after))
        rows = [(name, old.get(name, 0.0), new.get(name, 0.0)) for name in dict.fromkeys([*old, *new])]
        return [row for row in rows if abs(row[1] - row[2]) >= 0.01]

    def text(self) -> str:
        """One line a change, for a terminal."""
        head = f"bill: {self.before.total:.2f} → {self.after.total:.2f} USD a month ({self.after.prices.standing})"
        return "\n".join([head, *(f"  {name}: {old:.2f} → {new:.2f}" for name, old, new in self.changed())]) + "\n"

    def markdown(self) -> str:
        """A section of a pull request's comment."""
        change = self.after.total - self.before.total
        lines = [f"**Bill**: {self.after.total:.2f} USD a month in {self.after.region} ({change:+.2f})"]
        if rows := self.changed():
            lines += ["", "| item | before | after |", "|---|--:|--:|"]
            lines += [f"| {name} | {old:.2f} | {new:.2f} |" for name, old, new in rows]
        lines += ["", f"<sub>List {self.after.prices.standing}; {_assumed(self.after.prices)}.</sub>"]
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """The difference for a program."""
        return {
            "currency": "USD",
            "prices_of": self.after.prices.date.isoformat(),
            "prices_compared": self.after.prices.compared,
            "before": round(self.before.total, 2),
            "after": round(self.after.total, 2),
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


def bill_of(folder: Path, prices: Prices | None = None) -> Bill:
    """Estimate the bill of a cloud assembly.

    Args:
        folder: A `cdk.out`.
        prices: The price table; by default the repository's.

    Raises:
        ValueError: The table has no price for something in the templates.
    """
    prices = prices or _prices()
    assembly = read_assembly(folder)
    region = region_of(folder, prices)
    return Bill(region, prices, tuple(items(assembly, prices, region)))


def difference(before: Path, after: Path) -> BillDifference:
    """Estimate the bills of two cloud assemblies with the same prices."""
    return BillDifference(bill_of(before), bill_of(after))


@cache
def _prices() -> Prices:
    return read_prices(PRICES)


def _assumed(prices: Prices) -> str:
    assumptions: Mapping[str, float] = prices.tables["assumptions"]
    return "assumed: " + ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in assumptions.items())


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.bill", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("assembly", nargs="?", type=Path, help="a cdk.out")
    parser.add_argument("--stage", help="synthesise this stage in place of an assembly")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="edgewright-bill-") as made:
            folder = options.assembly or synth(ROOT, options.stage or "dev", Path(made) / "cdk.out")
            bill = bill_of(folder)
    except (AssemblyError, OSError, ValueError) as exc:
        print(f"bill: {exc}", file=sys.stderr)
        return 1
    if options.json:
        rows = [{"item": each.name, "usd": round(each.usd, 4), "basis": each.basis} for each in bill.items]
        print(json.dumps({"region": bill.region, "total": round(bill.total, 2), "items": rows}, indent=1))
    else:
        print(bill.text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Plan and bill of the repository's own stages: what the constructs write is what the tools read."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from config.loader import load_stage
from config.names import Names
from tests.synthesis import assembly
from tools.bill import Bill, bill_of, read_prices
from tools.cloud_assembly import Register, read_assembly
from tools.plan import as_text
from tools.plan_changes import compare

DOCS = Path(__file__).resolve().parents[2] / "docs"


@cache
def bill(stage: str) -> Bill:
    return bill_of(read_assembly(assembly(stage)))


@pytest.mark.parametrize("stage", ["dev", "prod", "twin"])
def test_every_device_of_a_stage_is_counted(stage: str) -> None:
    names, listed = Names(stage), load_stage(stage).fleet.roster
    devices = {names.edge_server: "all", **{device.name: device.ring for device in listed}}

    found = read_assembly(assembly(stage))

    (register,) = found.registers
    assert register.devices == devices
    assert {target: each.devices for target, each in found.targets.items()} == {
        names.ring_group(ring): list(devices.values()).count(ring) for ring in ("canary", "early", "all")
    }


@pytest.mark.parametrize("stage", ["dev", "prod", "twin"])
def test_every_device_of_a_stage_is_paid_for(stage: str) -> None:
    count = 1 + len(load_stage(stage).fleet.roster)
    items = {each.name: each for each in bill(stage).items}
    prices = read_prices()

    assert items["Greengrass devices"].basis == f"{count} registered"
    assert items["Greengrass devices"].usd == pytest.approx(
        count * prices.price("greengrass", "device_month", bill(stage).region)
    )
    for name in ("IoT messages", "IoT connections", "IoT rules", "KMS requests", "CloudWatch metric calls"):
        assert items[name].usd > 0


def test_a_row_less_is_one_device_that_leaves() -> None:
    before = read_assembly(assembly("dev"))
    (register,) = before.registers
    devices = {name: ring for name, ring in register.devices.items() if name != "edgewright-dev-bench-1"}
    after = replace(before, registers=(Register(register.stack, register.rings, devices),))

    assert as_text(compare(before, after), [], "").startswith(
        "devices: 1 leaves (2 → 1)\n  - edgewright-dev-bench-1 leaves ring all\n"
    )


def test_a_stack_less_is_one_to_destroy_by_hand() -> None:
    before = read_assembly(assembly("dev"))
    after = before.only(set(before.stacks) - {"Observability"})

    plan = compare(before, after)

    # Others need the same exports: the deploy does not fail, so it may come first.
    assert as_text(plan, [], "").startswith(
        "stack edgewright-dev-observability is no longer part of the stage, but stays in eu-central-1\n"
        "  destroy it by hand after the deploy:\n"
        "    aws cloudformation delete-stack --region eu-central-1 --stack-name edgewright-dev-observability\n"
    )
    assert plan.replaced == ()


def test_the_deploy_guide_names_the_bill_that_the_command_prints() -> None:
    text = (DOCS / "deploy.md").read_text(encoding="utf-8")

    (said,) = re.findall(r"^make bill STAGE=(\w+) +# about (\d+) USD a month, most of it the edge server$", text, re.M)

    assert said == ("dev", f"{bill('dev').total:.0f}")
    assert sum(each.usd for each in bill("dev").items if each.name.startswith("EC2")) > bill("dev").total / 2


def test_the_observability_guide_reckons_with_the_prices_of_the_table() -> None:
    text = " ".join((DOCS / "observability.md").read_text(encoding="utf-8").split())
    prices = read_prices()
    call = prices.price("cloudwatch", "metric_calls_1k", "us-east-1")
    put = prices.price("s3", "puts_1k", "us-east-1")
    heartbeats = prices.assumed("heartbeats_a_device_day") * 365 / 12

    assert f"({call:g} USD a thousand), S3 for each object ({put:g} USD a thousand)" in text
    assert f"an answer is three metrics and one object, about {(3 * call + put) * 1000:.0f} USD a million" in text
    assert f"a heartbeat a minute is {2 * heartbeats / 1000 * call:.2f} USD a device and month" in text
    assert f"{prices.price('cloudwatch', 'metric_month', 'us-east-1'):.2f} USD for the device's own metric" in text

"""The monthly estimate: every line from the templates and the dated table."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from tests.plan.sample_assembly import PlannedFleet, larger_server_without_log
from tools.bill import PRICES, bill_of, difference, main, read_prices


def test_a_bill_names_the_server_and_every_device(tmp_path: Path) -> None:
    bill = bill_of(PlannedFleet(tmp_path / "app").write())

    items = {each.name: each for each in bill.items}
    assert items["EC2 t3.small"].usd == pytest.approx(0.0208 * 730)
    assert items["EC2 disk"].usd == pytest.approx(20 * 0.08)
    assert items["Greengrass devices"].usd == pytest.approx(120 * 0.16)
    assert bill.total == pytest.approx(sum(each.usd for each in bill.items))


def test_a_larger_server_shows_in_the_difference(tmp_path: Path) -> None:
    before, after = PlannedFleet(tmp_path / "before"), PlannedFleet(tmp_path / "after")
    larger_server_without_log(after)

    bill = difference(before.write(), after.write())

    assert [name for name, _, _ in bill.changed()] == ["EC2 t3.small", "CloudWatch logs", "EC2 t3.medium"]
    assert "(+14.93)" in bill.markdown()


def test_an_endpoint_is_paid_by_the_hour(tmp_path: Path) -> None:
    fleet = PlannedFleet(tmp_path / "app")
    variants = [{"InstanceType": "ml.m5.large", "InitialInstanceCount": 2}]
    fleet.resources["Endpoint"] = {
        "Type": "AWS::SageMaker::EndpointConfig",
        "Properties": {"ProductionVariants": variants},
    }

    items = {each.name: each.usd for each in bill_of(fleet.write()).items}

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

    bill = replace(bill_of(PlannedFleet(tmp_path / "app").write()), prices=read_prices(table))

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

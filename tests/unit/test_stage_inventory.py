"""Whose a resource is, by its name; the listing itself runs in tests/integration/test_two_stages.py."""

import pytest

from tools.inventory import main, name_filter


@pytest.mark.parametrize(
    "name",
    [
        "edgewright-dev",
        "edgewright-dev-storage",
        "/edgewright/dev/models/digits/package-uri",
        "/aws/lambda/edgewright-dev-fleet-RegistryHandler",
        "arn:aws:sns:eu-central-1:111122223333:edgewright-dev-alarms",
        "edgewright_dev_results",
        "alias/edgewright-dev",
    ],
)
def test_takes_a_name_of_the_stage(name: str) -> None:
    assert name_filter("dev", ["dev", "dev-2", "prod"])(name)


@pytest.mark.parametrize(
    "name",
    [
        "edgewright-develop-storage",
        "edgewright-prod-storage",
        "edgewright-dev-2-storage",
        "/edgewright/dev-2/models/digits/package-uri",
        "my-edgewright-dev",
        "dev",
        "CDKToolkit",
    ],
)
def test_leaves_a_name_of_others_alone(name: str) -> None:
    assert not name_filter("dev", ["dev", "dev-2", "prod"])(name)


def test_an_account_that_cannot_be_read_is_an_error_and_not_an_empty_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Port 9 discards: nobody answers there.
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)

    assert main(["--stage", "dev"]) == 2
    assert "cloudformation list_stacks" in capsys.readouterr().err


def test_a_stage_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stage", "nowhere"]) == 2
    assert "stage must be one of dev, prod, twin, got 'nowhere'" in capsys.readouterr().err

"""What the provisioning of an edge server had begun when the cloud was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ministack.core.responses import request_scope
from ministack.services import iot

from twin.clock import Clock
from twin.cloud.edge_server import supervisor
from twin.cloud.edge_server.supervisor import drop_half_made
from twin.cloud_process import Settings
from twin.devices.identity import CERTIFICATE, CONFIG_FILE, KEY, ROOT_CA
from twin.process import instances_folder

BEGAN = 1_000.0


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    made = Settings("us-east-1", "000000000000", tmp_path, 1, 2, 3, 4, 5)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "iot.json").write_text("{}")
    with request_scope(made.account, made.region):
        yield made
        iot._certificates.clear()
        iot._policies.clear()


def certificate(name: str, made: float, *, attached: bool = False) -> dict[str, Any]:
    arn = f"arn:aws:iot:us-east-1:000000000000:cert/{name}"
    record = {"certificateId": name, "certificateArn": arn, "creationDate": made, "attachedThings": []}
    if attached:
        record["attachedThings"] = ["arn:aws:iot:us-east-1:000000000000:thing/edge"]
        iot._policies["edge"] = {"policyName": "edge", "policyArn": "arn", "targets": [arn]}
    iot._certificates[name] = record
    return record


def instance(settings: Settings, arn: str = "", *, saved: float) -> Path:
    """An instance's folder, complete with the ARN of its certificate, and a snapshot of that time."""
    root = instances_folder(settings.home) / "i-1"
    root.mkdir(parents=True)
    (root / ROOT_CA).write_text("root")
    for name in (CERTIFICATE, KEY, CONFIG_FILE) if arn else ():
        (root / name).write_text("content")
    if arn:
        (root / "joined.json").write_text(json.dumps({"certificateId": arn.rpartition("/")[2]}))
    for path in root.iterdir():
        os.utime(path, (BEGAN, BEGAN))
    os.utime(settings.home / "state" / "iot.json", (saved, saved))
    return root


def test_at_speed_a_certificate_from_before_the_provisioning_stays(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "CLOCK", Clock(60, BEGAN - 100, BEGAN - 100))
    certificate("another", made=BEGAN + 1_000)
    certificate("begun", made=BEGAN + 5_900)
    instance(settings, saved=BEGAN + 50)

    drop_half_made(settings)

    assert list(iot._certificates) == ["another"]


def test_a_certificate_without_attachments_that_no_folder_has_is_dropped(settings: Settings) -> None:
    instance(settings, saved=BEGAN + 1)
    certificate("older", BEGAN - 60)
    certificate("begun", BEGAN + 0.5)
    certificate("attached", BEGAN + 0.5, attached=True)

    drop_half_made(settings)

    assert sorted(iot._certificates) == ["attached", "older"]


def test_a_folder_whose_certificate_the_snapshot_has_without_attachments_is_made_anew(settings: Settings) -> None:
    arn = certificate("mine", BEGAN)["certificateArn"]
    root = instance(settings, arn, saved=BEGAN - 0.5)
    certificate("of-somebody", BEGAN + 0.5)

    drop_half_made(settings)

    assert list(iot._certificates) == ["of-somebody"]
    assert len(list(root.iterdir())) == 1


def test_a_folder_whose_certificate_the_snapshot_does_not_know_is_made_anew(settings: Settings) -> None:
    root = instance(settings, "arn:aws:iot:us-east-1:000000000000:cert/lost", saved=BEGAN - 0.5)

    drop_half_made(settings)

    assert len(list(root.iterdir())) == 1


@pytest.mark.parametrize("attached", [True, False])
def test_a_device_whose_certificate_somebody_detached_later_stays_as_it_is(settings: Settings, attached: bool) -> None:
    arn = certificate("mine", BEGAN - 1, attached=attached)["certificateArn"]
    root = instance(settings, arn, saved=BEGAN + 60)

    drop_half_made(settings)

    assert list(iot._certificates) == ["mine"]
    assert len(list(root.iterdir())) == 5

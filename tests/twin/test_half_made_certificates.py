"""What a twin that was killed while certificates were made keeps of them, and how the demo takes it away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3

from config.names import Names
from tools.predictions import Site
from twin import inventory, lifecycle
from twin.devices.client_device import POLICY
from twin.devices.membership import SHARED_RIGHTS, Membership

DOCUMENT = '{"Version": "2012-10-17", "Statement": []}'


def test_certificates_that_nobody_has_go_with_their_rights_and_all_others_stay(home: Path, tmp_path: Path) -> None:
    state = lifecycle.start(home)
    iot: Any = boto3.client("iot", **state.client_arguments())
    before = inventory.take(state)
    Membership(state, own_rights=True).prepare("demo-site")
    iot.create_thing(thingName="somebody")
    for policy in (POLICY, "a-stages-claim"):
        iot.create_policy(policyName=policy, policyDocument=DOCUMENT)

    def made(policy: str, thing: str = "") -> str:
        certificate = iot.create_keys_and_certificate(setAsActive=True)
        if policy:
            iot.attach_policy(policyName=policy, target=certificate["certificateArn"])
        if thing:
            iot.attach_thing_principal(thingName=thing, principal=certificate["certificateArn"])
        return str(certificate["certificateId"])

    for policy in ("", SHARED_RIGHTS, POLICY):
        made(policy)
    kept = {made("a-stages-claim"), made("", "somebody")}

    Site(state, Names("twin"), tmp_path / "camera-1").discard_half_made()

    left = inventory.take(state)
    assert set(left.pop("certificates")) == kept
    assert left.pop("things") == ["somebody"]
    assert left.pop("IoT policies") == ["a-stages-claim"]
    assert left == before

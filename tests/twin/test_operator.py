from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import paho.mqtt.client as mqtt
import pytest

from tests.twin.conftest import Clients
from twin import TwinError, inventory
from twin.operator import OPERATORS, OperatorClient
from twin.state import TwinState


class Echo(OperatorClient):
    """Answers requests, in reverse order of each pair, with their number doubled."""

    def __init__(self, state: TwinState) -> None:
        super().__init__(state)
        self._held: list[dict[str, object]] = []

    def _on_message(self, client: object, data: object, message: mqtt.MQTTMessage) -> None:
        self._held.append(json.loads(message.payload))
        if len(self._held) == 2:
            for request in reversed(self._held):
                answer = {"request_id": request["request_id"], "double": int(str(request["number"])) * 2}
                # Not from the network thread, which would wait for itself.
                threading.Thread(target=self.publish, args=("echo/response", json.dumps(answer).encode())).start()
            self._held.clear()


def test_concurrent_requests_get_their_own_answers(twin: TwinState) -> None:
    with Echo(twin) as echo, OperatorClient(twin) as operator, ThreadPoolExecutor(4) as pool:
        echo.subscribe("echo/request")

        answers = pool.map(
            lambda number: operator.request("echo/request", {"number": number}, "echo/response")["double"], range(4)
        )

        assert list(answers) == [0, 2, 4, 6]


def test_a_request_without_an_answer_ends_in_time(twin: TwinState) -> None:
    with OperatorClient(twin) as operator, pytest.raises(TwinError, match=r"within 0\.3 s, got none"):
        operator.request("nobody/request", {}, "nobody/response", timeout_s=0.3)


def test_messages_of_a_topic_can_be_read_as_they_come(twin: TwinState) -> None:
    with OperatorClient(twin) as operator, operator.listen("raw") as messages:
        operator.publish("raw", b"not json")

        assert messages.get(timeout=30) == b"not json"


def test_certificate_and_policy_are_gone_afterwards(twin: TwinState, client: Clients) -> None:
    with OperatorClient(twin):
        during = [policy["policyName"] for policy in client("iot").list_policies()["policies"]]
        own = [name for name in during if name.startswith(OPERATORS)]
        held = [client("iot").list_targets_for_policy(policyName=name)["targets"] for name in own]
        listed = inventory.take(twin)
    after = [policy["policyName"] for policy in client("iot").list_policies()["policies"]]

    assert own
    assert all(held)
    # They are no part of what an app has in the account.
    assert not [name for name in listed.get("IoT policies", []) if name.startswith(OPERATORS)]
    certificates = {target.rpartition("/")[2] for targets in held for target in targets}
    assert certificates.isdisjoint(listed.get("certificates", []))
    assert not [name for name in after if name.startswith(OPERATORS)]

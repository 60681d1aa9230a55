from typing import Any

import pytest

from edge_component.settings import ConfigurationError
from edge_inference.models.integrity import SigningKeys
from edge_inference.service import AgentSwitch, start_agent
from edge_inference.settings import parse_agent


@pytest.mark.parametrize("configuration", [None, 3, {}, {"models": {}}, {"agent": None}, {"agent": {"enabled": False}}])
def test_without_the_key_there_is_no_agent(configuration: object) -> None:
    assert parse_agent(configuration) is None


def test_an_empty_object_takes_the_defaults() -> None:
    settings = parse_agent({"agent": {}})

    assert settings is not None
    assert (settings.socket, settings.max_models, settings.max_tensor_bytes) == ("agent.sock", 8, 32 << 20)
    assert parse_agent({"agent": {"maxModels": 8.0}}) == settings


def test_names_every_mistake_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_agent(
            {
                "agent": {
                    "socket": "x" * 108,
                    "maxModels": 0,
                    "pendingCaptures": True,
                    "z": 1,
                    "enabled": 1,
                }
            }
        )

    assert str(caught.value).splitlines() == [
        "agent.z is unknown",
        "agent.enabled must be true or false, got 1",
        "agent.socket must have at most 107 bytes, got 108",
        "agent.maxModels must be a whole number from 1 to 64, got 0",
        "agent.pendingCaptures must be a whole number from 1 to 1000, got True",
    ]
    with pytest.raises(ConfigurationError, match="agent must be an object, got 'on'"):
        parse_agent({"agent": "on"})


def test_a_device_built_without_the_agent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "edge_inference.agent.server", None)
    settings = parse_agent({"agent": {}})
    assert settings is not None

    with pytest.raises(ConfigurationError, match=r"this device has no agent .* set agent.enabled in the stage's file"):
        start_agent(settings, list, SigningKeys(), keep)


def keep(*_: Any, **__: Any) -> None:
    """Keeps nothing."""


class Started:
    def __init__(self, log: list[str], socket: str) -> None:
        self._log, self._socket = log, socket
        log.append(f"start {socket}")

    def stop(self) -> None:
        self._log.append(f"stop {self._socket}")


def test_goes_back_to_the_settings_that_worked() -> None:
    log: list[str] = []

    def start(settings: object, *_: object) -> Started:
        socket = getattr(settings, "socket", "")
        if socket == "bad":
            raise ConfigurationError("agent.socket bad cannot be listened on")
        return Started(log, socket)

    switch = AgentSwitch(list, SigningKeys(), keep, start)
    switch.check({"agent": {"socket": "a"}})()
    switch.check({"agent": {"socket": "a"}})()
    with pytest.raises(ConfigurationError, match="cannot be listened on"):
        switch.check({"agent": {"socket": "bad"}})()
    switch.stop()

    assert log == ["start a", "stop a", "start a", "stop a"]


def test_settings_that_did_not_work_the_second_time_are_tried_again() -> None:
    log: list[str] = []
    refused = {"bad"}

    def start(settings: object, *_: object) -> Started:
        socket = getattr(settings, "socket", "")
        if socket in refused:
            raise ConfigurationError(f"agent.socket {socket} cannot be listened on")
        return Started(log, socket)

    switch = AgentSwitch(list, SigningKeys(), keep, start)
    switch.check({"agent": {"socket": "a"}})()
    refused.add("a")
    with pytest.raises(ConfigurationError, match="socket a cannot be listened on"):
        switch.check({"agent": {"socket": "bad"}})()
    refused.clear()

    switch.check({"agent": {"socket": "a"}})()

    assert log == ["start a", "stop a", "start a"]

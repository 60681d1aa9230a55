"""Fleet status: what the device tells the cloud about itself and its components."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twin.clock import CLOCK, Clock
from twin.core_device.cloud.connection import Connection
from twin.core_device.components.component import Component, State
from twin.core_device.components.process import NUCLEUS_VERSION
from twin.core_device.components.recipe import device_platform
from twin.core_device.deployment.deployer import Outcome
from twin.core_device.deployment.document import DeployedSet, DeploymentDocument

from .dialect import LITE, Dialect
from .errors import RequestRejectedError

log = logging.getLogger(__name__)

CADENCE_S = 24 * 3600.0  # as the nucleus: a heartbeat is the application's own business
_SETTLE_S = 1.0
_REPORTED_CHANGES = (State.RUNNING, State.FINISHED, State.ERRORED, State.BROKEN)


class FleetStatus:
    """Publishes fleet status messages.

    Args:
        connection: The MQTT connection; without it nothing is sent, a connect sends everything.
        thing_name: The device.
        components: The components on the device.
        deployed: Who wants them.
        quiet: True while a deployment is under way, whose end sends everything anyway.
        dialect: Names the runtime.
        clock: The device's.
        architecture: The device's; this machine's by default.
    """

    def __init__(
        self,
        connection: Connection,
        thing_name: str,
        components: Mapping[str, Component],
        deployed: Callable[[], DeployedSet],
        quiet: Callable[[], bool],
        dialect: Dialect = LITE,
        clock: Clock = CLOCK,
        architecture: str = "",
    ) -> None:
        self._clock, self._platform = clock, device_platform(dialect, architecture)
        self._connection, self._thing_name = connection, thing_name
        self._components, self._deployed, self._quiet = components, deployed, quiet
        self._sequence = 0
        self._launched = False
        self._changed: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        connection.on_connected(self._on_connected)

    async def run(self) -> None:
        """Send the regular message until cancelled."""
        while True:
            await CLOCK.sleep(CADENCE_S)
            self._publish("COMPLETE", "CADENCE", self._components)

    def component_changed(self, name: str) -> None:
        """Note a component's new state; changes of the same second go in one message."""
        component = self._components.get(name)
        if self._quiet() or component is None or component.state not in _REPORTED_CHANGES:
            return
        self._changed.add(name)
        if self._timer is None:
            self._timer = CLOCK.call_later(_SETTLE_S, self._publish_changes)

    def deployment_done(self, document: DeploymentDocument, outcome: Outcome) -> None:
        """Tell how a deployment ended, with the whole inventory."""
        details: dict[str, Any] = {"detailedStatus": outcome.detail}
        if outcome.cause:
            details |= {"failureCause": outcome.cause, "errorStack": [outcome.kind], "errorTypes": [outcome.kind]}
        information = {
            "status": outcome.status,
            "fleetConfigurationArnForStatus": document.configuration_arn,
            "deploymentId": document.deployment_id,
            "statusDetails": details,
            "unchangedRootComponents": [],
        }
        self._publish("COMPLETE", "THING_GROUP_DEPLOYMENT", self._components, information)

    def _on_connected(self) -> None:
        self._publish("COMPLETE", "RECONNECT" if self._launched else "NUCLEUS_LAUNCH", self._components)
        self._launched = True

    def _publish_changes(self) -> None:
        changed, self._changed, self._timer = self._changed, set(), None
        self._publish("PARTIAL", "COMPONENT_STATUS_CHANGE", [name for name in changed if name in self._components])

    def _publish(
        self, message_type: str, trigger: str, names: Iterable[str], deployment: Mapping[str, Any] | None = None
    ) -> None:
        self._sequence += 1
        platform = self._platform
        broken = any(component.state in (State.BROKEN, State.ERRORED) for component in self._components.values())
        message = {
            "ggcVersion": NUCLEUS_VERSION,
            "platform": platform["os"],
            "architecture": platform["architecture"],
            "runtime": platform["runtime"],
            "thing": self._thing_name,
            "sequenceNumber": self._sequence,
            "timestamp": int(self._clock.time() * 1000),
            "messageType": message_type,
            "trigger": trigger,
            "overallDeviceStatus": "UNHEALTHY" if broken else "HEALTHY",
            "components": [self._entry(name) for name in names],
            **({"deploymentInformation": dict(deployment)} if deployment else {}),
        }
        topic = f"$aws/things/{self._thing_name}/greengrassv2/health/json"
        try:
            self._connection.publish(topic, json.dumps(message, separators=(",", ":")).encode(), qos=0)
        except RequestRejectedError as exc:
            log.info("fleet status not sent: %s", exc)

    def _entry(self, name: str) -> dict[str, Any]:
        component, deployed = self._components[name], self._deployed()
        entry: dict[str, Any] = {
            "componentName": name,
            "version": component.recipe.version,
            "fleetConfigArns": deployed.configuration_arns(name),
            "isRoot": name in deployed.roots(),
            "status": str(component.state),
        }
        if component.failure and component.state in (State.BROKEN, State.ERRORED):
            entry["statusDetails"] = {"statusCodes": [], "statusReason": component.failure[:1024]}
        return entry

"""What an account says of a stage: devices, rollouts, stacks, alarms, logs; read by few calls, for the page."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from config.fleet import RINGS
from config.names import Names
from config.stage import Stage
from twin import TwinError
from twin.clock import Clock
from twin.predict import Clients, Connect, Link

logger = logging.getLogger("twin.page")

#: Of a job execution that goes on no more.
ENDED = frozenset({"SUCCEEDED", "FAILED", "REJECTED", "TIMED_OUT", "CANCELED", "REMOVED"})
FAILED = frozenset({"FAILED", "REJECTED", "TIMED_OUT"})
_MEMBERS_S, _ALARMS_S = 3.0, 2.0
_AT_A_TIME, _DETAILS, _CAUSES = 4, 40, 20  # threads; devices and reasons that are asked for in a look
_LOG_LINES = 200
_PAGES = 100
#: The largest pages of the services that list devices: ten thousand fit into so many.
_PAGE = {"iot": 250, "greengrassv2": 100}


@dataclass(frozen=True)
class Component:
    """Name, version and lifecycle state of a component on a device."""

    name: str
    version: str
    state: str


@dataclass(frozen=True)
class Device:
    """A core device as Greengrass knows it, and as its process is, where that is known.

    Attributes:
        thing: Its name.
        ring: `canary`, `early`, `all`, or empty for a device of none.
        status: Greengrass' word for its health.
        reported: When it said so, epoch seconds.
        nucleus: Version of its nucleus, with the runtime's name.
        components: What runs on it.
        process: What its process does, on a twin.
    """

    thing: str
    ring: str = ""
    status: str = ""
    reported: float = 0.0
    nucleus: str = ""
    components: tuple[Component, ...] = ()
    process: str = ""


@dataclass(frozen=True)
class Execution:
    """A deployment on a device: the job execution's status, when it changed (epoch seconds), why it failed."""

    thing: str
    status: str
    changed: float
    reason: str = ""


@dataclass(frozen=True)
class Rollout:
    """The newest deployment of a ring."""

    ring: str
    deployment: str
    created: float
    executions: tuple[Execution, ...] = ()

    @property
    def going_on(self) -> bool:
        """Whether a device still has to say how it went."""
        return any(each.status not in ENDED for each in self.executions)


@dataclass(frozen=True)
class View:
    """All of it at one moment; equal to the one before where nothing has changed."""

    devices: tuple[Device, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    stacks: tuple[tuple[str, str, float, str], ...] = ()
    alarms: tuple[tuple[str, str, str, float], ...] = ()
    trouble: str = ""

    @property
    def busy(self) -> bool:
        """Whether something goes on that is worth looking at often."""
        moving = any("IN_PROGRESS" in status for _, status, _, _ in self.stacks)
        return moving or any(rollout.going_on for rollout in self.rollouts)


@dataclass(frozen=True)
class Source:
    """Where a page looks, and what it may do there.

    Attributes:
        stage: The stage.
        where: The account in words, such as `the twin in .twin`.
        clients: Makes an AWS client of a service's name.
        connect: Makes the MQTT client.
        left: Lists what a destroy takes away, by kind.
        rest_s: Seconds between two looks while nothing goes on.
        everything: Show core devices that are in none of the stage's groups, too.
        processes: What each device's process does, by thing; empty where that is not known.
        clock: The account's, by which devices, deployments and alarms have their times; a browser has the real one.
        logs: Log files of this machine by name.
        ask: Sends what the form asks, as JSON has it, and gives the answer; None for a page that only reads.
        faults: Words by fault; empty for a page that only reads.
        fault: Does a fault (device, fault) and says what came of it.
    """

    stage: Stage
    where: str
    clients: Clients
    connect: Connect
    left: Callable[[], Mapping[str, list[str]]]
    rest_s: float = 0.5
    everything: bool = False
    processes: Callable[[], Mapping[str, str]] = dict
    clock: Callable[[], Clock] = Clock
    logs: Callable[[], Mapping[str, Path]] = dict
    ask: Callable[[Link, Mapping[str, Any]], dict[str, Any]] | None = None
    faults: Mapping[str, str] = field(default_factory=dict)
    fault: Callable[[str, str], str] | None = None


class Fleet:
    """Looks at a stage in an account; from one thread at a time."""

    def __init__(self, source: Source) -> None:
        self._source, self._names, self._clock = source, Names(source.stage.name), Clock()
        self._clients: dict[str, Any] = {}
        self._making = threading.Lock()  # boto3's session is not for several threads at once
        # What need not be asked for again.
        self._members: dict[str, str] = {}
        self._cores: frozenset[str] = frozenset()
        self._known_alarms: tuple[tuple[str, str, str, float], ...] = ()
        self._members_at = self._alarms_at = float("-inf")
        self._devices: dict[str, Device] = {}
        self._jobs: dict[str, str] = {}
        self._rollouts: dict[str, Rollout] = {}
        self._turn = 0
        self._threads = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="fleet")
        self.view = View(trouble="not looked at yet")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def look(self) -> View:
        """Ask the account; what cannot be told is what was known before, with the trouble said."""
        try:
            self.view = self._look()
        except (ClientError, BotoCoreError, TwinError) as exc:
            self.view = replace(self.view, trouble=str(exc))
            self._clients.clear()  # the twin may come back on other ports, the shell's credentials may be new
        except (KeyError, TypeError, ValueError, OSError) as exc:
            logger.exception("an answer of the account is not as expected")
            self.view = replace(self.view, trouble=f"an answer is not as expected: {exc!r}")
        return self.view

    def _client(self, service: str) -> Any:
        with self._making:
            if service not in self._clients:
                self._clients[service] = self._source.clients(service)
            return self._clients[service]

    def _all(self, service: str, operation: str, key: str, **arguments: Any) -> Iterable[Any]:
        size = {"PaginationConfig": {"PageSize": _PAGE[service]}} if service in _PAGE else {}
        pages = self._client(service).get_paginator(operation).paginate(**arguments, **size)
        for number, page in enumerate(pages):
            if number == _PAGES:
                raise TwinError(f"{service} {operation} must end within {_PAGES} pages, it did not")
            yield from page[key]

    def _look(self) -> View:
        self._clock = self._source.clock()
        cores = self._threads.submit(lambda: list(self._all("greengrassv2", "list_core_devices", "coreDevices")))
        stacks, alarms = self._threads.submit(self._stacks), self._threads.submit(self._alarms)
        deployments = self._threads.submit(self._newest_deployments)
        found = {core["coreDeviceThingName"]: core for core in cores.result()}
        if found.keys() != self._cores or time.monotonic() > self._members_at + _MEMBERS_S:
            self._members, self._members_at = self._ring_by_thing(), time.monotonic()
            self._cores = frozenset(found)
        devices, news = self._looked_at(found)
        rollouts = self._rolled(deployments.result(), everywhere=news)
        return View(devices, rollouts, stacks.result(), alarms.result())

    def _ring_by_thing(self) -> dict[str, str]:
        rings: dict[str, str] = {}
        for ring in RINGS:
            with suppress(self._client("iot").exceptions.ResourceNotFoundException):
                group = self._names.ring_group(ring)
                things = self._all("iot", "list_things_in_thing_group", "things", thingGroupName=group)
                rings.update(dict.fromkeys(things, ring))
        return rings

    def _looked_at(self, cores: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[Device, ...], bool]:
        """Devices by ring and name, and whether one of them has reported anew."""
        processes, members, known = self._source.processes(), self._members, self._devices
        wanted = {
            thing: core
            for thing, core in cores.items()
            if self._source.everything or thing in members or thing == self._names.edge_server
        }
        fresh = [
            thing
            for thing, core in wanted.items()
            if thing not in known or known[thing].reported != self._at(core["lastStatusUpdateTimestamp"])
        ]
        for device in self._threads.map(lambda thing: self._detailed(wanted[thing]), fresh[:_DETAILS]):
            if device:
                known[device.thing] = device
        for thing in known.keys() - wanted.keys():
            del known[thing]
        order: dict[str, int] = {ring: place for place, ring in enumerate(RINGS)}
        shown = [
            replace(
                known.get(thing, Device(thing)),
                ring=members.get(thing, ""),
                status=wanted[thing]["status"] if thing in wanted else "",
                process=processes.get(thing, ""),
            )
            for thing in {**wanted, **processes}  # one that has not reported yet is a process only
        ]
        return tuple(sorted(shown, key=lambda each: (order.get(each.ring, 9), each.thing))), bool(fresh)

    def _detailed(self, core: Mapping[str, Any]) -> Device | None:
        thing, greengrass = core["coreDeviceThingName"], self._client("greengrassv2")
        try:
            version = greengrass.get_core_device(coreDeviceThingName=thing).get("coreVersion", "")
            arguments = {"coreDeviceThingName": thing, "topologyFilter": "ALL"}
            listed = [
                Component(each["componentName"], each.get("componentVersion", ""), each.get("lifecycleState", ""))
                for each in self._all("greengrassv2", "list_installed_components", "installedComponents", **arguments)
            ]
        except greengrass.exceptions.ResourceNotFoundException:
            return None
        runtime = str(core.get("runtime", "")).removeprefix("aws_nucleus_")
        reported = self._at(core["lastStatusUpdateTimestamp"])
        nucleus = f"{version} {runtime}".strip()
        return Device(thing, reported=reported, nucleus=nucleus, components=tuple(sorted(listed, key=str)))

    def _newest_deployments(self) -> dict[str, Mapping[str, Any]]:
        """By ring."""
        groups = {self._names.ring_group(ring): ring for ring in RINGS}
        return {
            groups[group]: each
            for each in self._all("greengrassv2", "list_deployments", "deployments", historyFilter="LATEST_ONLY")
            if (group := each["targetArn"].rpartition("/")[2]) in groups and ":thinggroup/" in each["targetArn"]
        }

    def _rolled(self, deployments: Mapping[str, Mapping[str, Any]], *, everywhere: bool) -> tuple[Rollout, ...]:
        """Rollouts in the order of their rings; a settled one is looked at in turn with the others."""
        known, rings = self._rollouts, [ring for ring in RINGS if ring in deployments]
        self._turn += 1
        for place, ring in enumerate(rings):
            identifier, before = deployments[ring]["deploymentId"], known.get(ring)
            same = before is not None and before.deployment == identifier
            if everywhere or not same or (before and before.going_on) or place == self._turn % len(rings):
                executions = self._executions(identifier, before if same else None)
                created = self._at(deployments[ring]["creationTimestamp"])
                known[ring] = Rollout(ring, identifier, created, tuple(executions))
        return tuple(known[ring] for ring in rings)

    def _executions(self, deployment: str, before: Rollout | None) -> list[Execution]:
        if deployment not in self._jobs:
            if len(self._jobs) > 100:
                self._jobs.clear()
            found = self._client("greengrassv2").get_deployment(deploymentId=deployment)
            self._jobs[deployment] = found.get("iotJobId", "")
        if not (job := self._jobs[deployment]):
            return []
        reasons = {
            (each.thing, each.changed): each.reason for each in (before.executions if before else ()) if each.reason
        }
        executions, asked = [], 0
        for each in self._all("iot", "list_job_executions_for_job", "executionSummaries", jobId=job):
            thing, summary = each["thingArn"].rpartition("/")[2], each["jobExecutionSummary"]
            changed = self._at(summary.get("lastUpdatedAt") or summary["queuedAt"])
            reason = reasons.get((thing, changed), "")
            if summary["status"] in FAILED and not reason and asked < _CAUSES:
                reason, asked = self._cause(job, thing), asked + 1
            executions.append(Execution(thing, summary["status"], changed, reason))
        return sorted(executions, key=lambda each: (each.status not in FAILED, each.status in ENDED, each.thing))

    def _cause(self, job: str, thing: str) -> str:
        """What the device reported to the job; the Greengrass API names the kind of failure only."""
        with suppress(ClientError):
            execution = self._client("iot").describe_job_execution(jobId=job, thingName=thing)["execution"]
            details = execution.get("statusDetails", {}).get("detailsMap", {})
            return str(details.get("deployment-failure-cause") or details.get("detailed-deployment-status") or "")
        return ""

    def _stacks(self) -> tuple[tuple[str, str, float, str], ...]:
        """Name, status, time of the last change, reason."""
        own = re.compile(rf"{re.escape(self._names.prefix)}-|CDKToolkit$")
        found: dict[str, tuple[str, str, float, str]] = {}
        # An account keeps deleted ones for 90 days.
        every = self._client("cloudformation").meta.service_model.shape_for("StackStatus").enum
        wanted = [status for status in every if status != "DELETE_COMPLETE"]
        for each in self._all("cloudformation", "list_stacks", "StackSummaries", StackStatusFilter=wanted):
            name, status = each["StackName"], each["StackStatus"]
            if own.match(name) and status != "DELETE_COMPLETE":
                changed = each.get("DeletionTime") or each.get("LastUpdatedTime") or each["CreationTime"]
                found[name] = name, status, _epoch(changed), each.get("StackStatusReason", "")
        return tuple(found[name] for name in sorted(found))

    def _alarms(self) -> tuple[tuple[str, str, str, float], ...]:
        """Name, state, reason, since when; those that are off first."""
        if time.monotonic() > self._alarms_at + _ALARMS_S:
            prefix = f"{self._names.prefix}-"
            found = [
                (name, each["StateValue"], each.get("StateReason", ""), self._at(each["StateUpdatedTimestamp"]))
                for each in self._all("cloudwatch", "describe_alarms", "MetricAlarms", AlarmNamePrefix=prefix)
                if (name := each["AlarmName"].removeprefix(prefix))
            ]
            order = {"ALARM": 0, "INSUFFICIENT_DATA": 1}
            self._known_alarms = tuple(sorted(found, key=lambda each: (order.get(each[1], 2), each[0])))
            self._alarms_at = time.monotonic()
        return self._known_alarms

    def _at(self, moment: Any) -> float:
        """The real time of what the account's clock says."""
        return round(self._clock.when(_epoch(moment)), 3)

    def log_groups(self) -> list[str]:
        """Logs of the stage in the account: of its functions, and of what its rules write.

        Raises:
            ClientError, BotoCoreError: The account does not answer.
        """
        kinds = ("/aws/cloudformation", "/aws/lambda")
        prefixes = [*(f"{kind}/{self._names.prefix}-" for kind in kinds), f"/edgewright/{self._names.stage}/"]
        return [
            each["logGroupName"]
            for prefix in prefixes
            for each in self._all("logs", "describe_log_groups", "logGroups", logGroupNamePrefix=prefix)
        ]

    def log(self, group: str) -> list[str]:
        """The last 200 lines of a log group's three newest streams.

        Raises:
            ClientError, BotoCoreError: There is no such group, or the account does not answer.
        """
        logs = self._client("logs")
        streams = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True, limit=3)
        events = [
            event
            for stream in streams["logStreams"]
            for event in logs.get_log_events(
                logGroupName=group, logStreamName=stream["logStreamName"], limit=_LOG_LINES, startFromHead=False
            )["events"]
        ]
        events.sort(key=lambda event: event["timestamp"])
        return [
            f"{time.strftime('%H:%M:%S', time.localtime(event['timestamp'] / 1000))} {event['message'].rstrip()}"
            for event in events[-_LOG_LINES:]
        ]


def _epoch(moment: Any) -> float:
    return round(float(moment.timestamp()), 3)

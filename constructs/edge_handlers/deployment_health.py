"""Custom resource: waits until the core devices of a ring run its deployment, and says why they do not.

The status of a device's job execution is its effective status of the deployment. Two listings tell it of all devices,
where ListEffectiveDeployments is a call a device. A device is healthy when its execution has succeeded and Greengrass
calls the device HEALTHY: a component may break after its deployment has succeeded. Who is there takes a deployment up
within seconds: where a stage says so, one that lets it lie for minutes is away and not waited for.

CloudFormation's rollback changes no device: the failed deployment has superseded the one before, and nucleus lite keeps
a broken version. So a rollback's Update deploys the content of the one before anew, in each ring that was changed.

Where a ring's models have to show what they can, the wait goes on once the devices are healthy: their heartbeats lie
in S3 with sketches of the candidate beside the model in use, and are added up until `promotion.decide` knows. For one
that is refused the check fails, and the rollback brings the ring back. Each deploy of such a ring that ends well ends
with a deployment of the same content that approves all of its models: who was away for an earlier one needs it, too.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

from botocore.exceptions import ClientError

from edge_handlers.answering import answering
from edge_handlers.custom_resource import (
    Contract,
    Key,
    Properties,
    RequestType,
    json_object,
    mapping,
    parse,
    texts,
    whole,
)
from edge_handlers.device_list import check_thing_group
from edge_handlers.promotion import Rules, Sketch, approved, decide, merged, named
from edge_handlers.service_client import GONE, client, describe, explaining, ignoring, is_passing

LOG = logging.getLogger(__name__)
HEALTHY, AWAY = "HEALTHY", "away"
FAILED = frozenset(("FAILED", "REJECTED", "TIMED_OUT", "CANCELED", "REMOVED"))
ENDED = frozenset(("CANCELED", "FAILED", "INACTIVE"))
_SHOWN_FAILED = 3  # each costs three calls and some hundred characters of a reason that holds about a thousand
_SHOWN_WAITED_FOR = 10
_BROKEN = ("BROKEN", "ERRORED")
#: Of one device's cause; CloudFormation cuts a reason after about a thousand characters.
_CAUSE_CHARACTERS = 350
#: What tells is_complete that a rollback waits for another deployment than the properties say.
_BROUGHT_BACK = "BroughtBack"
#: What tells is_complete which versions are to be decided on.
_CANDIDATES = "Candidates"
#: Of a ring, so many devices are asked; a decision takes no more.
_MOST_DEVICES, _MOST_BYTES = 200, 1 << 16
_CONTENT = ("targetArn", "deploymentName", "components", "deploymentPolicies", "iotJobConfiguration")


class DeploymentHealthError(RuntimeError):
    """Too few devices run the deployment; the text names them, with component and reason where they failed."""


@dataclass(frozen=True)
class HealthCheck(Contract):
    """What to wait for.

    Args:
        deployment: Id of the ring's deployment.
        group_arn: The ring's thing group.
        ring: Its name in texts.
        healthy_percentage: Share of the core devices that must run it, 1 to 100 per cent.
        timeout_s: After so long without that share the check fails, s.
        expected: Devices of the ring that must be there, though none of them has reported yet.
        candidates: Model to the version that must show what it can; a version that the ring has had is none.
        rules: What it must show: fields of `promotion.Rules`.
        bucket: Where heartbeats with sketches of candidates lie.
        decision_s: After so long beyond `timeout_s` a candidate that is not accepted is refused, s.
        away_s: A device that has not taken the deployment up so long after it was offered is away, s; 0: none is.
        present_percentage: Share of the core devices that must not be away, 1 to 100 per cent.
    """

    TYPE = "Custom::DeploymentHealth"

    deployment: Annotated[str, Key("DeploymentId")]
    group_arn: Annotated[str, Key("ThingGroupArn")]
    ring: Annotated[str, Key("Ring")]
    healthy_percentage: Annotated[int, whole("HealthyPercentage", minimum=1)]
    timeout_s: Annotated[int, whole("TimeoutSeconds", minimum=1)]
    expected: Annotated[tuple[str, ...], texts("ExpectedDevices")]
    candidates: Annotated[dict[str, str], mapping("Candidates")] = field(default_factory=dict)
    rules: Annotated[dict[str, Any], json_object("Rules", sort_keys=True)] = field(default_factory=dict)
    bucket: Annotated[str, Key("Bucket")] = ""
    decision_s: Annotated[int, whole("DecisionSeconds", minimum=0)] = 0
    away_s: Annotated[int, whole("AwaySeconds", minimum=0)] = 0
    present_percentage: Annotated[int, whole("PresentPercentage", minimum=1)] = 50

    def check(self, properties: Properties) -> None:
        """Refuse an ARN that is not a thing group's, and more than all devices."""
        check_thing_group(self.group_arn, f"{properties.where}.{self.key('group_arn')}")
        for name in ("healthy_percentage", "present_percentage"):
            if (value := getattr(self, name)) > 100:
                raise ValueError(f"{properties.where}.{self.key(name)} must be at most 100, got {value}")
        if self.candidates:
            Rules(**self.rules).check()

    @property
    def physical_id(self) -> str:
        """The same for the life of the thing group: another deployment updates the check in place."""
        return f"health-{self.group_arn.rpartition('/')[2]}"

    def needed(self, devices: int) -> int:
        """How many of so many devices that are there must be healthy."""
        return math.ceil(devices * self.healthy_percentage / 100)

    def is_away(self, execution: str, waited_s: float) -> bool:
        """Whether a device is away whose job execution has this status so long after it was offered, s."""
        return bool(self.away_s) and execution == "QUEUED" and waited_s >= self.away_s

    def missing(self, devices: int, present: int) -> bool:
        """Whether too few of so many devices are there."""
        return present < math.ceil(devices * self.present_percentage / 100)

    def __str__(self) -> str:
        return f"deployment {self.deployment} of ring {self.ring}"


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Set the time by which the devices must be healthy: `WaitUntil`, s since 1970, which reaches is_complete.

    A rollback also brings the former deployment back.
    """
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"PhysicalResourceId": request.known_id}
    check = HealthCheck.of(request.properties)
    answer = {"PhysicalResourceId": check.physical_id, "WaitUntil": int(time.time()) + check.timeout_s}
    if request.type is RequestType.UPDATE:
        failed = request.old_properties.optional_text(HealthCheck.key("deployment"))
        if brought_back := bring_back(check, failed, client("greengrassv2")):
            return {**answer, _BROUGHT_BACK: brought_back}
    if check.candidates:
        answer[_CANDIDATES] = _new_versions(check, request.old_properties)
    return answer


def _new_versions(check: HealthCheck, old: Properties) -> dict[str, str]:
    """Models of the ring that had another version; one that had none has nothing to be compared with."""
    found = old.values.get(HealthCheck.key("candidates"))
    before = found if isinstance(found, Mapping) else {}
    return {model: new for model, new in check.candidates.items() if before.get(model, new) != new}


def is_complete(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one poll: whether enough devices are healthy; a Delete has nothing to take away."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"IsComplete": True}
    check, over_s = HealthCheck.of(request.properties), time.time() - float(event["WaitUntil"])
    clients = client("greengrassv2"), client("iot")
    brought_back, candidates = event.get(_BROUGHT_BACK), event.get(_CANDIDATES)
    if not brought_back:
        # A device that joins or comes back while a candidate is decided on has the decision's time as well.
        waited = replace(check, timeout_s=check.timeout_s + check.decision_s) if candidates else check
        is_last = over_s >= waited.timeout_s - check.timeout_s
        # A Create whose ring has been approved finds its own deployment superseded when it is asked again.
        is_passed = request.type is RequestType.UPDATE or candidates is not None
        answer = follow(waited, *clients, is_update=is_passed, is_last=is_last)
        if not answer["IsComplete"] or candidates is None:
            return answer
        since = float(event["WaitUntil"]) - check.timeout_s
        decide = partial(decide_on, check, candidates, clients[0], client("s3"), since=since, is_last=is_last)
        return _unless_throttled(check, lambda: answer if decide() else {"IsComplete": False}, is_last=is_last)
    is_last = over_s >= 0
    try:
        return follow(replace(check, deployment=brought_back), *clients, is_update=False, is_last=is_last)
    except RuntimeError as exc:
        # A rollback that fails leaves a stack to which nothing can be deployed; the deploy has failed anyway.
        LOG.error("%s is brought back, but %s", check, exc)
        return _complete(0, 0)


def bring_back(check: HealthCheck, failed: str | None, greengrass: Any) -> str | None:
    """Deploy a ring's former content anew, where a rollback asks for it.

    Args:
        check: With the deployment that the ring shall have.
        failed: Id of the deployment that it had last; None where an older release did not say.
        greengrass: A boto3 greengrassv2 client.

    Returns:
        Id of the new deployment; None where the wanted one is the ring's latest, or gone, or not older than the other.

    Raises:
        AwsCallError: A call was refused.
    """
    former = _deployment(check, greengrass)
    if former is None or former["isLatestForTarget"] or failed == check.deployment:
        return None
    with explaining(f"read deployment {failed} of ring {check.ring}"):
        later = describe(greengrass.get_deployment, deploymentId=failed) if failed else None
    if later and later["creationTimestamp"] < former["creationTimestamp"]:
        return None
    content = {key: former[key] for key in _CONTENT if former.get(key)}
    if check.candidates:
        # Where the failed version had been accepted already, the former one must not wait for a decision.
        try:
            content = approved(content, check.candidates)
        except ValueError as exc:
            LOG.warning("%s is brought back as it was: %s", check, exc)
    # The same for a repeated event, another one for the next failure.
    token = hashlib.sha256(f"{check.deployment} {failed}".encode()).hexdigest()[:32]
    with explaining(f"bring {check} back"):
        made = greengrass.create_deployment(**content, clientToken=token)
    LOG.warning("%s is brought back by deployment %s, after deployment %s", check, made["deploymentId"], failed)
    return str(made["deploymentId"])


def decide_on(
    check: HealthCheck, candidates: Mapping[str, str], greengrass: Any, s3: Any, *, since: float, is_last: bool
) -> bool:
    """Look once at what a ring's devices say of candidates; what all of them have reached is made the ring's own.

    Args:
        check: With the deployment that brought them.
        candidates: Model to version; where there is none, the ring's models are approved at once.
        greengrass: A boto3 greengrassv2 client.
        s3: A boto3 S3 client.
        since: When the deployment began, s since 1970.
        is_last: Whether the time is over: what is not accepted is refused.

    Returns:
        Whether nothing is left to decide.

    Raises:
        DeploymentHealthError: A candidate is refused; the text says why, and on which inputs it differed most.
        AwsCallError: A call was refused.
    """
    former = _deployment(check, greengrass)
    if former is None or not former["isLatestForTarget"]:
        return True
    devices = sorted(name for name, _ in _core_devices(check, greengrass))
    if not devices:
        return True
    rules, waits = Rules(**check.rules), False
    for model, version in sorted(candidates.items()):
        sketch = _sketch(check, model, version, devices, s3, since=since)
        decision = decide(rules, sketch, is_last=is_last)
        LOG.info("%s %s of ring %s: %s: %s", model, version, check.ring, decision.verdict, "; ".join(decision.reasons))
        if decision.verdict == "refuse":
            differed = f"; differed most on {named(sketch.differed)}" if sketch.differed else ""
            raise DeploymentHealthError(
                f"{model} {version} is not taken by ring {check.ring}: {'; '.join(decision.reasons)}{differed}"
            )
        waits |= decision.verdict == "wait"
    if waits:
        return False
    content = {key: former[key] for key in _CONTENT if former.get(key)}
    # The same for a repeated event; once it is made, the check finds its own deployment superseded and has ended.
    token = hashlib.sha256(f"{check.deployment} approved".encode()).hexdigest()[:32]
    with explaining(f"approve {', '.join(check.candidates)} in ring {check.ring}"):
        greengrass.create_deployment(**approved(content, check.candidates), clientToken=token)
    return True


def _sketch(check: HealthCheck, model: str, version: str, devices: Sequence[str], s3: Any, *, since: float) -> Sketch:
    """What the devices say of a candidate, added up; what is older than the deployment is of an earlier attempt."""
    found = []
    for device in devices[:_MOST_DEVICES]:
        key = f"promotions/{model}/{device}.json"
        with explaining(f"read s3://{check.bucket}/{key}"):
            answer = describe(s3.get_object, Bucket=check.bucket, Key=key)
            content = answer["Body"].read(_MOST_BYTES) if answer else b""
        if answer is None or answer["LastModified"].timestamp() < since:
            continue
        try:
            told = json.loads(content)["candidate"]
            if told["version"] == version:
                found.append(Sketch.read(told, device))
        except (ValueError, KeyError, TypeError) as exc:
            LOG.warning("%s: %s", key, exc)
    return merged(found)


def follow(
    check: HealthCheck, greengrass: Any, iot: Any, *, is_update: bool, is_last: bool, now: float | None = None
) -> dict[str, Any]:
    """Look at the ring's devices once.

    Args:
        check: What to wait for.
        greengrass: A boto3 greengrassv2 client.
        iot: A boto3 IoT client.
        is_update: Whether a rollback may have asked: it comes as an Update to a deployment that another one has
            superseded, for which nobody waits any more.
        is_last: Whether the time is over.
        now: By the clock of the jobs, s since 1970; this machine's by default.

    Returns:
        The framework's answer: complete when enough devices are healthy, or when the ring has no core device yet.

    Raises:
        DeploymentHealthError: Too many devices have failed, the deployment was ended, or the time is over.
        AwsCallError: A call was refused, unless by throttling while there is time.
    """
    now = time.time() if now is None else now
    look = partial(_look, check, greengrass, iot, is_update=is_update, is_last=is_last, now=now)
    return _unless_throttled(check, look, is_last=is_last)


def _unless_throttled(check: HealthCheck, look: Callable[[], dict[str, Any]], *, is_last: bool) -> dict[str, Any]:
    """Look; a refusal by throttling costs one look while there is time."""
    try:
        return look()
    except RuntimeError as exc:
        if is_last or not is_passing(exc):
            raise
        LOG.warning("%s: %s; asking again", check, exc)
        return {"IsComplete": False}


def _look(
    check: HealthCheck, greengrass: Any, iot: Any, *, is_update: bool, is_last: bool, now: float
) -> dict[str, Any]:
    deployment = _deployment(check, greengrass)
    if is_update and (deployment is None or not deployment["isLatestForTarget"]):
        LOG.warning("%s has been superseded: nothing to wait for", check)
        return _complete(0, 0)
    if deployment is None or not deployment["isLatestForTarget"]:
        fate = "is gone" if deployment is None else "has been superseded by another deployment to its target"
        raise DeploymentHealthError(f"{check} {fate}, nobody runs it: deploy again")
    states = _states(check, deployment["iotJobId"], greengrass, iot, now)
    healthy = sum(state == HEALTHY for state in states.values())
    away = sorted(device for device, state in states.items() if state == AWAY)
    present = len(states) - len(away)
    needed, missing = check.needed(present), check.missing(len(states), present)
    LOG.info("%s: %d of %d devices are healthy, %d needed", check, healthy, present, needed)
    if healthy >= needed and not missing:
        if away:
            LOG.warning("%s: %d devices are away and not waited for: %s", check, len(away), _listed(away))
        return _complete(healthy, len(states))
    failed = sorted(device for device, state in states.items() if state in FAILED)
    ended = deployment["deploymentStatus"] in ENDED
    if ended or len(failed) > present - needed:
        what = f"{check} was ended ({deployment['deploymentStatus']})" if ended else f"{check} failed"
        causes = [explain(device, states[device], deployment, greengrass, iot) for device in failed[:_SHOWN_FAILED]]
        more = [f"and {len(failed) - _SHOWN_FAILED} more"] if len(failed) > _SHOWN_FAILED else []
        raise DeploymentHealthError(f"{what} on {len(failed)} of {len(states)} devices: {'; '.join(causes + more)}")
    if is_last:
        raise DeploymentHealthError(_overdue(check, states, healthy, needed, missing=missing))
    return {"IsComplete": False}


def _deployment(check: HealthCheck, greengrass: Any) -> dict[str, Any] | None:
    with explaining(f"read {check}"):
        return describe(greengrass.get_deployment, deploymentId=check.deployment)


def _states(check: HealthCheck, job: str, greengrass: Any, iot: Any, now: float) -> dict[str, str]:
    """Core device to its state: HEALTHY, a job execution's status, or what it has not done yet."""
    executions = dict(_executions(check, job, iot))
    states = dict.fromkeys(check.expected, "has never reported")
    for device, status in _core_devices(check, greengrass):
        execution, queued_at = executions.get(device, ("not reached yet", now))
        if check.is_away(execution, now - queued_at):
            execution = AWAY
        states[device] = (status or "of unknown health") if execution == "SUCCEEDED" else execution
    return states


def _core_devices(check: HealthCheck, greengrass: Any) -> Iterator[tuple[str, str]]:
    """Name and status of each core device of the ring; a thing that never reported is none."""
    with explaining(f"list the core devices of ring {check.ring}"):
        for page in greengrass.get_paginator("list_core_devices").paginate(thingGroupArn=check.group_arn):
            for device in page["coreDevices"]:
                yield device["coreDeviceThingName"], device.get("status", "")


def _executions(check: HealthCheck, job: str, iot: Any) -> Iterator[tuple[str, tuple[str, float]]]:
    """Name, status and moment of being offered, s since 1970, of each device that the rollout has reached."""
    with explaining(f"list the devices that {check} has reached"), ignoring(GONE):
        for page in iot.get_paginator("list_job_executions_for_job").paginate(jobId=job):
            for execution in page["executionSummaries"]:
                device = execution["thingArn"].partition(":thing/")[2]
                summary = execution["jobExecutionSummary"]
                yield device, (summary["status"], summary["queuedAt"].timestamp())


def _overdue(check: HealthCheck, states: dict[str, str], healthy: int, needed: int, *, missing: bool) -> str:
    waited_for = sorted(f"{device} ({state})" for device, state in states.items() if state not in (HEALTHY, AWAY))
    away = sorted(device for device, state in states.items() if state == AWAY)
    text = (
        f"{check} must be healthy on {needed} of {len(states) - len(away)} devices within {check.timeout_s} s, "
        f"{healthy} are"
    )
    if waited_for:
        text += f"; waited for {_listed(waited_for)}"
    if away:
        text += f"; away: {_listed(away)}"
    if missing:
        text += f"; at least {check.present_percentage} % of {len(states)} must be there (health.present_percentage)"
    if not check.away_s and "QUEUED" in states.values():
        text += "; who stays QUEUED is switched off or cut off: health.away_minutes lets a deploy do without it"
    return text


def _listed(devices: Sequence[str]) -> str:
    more = [f"and {len(devices) - _SHOWN_WAITED_FOR} more"] if len(devices) > _SHOWN_WAITED_FOR else []
    return ", ".join([*devices[:_SHOWN_WAITED_FOR], *more])


def _complete(healthy: int, devices: int) -> dict[str, Any]:
    return {"IsComplete": True, "Data": {"Healthy": str(healthy), "Devices": str(devices)}}


def explain(device: str, status: str, deployment: dict[str, Any], greengrass: Any, iot: Any) -> str:
    """Describe one device's failure.

    A cause that cannot be read is left out: the failure is the news, and it must not be hidden by another one.

    Args:
        device: The core device's thing name.
        status: Of its job execution.
        deployment: As GetDeployment describes it.
        greengrass: A boto3 greengrassv2 client.
        iot: A boto3 IoT client.

    Returns:
        Device, status, the components concerned, and the cause.
    """
    effective = _read(lambda: _effective(device, deployment, greengrass)) or {}
    details = _read(lambda: _job_details(device, deployment, iot)) or {}
    cause = details.get("deployment-failure-cause", "")
    if not cause:
        codes = (effective.get("statusDetails") or {}).get("errorStack") or []
        cause = ": ".join(filter(None, (effective.get("reason"), ", ".join(codes))))
    components = _read(lambda: _broken(device, greengrass)) or [
        f"{name} {wanted.get('componentVersion', '')}".strip()
        for name, wanted in (deployment.get("components") or {}).items()
        if name in cause
    ]
    named = f" component {', '.join(components)}:" if components else ""
    return f"{device} {status}:{named} {cause[:_CAUSE_CHARACTERS] or 'the device gives no reason, see its logs'}"


def _effective(device: str, deployment: dict[str, Any], greengrass: Any) -> dict[str, Any]:
    for page in greengrass.get_paginator("list_effective_deployments").paginate(coreDeviceThingName=device):
        for found in page["effectiveDeployments"]:
            if found["deploymentId"] == deployment["deploymentId"]:
                return dict(found)
    return {}


def _job_details(device: str, deployment: dict[str, Any], iot: Any) -> dict[str, str]:
    answer = iot.describe_job_execution(jobId=deployment["iotJobId"], thingName=device)
    return dict(answer["execution"].get("statusDetails", {}).get("detailsMap", {}))


def _broken(device: str, greengrass: Any) -> list[str]:
    pages = greengrass.get_paginator("list_installed_components").paginate(
        coreDeviceThingName=device, topologyFilter="ALL"
    )
    return [
        f"{component['componentName']} {component['componentVersion']} {component['lifecycleState']}"
        for page in pages
        for component in page["installedComponents"]
        if component.get("lifecycleState") in _BROKEN
    ]


def _read(call: Any) -> Any:
    try:
        return call()
    except ClientError as exc:
        LOG.warning("the cause is not readable: %s", exc)
        return None


handler = answering(on_event, is_complete)

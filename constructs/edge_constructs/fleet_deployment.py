"""What a thing group runs, and the wait until its devices run it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_greengrassv2 as greengrass
from constructs import Construct

from config.fleet import Growth, Health, Promotion, Rollout
from config.public_components import PUBLIC_COMPONENTS
from edge_constructs.artifact_store import PROMOTIONS, ArtifactBucket
from edge_constructs.component_library import Component
from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn, everywhere
from edge_handlers import deployment_health
from edge_handlers.promotion import Rules

_Deployment = greengrass.CfnDeployment
#: What the CDK writes for a value that only the deploy knows.
_TOKEN = re.compile(r"\$\{Token\[[^\]]*\]\}")


class FleetDeployment(Construct):
    """The one deployment of a thing group: components pinned exactly, rolled out in steps, rolled back on a failure.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The deployment's name.
        target_arn: ARN of the thing group.
        components: What runs on its devices.
        rollout: How fast it reaches them and what stops it.
        carrier: Component whose configuration brings all settings, at `settings.<component>`, with a `revision` that
            differs whenever they do. Nucleus lite stops and starts each component whose entry has a configuration,
            changed or not: this one ends by itself, and nobody waits for it.
        settings: Component name to settings that win over the component's own; none by default.
        public: AWS's own component to the keys that replace those of its configuration; none by default.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        target_arn: str,
        components: Sequence[Component],
        rollout: Rollout,
        carrier: str,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        public: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        update = _update(components, settings or {})
        self.target_arn = target_arn
        self.resource = _Deployment(
            self,
            "Resource",
            deployment_name=name,
            target_arn=target_arn,
            components={
                component.name: _Deployment.ComponentDeploymentSpecificationProperty(
                    component_version=component.version,
                    configuration_update=update if component.name == carrier else None,
                )
                for component in components
            }
            | {name: _public(name, keys) for name, keys in (public or {}).items()},
            deployment_policies=_Deployment.DeploymentPoliciesProperty(
                failure_handling_policy="ROLLBACK" if rollout.on_failure == "rollback" else "DO_NOTHING",
                component_update_policy=_Deployment.DeploymentComponentUpdatePolicyProperty(
                    action="NOTIFY_COMPONENTS" if rollout.notify else "SKIP_NOTIFY_COMPONENTS",
                    timeout_in_seconds=rollout.notify_timeout_s,
                ),
            ),
            iot_job_configuration=_job(rollout),
        )
        for component in components:
            self.resource.node.add_dependency(component.resource)


def _public(
    name: str, configuration: Mapping[str, Any]
) -> greengrass.CfnDeployment.ComponentDeploymentSpecificationProperty:
    """A pinned component of AWS; a key that it is given is reset first, or a mapping that is gone would stay."""
    return _Deployment.ComponentDeploymentSpecificationProperty(
        component_version=PUBLIC_COMPONENTS[name].version,
        configuration_update=_Deployment.ComponentConfigurationUpdateProperty(
            merge=json.dumps(dict(configuration)), reset=[f"/{key}" for key in configuration]
        )
        if configuration
        else None,
    )


def _update(
    components: Sequence[Component], more: Mapping[str, Mapping[str, Any]]
) -> greengrass.CfnDeployment.ComponentConfigurationUpdateProperty | None:
    merged = {each.name: merged_settings(each.settings, more.get(each.name, {})) for each in components}
    settings: dict[str, Any] = {name: found for name, found in merged.items() if found}
    if not settings:
        return None
    # Its words for what only the deploy knows differ from synth to synth; a changed value brings an event of its own.
    known = _TOKEN.sub("", json.dumps(settings, sort_keys=True))
    # A device tells no component of what a reset takes away, so a part of it must change with the rest; and be last.
    settings["revision"] = hashlib.sha256(known.encode()).hexdigest()[:16]
    return _Deployment.ComponentConfigurationUpdateProperty(
        merge=json.dumps({"settings": settings}), reset=["/settings"]
    )


def merged_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two configurations as a device does: objects key by key, everything else as a whole.

    Args:
        first: The one.
        second: The other, which wins.
    """
    merged = dict(first)
    for key, value in second.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = merged_settings(before, value)
        else:
            merged[key] = value
    return merged


def _job(rollout: Rollout) -> greengrass.CfnDeployment.DeploymentIoTJobConfigurationProperty:
    return _Deployment.DeploymentIoTJobConfigurationProperty(
        job_executions_rollout_config=_Deployment.IoTJobExecutionsRolloutConfigProperty(
            maximum_per_minute=rollout.devices_per_minute,
            exponential_rate=_growing(rollout.growth) if rollout.growth else None,
        ),
        abort_config=_Deployment.IoTJobAbortConfigProperty(
            criteria_list=[
                _Deployment.IoTJobAbortCriteriaProperty(
                    action="CANCEL",
                    failure_type=failure,
                    min_number_of_executed_things=rollout.abort_after,
                    threshold_percentage=rollout.abort_percentage,
                )
                for failure in ("FAILED", "REJECTED", "TIMED_OUT")
            ]
        ),
        timeout_config=_Deployment.IoTJobTimeoutConfigProperty(in_progress_timeout_in_minutes=rollout.timeout_minutes),
    )


def _growing(growth: Growth) -> greengrass.CfnDeployment.IoTJobExponentialRolloutRateProperty:
    return _Deployment.IoTJobExponentialRolloutRateProperty(
        base_rate_per_minute=growth.devices_per_minute,
        increment_factor=growth.factor,
        # Plain JSON to the CDK, so the names are CloudFormation's.
        rate_increase_criteria={"NumberOfSucceededThings": growth.after_devices},
    )


_NAMED_BY_SERVICE = "Greengrass names deployments and their jobs"
_DEVICES = "which devices are in a ring is known at the deploy only"
#: The handler reports a time-out by itself, with the devices' names: the framework's own comes later.
_MARGIN_MINUTES = 5


class DeploymentHealth(Construct):
    """Holds a stack's deploy back until a ring's devices are healthy; CloudFormation by itself does not wait for any.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        health: How long to wait, and for how many devices.
        target_arns: ARNs of the thing groups that may be waited for.
        promotion: What new versions of models must show, and in which rings; in none by default.
        bucket: Where the rules engine stores heartbeats with sketches of candidates; needed with rings of `promotion`.

    Raises:
        ValueError: Under the rules of `promotion` a good candidate would be refused too often.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        health: Health,
        target_arns: Sequence[str],
        promotion: Promotion | None = None,
        bucket: ArtifactBucket | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._health = health
        self._promotion = promotion or Promotion()
        self._bucket = bucket
        minutes, permissions = health.timeout_minutes + _MARGIN_MINUTES, _permissions(tuple(target_arns))
        self._rules = Rules(**{each.name: getattr(self._promotion, each.name) for each in fields(Rules)})
        if self._promotion.rings and bucket is not None:
            try:
                self._rules.check()
            except ValueError as exc:
                raise ValueError(f"promotion.{exc}") from exc
            minutes += self._promotion.minutes
            permissions += [*bucket.reading(PROMOTIONS), bucket.listing()]
        self._provider = HandlerProvider(
            self,
            "Handler",
            handler=deployment_health,
            permissions=permissions,
            limit=Duration.minutes(minutes),
            query_interval=Duration.seconds(2),
        )

    def wait_for(
        self,
        construct_id: str,
        deployment: FleetDeployment,
        *,
        ring: str,
        expected: Sequence[str],
        models: Mapping[str, str] | None = None,
    ) -> Construct:
        """Wait for a ring.

        Args:
            construct_id: Id of the resource.
            deployment: The ring's deployment.
            ring: Its name in error texts.
            expected: Thing names of devices that must report; the ring's other core devices are found by themselves,
                and things that have never been core devices are not waited for.
            models: Model to version that the deployment brings: a new one of a ring of `promotion` is decided on.

        Returns:
            What the next ring must depend on.
        """
        return self._provider.resource(
            self,
            construct_id,
            deployment_health.HealthCheck(
                deployment=deployment.resource.attr_deployment_id,
                group_arn=deployment.target_arn,
                ring=ring,
                healthy_percentage=self._health.healthy_percentage,
                timeout_s=self._health.timeout_minutes * 60,
                expected=tuple(expected),
                away_s=self._health.away_minutes * 60,
                present_percentage=self._health.present_percentage,
                **self._decision(ring, models or {}),
            ),
        )

    def _decision(self, ring: str, models: Mapping[str, str]) -> dict[str, Any]:
        if ring not in self._promotion.rings or self._bucket is None:
            return {}
        return {
            "candidates": dict(models),
            "rules": vars(self._rules),
            "bucket": self._bucket.name,
            "decision_s": self._promotion.minutes * 60,
        }


def _permissions(targets: tuple[str, ...]) -> list[Permission]:
    devices, things, jobs = arn("greengrass", "coreDevices:*"), arn("iot", "thing/*"), arn("iot", "job/*")
    return [
        everywhere("greengrass:ListCoreDevices"),
        everywhere("greengrass:CreateDeployment"),
        # Greengrass makes the job, and cancels the one before, with the caller's rights.
        Permission(("iot:CreateJob",), (jobs, *targets), wildcard_reason=_NAMED_BY_SERVICE),
        Permission(("iot:CancelJob", "iot:UpdateJob"), (jobs,), wildcard_reason=_NAMED_BY_SERVICE),
        Permission(
            ("greengrass:GetDeployment",), (arn("greengrass", "deployments:*"),), wildcard_reason=_NAMED_BY_SERVICE
        ),
        Permission(
            ("greengrass:ListEffectiveDeployments", "greengrass:ListInstalledComponents"),
            (devices,),
            wildcard_reason=_DEVICES,
        ),
        Permission(("iot:ListJobExecutionsForJob",), (jobs,), wildcard_reason=_NAMED_BY_SERVICE),
        Permission(("iot:DescribeJob",), (jobs,), wildcard_reason=_NAMED_BY_SERVICE),
        Permission(("iot:DescribeJobExecution",), (jobs, things), wildcard_reason=_DEVICES),
        Permission(("iot:DescribeThing", "iot:GetThingShadow"), (things,), wildcard_reason=_DEVICES),
        Permission(("iot:DescribeThingGroup",), targets),
    ]

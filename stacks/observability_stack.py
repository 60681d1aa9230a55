"""Watching the fleet: what becomes of its messages, and who is told when something is wrong."""

from aws_cdk import CfnOutput
from constructs import Construct

from config.edge_server import CPU
from config.model import finds_objects, has_reference, serving
from config.stage import Stage
from edge_constructs.fleet_rules import FleetRules
from edge_constructs.observability import DeploymentNotice, FleetAlarms, FleetDashboard, NotificationTopic
from edge_constructs.permission import arn
from stacks.stage_stack import StageStack, StorageStack


class ObservabilityStack(StageStack):
    """IoT rules, dashboard, alarms and the topic that they tell; as large for one device as for thousands.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        storage: Its bucket gets the results.
    """

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, storage: StorageStack) -> None:
        super().__init__(
            scope, construct_id, stage=stage, kind="observability", description="Edgewright: observability"
        )
        names, settings = self.names, stage.observability
        models = [model.folder for model in stage.models]
        devices = sorted({names.edge_server, *(device.name for device in stage.fleet.roster)})
        files = {model.folder: serving(model, names).get("PublishResultsOnTopic") for model in stage.models}
        referenced = [model.folder for model in stage.models if has_reference(model)]
        accelerated = stage.runtime.accelerator != CPU
        rules = FleetRules(
            self,
            "Rules",
            names=names,
            bucket=storage.artifacts,
            store_results=settings.store_results,
            device_metrics=settings.device_metrics,
            file_topics={model: topic for model, topic in files.items() if topic},
            drift=bool(referenced),
            accelerators=accelerated,
            detection=any(finds_objects(model) for model in stage.models),
            candidates=bool(stage.promotion.rings),
        )
        notice = names.alarm("deployment-failed")
        topic = NotificationTopic(
            self,
            "Notifications",
            emails=settings.emails,
            alarms=arn("cloudwatch", f"alarm:{names.prefix}-*"),
            event_rules=[arn("events", f"rule/{notice}")],
        )
        DeploymentNotice(
            self, "DeploymentFailed", name=notice, topic_arn=topic.arn, prefix=names.prefix, devices=devices
        )
        FleetAlarms(
            self,
            "Alarms",
            names=names,
            topic_arn=topic.arn,
            settings=settings,
            least_heartbeats=settings.least_heartbeats(len(devices)),
            models={model: settings.of_model(model) for model in models},
            referenced=referenced,
            failures=rules.failures,
            accelerators=accelerated,
        )
        FleetDashboard(
            self,
            "Dashboard",
            names=names,
            models=models,
            referenced=referenced,
            period_s=settings.period_s,
            bucket=storage.artifacts.name,
            event_rule=notice,
            rules=rules.rules,
            log_groups=[rules.errors.name, rules.failures.name],
        )
        CfnOutput(self, "NotificationTopic", value=topic.arn, description="Subscribe to it to be told of alarms")
        self.needs(storage)

"""What the fleet does, on one page; when somebody is told, of what, and who."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aws_cdk import Aws, Duration, RemovalPolicy
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from constructs import Construct

from config.names import Names
from config.operations import Observability, Thresholds
from edge_constructs.fleet_rules import CONFIDENCE, DRIFT, FAILED, FALLBACKS, HEARTBEATS, LATENCY, RuleLog, model_metric
from edge_constructs.permission import ACCOUNT, REGION, acknowledge, arn


class NotificationTopic(Construct):
    """An encrypted topic that takes messages over TLS, and from this account's alarms and event rules only.

    The key is its own: AWS's managed one cannot be used by CloudWatch, and the artifacts' key is none of its business.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        emails: Who is told; each has to confirm.
        alarms: Pattern of the alarms' ARNs.
        event_rules: ARNs of the EventBridge rules.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, emails: Sequence[str], alarms: str, event_rules: Sequence[str]
    ) -> None:
        super().__init__(scope, construct_id)
        key = kms.Key(
            self,
            "Key",
            description="Edgewright's notifications",
            enable_key_rotation=True,
            pending_window=Duration.days(7),
            removal_policy=RemovalPolicy.DESTROY,
        )
        # EventBridge does not say for whom it asks. The topic is always the context; its name begins with the stack's,
        # and its whole name would make key and topic wait for each other.
        topics = arn("sns", f"{Aws.STACK_NAME}-*")
        for service, conditions in (
            ("cloudwatch", {"StringEquals": {"aws:SourceAccount": ACCOUNT}}),
            ("events", {"StringLike": {"kms:EncryptionContext:aws:sns:topicArn": topics}}),
        ):
            key.add_to_resource_policy(
                iam.PolicyStatement(
                    principals=[iam.ServicePrincipal(f"{service}.amazonaws.com")],
                    actions=["kms:Decrypt", "kms:GenerateDataKey*"],
                    resources=["*"],
                    conditions=conditions,
                )
            )
        topic = sns.CfnTopic(self, "Resource", kms_master_key_id=key.key_arn)
        self.arn = topic.ref
        statements = [
            _publishing("cloudwatch", self.arn, {"ArnLike": {"aws:SourceArn": alarms}}),
            _publishing("events", self.arn, {"ArnEquals": {"aws:SourceArn": list(event_rules)}}),
            {
                "Effect": "Deny",
                "Principal": {"AWS": "*"},
                "Action": "sns:Publish",
                "Resource": self.arn,
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            },
        ]
        sns.CfnTopicPolicy(
            self, "Policy", topics=[self.arn], policy_document={"Version": "2012-10-17", "Statement": statements}
        )
        for number, email in enumerate(emails, start=1):
            sns.CfnSubscription(self, f"Email{number}", topic_arn=self.arn, protocol="email", endpoint=email)


def _publishing(service: str, topic: str, conditions: dict[str, Any]) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Principal": {"Service": f"{service}.amazonaws.com"},
        "Action": "sns:Publish",
        "Resource": topic,
        "Condition": conditions,
    }


DETAIL_TYPE = "Greengrass V2 Effective Deployment Status Change"
#: An event pattern may have 2,048 characters (EventBridge quotas): so many are for devices with names of their own,
#: each with so many around its name.
PATTERN_ROOM, _AROUND = 1600, 95
#: A list and an object stay what they are without quotes around the placeholder. Texts would be put in as they stand: a
#: reason with a quotation mark would make no JSON, and nobody would be told.
_MESSAGE = '{"AlarmName": %s, "devices": <devices>, "detail": <detail>}'


class DeploymentNotice(Construct):
    """Tells a topic of each device on which a deployment failed or was rejected.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The event rule's name.
        topic_arn: Where it goes.
        prefix: Names of the stage's devices begin with it and a hyphen.
        devices: Thing names that the stage registers. Where many are named otherwise, what their names begin with
            stands for them, in the extreme nothing: then it is told of every device of the account.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, name: str, topic_arn: str, prefix: str, devices: Sequence[str]
    ) -> None:
        super().__init__(scope, construct_id)
        others = [device for device in devices if not device.startswith(f"{prefix}-")]
        self.resource = events.CfnRule(
            self,
            "Resource",
            name=name,
            description="A deployment failed on a device",
            event_pattern={
                "source": ["aws.greengrass"],
                "detail-type": [DETAIL_TYPE],
                "resources": [
                    {"prefix": core_device(f"{prefix}-")},
                    *patterns(others),
                ],
                "detail": {"coreDeviceExecutionStatus": ["FAILED", "REJECTED"]},
            },
            targets=[
                events.CfnRule.TargetProperty(
                    id="Notifications",
                    arn=topic_arn,
                    input_transformer=events.CfnRule.InputTransformerProperty(
                        input_paths_map={"devices": "$.resources", "detail": "$.detail"},
                        input_template=_MESSAGE % json.dumps(name),
                    ),
                )
            ],
        )
        acknowledge(
            self.resource,
            {
                "Serverless-EventBusDLQ": "EventBridge tries to tell the topic for 24 hours; the deployment's own "
                "status keeps the failure, and the health resource of the deploy has told it before"
            },
        )


def patterns(devices: Sequence[str]) -> list[Any]:
    """Match devices in an event pattern, with as much of their names as there is room for.

    Args:
        devices: Thing names.

    Returns:
        Their ARNs, or the least general beginnings that are few enough.
    """

    def fit(names: set[str]) -> bool:
        return sum(len(name) + _AROUND for name in names) <= PATTERN_ROOM

    if fit(set(devices)):
        return [core_device(device) for device in devices]
    length = max(map(len, devices))
    while not fit(starts := {device[:length] for device in devices}):
        length -= 1
    return [{"prefix": core_device(start)} for start in sorted(starts)]


def core_device(name: str) -> str:
    """ARN of a Greengrass core device, or what the ARNs of several begin with."""
    return arn("greengrass", f"coreDevices:{name}")


RULE_FAILURES = "RuleFailures"


class FleetAlarms(Construct):
    """Alarms on the fleet and on each model; all of them tell one topic, when they go off and when they end.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        names: Of the stage.
        topic_arn: Who is told.
        settings: Periods.
        least_heartbeats: Fewer of them in a period are an alarm.
        models: Folder of each model to its thresholds.
        referenced: Those of them whose devices compare inputs with samples; their threshold of confidence is without
            effect, unless that of drift is 0.
        failures: Log of the rules' failures.
        accelerators: Whether models are to run elsewhere than on processors.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        names: Names,
        topic_arn: str,
        settings: Observability,
        least_heartbeats: float,
        models: Mapping[str, Thresholds],
        referenced: Collection[str] = (),
        failures: RuleLog,
        accelerators: bool = False,
    ) -> None:
        super().__init__(scope, construct_id)
        self._names, self._topic, self._settings = names, topic_arn, settings
        self._alarm(
            "heartbeat",
            f"Fewer than {least_heartbeats:g} heartbeats in {settings.period_s} s: a device is silent",
            HEARTBEATS,
            ("Sum", "LessThanThreshold", least_heartbeats),
            evaluation_periods=1,
            treat_missing_data="breaching",
        )
        logs.CfnMetricFilter(
            self,
            "RuleFailuresFilter",
            # The reference makes the filter wait for the group.
            log_group_name=failures.resource.ref,
            filter_pattern="",
            metric_transformations=[
                logs.CfnMetricFilter.MetricTransformationProperty(
                    metric_namespace=names.namespace, metric_name=RULE_FAILURES, metric_value="1", unit="Count"
                )
            ],
        )
        self._alarm(
            "rule-failures",
            f"An IoT rule could not do its work; {failures.name} says which and why",
            RULE_FAILURES,
            ("Sum", "GreaterThanThreshold", 0),
            evaluation_periods=1,
        )
        if accelerators:
            self._alarm(
                "accelerator",
                "A device runs a model on its processor that was to run on its accelerator; its heartbeat says why",
                FALLBACKS,
                ("Maximum", "GreaterThanThreshold", 0),
                evaluation_periods=1,
            )
        for model, thresholds in models.items():
            self._of_model(model, thresholds)
            self._of_inputs(model, thresholds, by_reference=model in referenced)

    def _of_model(self, model: str, thresholds: Thresholds) -> None:
        rate, latency = thresholds.error_rate, thresholds.latency_p95_ms
        self._alarm(
            f"{model}-error-rate",
            f"More than {rate:.1%} of the answers of {model} are errors",
            model_metric(model, FAILED),
            ("Average", "GreaterThanThreshold", rate),
        )
        self._alarm(
            f"{model}-latency",
            f"The 95th percentile of the latency of {model} is above {latency:g} ms",
            model_metric(model, LATENCY),
            ("p95", "GreaterThanThreshold", latency),
        )

    def _of_inputs(self, model: str, thresholds: Thresholds, *, by_reference: bool) -> None:
        confidence = thresholds.minimum_confidence
        if by_reference and thresholds.drift:
            self._alarm(
                f"{model}-drift",
                f"The inputs of {model} differ from its samples by an index above {thresholds.drift:g}",
                model_metric(model, DRIFT),
                # One device whose camera has moved is enough, and its window is long already.
                ("Maximum", "GreaterThanThreshold", thresholds.drift),
                evaluation_periods=1,
            )
            return
        if not confidence:
            return
        self._alarm(
            f"{model}-confidence",
            f"The average probability of the best label of {model} is below {confidence:g}: its inputs have drifted",
            model_metric(model, CONFIDENCE),
            ("Average", "LessThanThreshold", confidence),
        )

    def _alarm(self, kind: str, description: str, metric: str, rule: tuple[str, str, float], **changes: Any) -> None:
        statistic, comparison, threshold = rule
        kind_of_statistic = "extended_statistic" if statistic.startswith("p") else "statistic"
        values: dict[str, Any] = {
            kind_of_statistic: statistic,
            "evaluation_periods": self._settings.periods,
            "treat_missing_data": "notBreaching",
            **changes,
        }
        cloudwatch.CfnAlarm(
            self,
            "".join(part.capitalize() for part in kind.split("-")),
            alarm_name=self._names.alarm(kind),
            alarm_description=description,
            namespace=self._names.namespace,
            metric_name=metric,
            comparison_operator=comparison,
            threshold=threshold,
            period=self._settings.period_s,
            alarm_actions=[self._topic],
            ok_actions=[self._topic],
            **values,
        )


WIDTH, HEIGHT, COLUMNS = 12, 6, 2
_JOBS = ("SucceededJobExecutionTotalCount", "FailedJobExecutionTotalCount", "InProgressJobExecutionTotalCount")


class FleetDashboard(Construct):
    """A dashboard; lines of single devices and deployments are searched for, so that it does not grow with the fleet.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        names: Of the stage.
        models: Their folders.
        referenced: Those of them whose devices compare inputs with samples.
        period_s: Of each point.
        bucket: Name of the bucket whose size is shown.
        event_rule: Name of the rule that matches failed deployments.
        rules: Names of the IoT rules.
        log_groups: Names of the rules' log groups.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        names: Names,
        models: Sequence[str],
        referenced: Sequence[str] = (),
        period_s: int,
        bucket: str,
        event_rule: str,
        rules: Sequence[str],
        log_groups: Sequence[str],
    ) -> None:
        super().__init__(scope, construct_id)
        self._namespace, self._models, self._period = names.namespace, models, period_s
        widgets = [
            self._widget("Inferences a second", self._inferences()),
            *(self._widget(f"Latency of {model}, ms", self._latency(model)) for model in models),
            self._widget("Errors", self._of_each_model(FAILED, "Sum")),
            self._widget("Error rate", self._of_each_model(FAILED, "Average")),
            self._widget("Confidence: average probability of the best label", self._of_each_model(CONFIDENCE)),
            *self._drift(referenced),
            self._widget("Heartbeats", [[self._namespace, HEARTBEATS, {"stat": "Sum", "label": "all devices"}]]),
            self._widget("Heartbeats of each device", [self._search(f"{{{self._namespace}/devices}}", "SampleCount")]),
            self._widget("Deployments: devices", self._deployments(event_rule)),
            self._widget("Cost: rules and messages", _rules_cost(rules, self._namespace)),
            self._widget("Cost: storage and logs", _storage_cost(bucket, log_groups)),
        ]
        for number, widget in enumerate(widgets):
            widget |= {"x": number % COLUMNS * WIDTH, "y": number // COLUMNS * HEIGHT}
        self.resource = cloudwatch.CfnDashboard(
            self, "Resource", dashboard_name=names.prefix, dashboard_body=json.dumps({"widgets": widgets})
        )

    def _widget(self, title: str, metrics: list[list[Any]]) -> dict[str, Any]:
        properties = {
            "title": title,
            "metrics": metrics,
            "period": self._period,
            "region": REGION,
            "view": "timeSeries",
        }
        return {"type": "metric", "width": WIDTH, "height": HEIGHT, "properties": properties}

    def _inferences(self) -> list[list[Any]]:
        lines: list[list[Any]] = []
        for number, model in enumerate(self._models):
            counted = {"stat": "SampleCount", "id": f"m{number}", "visible": False}
            lines.append([self._namespace, model_metric(model, LATENCY), counted])
            lines.append([{"expression": f"m{number}/PERIOD(m{number})", "label": model, "id": f"r{number}"}])
        return lines

    def _latency(self, model: str) -> list[list[Any]]:
        metric = [self._namespace, model_metric(model, LATENCY)]
        return [[*metric, {"stat": percentile, "label": percentile}] for percentile in ("p50", "p95", "p99")]

    def _of_each_model(self, name: str, statistic: str = "Average") -> list[list[Any]]:
        return [
            [self._namespace, model_metric(model, name), {"stat": statistic, "label": model}] for model in self._models
        ]

    def _drift(self, models: Sequence[str]) -> list[dict[str, Any]]:
        lines = [[self._namespace, model_metric(model, DRIFT), {"stat": "Maximum", "label": model}] for model in models]
        return [self._widget("Drift: index of inputs against samples", lines)] if lines else []

    def _search(self, schema: str, statistic: str) -> list[Any]:
        return [{"expression": f"SEARCH('{schema}', '{statistic}', {self._period})"}]

    def _deployments(self, event_rule: str) -> list[list[Any]]:
        failed = {"stat": "Sum", "label": "failed (events)"}
        jobs = [self._search(f'{{AWS/IoT,JobId}} MetricName="{name}"', "Maximum") for name in _JOBS]
        return [["AWS/Events", "TriggeredRules", "RuleName", event_rule, failed], *jobs]


def _rules_cost(rules: Sequence[str], namespace: str) -> list[list[Any]]:
    return [
        ["AWS/IoT", "PublishIn.Success", "Protocol", "MQTT", {"stat": "Sum", "label": "messages in"}],
        *(["AWS/IoT", "TopicMatch", "RuleName", rule, {"stat": "Sum", "label": rule}] for rule in rules),
        [namespace, RULE_FAILURES, {"stat": "Sum", "label": "failures"}],
    ]


def _storage_cost(bucket: str, log_groups: Sequence[str]) -> list[list[Any]]:
    size = ["AWS/S3", "BucketSizeBytes", "BucketName", bucket, "StorageType", "StandardStorage"]
    objects = ["AWS/S3", "NumberOfObjects", "BucketName", bucket, "StorageType", "AllStorageTypes"]
    daily = {"stat": "Average", "period": 86400}
    logged = [["AWS/Logs", "IncomingBytes", "LogGroupName", group, {"stat": "Sum"}] for group in log_groups]
    return [[*size, daily], [*objects, {**daily, "yAxis": "right"}], *logged]

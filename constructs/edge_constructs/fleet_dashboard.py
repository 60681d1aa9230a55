"""What the fleet does, on one page."""

import json
from collections.abc import Sequence
from typing import Any

from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from config.names import Names
from edge_constructs.fleet_alarms import RULE_FAILURES
from edge_constructs.fleet_rules import CONFIDENCE, DRIFT, FAILED, HEARTBEATS, LATENCY, model_metric
from edge_constructs.permission import REGION

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

"""When somebody is told."""

from collections.abc import Mapping
from typing import Any

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs
from constructs import Construct

from config.names import Names
from config.observability import Observability, Thresholds
from edge_constructs.fleet_rules import CONFIDENCE, FAILED, HEARTBEATS, LATENCY, model_metric
from edge_constructs.rule_action import RuleLog

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
        failures: Log of the rules' failures.
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
        failures: RuleLog,
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
        for model, thresholds in models.items():
            self._of_model(model, thresholds)

    def _of_model(self, model: str, thresholds: Thresholds) -> None:
        rate, latency = thresholds.error_rate, thresholds.latency_p95_ms
        confidence = thresholds.minimum_confidence
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

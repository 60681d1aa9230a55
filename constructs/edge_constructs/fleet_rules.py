"""What becomes of the messages that devices send: objects, metrics and log lines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aws_cdk import RemovalPolicy
from aws_cdk import aws_iot as iot
from aws_cdk import aws_logs as logs
from constructs import Construct

from config.names import Names
from edge_constructs.artifact_store import PROMOTIONS, RESULTS, ArtifactBucket
from edge_constructs.permission import ACCOUNT, Permission, ServiceRole, acknowledge, arn, merged

Action = iot.CfnTopicRule.ActionProperty


@dataclass(frozen=True)
class RuleAction:
    """One action.

    Attributes:
        make: Makes the action for the ARN of the rule's role.
        permissions: What that role needs.
    """

    make: Callable[[str], Action]
    permissions: tuple[Permission, ...]


def put_metric(namespace: str, name: str, value: str, unit: str) -> RuleAction:
    """Put a metric; IoT gives it no dimensions, so what it is about is part of its name.

    Args:
        namespace: Exact.
        name: May hold `${…}`.
        value: A number, or `${…}` that gives one.
        unit: Of CloudWatch.
    """

    def make(role: str) -> Action:
        metric = iot.CfnTopicRule.CloudwatchMetricActionProperty(
            metric_namespace=namespace, metric_name=name, metric_value=value, metric_unit=unit, role_arn=role
        )
        return Action(cloudwatch_metric=metric)

    permission = Permission(
        ("cloudwatch:PutMetricData",),
        ("*",),
        conditions={"StringEquals": {"cloudwatch:namespace": namespace}},
        wildcard_reason="metrics are no resources: the condition narrows the action to one namespace",
    )
    return RuleAction(make, (permission,))


def put_object(bucket: ArtifactBucket, prefix: str, key: str) -> RuleAction:
    """Write the message as an object.

    Args:
        bucket: Which one.
        prefix: Exact, with a trailing `/`; the rule may write below it only.
        key: What follows it; may hold `${…}`.
    """

    def make(role: str) -> Action:
        return Action(
            s3=iot.CfnTopicRule.S3ActionProperty(bucket_name=bucket.name, key=f"{prefix}{key}", role_arn=role)
        )

    return RuleAction(make, tuple(bucket.adding(prefix)))


class RuleLog(Construct):
    """A log group that rules write to.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: A person looks for it.
    """

    def __init__(self, scope: Construct, construct_id: str, *, name: str) -> None:
        super().__init__(scope, construct_id)
        self.name = name
        self.resource = logs.CfnLogGroup(self, "Resource", log_group_name=name, retention_in_days=30)
        self.resource.apply_removal_policy(RemovalPolicy.DESTROY)
        acknowledge(
            self.resource,
            {
                "NIST.800.53.R5-CloudWatchLogGroupEncrypted": "the lines name devices, models and error codes, neither "
                "images nor features; CloudWatch encrypts them with a key of its own"
            },
        )

    @property
    def action(self) -> RuleAction:
        """Write the message as a line."""
        group = arn("logs", f"log-group:{self.name}:*")

        def make(role: str) -> Action:
            # The reference makes the rule wait for the group.
            return Action(
                cloudwatch_logs=iot.CfnTopicRule.CloudwatchLogsActionProperty(
                    log_group_name=self.resource.ref, role_arn=role
                )
            )

        permission = Permission(
            ("logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
            (group,),
            wildcard_reason="the rules engine names the log streams",
        )
        return RuleAction(make, (permission,))


SQL_VERSION = "2016-03-23"


class TopicRule(Construct):
    """Sends the messages of a topic filter to AWS services; what fails goes to a log that names rule and action.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: Letters, digits and `_`.
        description: One sentence for the console.
        topics: Topic filter.
        where: Condition on the message; empty for every message.
        select: What the actions get, the whole message by default.
        actions: What happens, at least one.
        failures: What happens to a message whose actions failed, with the reason.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        description: str,
        topics: str,
        where: str = "",
        select: str = "*",
        actions: Sequence[RuleAction],
        failures: RuleAction,
    ) -> None:
        super().__init__(scope, construct_id)
        needed = [permission for action in (*actions, failures) for permission in action.permissions]
        source = {
            "StringEquals": {"aws:SourceAccount": ACCOUNT},
            "ArnLike": {"aws:SourceArn": arn("iot", f"rule/{name}")},
        }
        role = ServiceRole(
            self, "Role", service="iot.amazonaws.com", permissions=merged(needed), trust_conditions=source
        )
        condition = ["WHERE", where] if where else []
        self.resource = iot.CfnTopicRule(
            self,
            "Resource",
            rule_name=name,
            topic_rule_payload=iot.CfnTopicRule.TopicRulePayloadProperty(
                sql=" ".join(["SELECT", select, "FROM", f"'{topics}'", *condition]),
                aws_iot_sql_version=SQL_VERSION,
                description=description,
                actions=[action.make(role.arn) for action in actions],
                error_action=failures.make(role.arn),
            ),
        )


#: Metrics of the stage's namespace.
HEARTBEATS, FALLBACKS = "Heartbeats", "AcceleratorFallbacks"
#: Metrics of a model: `<model>.<name>`. FAILED is 0 for a result and 1 for an error: its average is the error rate.
FAILED, LATENCY, CONFIDENCE, DRIFT = "Failed", "LatencyMs", "Confidence", "Drift"

#: The model is the third part of `edgewright/<stage>/<model>/response`.
_MODEL = "${topic(3)}"
#: AWS IoT lets a device connect under its own name only, so nobody can speak for another device.
_DEVICE = "${clientid()}"
_DAY = "${parse_time('yyyy-MM-dd', timestamp())}"
_BEST = "get(get(top_k, 0), 'probability')"
_SUREST = "get(get(objects, 0), 'probability')"


def model_metric(model: str, name: str) -> str:
    """Name of a model's metric.

    Args:
        model: The model's folder.
        name: FAILED, LATENCY, CONFIDENCE or DRIFT.
    """
    return f"{model}.{name}"


class FleetRules(Construct):
    """The stage's IoT rules, as many for one device as for thousands.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        names: Of the stage.
        bucket: Gets the results, below `results/`.
        store_results: Whether it does.
        device_metrics: Whether a device has a metric of its own.
        file_topics: A model to the topic of its own on which devices publish the results of files.
        drift: Whether a model has a reference, so that heartbeats tell of drift.
        detection: Whether a model finds objects.
        candidates: Whether heartbeats with a candidate's sketch are stored, for the deploy that decides.
        accelerators: Whether models are to run elsewhere than on processors, so that heartbeats tell where they do not.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        names: Names,
        bucket: ArtifactBucket,
        store_results: bool,
        device_metrics: bool,
        file_topics: Mapping[str, str],
        drift: bool = False,
        detection: bool = False,
        candidates: bool = False,
        accelerators: bool = False,
    ) -> None:
        super().__init__(scope, construct_id)
        self._names = names
        self.rules: list[str] = []
        self.errors = RuleLog(self, "ErrorLog", name=f"/edgewright/{names.stage}/errors")
        self.failures = RuleLog(self, "FailureLog", name=f"/edgewright/{names.stage}/rule-failures")
        answers, heartbeats = names.response_topics, names.heartbeat_topic
        # The id is the message's own: one that arrives twice is one object.
        stored = put_object(bucket, RESULTS, f"model={_MODEL}/day={_DAY}/{_DEVICE}/${{id}}.json")
        self._rule(
            "Results",
            "Results become objects, latencies and successes",
            [
                *([stored] if store_results else []),
                self._model(FAILED, "0", "None"),
                self._model(LATENCY, "${latency_ms}", "Milliseconds"),
            ],
            topics=answers,
            where="latency_ms >= 0 AND id <> ''",
        )
        self._rule(
            "Confidence",
            "Classifications: the probability of the best label",
            [self._model(CONFIDENCE, f"${{{_BEST}}}", "None")],
            topics=answers,
            where=f"{_BEST} >= 0",
        )
        if detection:
            self._rule(
                "ObjectConfidence",
                "Detections: the probability of the surest object",
                [self._model(CONFIDENCE, f"${{{_SUREST}}}", "None")],
                topics=answers,
                where=f"{_SUREST} >= 0",
            )
        self._rule(
            "Errors",
            "Errors become log lines and failures",
            [self.errors.action, self._model(FAILED, "1", "None")],
            topics=answers,
            where="error.code <> ''",
            select="*, topic(3) AS model, clientid() AS client",
        )
        alive = [put_metric(names.namespace, HEARTBEATS, "1", "Count")]
        if device_metrics:
            alive.append(put_metric(f"{names.namespace}/devices", _DEVICE, "${uptime_s}", "Seconds"))
        if drift:
            self._rule(
                "Drift",
                "Heartbeats: how far a model's inputs are from its samples",
                [put_metric(names.namespace, model_metric("${drift.model}", DRIFT), "${drift.highest}", "None")],
                topics=heartbeats,
                where="drift.highest >= 0",
            )
        if candidates:
            self._rule(
                "Candidates",
                "Heartbeats with a candidate's sketch become objects, each over the one before",
                [put_object(bucket, PROMOTIONS, f"${{candidate.model}}/{_DEVICE}.json")],
                topics=heartbeats,
                where="candidate.inputs >= 0",
            )
        if accelerators:
            self._rule(
                "Accelerators",
                "Heartbeats: how many models run on the processor that were to run elsewhere",
                [put_metric(names.namespace, FALLBACKS, "${accelerator.fallbacks}", "Count")],
                topics=heartbeats,
                where="accelerator.fallbacks >= 0",
            )
        self._rule("Heartbeat", "Signs of life become metrics", alive, topics=heartbeats, where="uptime_s >= 0")
        for model, topic in file_topics.items() if store_results else ():
            self._rule(
                f"{names.model_package(model)}Files",
                f"Results of files for the model {model} become objects",
                [put_object(bucket, RESULTS, f"model={model}/day={_DAY}/{_DEVICE}/${{newuuid()}}.json")],
                topics=topic,
            )

    def _model(self, name: str, value: str, unit: str) -> RuleAction:
        return put_metric(self._names.namespace, model_metric(_MODEL, name), value, unit)

    def _rule(self, kind: str, description: str, actions: Sequence[RuleAction], **sql: str) -> None:
        name = self._names.rule(kind)
        self.rules.append(name)
        TopicRule(
            self,
            f"{kind}Rule",
            name=name,
            description=description,
            actions=actions,
            failures=self.failures.action,
            **sql,
        )

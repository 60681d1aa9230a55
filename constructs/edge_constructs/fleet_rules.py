"""What becomes of the messages that devices send: objects, metrics and log lines."""

from collections.abc import Mapping, Sequence

from constructs import Construct

from config.names import Names
from edge_constructs.artifact_bucket import ArtifactBucket
from edge_constructs.rule_action import RuleAction, RuleLog, put_metric, put_result
from edge_constructs.topic_rule import TopicRule

#: Metrics of the stage's namespace.
HEARTBEATS = "Heartbeats"
#: Metrics of a model: `<model>.<name>`. FAILED is 0 for a result and 1 for an error: its average is the error rate.
FAILED, LATENCY, CONFIDENCE = "Failed", "LatencyMs", "Confidence"

#: The model is the third part of `edgewright/<stage>/<model>/response`.
_MODEL = "${topic(3)}"
#: AWS IoT lets a device connect under its own name only, so nobody can speak for another device.
_DEVICE = "${clientid()}"
_DAY = "${parse_time('yyyy-MM-dd', timestamp())}"
_BEST = "get(get(top_k, 0), 'probability')"


def model_metric(model: str, name: str) -> str:
    """Name of a model's metric.

    Args:
        model: The model's folder.
        name: FAILED, LATENCY or CONFIDENCE.
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
    ) -> None:
        super().__init__(scope, construct_id)
        self._names = names
        self.rules: list[str] = []
        self.errors = RuleLog(self, "ErrorLog", name=f"/edgewright/{names.stage}/errors")
        self.failures = RuleLog(self, "FailureLog", name=f"/edgewright/{names.stage}/rule-failures")
        answers, heartbeats = names.response_topics, names.heartbeat_topic
        # The id is the message's own: one that arrives twice is one object.
        stored = put_result(bucket, f"model={_MODEL}/day={_DAY}/{_DEVICE}/${{id}}.json")
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
        self._rule("Heartbeat", "Signs of life become metrics", alive, topics=heartbeats, where="uptime_s >= 0")
        for model, topic in file_topics.items() if store_results else ():
            self._rule(
                f"{names.model_package(model)}Files",
                f"Results of files for the model {model} become objects",
                [put_result(bucket, f"model={model}/day={_DAY}/{_DEVICE}/${{newuuid()}}.json")],
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

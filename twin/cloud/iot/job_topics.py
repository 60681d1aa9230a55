"""The MQTT topics of job queues with a namespace: `…/jobs/<job>/namespace-<namespace>/{get,update}`."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from ministack.core.responses import request_scope
from ministack.services import iot

from twin.cloud.iot.job_namespace import job_namespace, namespace_of
from twin.cloud.iot.job_notification import JobNotifier

_REQUEST = re.compile(r"\$aws/things/([^/]+)/jobs/([^/]+)/namespace-([^/]+)/(get|update)")
_REPLY = re.compile(
    r"\$aws/things/[^/]+/jobs/([^/]+/namespace-[^/]+/(get|update)/(accepted|rejected)|notify(-next)?-namespace-[^/]+)"
)
_NEXT = "$next"

Document = dict[str, Any]


class Rejected(Exception):  # noqa: N818 - the protocol's own word
    """A request that is answered on its `rejected` topic.

    Args:
        document: The answer.
    """

    def __init__(self, document: Document) -> None:
        super().__init__(document.get("message"))
        self.document = document


def install(notifier: JobNotifier) -> None:
    """Serve the topics, keep clients from publishing on their answers, and notify by `notifier`."""
    parse_by_ministack, serve_by_ministack = iot._parse_jobs_topic, iot._handle_jobs_publish
    publish_allowed_by_ministack = iot._reserved_topic_publish_allowed

    def parse_jobs_topic(topic: str) -> Any:
        if match := _REQUEST.fullmatch(topic):
            return match[1], f"namespace-{match[3]}/{match[4]}", match[2]
        return parse_by_ministack(topic)

    async def handle_jobs_publish(
        account_id: str, region: str, thing: str, verb: str, job_id: str | None, payload: bytes
    ) -> None:
        if verb.startswith("namespace-") and job_id is not None:
            namespace, _, verb = verb.removeprefix("namespace-").rpartition("/")
            with request_scope(account_id, region), job_namespace(namespace):
                await _serve(notifier, account_id, region, thing, job_id, namespace, verb, payload)
        else:
            await serve_by_ministack(account_id, region, thing, verb, job_id, payload)

    def reserved_topic_publish_allowed(topic: str) -> bool:
        return _REPLY.fullmatch(topic) is None and bool(publish_allowed_by_ministack(topic))

    iot._parse_jobs_topic = parse_jobs_topic
    iot._handle_jobs_publish = handle_jobs_publish
    iot._reserved_topic_publish_allowed = reserved_topic_publish_allowed
    iot.jobs_notify_thing = notifier.queue_changed


async def _serve(
    notifier: JobNotifier,
    account: str,
    region: str,
    thing: str,
    job_id: str,
    namespace: str,
    verb: str,
    payload: bytes,
) -> None:
    try:
        request = _request(payload)
        token = request.get("clientToken")
        if job_id != _NEXT and namespace_of(job_id) != namespace:
            raise Rejected(iot._jobs_rejected("ResourceNotFound", f"Job {job_id} not found for {thing}", token))
        answer, kind = (_get if verb == "get" else _update)(thing, job_id, request, token), "accepted"
    except Rejected as rejected:
        answer, kind = rejected.document, "rejected"
    topic = f"$aws/things/{thing}/jobs/{job_id}/namespace-{namespace}/{verb}/{kind}"
    notifier.replied(account, region, thing)
    await iot.broker_publish(account, region, topic, iot._jobs_mqtt_json(answer).encode(), qos=1)
    if verb == "update" and kind == "accepted" and request.get("status") in iot._JOB_EXECUTION_TERMINAL:
        with job_namespace(None):
            await iot.jobs_notify_thing(account, region, thing, iot.jobs_first_pending_job_id(thing))
            await iot.jobs_abort_if_met(account, region, job_id)


def _request(payload: bytes) -> Document:
    try:
        request = json.loads(payload) if payload else {}
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise Rejected(iot._jobs_rejected("InvalidJson", "The request payload must be a JSON object in UTF-8"))
    return request


def _get(thing: str, job_id: str, request: Document, token: Any) -> Document:
    """DescribeJobExecution: the front of the queue for `$next`, and no execution where the queue is empty."""
    if job_id == _NEXT:
        execution = iot.jobs_start_next_execution(thing, peek=True)
    else:
        execution = iot.jobs_describe_execution(thing, job_id)
        number = request.get("executionNumber")
        if execution is None or number not in (None, execution["executionNumber"]):
            raise Rejected(iot._jobs_rejected("ResourceNotFound", f"Job {job_id} not found for {thing}", token))
    answer: Document = iot._jobs_mqtt_head(token, int(time.time()))
    if execution is None:
        return answer
    if error := iot.jobs_reject_terminal_describe(execution):
        raise Rejected(iot._jobs_error_tuple_to_rejected(error, token))
    wanted = request.get("includeJobDocument", True)
    document = iot._jobs_job_document_object(execution["jobId"]) if wanted else None
    return {**answer, "execution": iot._jobs_mqtt_execution(execution, document)}


def _update(thing: str, job_id: str, request: Document, token: Any) -> Document:
    """UpdateJobExecution."""
    status = request.get("status")
    execution, error = iot.jobs_update_execution(
        thing,
        job_id,
        status=status if isinstance(status, str) else None,
        expected_version=request.get("expectedVersion"),
        status_details=request.get("statusDetails"),
        step_timeout_minutes=request.get("stepTimeoutInMinutes"),
        execution_number=request.get("executionNumber"),
    )
    if error:
        current = iot.jobs_describe_execution(thing, job_id)
        raise Rejected(iot._jobs_error_tuple_to_rejected(error, token, current))
    answer: Document = iot._jobs_mqtt_head(token, int(time.time()))
    if request.get("includeJobExecutionState"):
        answer["executionState"] = iot.jobs_execution_state(execution)
    if request.get("includeJobDocument"):
        answer["jobDocument"] = iot._jobs_job_document_object(job_id, escape_non_bmp=True)
    return answer

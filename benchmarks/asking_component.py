"""A component of the same device that asks a model on local topics, one request after the other.

The nucleus starts it (`local_requests.py` brings it there): its environment has the IPC's socket and token. When half
is answered it waits until the line is cut. Writes one JSON object: how many requests were answered, lost and out of
order, and how long each took, ms.
"""

import argparse
import json
import queue
import sys
import time
from pathlib import Path

from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import BinaryMessage, PublishMessage, SubscriptionResponseMessage

#: So long an answer may take before the request counts as lost.
LIMIT_S = 30.0
#: So long the line may take to be cut.
CUT_LIMIT_S = 120.0


def main() -> None:
    """Ask and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("request_topic")
    parser.add_argument("response_topic")
    parser.add_argument("count", type=int)
    parser.add_argument("--report", type=Path, help="file for the report (default: stdout)")
    parser.add_argument("--half", type=Path, help="made when half is answered; goes on when it is gone")
    options = parser.parse_args()
    answers: queue.Queue[dict[str, object]] = queue.Queue()

    def heard(event: SubscriptionResponseMessage) -> None:
        answers.put(json.loads(event.binary_message.message))

    client = GreengrassCoreIPCClientV2(executor=None)
    client.subscribe_to_topic(topic=options.response_topic, on_stream_event=heard)
    took_ms, lost, out_of_order = list[float](), 0, 0
    for number in range(options.count):
        if options.half and number == options.count // 2:
            wait_for_the_cut(options.half)
        message = json.dumps({"request_id": str(number), "index": number % 300}).encode()
        publish = PublishMessage(binary_message=BinaryMessage(message=message))
        started = time.perf_counter()
        client.publish_to_topic(topic=options.request_topic, publish_message=publish)
        try:
            answer = answers.get(timeout=LIMIT_S)
        except queue.Empty:
            lost += 1
            continue
        took_ms.append((time.perf_counter() - started) * 1000)
        out_of_order += answer["request_id"] != str(number) or "label" not in answer
    report = {"answered": len(took_ms), "lost": lost, "out_of_order": out_of_order, "took_ms": took_ms}
    if options.report:
        partial = options.report.with_suffix(".part")
        partial.write_text(json.dumps(report))
        partial.replace(options.report)
    else:
        sys.stdout.write(json.dumps(report))
    client.close().result(10)


def wait_for_the_cut(half: Path) -> None:
    """Say that half is answered, and wait until that was heard.

    Raises:
        TimeoutError: Nobody cut the line.
    """
    half.touch()
    end = time.monotonic() + CUT_LIMIT_S
    while half.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"the line must be cut within {CUT_LIMIT_S:.0f} s: remove {half}")
        time.sleep(0.05)


if __name__ == "__main__":
    main()

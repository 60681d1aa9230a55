"""Malformed messages to a deployed twin's device: random bytes, broken JSON, wrong types, huge ones, nesting, twins."""

import base64
import json
import queue
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.deployed_twin import REQUEST, RESPONSE, DeployedTwin
from nucleus_lite.deployment import PACKET_BYTES
from twin.operator import OperatorClient

ANSWER_LIMIT_S = 20.0
#: Of so many messages one is too long for the device.
HUGE_EVERY = 100

VALUES: tuple[Any, ...] = (
    None, True, -1, 10_000, 1e308, -0.5, "", "7", "x" * 300, [], {}, [[[]]], {"a": {"b": []}}, "\u0000", "\ud800",
    1 << 70, float("nan"), float("inf"),
)  # fmt: skip
FIELDS = ("request_id", "index", "image", "features", "inputs", "device")


def random_bytes(chance: random.Random) -> bytes:
    """Nothing at all, or noise."""
    return chance.randbytes(chance.randrange(200))


def broken_json(chance: random.Random) -> bytes:
    """A good request with some bytes changed, or cut off."""
    data = bytearray(json.dumps({"request_id": f"fuzz-{chance.random()}", "index": chance.randrange(360)}).encode())
    for _ in range(chance.randrange(1, 8)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.randrange(1, len(data) + 1)])


def wrong_types(chance: random.Random) -> bytes:
    """Fields of a request with values of any kind."""
    # Another device's request is that device's to answer.
    fields = {name: chance.choice(VALUES) for name in FIELDS if chance.random() < 0.4 and name != "device"}
    return json.dumps({"index": chance.choice(VALUES), **fields}).encode()


def nested(chance: random.Random) -> bytes:
    """Lists or objects in each other, hundreds deep."""
    depth = chance.randrange(100, 400)
    return chance.choice((b"[" * depth, b"[" * depth + b"]" * depth, b'{"inputs":' * depth + b"1" + b"}" * depth))


def repeated(chance: random.Random) -> bytes:
    """One of three ids again and again, twice in the message, too."""
    name = chance.randrange(3)
    return b'{"request_id": "same-%d", "request_id": "same-%d", "index": -1, "index": "%d"}' % (name, name, name)


def picture(chance: random.Random) -> bytes:
    """A picture that is none."""
    noise = chance.choice((b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) + chance.randbytes(chance.randrange(500))
    return json.dumps({"request_id": "picture", "image": base64.b64encode(noise).decode()}).encode()


KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    random_bytes, broken_json, wrong_types, nested, repeated, picture,
)  # fmt: skip


def huge(chance: random.Random) -> bytes:
    """More than the device takes in one packet, and less than the broker does."""
    return chance.randbytes(PACKET_BYTES.value + chance.randrange(100_000))


def malformed(twin: DeployedTwin, count: int, seed: int) -> dict[str, Any]:
    """Each is answered with an error, or refused by a documented rule; the component serves on."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    codes, outcomes = Counter[str](), Counter[str]()
    with twin.operator() as operator:
        twin.wait_until_served(operator)
        before, pid, device = twin.rss_mb(), twin.component.pid, twin.device.pid
        log = len(twin.log())
        for number in range(count):
            if number % HUGE_EVERY == HUGE_EVERY - 1:
                operator.publish(REQUEST, huge(chance))
                # The packet ends the device's link, as it does nucleus lite's; it comes back by itself.
                twin.wait_until_served(operator)
                outcomes["huge"] += 1
                continue
            answer = told(operator, KINDS[number % len(KINDS)](chance))
            codes[answer] += 1
        served_s = twin.wait_until_served(operator)
        after = twin.rss_mb()
        dropped = twin.log()[log:].count("drops the link: nucleus lite takes at most")
        same = twin.component.pid == pid and twin.device.pid == device
    silent = codes.pop("silence", 0)
    return {
        "sent": count, "answered": dict(sorted(codes.items())), "without an answer": silent,
        "longer than nucleus lite takes: the link is dropped and comes back": [outcomes["huge"], dropped],
        "served after in s": round(served_s, 2), "same processes": same, "rss_mb": [before, after],
        "holds": not silent and same and dropped == outcomes["huge"]
        and not twin.grew(before, after),
    }  # fmt: skip


def told(operator: OperatorClient, payload: bytes) -> str:
    """Send a message; the code of the error that is the answer, `prediction` or `silence`."""
    with operator.listen(RESPONSE) as answers:
        operator.publish(REQUEST, payload)
        try:
            answer = json.loads(answers.get(timeout=ANSWER_LIMIT_S))
        except queue.Empty:
            return "silence"
    return str(answer["error"]["code"]) if "error" in answer else "prediction"

"""What devices say over MQTT, kept for the page: answers with what was asked, heartbeats, figures by the second."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import math
import queue
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from statistics import quantiles
from typing import Any, TypeVar

from config.model import serving
from config.names import Names
from config.places import MODELS
from config.stage import Stage
from twin import TwinError
from twin.predict import Connect, Link, answer_topics, sample_of

logger = logging.getLogger("twin.page")

Json = dict[str, Any]
Value = TypeVar("Value")
SHOWN = 24
"""Predictions on the page; older ones go."""
SECONDS = 900
"""How far the plots look back."""
_REQUESTS, _PICTURES, _PICTURES_BYTES, _DEVICES = 512, 256, 8 << 20, 2000
_LATENCIES = 500  # of a second
_TEXT = 200
MOST_BOXES = 20
_TICK_S = 0.05
_BACKLOG = 5000
_AGAIN_S = 2.0
_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Prediction:
    """An answer as it is shown.

    Attributes:
        number: Counts all since the page was started.
        at: When it came, epoch seconds.
        device: Who says so; empty where the message does not tell.
        model: Name and version.
        label: The most probable, or a short form of the outputs, or an error's message.
        top: Labels and probabilities, the most probable first.
        latency_ms: On the device; None where the message does not tell.
        picture: Key for `Messages.picture`; empty without one.
        asked: What was asked, as text, where there is no picture.
        wrong: What the sample really is, if the label is another; `error` for an error.
        size: Width and height of the picture in which objects were looked for; 0 where none were.
        boxes: Of the objects that were found: left, top, right, bottom in that picture's pixels.
    """

    number: int
    at: float
    device: str
    model: str
    label: str
    top: tuple[tuple[str, float], ...] = ()
    latency_ms: float | None = None
    picture: str = ""
    asked: str = ""
    wrong: str = ""
    size: tuple[float, float] = (0.0, 0.0)
    boxes: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Heartbeat:
    """A device's newest sign of life: when it came (epoch seconds), and each model's name, version and latencies."""

    at: float
    memory_mb: float
    models: tuple[tuple[str, str, str], ...]
    problem: str = ""


@dataclass
class Second:
    """What a second brought: answers by model, latencies, probabilities of the best label by model: sum and number."""

    at: int
    counts: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    confidences: dict[str, tuple[float, int]] = field(default_factory=dict)
    errors: int = 0

    def point(self, models: Iterable[str]) -> list[Any]:
        """Time, p50, p95, p99, errors, then rate and mean confidence of each model; None where there is none."""
        values: list[float | None] = [None, None, None]
        if len(self.latencies) == 1:
            values = [self.latencies[0]] * 3
        elif self.latencies:
            hundredths = quantiles(self.latencies, n=100, method="inclusive")
            values = [round(hundredths[place], 3) for place in (49, 94, 98)]
        figures: list[Any] = [self.at, *values, self.errors]
        for model in models:
            total, number = self.confidences.get(model, (0.0, 0))
            figures += [self.counts[model], round(total / number, 4) if number else None]
        return figures


class Messages:
    """What was heard since the page was started; every store is bounded.

    Args:
        stage: Whose models and devices.
        clock: Epoch seconds.
    """

    def __init__(self, stage: Stage, clock: Callable[[], float] = time.time) -> None:
        self.stage, self.names, self._clock = stage, Names(stage.name), clock
        self.models = [model.folder for model in stage.models]
        self._lock = threading.Lock()
        self.predictions: deque[Prediction] = deque(maxlen=SHOWN)
        self.count = self.unread = 0
        self.heartbeats: OrderedDict[str, Heartbeat] = OrderedDict()
        self._asked: OrderedDict[str, tuple[str, str, str]] = OrderedDict()
        self._pictures: OrderedDict[str, bytes] = OrderedDict()
        self._seconds: deque[Second] = deque(maxlen=SECONDS)
        #: Changes with everything that is taken in, and with heartbeats alone.
        self.version = self.beats = 0
        self.trouble = "not connected yet"
        self.link: Link | None = None

    def topics(self) -> dict[str, Callable[[bytes], None]]:
        """Exact topics, and what takes their messages."""
        requests = {self.names.request_topic(model): partial(self.request, model) for model in self.models}
        answers = {topic: partial(self.response, model) for topic, model in answer_topics(self.stage).items()}
        return {self.names.heartbeat_topic: self.heartbeat, **requests, **answers}

    def request(self, model: str, payload: bytes) -> None:
        """Remember what is asked, for the answers that follow."""
        message = _object(payload)
        if not (identifier := _text(message.get("request_id"))):
            return
        key = text = truth = ""
        if isinstance(message.get("image"), str):
            with suppress(binascii.Error, ValueError):
                key = self._keep(base64.b64decode(message["image"], validate=True))
        elif type(index := message.get("index")) is int and 0 <= index < _SAMPLES:
            key, truth = f"{model}-{index}", str(index)
        else:
            subject = message.get("features", message.get("inputs"))
            text = json.dumps(subject)[:_TEXT] if subject is not None else ""
        with self._lock:
            _put(self._asked, identifier, (key, text, truth), _REQUESTS)

    def response(self, model: str, payload: bytes) -> None:
        """Take in an answer, or a result of a file in either of its forms."""
        message = _object(payload)
        key, text, index = self._asked.get(_text(message.get("request_id")), ("", "", ""))
        version = _object_of(message.get("model")).get("version")
        said: Json = {
            "device": _text(message.get("device")),
            "model": f"{model} {_text(version)}".strip(),
            "asked": text,
            "picture": key,
        }
        if error := _object_of(message.get("error")):
            label = f"{_text(error.get('code'))}: {_text(error.get('message'))}"
            self._add(model, said, label=label, wrong="error")
            return
        listed = message.get("top_k", message.get("inference-results", message.get("objects")))
        listed = listed if isinstance(listed, list) else []
        top = tuple(_scores(listed))
        if size := _numbers(message.get("size"), 2):
            said["size"], said["boxes"] = size, tuple(_boxes(listed))
        if "inference-results" in message or ("request_id" not in message and not key):
            said["picture"] = f"{model}-file"
            said["asked"] = _text(message.get("inference-description"))
        label = _text(message.get("label")) or (top[0][0] if top else "")
        if "size" in said:
            label = ", ".join(name for name, _ in top) or "nothing found"
        if not label:
            outputs = message.get("outputs")
            label = json.dumps(outputs)[:_TEXT] if outputs is not None else "nothing above the threshold"
        truth = sample_of(model, int(index))[1] if index else ""
        wrong = truth if truth and truth != label else ""
        self._add(model, said, label=label, top=top, latency_ms=_number(message.get("latency_ms")), wrong=wrong)

    def _add(self, model: str, said: Json, **more: Any) -> None:
        now = self._clock()
        with self._lock:
            self.count += 1
            prediction = Prediction(number=self.count, at=now, **said, **more)
            self.predictions.appendleft(prediction)
            if not self._seconds or self._seconds[-1].at < int(now):
                self._seconds.append(Second(int(now)))
            second = self._seconds[-1]
            second.counts[model] += 1
            second.errors += prediction.wrong == "error"
            if prediction.latency_ms is not None and len(second.latencies) < _LATENCIES:
                second.latencies.append(prediction.latency_ms)
            if prediction.top:
                total, number = second.confidences.get(model, (0.0, 0))
                second.confidences[model] = total + prediction.top[0][1], number + 1
            self.version += 1

    def heartbeat(self, payload: bytes) -> None:
        """Take in a sign of life."""
        message = _object(payload)
        device = _text(message.get("device"))
        if not device:
            return
        rows, problem = [], ""
        for name, found in list(_object_of(message.get("models")).items())[:64]:
            each, latency = _object_of(found), _object_of(_object_of(found).get("latency_ms"))
            shown = " / ".join(f"{value:.2f}" for at in ("p50", "p95", "p99") if (value := _number(latency.get(at))))
            rows.append((_text(name), _text(each.get("version")), shown))
            problem = problem or _text(each.get("problem"))
        beat = Heartbeat(self._clock(), _number(message.get("rss_mb")) or 0.0, tuple(rows), problem)
        with self._lock:
            _put(self.heartbeats, device, beat, _DEVICES)
            self.beats += 1

    def newest(self) -> list[Prediction]:
        """The predictions that are shown, the newest first."""
        with self._lock:
            return list(self.predictions)

    def points(self, since: int = 0) -> list[list[Any]]:
        """Figures of the seconds that have ended, from one on; at most 15 minutes."""
        ended = int(self._clock())
        with self._lock:
            return [second.point(self.models) for second in self._seconds if since < second.at < ended]

    def rate(self, seconds: int) -> int:
        """How many answers came in the last seconds."""
        first = self._clock() - seconds
        with self._lock:
            return sum(second.counts.total() for second in self._seconds if second.at > first)

    def _keep(self, content: bytes) -> str:
        """Store a picture that a browser can show; returns its key, or nothing."""
        if not content_type(content):
            return ""
        key = sha256(content).hexdigest()[:24]
        with self._lock:
            _put(self._pictures, key, content, _PICTURES)
            while sum(map(len, self._pictures.values())) > _PICTURES_BYTES:
                self._pictures.popitem(last=False)
        return key

    def picture(self, key: str) -> bytes:
        """A picture by its key: one that was sent, a model's sample, or the file that a model looks at by itself."""
        with self._lock:
            if key in self._pictures:
                return self._pictures[key]
        model, _, place = key.rpartition("-")
        if model not in self.models:
            return b""
        if place == "file":
            (listed,) = (each for each in self.stage.models if each.folder == model)
            name = str(serving(listed, self.names).get("ImageName", ""))
            with suppress(OSError, ValueError):
                path = (MODELS / model / name).resolve()
                if name and path.parent == (MODELS / model).resolve():
                    return path.read_bytes()
            return b""
        return sample_of(model, int(place))[0] if place.isascii() and place.isdecimal() and len(place) < 7 else b""

    def listen(self, connect: Connect, stop: threading.Event) -> None:
        """Take in what comes until told to stop; a link that cannot be made is tried again.

        Args:
            connect: Makes the client.
            stop: Ends it.
        """
        while not stop.is_set():
            try:
                with connect() as link, ExitStack() as stack:
                    takers = self.topics()
                    heard = [(stack.enter_context(link.listen(topic)), takers[topic]) for topic in takers]
                    self.trouble, self.link = "", link
                    while not stop.wait(_TICK_S) and not self.trouble:
                        # Counted from the last topic on: what an answer in it was asked lies in an earlier one by now.
                        sizes = [messages.qsize() for messages, _ in reversed(heard)]
                        for (messages, take), waiting in zip(heard, reversed(sizes), strict=True):
                            self._drain(messages, take, waiting)
            except TwinError as exc:
                self.trouble = str(exc)
            except Exception as exc:
                # Whatever one message does, the next ones are heard.
                logger.exception("a message cannot be taken in")
                self.trouble = f"a message cannot be taken in: {exc!r}"
            finally:
                self.link = None
            stop.wait(_AGAIN_S)

    def _drain(self, messages: queue.SimpleQueue[bytes], take: Callable[[bytes], None], waiting: int) -> None:
        """Take so many messages; of a flood the oldest are left out, and counted."""
        for place in range(waiting):
            payload = messages.get()
            if waiting - place > _BACKLOG:
                self.unread += 1
                continue
            take(payload)


def content_type(picture: bytes) -> str:
    """`image/png`, `image/jpeg`, or nothing for what no model takes."""
    if picture.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    return "image/jpeg" if picture.startswith(b"\xff\xd8\xff") else ""


def _put(store: OrderedDict[str, Value], key: str, value: Value, most: int) -> None:
    """Keep a value as the newest; the oldest of too many go."""
    store[key] = value
    store.move_to_end(key)
    while len(store) > most:
        store.popitem(last=False)


def _object(payload: bytes) -> Json:
    """A message as an object; an empty one for anything else: whoever may publish may publish nonsense."""
    try:
        return _object_of(json.loads(payload))
    except (ValueError, RecursionError):
        return {}


def _object_of(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return str(value)[:_TEXT] if isinstance(value, (str, int, float)) else ""


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    with suppress(OverflowError):
        return float(value) if math.isfinite(value) else None
    return None


def _numbers(value: Any, count: int) -> tuple[float, ...]:
    """So many finite numbers, or none."""
    found = [_number(each) for each in value] if isinstance(value, list) and len(value) == count else []
    return tuple(each for each in found if each is not None) if None not in found else ()


def _boxes(listed: list[Any]) -> Iterable[tuple[float, ...]]:
    return filter(None, (_numbers(_object_of(entry).get("box"), 4) for entry in listed[:MOST_BOXES]))


def _scores(listed: list[Any]) -> Iterable[tuple[str, float]]:
    for entry in listed[:5]:
        each = _object_of(entry)
        probability = _number(each.get("probability", each.get("Score")))
        if probability is not None:
            yield _text(each.get("label", each.get("Label"))), min(max(probability, 0.0), 1.0)

"""A sign of life at an interval: what each model does, and how the process is."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from edge_component.outbox import Outbox
from edge_inference.comparison import in_turn
from edge_inference.endpoint import Endpoint
from edge_inference.messages import PAYLOAD_BYTES, encode, now
from edge_inference.models.runtime import CPU, OnnxModel
from edge_inference.settings import ServiceSettings

STATM = Path("/proc/self/statm")
#: Of what is wrong with a model: the path of its file takes a hundred of them.
PROBLEM_CHARACTERS = 400
#: Topics that are told not to be heard.
UNHEARD = 5


class Heartbeat:
    """Publishes a message every so often, while there is a connection.

    Args:
        device: Thing name of this device.
        outbox: Takes the message.
        captures: What became of captures.
        clock: Monotonic seconds.
        local: Messages on their way to the device's own components; the message says nothing of it without one.
        unheard: Topics of the cloud that the device could not subscribe to so far; five of them are told.
    """

    def __init__(
        self,
        device: str,
        outbox: Outbox,
        captures: Callable[[], dict[str, object]] = dict,
        clock: Callable[[], float] = time.monotonic,
        *,
        local: Outbox | None = None,
        unheard: Callable[[], list[str]] = list,
    ) -> None:
        self.settings = ServiceSettings()
        self._device = device
        self._outbox = outbox
        self._local = local
        self._unheard = unheard
        self._captures = captures
        self._clock = clock
        self._started = clock()
        self._next = self._started
        self._beats = 0

    def beat(self, endpoints: Iterable[Endpoint]) -> None:
        """Publish if it is time; heartbeats do not pile up during an outage.

        Args:
            endpoints: The models in service.
        """
        moment = self._clock()
        if not self.settings.heartbeat_topic or moment < self._next or not self._outbox.connected:
            return
        self._next = moment + self.settings.heartbeat_s
        self._outbox.put(self.settings.heartbeat_topic, self.message(list(endpoints)))

    def message(self, endpoints: list[Endpoint]) -> bytes:
        """Write the message.

        Args:
            endpoints: The models in service.

        Returns:
            JSON of at most 6,000 bytes; with very many models those that come last are left out.
        """
        unheard = self._unheard()[:UNHEARD]
        self._beats += 1
        # Of one model at a time: a rule makes one metric, or one object, of a message.
        drift = in_turn(
            {each.settings.name: found for each in endpoints if (found := each.drift.report())}, self._beats
        )
        sketches = {each.settings.name: each.sketch.report() for each in endpoints if each.sketch}
        candidate = in_turn(sketches, self._beats)
        for count in range(len(endpoints), -1, -1):
            payload = encode(
                {
                    "device": self._device,
                    "timestamp": now(),
                    "uptime_s": round(self._clock() - self._started, 1),
                    "rss_mb": resident_mb(),
                    "outbox": _on_their_way(self._outbox),
                    **({"local_outbox": _on_their_way(self._local)} if self._local else {}),
                    **({"unheard": unheard} if unheard else {}),
                    **({"drift": drift} if drift else {}),
                    **({"candidate": candidate} if candidate else {}),
                    **_accelerator(endpoints),
                    "captures": self._captures(),
                    "models": {each.settings.name: _model(each) for each in endpoints[:count]},
                }
            )
            if len(payload) <= PAYLOAD_BYTES:
                break
        return payload


def resident_mb(statm: Path = STATM) -> float:
    """Memory of this process that is in RAM, in MB; 0 where the system does not tell."""
    try:
        pages = int(statm.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def _on_their_way(outbox: Outbox) -> dict[str, int]:
    return {"waiting": outbox.waiting, "dropped": outbox.dropped}


def _accelerator(endpoints: list[Endpoint]) -> dict[str, object]:
    """How many models run on the processor that were to run elsewhere; nothing where none was."""
    if all(each.settings.accelerator == CPU for each in endpoints):
        return {}
    return {"accelerator": {"fallbacks": sum(bool(_fallback(each)) for each in endpoints)}}


def _fallback(endpoint: Endpoint) -> str:
    runtime = endpoint.store.model.runtime if endpoint.store.model else None
    return runtime.fallback if isinstance(runtime, OnnxModel) else ""


def _model(endpoint: Endpoint) -> dict[str, object]:
    store, counts = endpoint.store, endpoint.counts
    return {
        "version": store.version,
        "loads": store.loads,
        "failed_loads": store.failed_loads,
        **({"problem": store.problem[:PROBLEM_CHARACTERS]} if store.problem else {}),
        "answered": counts.answered,
        "refused": counts.refused,
        "failed": counts.failed,
        "waiting": endpoint.waiting,
        "latency_ms": endpoint.latencies.percentiles(),
        **({"fallback": fallback} if (fallback := _fallback(endpoint)) else {}),
        **({"camera": endpoint.camera.state()} if endpoint.camera else {}),
    }

"""How long the latest inferences took."""

import threading

import numpy as np

WINDOW = 1024


class Latencies:
    """Percentiles over the latest values, in constant memory; safe from any thread.

    Args:
        window: How many values count.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._values = np.zeros(window, np.float32)
        self._count = 0
        self._lock = threading.Lock()

    def add(self, latency_ms: float) -> None:
        """Count one inference of so many milliseconds."""
        with self._lock:
            self._values[self._count % len(self._values)] = latency_ms
            self._count += 1

    def percentiles(self) -> dict[str, float]:
        """Compute p50, p95 and p99.

        Returns:
            Milliseconds by name; empty before the first value.
        """
        with self._lock:
            values = self._values[: self._count].copy()
        if not len(values):
            return {}
        found = np.percentile(values, (50, 95, 99))
        return {name: round(float(value), 3) for name, value in zip(("p50", "p95", "p99"), found, strict=True)}

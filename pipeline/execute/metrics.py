"""The metrics of a run in Ray's metrics agent, for Prometheus: `ray_edict_...` at each node's metrics port."""

import time
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from pipeline.messages import UnitResult


class Metrics:
    """The metrics of one run. The driver reports them, so that they are complete even if workers die."""

    def __init__(self, kind: str, run: str) -> None:
        tags = {"kind": kind, "run": run}
        keys = tuple(tags)

        def gauge(name: str, description: str) -> Gauge:
            made = Gauge(f"edict_{name}", description, keys)
            made.set_default_tags(tags)
            return made

        self._images = Counter("edict_images", "Finished images, by result.", (*keys, "result"))
        self._images.set_default_tags(tags)
        self._rate = gauge("images_per_second", "Images per second, over the whole run.")
        self._queued = gauge("units_queued", "Units that wait for a worker.")
        self._workers = gauge("workers", "Workers that are ready.")
        self._busy = gauge("busy_share", "Share of the workers' time in which their model computed.")
        self._began = self._last = time.monotonic()
        self._finished, self._compute, self._worker_seconds = 0, 0.0, 0.0

    def unit_done(self, result: UnitResult) -> None:
        """Count the images of a finished unit."""
        for name in ("ok", "rejected", "filtered"):
            if count := getattr(result, name):
                self._images.inc(count, {"result": name})
        self._finished += result.images
        self._compute += result.compute

    def update(self, state: Mapping[str, Any]) -> None:
        """Set the gauges by the pool's state."""
        now = time.monotonic()
        self._worker_seconds += state["workers"] * (now - self._last)
        self._last = now
        self._queued.set(state["queued"])
        self._workers.set(state["workers"])
        self._rate.set(self._finished / max(1e-9, now - self._began))
        self._busy.set(min(1.0, self._compute / self._worker_seconds) if self._worker_seconds else 0.0)

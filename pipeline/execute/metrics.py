"""What a run tells Ray's metrics agent, and through it Prometheus: `ray_edict_...` at each node's metrics port."""

import time
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from pipeline.messages import UnitResult


class Metrics:
    """The figures of one run. They are the driver's, so that they are whole whatever becomes of a worker."""

    def __init__(self, kind: str, run: str) -> None:
        tags = {"kind": kind, "run": run}
        keys = tuple(tags)

        def gauge(name: str, meaning: str) -> Gauge:
            made = Gauge(f"edict_{name}", meaning, keys)
            made.set_default_tags(tags)
            return made

        self._images = Counter("edict_images", "Images that are done, by what became of them.", (*keys, "result"))
        self._images.set_default_tags(tags)
        self._rate = gauge("images_per_second", "Images done a second, over the whole run.")
        self._queued = gauge("units_queued", "Units that wait for a worker.")
        self._workers = gauge("workers", "Workers that are ready.")
        self._busy = gauge("busy_share", "Share of the workers' time in which their model was at work.")
        self._began = self._last = time.monotonic()
        self._done, self._compute, self._worked = 0, 0.0, 0.0

    def done(self, done: UnitResult) -> None:
        """A unit is done."""
        for result in ("ok", "rejected", "filtered"):
            if count := getattr(done, result):
                self._images.inc(count, {"result": result})
        self._done += done.images
        self._compute += done.compute

    def state(self, state: Mapping[str, Any]) -> None:
        """Time has passed; `state` is the pool's."""
        now = time.monotonic()
        self._worked += state["workers"] * (now - self._last)
        self._last = now
        self._queued.set(state["queued"])
        self._workers.set(state["workers"])
        self._rate.set(self._done / max(1e-9, now - self._began))
        self._busy.set(min(1.0, self._compute / self._worked) if self._worked else 0.0)

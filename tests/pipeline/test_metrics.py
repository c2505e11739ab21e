"""The metrics of a run, as Prometheus reads them from the metrics port of a real Ray."""

import re
import time
import urllib.request

import pytest
import ray

from pipeline.execute.metrics import Metrics
from pipeline.messages import UnitResult


@pytest.mark.usefixtures("local_ray")
def test_prometheus_can_read_the_metrics() -> None:
    metrics = Metrics("invert", "a run")
    metrics.unit_done(UnitResult(ok=14, rejected=2, filtered=0, compute=1.0))
    metrics.update({"workers": 3, "queued": 5})
    url = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    found: dict[str, float] = {}
    until = time.monotonic() + 60
    while len(found) < 6 and time.monotonic() < until:
        text = urllib.request.urlopen(url).read().decode()
        lines = re.findall(r'^ray_edict_(\w+){(.*run="a run".*)} (.*)$', text, re.MULTILINE)
        found = {
            f"{name} {result[1]}" if (result := re.search(r'result="(\w+)"', tags)) else name: float(value)
            for name, tags, value in lines
        }
    assert found.pop("images_per_second") > 0
    assert 0 < found.pop("busy_share") <= 1
    assert found == {"images_total ok": 14, "images_total rejected": 2, "units_queued": 5, "workers": 3}

"""Heartbeats: the events that count as progress, also in a real worker."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.io.samples import Sample
from pipeline.plan.invert_task import invert_task
from pipeline.plan.units import plan_shards
from pipeline.store.store import Store
from pipeline.workers.heartbeat import HEARTBEAT, IMAGE, NETWORK, STORAGE, Heartbeat
from pipeline.workers.invert import InvertWorker
from schemas.specs import InvertSpec
from tests.pipeline.helpers import ShardOf, members_of


def elsewhere(call: Callable[[], None]) -> None:
    """Call a function in another thread."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_a_pause_belongs_to_the_activity_that_it_ends() -> None:
    heartbeat = Heartbeat()
    time.sleep(0.05)
    heartbeat.beat(STORAGE)  # It ends the loading. Neither loading nor storage is timed.
    time.sleep(0.05)
    heartbeat.beat(NETWORK)
    assert (heartbeat.report().beats, heartbeat.report().activity, heartbeat.report().longest) == (2, NETWORK, 0.0)
    time.sleep(0.05)
    heartbeat.idle()
    assert 0.05 <= heartbeat.report().longest < 5
    longest = heartbeat.report().longest
    time.sleep(2 * longest)
    heartbeat.beat(NETWORK)  # A worker without a unit is not slow.
    assert heartbeat.report().longest == longest


def test_reading_ahead_does_not_hide_a_network_call_that_hangs() -> None:
    heartbeat = Heartbeat()
    heartbeat.beat(NETWORK)
    elsewhere(lambda: heartbeat.beat(IMAGE))
    assert (heartbeat.report().beats, heartbeat.report().activity) == (1, NETWORK)
    heartbeat.prefetching()
    assert (heartbeat.report().beats, heartbeat.report().activity) == (2, IMAGE)
    elsewhere(lambda: heartbeat.beat(STORAGE))
    assert (heartbeat.report().beats, heartbeat.report().activity) == (3, STORAGE)
    heartbeat.beat(NETWORK)
    elsewhere(lambda: heartbeat.beat(IMAGE))
    assert (heartbeat.report().beats, heartbeat.report().activity) == (4, NETWORK)


def test_a_worker_beats_at_each_network_call_and_each_image(
    tmp_path: Path, samples: list[Sample], shard_of: ShardOf
) -> None:
    fields = {
        "kind": "invert",
        "input": str(shard_of(tmp_path / "a.tar", members_of(samples[:3]))),
        "output": str(tmp_path / "latents"),
    }
    spec = InvertSpec.model_validate(fields | {"sampler": {"steps": 4}, "workers": {"batch_size": 2}})
    store = Store(spec.output, create=True)
    (unit,) = plan_shards(store, spec.input, 4, 1)
    HEARTBEAT.own()
    worker = InvertWorker(invert_task(spec))
    tried = HEARTBEAT.report()
    assert tried.longest > 0, "the model is tried before the first unit, so that a pause is known"
    calls = list[str]()
    worker.model.network.register_forward_hook(lambda *_: calls.append(HEARTBEAT.report().activity))
    loaded = worker._load(unit)
    read = HEARTBEAT.report().beats - tried.beats
    assert read >= len(loaded) == 3
    worker._invert(unit, loaded)
    assert calls == [NETWORK] * (2 * 4 * 2)  # two batches, four steps, two calls per step
    assert HEARTBEAT.report().beats - tried.beats - read >= len(calls) + len(loaded)

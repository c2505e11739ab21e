"""The heartbeat of a worker: which events count as progress, also in a real worker."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.io.samples import Sample
from pipeline.plan.job import resolve
from pipeline.plan.units import plan_shards
from pipeline.store.store import Store
from pipeline.workers.heartbeat import HEARTBEAT, IMAGE, NETWORK, STORAGE, Heartbeat
from pipeline.workers.invert import InvertWorker
from schemas.specs import InvertSpec


def elsewhere(call: Callable[[], None]) -> None:
    """Call a function in another thread."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_a_pause_belongs_to_the_activity_that_it_ends() -> None:
    heartbeat = Heartbeat()
    time.sleep(0.05)
    heartbeat.beat(STORAGE)  # ends the loading, which is not timed; nor is storage
    time.sleep(0.05)
    heartbeat.beat(NETWORK)
    assert (heartbeat.report().beats, heartbeat.report().activity, heartbeat.report().longest) == (2, NETWORK, 0.0)
    time.sleep(0.05)
    heartbeat.idle()
    assert 0.05 <= heartbeat.report().longest < 5
    longest = heartbeat.report().longest
    time.sleep(2 * longest)
    heartbeat.beat(NETWORK)  # a worker without a unit is not slow
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
    tmp_path: Path, samples: list[Sample], shard_of: Callable[[Path, list[tuple[str, bytes]]], Path]
) -> None:
    members = [
        member
        for sample in samples[:3]
        for member in ((f"{sample.key}.png", sample.image), (f"{sample.key}.txt", sample.caption.encode()))
    ]
    fields = {
        "kind": "invert",
        "input": str(shard_of(tmp_path / "a.tar", members)),
        "output": str(tmp_path / "latents"),
    }
    spec = InvertSpec.model_validate(fields | {"sampler": {"steps": 4}, "workers": {"batch_size": 2}})
    store = Store(spec.output, create=True)
    (unit,) = plan_shards(store, spec.input, 4, 1)
    HEARTBEAT.own()
    worker = InvertWorker(resolve(spec))
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

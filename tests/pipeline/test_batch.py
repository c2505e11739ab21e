"""The recommended batch size: its rules with given timings, and measurements on a real worker of the real model."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from jobs.cli import app
from jobs.preview.build import preview
from pipeline import tune_batch as batch
from pipeline.execute.cluster import ResourcesError
from pipeline.execute.pool import WorkersFailed
from pipeline.messages import Machine
from pipeline.plan.invert_task import InvertTask, invert_task
from pipeline.profiling import smallest_near_fastest
from pipeline.tune_batch import (
    BatchSweep,
    BatchTiming,
    BatchWorker,
    NoNetworkCalls,
    available_memory,
    end_reason,
    measure_on,
    run_batch,
    sweep,
)
from pipeline.workers.actor import WorkerBase
from pipeline.workers.model import TooLarge, batch_errors
from schemas.specs import InvertSpec
from tests.edict.pipeline_checkpoints import save
from tests.pipeline.helpers import CPU, DEMO

SIZES = [2**i for i in range(11)]

seconds = st.floats(1e-6, 1e6)


def invert_spec(**more: Any) -> InvertSpec:
    fields = {"kind": "invert", "input": "absent.tar", "output": "latents", "sampler": {"steps": 2}}
    return InvertSpec.model_validate(fields | more)


def timing(size: int, per_image: float = 1.0, peak: int = 0, weights: int = 0) -> BatchTiming:
    return BatchTiming(size, 0.0, size * per_image, 1, peak, weights)


def timings(*per_image: float) -> list[BatchTiming]:
    return [timing(size, taken) for size, taken in zip(SIZES, per_image, strict=False)]


@given(st.dictionaries(st.sampled_from(SIZES), seconds, min_size=1))
def test_the_best_size_is_the_smallest_near_the_fastest(taken: dict[int, float]) -> None:
    best = smallest_near_fastest(taken)
    assert taken[best] <= 1.02 * min(taken.values())
    assert all(taken[size] > 1.02 * min(taken.values()) for size in taken if size < best)


@pytest.mark.parametrize(
    ("taken", "best"), [([3.0], 1), ([3.0, 2.0, 1.0], 4), ([1.03, 1.01, 1.0], 2), ([1.0, 2.0, 1.5], 1)]
)
def test_the_best_size_of_given_timings(taken: list[float], best: int) -> None:
    assert BatchSweep(timings(*taken), "").best.size == best


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ([8], None),
        ([8, 8], None),  # only one doubling
        ([8, 8, 8], "batches of 2 and 4 bring no gain"),
        ([8, 8, 7.9], "batches of 2 and 4 bring no gain"),
        ([8, 8, 7.8], None),
        ([8, 7.8, 9], None),
        ([8, 4, 9, 4.1], "batches of 4 and 8 bring no gain"),
    ],
)
def test_two_doublings_without_a_gain_are_the_end(taken: list[float], said: str | None) -> None:
    assert end_reason(timings(*taken), largest=1024, memory=math.inf) == said


def test_a_batch_that_might_fill_the_memory_is_not_tried() -> None:
    last = timing(4, peak=5 << 30, weights=3 << 30)  # 7 GiB at size 8
    assert end_reason([last], largest=1024, memory=7 << 30) is None
    said = end_reason([last], largest=1024, memory=(7 << 30) - 1)
    assert said is not None
    assert said.startswith("a batch of 8 may take 7.0 GiB, and each worker of a node has 7.0 GiB")


@given(
    taken=st.lists(seconds, min_size=11, max_size=11),
    weights=st.integers(0, 1000),
    other=st.integers(0, 1000),
    per_image=st.integers(0, 1000),
    memory=st.integers(0, 100_000),
    largest=st.integers(1, 1024),
)
def test_a_sweep_stays_within_its_bounds(
    taken: list[float], weights: int, other: int, per_image: int, memory: int, largest: int
) -> None:
    measured, reported = list[int](), list[BatchTiming]()

    def peak(size: int) -> int:
        return weights + other + per_image * size

    def measure(size: int) -> BatchTiming:
        measured.append(size)
        return timing(size, taken[len(measured) - 1], peak(size), weights)

    try:
        swept = sweep(measure, largest=largest, memory=memory, report=reported.append)
    except TooLarge:
        assert measured == [1]
        assert peak(1) > memory
        return
    assert measured == SIZES[: len(measured)]
    assert measured[-1] <= largest
    assert all(peak(size) <= memory for size in measured)
    assert [each.size for each in reported] == [each.size for each in swept.timings] == measured
    if swept.ended.endswith("no gain"):
        assert swept.best.size <= measured[-3]


def test_a_batch_that_does_not_fit_ends_the_sweep() -> None:
    def measure(size: int) -> BatchTiming:
        with batch_errors(size, torch.device("cpu")):
            if size == 4:
                raise torch.OutOfMemoryError("for a test")
            return timing(size, 1 / size)

    swept = sweep(measure, largest=1024, memory=math.inf)
    assert [one.size for one in swept.timings] == [1, 2]
    assert swept.best.size == 2
    assert "a batch of 4 does not fit into the device's memory" in swept.ended


def test_a_first_batch_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(TooLarge, match=r"a batch of 1 takes 2.0 GiB, and each worker of a node has 1.0 GiB"):
        sweep(lambda size: timing(size, peak=2 << 30), largest=1024, memory=1 << 30)


def test_the_largest_size_is_that_of_specs(tmp_path: Path) -> None:
    invert_spec(workers={"batch_size": SIZES[-1]})
    with pytest.raises(ValidationError):
        invert_spec(workers={"batch_size": SIZES[-1] + 1})
    more = CliRunner().invoke(app, ["batch", str(tmp_path / "absent.yaml"), "--largest", str(SIZES[-1] + 1)])
    assert "1024" in more.output


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "edict", "guidance_scale": 1.0},
        {"name": "edict", "guidance_scale": 3.0},
        {"name": "bdia", "guidance_scale": 3.0, "guidance_interval": [1.0, 5.0]},
    ],
)
def test_the_network_calls_are_those_that_the_plan_counts(
    sampler: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row of a network call counts as a second. Then the seconds are the evaluations that `edict plan` prints."""
    spec = invert_spec(input=str(DEMO), sampler={"steps": 8, **sampler})
    worker = BatchWorker(invert_task(spec))
    rows = []
    worker.model.network.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))

    def counted(call: Any, device: torch.device) -> float:
        rows.clear()
        call()
        return sum(rows)

    monkeypatch.setattr(batch, "timed", counted)
    found = worker.measure(2)
    assert found.begin == 0
    assert found.weights == 4 * sum(
        weight.numel()
        for part in (worker.model.backend.unet, worker.model.backend.vae, worker.model.backend.text_encoder)
        for weight in part.parameters()
    )
    assert preview(spec).network_calls_per_image == round(found.seconds)
    assert found.seconds == pytest.approx(round(found.seconds))


class Fake(WorkerBase):
    """A worker that measures nothing. The size decides whether it raises, dies or succeeds."""

    def __init__(self, task: InvertTask | None = None) -> None:
        if task is not None:
            raise OSError("no such model")

    def measure(self, size: int) -> BatchTiming:
        if size == 2:
            raise ValueError("no posterior")
        with batch_errors(size, torch.device("cpu")):
            if size == 4:
                raise torch.OutOfMemoryError("for a test")
        if size == 8:
            os._exit(1)
        return timing(size)


@pytest.mark.usefixtures("local_ray")
def test_a_worker_that_dies_in_a_batch_counts_as_too_large() -> None:
    worker = ray.remote(num_cpus=1, max_restarts=0)(Fake).remote()
    assert measure_on(worker, 1) == timing(1)
    with pytest.raises(WorkersFailed, match="a batch of 2 failed: ValueError: no posterior"):
        measure_on(worker, 2)
    with pytest.raises(TooLarge, match=r"^a batch of 4 does not fit into the device's memory.*for a test"):
        measure_on(worker, 4)
    with pytest.raises(TooLarge, match=r"^a batch of 8 ended its worker"):
        measure_on(worker, 8)


@pytest.mark.usefixtures("local_ray")
def test_a_worker_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "BatchWorker", Fake)
    with pytest.raises(WorkersFailed, match=r"a worker could not start: .*no such model"):
        run_batch(invert_spec(), largest=1, report=lambda timing: None)


@pytest.mark.usefixtures("local_ray")
def test_a_missing_gpu_is_an_error() -> None:
    with pytest.raises(ResourcesError, match="GPU"):
        run_batch(invert_spec(workers={"gpus": 1.0}), largest=1, report=lambda timing: None)


def test_workers_of_a_node_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"NodeID": name, "Resources": {"memory": 8.0, "CPU": cores}} for name, cores in (("a", 2), ("b", 16))]
    monkeypatch.setattr(batch.ray, "nodes", lambda: nodes)
    assert available_memory("a", CPU, 4) == 4
    assert available_memory("b", CPU, 4) == 2
    assert available_memory("b", Machine("cuda", 1, 0.5), 4) == math.inf


def test_the_spec_of_an_edit_is_refused(tmp_path: Path) -> None:
    fields = {"kind": "edit", "latents": "latents", "output": "edits", "edits": [{"name": "a", "prompt": "x"}]}
    (tmp_path / "edit.json").write_text(json.dumps(fields))
    said = CliRunner().invoke(app, ["batch", str(tmp_path / "edit.json")])
    assert said.exit_code == 2
    assert "is the spec of an edit, and an edit always has the batch size of its latent store" in said.output


def test_a_pipeline_without_network_calls_of_its_own_is_refused(tmp_path: Path) -> None:
    model = {"path": str(save("wan", tmp_path / "model"))}
    with pytest.raises(NoNetworkCalls, match=r"runs inside its pipeline's call\. Measure whole runs instead"):
        run_batch(invert_spec(model=model, sampler={"steps": 4}), largest=1, report=lambda timing: None)


@pytest.mark.usefixtures("local_ray")
def test_the_command_measures_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "invert.json").write_text(invert_spec().model_dump_json())
    said = CliRunner().invoke(app, ["batch", "invert.json", "--largest", "4"])
    assert said.exit_code == 0, said.output
    assert [path.name for path in tmp_path.iterdir()] == ["invert.json"]
    head, *rows, ended, taken, _ = (line.split() for line in said.stdout.splitlines())
    assert head[0] == "batch_size"
    found = {int(size): [float(cell) for cell in cells] for size, *cells in rows}
    assert list(found) == SIZES[: len(found)]
    assert list(found) == [1, 2, 4] or "gain" in ended
    per_image = {}
    for size, (call, images_per_second, seconds, peak) in found.items():
        assert 4 * call / size < seconds  # The images are encoded too.
        assert images_per_second * seconds == pytest.approx(1, rel=1e-3)
        assert 0.1 < peak < 4
        per_image[size] = seconds
    best = int(taken[2].rstrip(","))
    fastest = min(per_image.values())
    assert per_image[best] <= 1.021 * fastest  # as printed, in four digits
    assert all(seconds > 1.019 * fastest for size, seconds in per_image.items() if size < best)

"""The pool with real Ray actors that are killed, hang and raise errors. Its units are only numbers."""

import ctypes
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import JobError
from pipeline.execute import pool
from pipeline.execute.pool import MAX_ATTEMPTS, Outcome, Pool, WorkersFailed
from pipeline.messages import ExcludedSamples, ModelFault
from pipeline.store.plan import Unit
from pipeline.workers.heartbeat import NETWORK, STORAGE, beat
from tests.pipeline.helpers import CPU

pytestmark = pytest.mark.usefixtures("local_ray")


def units(number: int, count: int = 4) -> list[Unit]:
    return [Unit(f"{i:08d}", "shard", 0, i * count, count, 1, None) for i in range(number)]


@dataclass(frozen=True)
class Task:
    """The event `at` each sample: at its first try only (`once`), or already while it is read ahead (`reading`)."""

    folder: str
    at: Mapping[int, str] = field(default_factory=dict)
    once: bool = False
    reading: bool = False


class Plain:
    """A worker that returns the samples it processed."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def process(self, unit: Unit, number: int, ahead: Unit | None, excluded: ExcludedSamples) -> list[int]:
        if self.task.reading and ahead is not None:
            self._each(ahead, {})
        return self._each(unit, excluded)

    def _each(self, unit: Unit, excluded: ExcludedSamples) -> list[int]:
        samples = [unit.first + i for i in range(unit.count) if i not in excluded]
        for sample in samples:
            if sample in self.task.at and not (self.task.once and self._tried(sample)):
                self._happen(self.task.at[sample])
        return samples

    def _tried(self, sample: int) -> bool:
        try:
            Path(self.task.folder, str(sample)).touch(exist_ok=False)
        except FileExistsError:
            return True
        return False

    def _happen(self, what: str) -> None:
        if what == "exit":
            os._exit(1)
        elif what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "segfault":
            ctypes.string_at(0)
        elif what == "hang":
            threading.Event().wait()
        elif what == "hang with the GIL":
            ctypes.PyDLL(None).sleep(3600)
        elif what == "hang in storage":
            beat(STORAGE)
            threading.Event().wait()
        elif what == "slow":
            for _ in range(25):
                beat(NETWORK)
                time.sleep(0.1)
        elif what == "raise":
            raise ZeroDivisionError("by a test")
        elif what == "refuse":
            raise JobError("the shard is missing")


class Worker(Plain):
    """A worker that can also probe a slice of a unit."""

    def probe(self, unit: Unit, number: int) -> None:
        self._each(unit, {})


def run(
    work: list[Unit], task: Task, *, worker: type = Worker, count: int = 2
) -> tuple[dict[str, Outcome], Counter[str]]:
    """Return the outcome of each unit, and the number of recorded events by name."""
    events: Counter[str] = Counter()

    def record(event: str, **about: Any) -> None:
        events[event] += 1

    pool = Pool(work, worker, task, count=count, machine=CPU, record_event=record)
    found = [outcome for outcome in pool.outcomes() if outcome is not None]
    outcomes = {outcome.unit.unit: outcome for outcome in found}
    assert len(outcomes) == len(found)
    return outcomes, events


def done(outcomes: dict[str, Outcome]) -> list[int]:
    return sorted(sample for outcome in outcomes.values() for sample in outcome.result or [])


def test_the_pool_does_not_wait_for_workers_without_resources(tmp_path: Path) -> None:
    """A cluster that grows on demand may not grow far enough: here it has four CPUs for eight workers."""
    pool = Pool(units(9), Worker, Task(str(tmp_path)), count=8, machine=CPU)
    outcomes = [outcome for outcome in pool.outcomes() if outcome is not None]
    assert sorted(sample for outcome in outcomes for sample in outcome.result) == list(range(36))
    assert pool.state()["workers"] <= 4


@pytest.mark.parametrize("end", ["exit", "kill", "segfault", "raise"])
def test_a_failure_that_happens_once_rejects_no_sample(end: str, tmp_path: Path) -> None:
    outcomes, events = run(units(5), Task(str(tmp_path), {3: end, 12: end}, once=True))
    assert done(outcomes) == list(range(20))
    assert events == {"attempt failed": 2}


@pytest.mark.parametrize("end", ["exit", "raise"])
def test_a_sample_that_ends_every_worker_is_excluded(end: str, tmp_path: Path) -> None:
    outcomes, events = run(units(5), Task(str(tmp_path), {5: end, 6: end, 19: end}))
    assert done(outcomes) == [i for i in range(20) if i not in (5, 6, 19)]
    assert events == {"attempt failed": 2 * (MAX_ATTEMPTS - 1), "sample named": 3}


def test_all_samples_of_a_unit_can_be_excluded(tmp_path: Path) -> None:
    outcomes, events = run(units(2, count=2), Task(str(tmp_path), {0: "exit", 1: "exit"}))
    assert done(outcomes) == [2, 3]
    assert events["sample named"] == 2


def test_a_sample_that_fails_while_it_is_read_ahead_does_not_affect_other_units(tmp_path: Path) -> None:
    """At first, either of the two units of the dead worker can be the cause."""
    outcomes, events = run(units(12), Task(str(tmp_path), {9: "exit"}, reading=True))
    assert done(outcomes) == [i for i in range(48) if i != 9]
    assert events["sample named"] == 1


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the limits to seconds."""
    for name, seconds in (
        ("POLL_SECONDS", 0.2),
        ("MIN_HANG_SECONDS", 1.5),
        ("MIN_STORAGE_HANG_SECONDS", 1.5),
        ("FIRST_HANG_SECONDS", 1.5),
    ):
        monkeypatch.setattr(pool, name, seconds)


@pytest.mark.usefixtures("short")
def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    """A worker can hang with the GIL or without it. If storage hangs, no sample is named."""
    outcomes, events = run(
        units(4, count=2), Task(str(tmp_path), {1: "hang", 3: "hang with the GIL", 5: "hang in storage"}), count=3
    )
    assert done(outcomes) == [0, 2, 6, 7]
    error = outcomes["00000002"].error
    assert error is not None
    assert re.fullmatch(r"WorkerHung: no progress for \d+ s in reading or writing storage", error)
    assert events == {"attempt failed": 2 * (MAX_ATTEMPTS - 1) + MAX_ATTEMPTS, "sample named": 2}


@pytest.mark.usefixtures("short")
def test_slow_work_with_heartbeats_is_not_a_hang(tmp_path: Path) -> None:
    """The units take many times the limit, after units that took no time."""
    outcomes, events = run(units(6, count=2), Task(str(tmp_path), {8: "slow", 9: "slow", 10: "slow"}))
    assert done(outcomes) == list(range(12))
    assert events == {}


@pytest.mark.usefixtures("short")
def test_time_in_which_the_driver_was_stopped_does_not_count(tmp_path: Path) -> None:
    """The caller may take outcomes slowly, because a disk stalls or a laptop sleeps."""
    pool = Pool(units(3, count=1), Worker, Task(str(tmp_path), {1: "slow", 2: "slow"}), count=2, machine=CPU)
    outcomes = list[Outcome]()
    for outcome in pool.outcomes():
        if outcome is not None:
            time.sleep(2.0)
            outcomes.append(outcome)
    assert sorted(sample for outcome in outcomes for sample in outcome.result) == [0, 1, 2]
    assert {outcome.error for outcome in outcomes} == {None}


@pytest.mark.usefixtures("short")
def test_workers_that_all_hang_at_once_are_ended(tmp_path: Path) -> None:
    outcomes, _ = run(units(2), Task(str(tmp_path), {0: "hang", 7: "hang"}, once=True))
    assert done(outcomes) == list(range(8))


def test_an_error_of_the_input_excludes_no_sample(tmp_path: Path) -> None:
    outcomes, events = run(units(3), Task(str(tmp_path), {1: "refuse"}))
    assert outcomes["00000000"].error == "JobError: the shard is missing"
    assert done(outcomes) == list(range(4, 12))
    assert events == {"attempt failed": MAX_ATTEMPTS}


def test_a_unit_of_a_worker_without_probe_fails_as_a_whole(tmp_path: Path) -> None:
    outcomes, _ = run(units(3), Task(str(tmp_path), {1: "exit"}), worker=Plain)
    assert "WorkerDied" in (outcomes["00000000"].error or "")
    assert done(outcomes) == list(range(4, 12))


def test_a_run_ends_after_several_failed_units_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_FAILED_UNITS", 2)
    bad = {4 * i: "refuse" for i in range(2, 40)}
    found: list[Outcome] = []
    with pytest.raises(WorkersFailed, match=r"2 units in a row failed.*the shard is missing"):
        for outcome in Pool(units(40), Worker, Task(str(tmp_path), bad), count=2, machine=CPU).outcomes():
            if outcome is not None:
                found.append(outcome)
    assert len(found) < 10


class Broken(Worker):
    def __init__(self, task: Task) -> None:
        raise OSError("no such model")


class Stuck(Worker):
    def __init__(self, task: Task) -> None:
        threading.Event().wait()


def test_a_constructor_that_hangs_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("POLL_SECONDS", 0.2), ("MAX_LOADING_SECONDS", 0.5), ("MAX_FAILED_STARTS", 2)):
        monkeypatch.setattr(pool, name, seconds)
    with pytest.raises(
        WorkersFailed, match=r"2 workers in a row could not start: WorkerHung: no progress for \d+ s in "
    ):
        run(units(8), Task(str(tmp_path)), worker=Stuck)


class WrongModel(Worker):
    def __init__(self, task: Task) -> None:
        Path(task.folder, f"{os.getpid()}").touch()
        raise ModelFault("the tokenizer is missing")


def test_a_fault_of_the_model_ends_the_run_at_once(tmp_path: Path) -> None:
    """Every worker would fail in the same way, so it is not tried again."""
    with pytest.raises(WorkersFailed, match=r"^the tokenizer is missing$"):
        run(units(8), Task(str(tmp_path)), worker=WrongModel, count=1)
    assert len(list(tmp_path.iterdir())) == 1


class Threads(Worker):
    """A worker that returns the threads in which it was made and is called, and torch's number of threads there."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(1)
        self.made = threading.get_native_id()

    def process(self, unit: Unit, number: int, ahead: Unit | None, excluded: ExcludedSamples) -> Any:
        return self.made, threading.get_native_id(), torch.get_num_threads()


def test_a_worker_computes_in_the_thread_that_made_it(tmp_path: Path) -> None:
    """OpenMP's number of threads is a setting of a thread, and a prediction's last bits depend on it."""
    outcomes, _ = run(units(3), Task(str(tmp_path)), worker=Threads, count=1)
    threads = {outcome.result for outcome in outcomes.values()}
    ((made, called, count),) = threads
    assert (made, count) == (called, 1)


def test_a_constructor_that_fails_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(WorkersFailed, match=r"3 workers in a row could not start.*no such model"):
        run(units(8), Task(str(tmp_path)), worker=Broken)

"""Ray: a local one made for the run, or the cluster that RAY_ADDRESS names."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.errors import JobError
from pipeline.work import Machine


class ResourcesError(JobError):
    """More was asked for than the cluster has."""


def machine_for(gpus: float) -> Machine:
    """What a worker runs on: a GPU or a share of one, or else one CPU core.

    One core, because with several threads a float32 prediction depends on how many they are and on the sample's place
    in the batch (measured); with one thread it depends on neither. More cores are used by more workers.
    """
    return Machine("cuda" if gpus else "cpu", 1, gpus)


def machine_like(stored: Machine, gpus: float | None, what: str) -> Machine:
    """What works on the rows of a store: the like of what they were inverted on, where no number of `gpus` is given.

    Says on stderr where that is another device, and `what` is done to the rows there.
    """
    machine = stored if gpus is None else machine_for(gpus)
    if machine.device != stored.device:
        print(
            f"note: inverted on {stored.device}, {what} on {machine.device}: expect close, not exact", file=sys.stderr
        )
    return machine


@contextmanager
def connected(count: int, machine: Machine, *, needed: int | None = None) -> Iterator[None]:
    """A connection to Ray for as long as the context lasts. A Ray that is connected already is used and left alone.

    Raises ResourcesError where the cluster has no room for `needed` workers of `count` (all, if not given), and
    ConnectionError where RAY_ADDRESS names no cluster.
    """
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if os.environ.get("RAY_ADDRESS"):
            ray.init(logging_level=logging.ERROR)
        else:
            cpus = max(os.cpu_count() or 1, count * machine.threads)
            ray.init(address="local", include_dashboard=False, num_cpus=cpus, logging_level=logging.ERROR)
    try:
        _require(count if needed is None else needed, machine)
        yield
    finally:
        if ours:
            ray.shutdown()


def _require(needed: int, machine: Machine) -> None:
    total = ray.cluster_resources()
    for resource, each in (("GPU", machine.gpus), ("CPU", machine.threads)):
        if needed * each > total.get(resource, 0):
            raise ResourcesError(
                f"{needed} workers of {each:g} {resource} each need {needed * each:g}, and the cluster has "
                f"{total.get(resource, 0):g}: lower workers.count, "
                + ("set workers.gpus: 0 (of verify: --gpus 0), " if resource == "GPU" else "")
                + "or set workers.min_count: 0 where the cluster starts machines when they are asked for"
            )

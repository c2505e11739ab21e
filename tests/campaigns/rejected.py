"""Count the integers that differ when `edict verify` regenerates the rows of stores with rejected samples.

`python -m tests.campaigns.rejected` covers every kind of model (small checkpoints with random weights), network dtype,
guidance scale and batch size. The network returns NaN for the first, a middle, or the last sample of every batch, so
the job rejects it. A retry then inverts the rejects. `VerifyWorker` regenerates every row, and each integer is compared
with the start of the inversion.
"""

import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.harness import program, run, save, show
from jobs.demo import SHARDS
from pipeline.io.images import prepare
from pipeline.io.samples import Sample, read_samples
from pipeline.plan.invert_task import InvertTask, invert_task
from pipeline.plan.job import open_job
from pipeline.plan.units import part_units, plan_shards
from pipeline.store.latents import read_latents
from pipeline.store.plan import Unit, read_entries, read_units, write_units
from pipeline.store.store import Store
from pipeline.workers.invert import InvertWorker, start_pair
from pipeline.workers.verify import VerifyTask, VerifyWorker
from schemas.specs import InvertSpec
from tests.campaigns import RESULTS
from tests.edict.checkpoints import KINDS
from tests.edict.checkpoints import save as save_checkpoint

DEMO = SHARDS / "demo-00000.tar"
DTYPES = ("float32", "bfloat16")
GUIDANCE = (1.0, 3.0)


@dataclass(frozen=True)
class Outcome:
    """Counts of one store: its rows, the rejects that were retried, and the rows and integers that differ."""

    rows: int
    rejected: int
    differing_rows: int
    differing_integers: int


class Model:
    """A checkpoint with the workers that invert and verify with it."""

    def __init__(self, checkpoint: Path, dtype: str) -> None:
        self.checkpoint, self.dtype = checkpoint, dtype
        self.workers: tuple[InvertWorker, VerifyWorker] | None = None

    def invert_and_verify(self, output: Path, guidance: float, batch_size: int, slot: int) -> Outcome:
        """Invert a unit in which the sample in `slot` of every batch is rejected, retry the rejects, and verify."""
        store, unit, task = open_store(self.checkpoint, output, self.dtype, guidance, batch_size)
        inverter, verifier = self.workers = self.workers or (
            InvertWorker(task),
            VerifyWorker(VerifyTask(store.location, store.key(), task)),
        )
        inverter.task, inverter.store, verifier.store = task, store, store
        with giving_nan(inverter.model.network, slot, batch_size):
            inverter.process(unit, 1, None, {})
        [commit] = store.commits()
        only = frozenset((reject.index, reject.key) for reject in commit.rejects)
        inverter.process(replace(unit, retry=1, errors=("NonFinite",), only=only), 1, None, {})
        rows = sum(part.count for part in part_units(store, batch_size, 1))
        return Outcome(rows, len(only), *differing(store, inverter, verifier, unit, batch_size))


def open_store(
    checkpoint: Path, output: Path, dtype: str, guidance: float, batch_size: int
) -> tuple[Store, Unit, InvertTask]:
    """Plan a job of one unit: two full batches and two more samples."""
    spec = InvertSpec.model_validate(
        {
            "kind": "invert",
            "input": str(DEMO),
            "output": str(output),
            "model": {"path": str(checkpoint), "dtype": dtype},
            "sampler": {"steps": 4, "guidance_scale": guidance},
            "workers": {"batch_size": batch_size},
        }
    )
    job, store = invert_task(spec), Store(spec.output, create=True)
    open_job(store, job.record)
    write_units(store, [replace(plan_shards(store, spec.input, batch_size, 1)[0], count=2 * batch_size + 2)])
    [unit] = read_units(store)
    return store, unit, replace(job, key=store.key())


@contextmanager
def giving_nan(network: nn.Module, slot: int, batch_size: int) -> Iterator[None]:
    """Make the network return NaN for the sample in `slot` of its batch, in both branches of guidance."""

    def spoil(_: object, __: object, output: Any) -> None:
        output.sample[slot::batch_size] = torch.nan

    with network.register_forward_hook(spoil):
        yield


def differing(
    store: Store, inverter: InvertWorker, verifier: VerifyWorker, unit: Unit, batch_size: int
) -> tuple[int, int]:
    """Verify the store. Return how many rows `VerifyWorker` reports, and how many integers differ from their start."""
    image = inverter.task.spec.image
    entries = read_entries(store, unit)
    starts = {
        sample.index: start_pair(
            inverter.model,
            inverter.task,
            [prepare(sample.image, inverter.model.size, image.crop, image.resize).image],
        )
        for sample in read_samples(unit.source, size=unit.size, etag=unit.version, entries=entries)
        if isinstance(sample, Sample)
    }
    regenerated: list[Any] = []
    integrate = verifier.model.integrate

    def recorded(*arguments: Any, **named: Any) -> Any:
        regenerated.append(integrate(*arguments, **named))
        return regenerated[-1]

    rows = integers = 0
    verifier.model.integrate = recorded  # type: ignore[method-assign]
    for part in part_units(store, batch_size, 1):
        rows += len(verifier.process(part, 1, None, {}).inexact)
        pair, _ = regenerated.pop()
        for x, y, index in zip(pair.x, pair.y, read_latents(store, part).column("index"), strict=True):
            integers += int((x != starts[index].x[0]).sum() + (y != starts[index].y[0]).sum())
    del verifier.model.integrate  # the method of the class again
    return rows, integers


def slots_tested(batch_size: int) -> list[int]:
    """Return the first, a middle and the last slot of a batch."""
    return sorted({0, batch_size // 2, batch_size - 1})


@program(sizes=list(range(2, 9)))
def rejected(given: Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for kind, dtype in product(KINDS, DTYPES):
        total = Counter[str]()
        with tempfile.TemporaryDirectory() as folder:
            model = Model(save_checkpoint(kind, Path(folder, "model")), dtype)
            for guidance, size in product(GUIDANCE, given.sizes):
                for slot in slots_tested(size):
                    output = Path(folder, f"{guidance}-{size}-{slot}")
                    outcome = model.invert_and_verify(output, guidance, size, slot)
                    total.update({"stores": 1, **asdict(outcome)})
        rows.append({"kind": kind, "dtype": dtype, **total})
    sums: Counter[str] = sum((Counter({name: row[name] for name in total}) for row in rows), Counter())
    columns = {"model": "kind", "network": "dtype", "stores": "stores", "rows": "rows", "retried": "rejected"}
    columns |= {"rows differing": "differing_rows", "integers differing": "differing_integers"}
    show([*rows, {"kind": "all", **dict.fromkeys(total, 0), **sums}], columns)
    save(RESULTS / "rejected", given, rows=rows)


if __name__ == "__main__":
    run(__doc__, rejected)

"""A flow model in the real workers: its store has the same schedule, and can be edited."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from edict.samplers import sampling
from jobs.preview.build import preview
from jobs.prompts import resolve
from pipeline.io.samples import Sample
from pipeline.plan.edit_task import EditError, edit_task
from pipeline.plan.invert_task import invert_task, weights_of
from pipeline.plan.job import open_job
from pipeline.plan.selection import read_selection
from pipeline.plan.units import part_units, plan_shards
from pipeline.store.latents import read_latents
from pipeline.store.parts import from_stored
from pipeline.store.plan import read_units, write_units
from pipeline.store.store import Store
from pipeline.workers.edit import EditWorker
from pipeline.workers.invert import InvertWorker
from schemas.job import read_job
from schemas.latents import read_footer
from schemas.specs import EditSpec, InvertSpec
from tests.edict.checkpoints import save
from tests.pipeline.earlier import as_format_2


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    samples: list[Sample],
    shard_of: Callable[[Path, list[tuple[str, bytes]]], Path],
) -> tuple[InvertSpec, InvertWorker]:
    """Return the spec of a store of four images by a guidance-distilled flow, and the worker that made it."""
    folder = tmp_path_factory.mktemp("flow")
    members = [
        member
        for i, sample in enumerate(samples[:4])
        for member in ((f"{i:03d}.png", sample.image), (f"{i:03d}.txt", sample.caption.encode()))
    ]
    shard_of(folder / "0.tar", members)
    checkpoint = save("flux-dev", folder / "model")
    fields: dict[str, Any] = {"kind": "invert", "input": str(folder / "0.tar"), "output": str(folder / "latents")}
    fields |= {"model": {"path": str(checkpoint), "dtype": "bfloat16"}, "workers": {"batch_size": 2}}
    spec = InvertSpec.model_validate(fields | {"sampler": {"steps": 4, "guidance_scale": 3.5}})
    job, store = invert_task(spec), Store(spec.output, create=True)
    open_job(store, job.record)
    write_units(store, plan_shards(store, spec.input, 2, 1))
    worker = InvertWorker(replace(job, key=store.key()))
    for unit in read_units(store):
        assert worker.process(unit, 1, None, {}).ok == unit.count
    return spec, worker


def test_the_store_of_a_flow_has_its_schedule(made: tuple[InvertSpec, InvertWorker]) -> None:
    spec, worker = made
    store = Store(spec.output)
    for unit in part_units(store, batch_size=2, workers=1):
        latents = read_latents(store, unit)
        assert latents.pair.schedule == worker.model.backend.schedule(sampling(steps=4))
        footer = read_footer(latents.table.schema.metadata)
        assert footer.schedule.sigmas is not None
        assert (footer.alphas_cumprod, footer.scale, footer.schedule.sigmas[-1]) == (1.0, 2.0**-12, 0.0)
        same = worker.model.generate(latents.pair, latents.column("caption"), output_type="latent")
        assert same.digests() == latents.column("digest")
        floats = same.to_float()[0]
        assert floats.equal(same.x.double() * 2.0**-12)


def test_the_job_of_a_flow_in_an_earlier_format_is_the_same_job(made: tuple[InvertSpec, InvertWorker]) -> None:
    record, schedule = made[1].task.record, made[1].model.backend.schedule(made[0].sampler)
    earlier = read_job(json.loads(json.dumps(as_format_2(record, schedule))))
    assert earlier.inversion.schedule is not None and from_stored(earlier.inversion.schedule) == schedule
    assert earlier.settings() == record.settings() | {"pipeline": None}


def test_the_store_of_a_flow_is_edited(made: tuple[InvertSpec, InvertWorker], tmp_path: Path) -> None:
    spec, _ = made
    edits = [{"name": "snow", "prompt": "{caption}, in snow", "strength": 0.5, "guidance_scale": 7.0}]
    fields = {"kind": "edit", "latents": spec.output, "output": str(tmp_path / "edits"), "edits": edits}
    wanted = EditSpec.model_validate(fields)
    latents, store, resolved = Store(spec.output), Store(wanted.output, create=True), resolve(wanted.edits)
    task = edit_task(wanted, latents, resolved, read_selection(wanted))
    open_job(store, task.record)
    write_units(store, part_units(latents, task.record.edit.batch_size, 1))
    units = read_units(store)
    editor = EditWorker(replace(task, key=store.key(), shown={unit.unit: 1 for unit in units}))
    for unit in units:
        assert editor.process(unit, 1, None, {}).ok == unit.count
    shown = [row for file in (tmp_path / "edits" / "pictures").iterdir() for row in pq.read_table(file).to_pylist()]
    assert shown and all(row["exact"] for row in shown)
    assert preview(wanted).network_calls == 32  # 4 rows, 4 steps, two half-steps: one branch
    found = preview(spec)
    assert (found.network_calls_per_image, found.network_calls) == (8, 32)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"control": {}}, "edit 'a': attention control needs a UNet that attends to CLIP's tokens"),
        ({"negative_prompt": "blurry"}, "has a negative_prompt, which the model of .* does not take"),
    ],
)
def test_edits_that_a_flow_does_not_support_are_refused_before_any_work(
    made: tuple[InvertSpec, InvertWorker], tmp_path: Path, edit: dict[str, Any], message: str
) -> None:
    fields = {"kind": "edit", "latents": made[0].output, "output": str(tmp_path / "edits")}
    spec = EditSpec.model_validate(fields | {"edits": [{"name": "a", "prompt": "{caption} x", **edit}]})
    with pytest.raises(EditError, match=message):
        edit_task(spec, Store(spec.latents), resolve(spec.edits), read_selection(spec))


def test_the_variant_and_the_lora_go_to_the_workers(made: tuple[InvertSpec, InvertWorker], tmp_path: Path) -> None:
    (tmp_path / "lora.safetensors").write_bytes(b"weights")
    model = made[0].model.model_validate(
        {"path": made[0].model.path, "variant": "fp16", "lora": {"path": str(tmp_path), "scale": 0.5}}
    )
    weights = weights_of(model, made[1].task.fingerprint)
    assert weights.model == model and weights.dtype == "bfloat16"

"""A store of each sampler, written, read, verified and edited by real workers in this process."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from edict.samplers import SAMPLERS
from jobs.preview.build import preview
from jobs.preview.text import as_text
from jobs.prompts import resolve
from pipeline.errors import JobError
from pipeline.io.samples import Sample
from pipeline.plan.edit_task import EditError, edit_task
from pipeline.plan.invert_task import invert_task, stored_inversion
from pipeline.plan.job import open_job
from pipeline.plan.selection import read_selection
from pipeline.plan.units import part_units, plan_shards
from pipeline.store.errors import StoreError
from pipeline.store.latents import read_latents
from pipeline.store.parts import to_pair
from pipeline.store.plan import read_units, write_units
from pipeline.store.store import Store
from pipeline.verify import run_verify
from pipeline.workers.edit import EditWorker
from pipeline.workers.invert import InvertWorker
from pipeline.workers.model import TooLarge, check_model, load_model
from pipeline.workers.verify import VerifyTask, VerifyWorker
from schemas.fingerprint import read_fingerprint
from schemas.latents import FINGERPRINT, NOISE, read_footer
from schemas.specs import EditSpec, InvertSpec

STEPS = 3
DTYPES = {"edict": "bfloat16"}  # test_run tests float32
OFFSETS = {"ddim": 0, "ddim_euler": 0}  # The last step changes nothing, and makes no network call.
INTERVALS = {"edict": [0.5, 5.0], "bdia": [0.5, 5.0]}  # without the last step


@pytest.fixture(scope="module", params=SAMPLERS)
def inverted(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    samples: list[Sample],
    shard_of: Callable[[Path, list[tuple[str, bytes]]], Path],
) -> tuple[str, Path, int, str]:
    """Return the sampler, a folder with its store of two rows, the number of rows of network calls, and the plan."""
    folder = tmp_path_factory.mktemp(request.param)
    members = [
        member
        for i, sample in enumerate(samples[:2])
        for member in ((f"{i}.{sample.extension}", sample.image), (f"{i}.txt", sample.caption.encode()))
    ]
    shard_of(folder / "0.tar", members)
    spec = InvertSpec.model_validate(
        {
            "kind": "invert",
            "input": str(folder / "0.tar"),
            "output": str(folder / "latents"),
            "model": {"dtype": DTYPES.get(request.param, "float32")},
            "sampler": {
                "name": request.param,
                "steps": STEPS,
                "steps_offset": OFFSETS.get(request.param),
                "guidance_interval": INTERVALS.get(request.param),
            },
            "workers": {"batch_size": 2},
        }
    )
    job, store = invert_task(spec), Store(spec.output, create=True)
    open_job(store, job.record)
    write_units(store, plan_shards(store, spec.input, 2, 1))
    worker = InvertWorker(replace(job, key=store.key()))
    rows = list[int]()
    worker.model.network.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    for unit in read_units(store):
        worker.process(unit, 1, None, {})
    return request.param, folder, sum(rows), as_text(preview(spec))


def test_rows_have_their_sampler_and_are_read_unchanged(inverted: tuple[str, Path, int, str]) -> None:
    name, folder, _, _ = inverted
    store = Store(str(folder / "latents"))
    (unit,) = part_units(store, 2, 1)
    metadata = pq.read_schema(folder / "latents" / unit.source).metadata
    footer, fingerprint = read_footer(metadata), read_fingerprint(json.loads(metadata[FINGERPRINT]))
    latents = read_latents(store, unit)
    for sampling in (footer.sampling, fingerprint.sampling, latents.pair.sampling):
        assert (sampling.name, sampling.steps) == (name, STEPS)
        assert sampling.parameters == {"edict": {"p": 0.93}, "bdia": {"gamma": 0.96}}.get(name, {})
        assert sampling.guidance_interval == INTERVALS.get(name)
        assert sampling.steps_offset == OFFSETS.get(name)
        assert sampling.bits == footer.bits == {"obelm": 16}.get(name, 12)
    assert fingerprint == store.job().inversion
    for state, floats, scale in zip("xy", latents.pair.to_float(), (footer.scale, footer.scale_y), strict=True):
        assert torch.allclose(floats, torch.tensor(latents.column(state)).double() * scale, rtol=1e-12)
    assert (footer.scale_y > footer.scale) == (SAMPLERS[name].y_lead == 1)


def test_the_plan_has_the_number_of_network_calls(inverted: tuple[str, Path, int, str]) -> None:
    name, _, rows, plan = inverted
    parameters = {"edict": ", p 0.93", "bdia": ", gamma 0.96"}.get(name, "")
    within = " at noise levels from 0.5 to 5" if name in INTERVALS else ""
    assert f"  sampler       {name}, {STEPS} steps{parameters}, guidance scale 3{within}\n" in plan
    assert f"  network calls {rows // 2} per image, {rows} in total" in plan
    assert "  units         1 (1 done already), for 1 worker\n" in plan
    assert rows // 2 == {"edict": 10, "bdia": 4, "obelm": 6, "ddim": 4, "ddim_euler": 4}[name]  # twice, for guidance


def test_verify_finds_exact_rows_if_the_sampler_is_exact(inverted: tuple[str, Path, int, str]) -> None:
    name, folder, _, _ = inverted
    store = Store(str(folder / "latents"))
    units = part_units(store, 2, 1)
    task = VerifyTask(store.location, store.key(), stored_inversion(store))
    verified = VerifyWorker(task).process(units[0], 1, None, {})
    assert (verified.rows, len(verified.inexact)) == (2, 0 if SAMPLERS[name].exact else 2)
    if not SAMPLERS[name].exact:
        with pytest.raises(StoreError, match=rf"inverted with {name}, which is inexact by design"):
            run_verify(store.location, rows=None, count=1, gpus=0)


@pytest.mark.parametrize("inverted", ["edict"], indirect=True)
def test_out_of_memory_is_an_error_of_the_job_and_not_of_a_sample(inverted: tuple[str, Path, int, str]) -> None:
    _, folder, _, _ = inverted
    store = Store(str(folder / "latents"))
    worker = VerifyWorker(VerifyTask(store.location, store.key(), stored_inversion(store)))

    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("for a test")

    worker.model.network.register_forward_pre_hook(out_of_memory)
    with pytest.raises(TooLarge, match=r"a batch of 2 .*for a test.* lower workers.batch_size") as caught:
        worker.process(part_units(store, 2, 1)[0], 1, None, {})
    assert isinstance(caught.value, JobError)  # for such errors, the pool does not search a unit for the sample


@pytest.mark.parametrize("inverted", ["edict"], indirect=True)
def test_a_model_is_checked_with_and_without_guidance(inverted: tuple[str, Path, int, str]) -> None:
    """The network is called in two shapes if guidance has an interval."""
    _, folder, _, _ = inverted
    job = stored_inversion(Store(str(folder / "latents")))
    model = load_model(job.weights, job.machine)
    batches = list[int]()
    model.network.register_forward_pre_hook(lambda _, arguments: batches.append(len(arguments[0])))
    check_model(model, job.fingerprint.sampling, 2)
    assert sorted(batches) == [2, 4]


def edit_spec(folder: Path, **edit: Any) -> EditSpec:
    fields = {"kind": "edit", "latents": str(folder / "latents"), "output": str(folder / "edits")}
    edits = [{"name": "snow", "suffix": ", in snow", **edit}, {"name": "held", "suffix": ", at night", "control": {}}]
    return EditSpec.model_validate(fields | {"edits": edits, "contact_sheet": 0})


def test_edits_use_the_sampler_of_the_store(inverted: tuple[str, Path, int, str]) -> None:
    _, folder, _, _ = inverted
    spec, latents = edit_spec(folder, steps=2), Store(str(folder / "latents"))
    task = edit_task(spec, latents, resolve(spec.edits), read_selection(spec))
    store = Store(spec.output, create=True)
    open_job(store, task.record)
    editor = EditWorker(replace(task, key=store.key()))
    rows = list[int]()
    editor.model.network.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    for unit in part_units(latents, 2, 1):
        done = editor.process(unit, 1, None, {})
        assert (done.images, done.rejected) == (4, 0)
    assert preview(spec).network_calls == sum(rows)


@pytest.mark.parametrize("inverted", ["bdia", "obelm", "ddim", "ddim_euler"], indirect=True)
def test_an_edit_without_network_calls_is_an_error(inverted: tuple[str, Path, int, str]) -> None:
    name, folder, _, _ = inverted
    spec = edit_spec(folder, steps=1)
    with pytest.raises(EditError, match=rf"'snow' has 1 of the last steps .* {name} makes no .*Set 2 steps or more"):
        preview(spec)


@pytest.mark.parametrize("inverted", ["edict"], indirect=True)
def test_a_store_without_a_sampler_name_has_the_sampler_edict(inverted: tuple[str, Path, int, str]) -> None:
    _, folder, _, _ = inverted
    store = Store(str(folder / "latents"))
    (unit,) = part_units(store, 2, 1)
    table = pq.read_table(folder / "latents" / unit.source)
    footer = read_footer(table.schema.metadata)
    noise = footer.model_dump(exclude={"format", "sampling", "schedule", "scale_y"})
    noise |= {"timesteps": footer.schedule.timesteps, "schedule": footer.schedule.alphas_cumprod, "p": "93/100"}
    noise |= {"guidance_scale": 3.0, "guidance_interval": INTERVALS["edict"]}
    settings = {"steps": STEPS, "strength": 1.0}
    metadata = {NOISE: json.dumps(noise), FINGERPRINT: json.dumps(settings)}
    pair, same = to_pair(table), to_pair(table.replace_schema_metadata(metadata))
    assert same.sampling == pair.sampling
    assert (same.schedule, same.position, same.batch_size) == (pair.schedule, pair.position, pair.batch_size)
    assert same.digests() == pair.digests()

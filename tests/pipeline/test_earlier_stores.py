"""A latent store and an edit of an earlier version: they are read, verified, edited, resumed and extended.

stores/format-2.tar.xz has a shard of three images, the last without a caption, so the latent store has
two rows and one reject. The edit has two units, and one of them is done.
"""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from edict import checkpoint
from jobs.preview.build import preview
from jobs.prompts import resolve
from pipeline.inspect.status import status
from pipeline.plan.invert_task import stored_inversion
from pipeline.plan.job_changes import JobChanged
from pipeline.plan.opened_job import open_edit, open_invert
from pipeline.plan.units import index_again, part_units
from pipeline.store.latents import read_latents, stored_schedule
from pipeline.store.store import Store
from pipeline.workers.edit import EditWorker
from pipeline.workers.invert import InvertWorker
from pipeline.workers.model import ScheduleChanged, check_model
from pipeline.workers.provenance import environment_here, environment_of
from pipeline.workers.verify import VerifyTask, VerifyWorker
from schemas.job import digest_of
from schemas.latents import FINGERPRINT
from schemas.sampling import Sampling
from schemas.specs import EditSpec, InvertSpec

STORES = Path(__file__).with_name("stores") / "format-2.tar.xz"
PAIRS = (
    "37420ec39f06cc12d6060db48f9cd903e4470448cc9d550d5c7d0574e4713d18",
    "8d7073a29047dedc4d8f6f98f836994c20cf1c7e5d00b365f9067b9a409d2463",
)
ROWS = "aa236987056ce4becee7c00ed85cf494"
EDITED = "aeb2e8e92ab986da802430b3a684cdc3e462e8c8991d96f00e916d7e78a8cb60"  # the image that the earlier version makes
INVERT = InvertSpec.model_validate(
    {
        "kind": "invert",
        "input": "a.tar",
        "output": "latents",
        "sampler": {"steps": 2, "steps_offset": 0},
        "workers": {"batch_size": 1},
    }
)
EDIT = EditSpec.model_validate(
    {
        "kind": "edit",
        "latents": "latents",
        "output": "edits",
        "where": "index < 9",
        "contact_sheet": 0,
        "edits": [{"name": "snow", "suffix": ", in snow"}],
    }
)


@pytest.fixture
def latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return the latent store, in the working directory."""
    with tarfile.open(STORES) as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return Store("latents")


def invert(retry: Sequence[str] = ()) -> int:
    """Invert the missing units in this process. Return their number."""
    opened = open_invert(INVERT, retry)
    pending = opened.pending
    if retry:
        index_again(opened.store, pending)
    worker = InvertWorker(opened.task)
    for unit in pending:
        assert worker.process(unit, 1, None, {}).ok == 1
    opened.store.remove_orphan_files()
    return len(pending)


def edit(spec: EditSpec) -> int:
    """Edit the missing units in this process. Return their number."""
    opened = open_edit(spec, resolve(spec.edits))
    worker = EditWorker(opened.task)
    for unit in opened.pending:
        assert worker.process(unit, 1, None, {}).ok == 1
    opened.store.remove_orphan_files()
    return len(opened.pending)


def images(store: Store) -> dict[str, str]:
    """Return the digest of each edited image, by key."""
    rows = [row for path in store.names("parts") for row in store.get_table(path).to_pylist()]
    return {row["key"]: row["image_sha256"] for row in rows}


def made_here(store: Store) -> bool:
    """Return whether this machine and these versions give the last bits of the stored rows."""
    return environment_of(store.read_commit("00000000")) == environment_here("cpu")


def test_the_stores_are_read(latents: Store) -> None:
    record = latents.job()
    assert record.format == 2
    sampling = Sampling(name="edict", steps=2, steps_offset=0, p=0.93, bits=12)
    assert record.inversion.sampling == sampling
    assert (record.inversion.batch_size, record.inversion.dtype, record.inversion.compile) == (1, "float32", False)
    parts = [read_latents(latents, unit) for unit in part_units(latents, 1, 1)]
    assert [part.pair.digests() for part in parts] == [[digest] for digest in PAIRS]
    for part in parts:
        assert part.pair.sampling == sampling.model_copy(update={"steps_offset": None})
        assert part.pair.schedule.timesteps == (500, 0) == stored_schedule(latents).timesteps
    edits = Store("edits").job()
    assert (edits.rows, edits.variants_per_row) == (ROWS, 1)
    assert digest_of(edits.fingerprint) == ROWS and edits.edit.latents == record.fingerprint
    assert status(latents).complete and status(Store("edits")).committed == 1


def test_the_latent_store_verifies(latents: Store) -> None:
    worker = VerifyWorker(VerifyTask(latents.location, latents.key(), stored_inversion(latents)))
    inexact = [row for unit in part_units(latents, 1, 1) for row in worker.process(unit, 1, None, {}).inexact]
    assert not (made_here(latents) and inexact)


def test_the_edit_is_finished_and_extended_with_the_same_plan(latents: Store) -> None:
    store = Store("edits")
    planned = set(store.names("plan"))
    found = preview(EDIT)
    assert (found.units, found.units_done) == (2, 1)
    assert edit(EDIT) == 1
    assert set(store.names("plan")) == planned and store.job().rows == ROWS
    assert images(store).keys() == {"snow/a", "snow/b"}
    assert images(store)["snow/b"] == EDITED or not made_here(latents)
    mend(Path("a.tar"))
    assert invert(["MissingCaption"]) == 1
    assert {
        json.loads(pq.read_schema(part).metadata[FINGERPRINT])["steps"] for part in Path("latents/parts").iterdir()
    } == {2}
    assert not status(store).complete
    assert edit(EDIT) == 1
    assert images(store).keys() == {"snow/a", "snow/b", "snow/c"}
    assert status(store).complete and status(latents).complete
    assert (store.get_json("job.json")["format"], len(store.job().fingerprint)) == (2, 8)


def mend(shard: Path) -> None:
    """Append the missing caption of the last image."""
    with tarfile.open(shard, "a") as tar:
        info = tarfile.TarInfo("c.txt")
        info.size = 6
        tar.addfile(info, io.BytesIO(b"a moon"))


def test_a_missing_unit_is_inverted_again_to_the_same_integers(latents: Store) -> None:
    latents.delete_commits("00000001")
    latents.remove_orphan_files()
    assert invert() == 1
    pairs = [read_latents(latents, unit).pair.digests() for unit in part_units(latents, 1, 1)]
    assert len(pairs) == 2 and (pairs == [[digest] for digest in PAIRS] or not made_here(latents))


def test_a_finished_job_is_resolved_once(latents: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """job.json is read to compare the job, and again for the id that commits must have."""
    calls = list[str]()

    def counted(owner: Any, name: str) -> None:
        called = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: (calls.append(name), called(*given))[1])

    counted(Store, "find_job")
    counted(checkpoint, "locate")
    counted(checkpoint, "weights_digest")
    assert open_invert(INVERT).pending == []
    assert sorted(calls) == ["find_job", "find_job", "locate", "weights_digest"]


def test_the_latent_store_can_be_edited_again(latents: Store) -> None:
    spec = EDIT.model_copy(update={"output": "more", "where": None})
    assert edit(spec) == 2
    record = Store("more").job()
    assert (record.format, record.edit.latents) == (3, latents.job().fingerprint)
    assert images(Store("more")).keys() == {"snow/a", "snow/b"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"steps": 3}, "sampling.steps: 2 in the store, 3 in the spec"),
        ({"steps_offset": 1}, "sampling.steps_offset: 0 in the store, 1 in the spec"),
        ({"p": 0.9}, "sampling.p: 0.93 in the store, 0.9 in the spec"),
        ({"name": "obelm", "bits": 12}, "sampling.name: 'edict' in the store, 'obelm' in the spec"),
    ],
)
def test_another_job_is_refused(latents: Store, change: dict[str, object], line: str) -> None:
    fields = INVERT.model_dump()
    fields["sampler"] |= change
    with pytest.raises(JobChanged, match=line):
        open_invert(InvertSpec.model_validate(fields))


def test_another_schedule_is_refused_before_any_work(latents: Store) -> None:
    """A new version of diffusers could space the timesteps in another way."""
    record = latents.get_json("job.json")
    record["fingerprint"]["timesteps"] = [501, 0]
    latents.put("job.json", json.dumps(record).encode())
    assert open_invert(INVERT).pending == []  # Nothing is left to compute.
    latents.delete_commits("00000001")
    with pytest.raises(JobChanged, match=r"timesteps\[0\]: 501.* in the store, 500.* in the spec"):
        open_invert(INVERT)
    with pytest.raises(JobChanged, match="timesteps"):
        preview(INVERT)


def test_a_worker_with_another_schedule_than_the_rows_inverts_nothing(latents: Store) -> None:
    """In present stores, the schedule is only in the footers."""
    latents.delete_commits("00000001")
    opened = open_invert(INVERT)
    worker = InvertWorker(opened.task)
    other = INVERT.sampler.model_copy(update={"steps_offset": 1})
    with pytest.raises(ScheduleChanged, match="is not that of the rows in the store"):
        check_model(worker.model, other, 1, opened.task.schedule)

"""Slots: verify, edits and retries run a row in the slot where it was inverted, even next to rejects."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from jobs.prompts import resolve
from pipeline.messages import Fault
from pipeline.plan.edit_task import edit_task
from pipeline.plan.job import open_job
from pipeline.plan.selection import read_selection
from pipeline.plan.units import part_units
from pipeline.store.latents import read_latents
from pipeline.store.plan import Unit, read_units, write_units
from pipeline.store.store import Store
from pipeline.workers.edit import EditWorker
from pipeline.workers.invert import InvertWorker
from pipeline.workers.verify import VerifyTask, VerifyWorker
from schemas.specs import EditSpec
from tests.campaigns.rejected import Model, giving_nan, open_store, slots_tested
from tests.edict.checkpoints import save

BATCH = 3  # A float32 transformer predicts the last of an odd number of rows differently.


@pytest.mark.parametrize(
    ("kind", "dtype", "guidance", "batch_size", "rejected"),
    [
        ("pixart-sigma", "float32", 1.0, 3, slots_tested(3)),
        ("sd3", "float32", 1.0, 5, slots_tested(5)),
        ("flux-dev", "float32", 1.0, 3, [1]),
        ("sd1", "bfloat16", 3.0, 4, [0]),
        ("ddpm", "float32", 1.0, 2, [0]),
    ],
)
def test_rows_next_to_rejects_regenerate(
    tmp_path: Path, kind: str, dtype: str, guidance: float, batch_size: int, rejected: list[int]
) -> None:
    """`python -m tests.campaigns.rejected` does this for every kind of model, dtype and batch size."""
    model = Model(save(kind, tmp_path / "model"), dtype)
    for slot in rejected:
        outcome = model.invert_and_verify(tmp_path / str(slot), guidance, batch_size, slot)
        assert outcome.rejected in (2, 3) and outcome.rows == 2 * batch_size + 2
        assert (outcome.differing_rows, outcome.differing_integers) == (0, 0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("pixart-sigma", tmp_path_factory.mktemp("slots") / "model")


@pytest.fixture(scope="module")
def made(checkpoint: Path) -> tuple[Store, Unit, InvertWorker]:
    """Make a store of 8 samples, in which those in the first slot of each batch were rejected."""
    store, unit, task = open_store(checkpoint, checkpoint.parent / "latents", "float32", 1.0, BATCH)
    worker = InvertWorker(task)
    with giving_nan(worker.model.network, 0, BATCH):
        assert worker.process(unit, 1, None, {}).rejected == 3
    return store, unit, worker


def rows_of(store: Store) -> dict[int, dict[str, Any]]:
    """Return the rows of a store by the index of their sample."""
    tables = [read_latents(store, part).table for part in part_units(store, BATCH, 1)]
    return {row["index"]: row for row in pa.concat_tables(tables).to_pylist()}


def exact(store: Store, worker: InvertWorker) -> bool:
    verifier = VerifyWorker(VerifyTask(store.location, store.key(), worker.task))
    return not any(verifier.process(part, 1, None, {}).inexact for part in part_units(store, BATCH, 1))


def test_a_reject_leaves_its_slot_free(made: tuple[Store, Unit, InvertWorker]) -> None:
    store, _, _ = made
    assert {index: row["slot"] for index, row in rows_of(store).items()} == {1: 1, 2: 2, 4: 1, 5: 2, 7: 1}


@contextmanager
def autoencoder_failing(encoder: nn.Module, value: float, call: int) -> Iterator[None]:
    calls = iter(range(1000))
    with encoder.register_forward_hook(lambda _, __, out: torch.full_like(out, value) if next(calls) == call else out):
        yield


@pytest.mark.parametrize(
    ("value", "error"), [(float("nan"), "NonFinite"), (float("inf"), "NonFinite"), (1e30, "LatticeOverflow")]
)
def test_an_image_without_latents_is_one_reject(
    made: tuple[Store, Unit, InvertWorker], tmp_path: Path, value: float, error: str
) -> None:
    """Its neighbours and its own retry have the same integers as without the fault."""
    _, _, worker = made
    inverter = InvertWorker(worker.task)
    results = []
    for name, call in (("sound", -1), ("spoiled", 1)):
        store, unit, task = open_store(Path(worker.task.spec.model.path), tmp_path / name, "float32", 1.0, BATCH)
        inverter.task, inverter.store = task, store
        with autoencoder_failing(inverter.model.backend.vae.encoder, value, call):
            inverter.process(unit, 1, None, {})
        results.append(store)
    sound, spoiled = results
    (commit,) = spoiled.commits()
    assert [(reject.index, reject.stage, reject.error) for reject in commit.rejects] == [(1, "invert", error)]
    expected = rows_of(sound)
    assert rows_of(spoiled) == {index: row for index, row in expected.items() if index != 1}
    only = frozenset((reject.index, reject.key) for reject in commit.rejects)
    inverter.process(replace(unit, retry=1, errors=(error,), only=only), 1, None, {})
    assert rows_of(spoiled) == expected and exact(spoiled, inverter)


def test_an_excluded_sample_leaves_its_slot_free(made: tuple[Store, Unit, InvertWorker], tmp_path: Path) -> None:
    store, unit, task = open_store(Path(made[2].task.spec.model.path), tmp_path / "latents", "float32", 1.0, BATCH)
    worker = InvertWorker(task)
    worker.process(unit, 1, None, {0: Fault("WorkerDied", "")})
    assert [row["slot"] for row in rows_of(store).values()] == [1, 2, 0, 1, 2, 0, 1]
    assert exact(store, worker)


def test_parts_of_earlier_versions_are_read_in_their_order(
    made: tuple[Store, Unit, InvertWorker], tmp_path: Path
) -> None:
    """They have no column `slot`. Their samples were inverted in the order of the part."""
    store, unit, task = open_store(Path(made[2].task.spec.model.path), tmp_path / "latents", "float32", 1.0, BATCH)
    worker = InvertWorker(task)
    worker.process(unit, 1, None, {})
    (part,) = part_units(store, 99, 1)
    path = tmp_path / "latents" / part.source
    old = pq.read_table(path)
    pq.write_table(old.drop_columns(["slot"]), path, write_page_checksum=True)
    earlier = replace(part, version=sha256(path.read_bytes()).hexdigest())
    assert "slot" not in pq.read_schema(path).names
    assert read_latents(store, earlier).column("slot") == old["slot"].to_pylist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert read_latents(store, replace(earlier, first=3, count=5)).column("slot") == [0, 1, 2, 0, 1]
    verifier = VerifyWorker(VerifyTask(store.location, store.key(), task))
    assert not verifier.process(earlier, 1, None, {}).inexact
    planned = pa.table({"row": [1, 5], "prompts": [None, None], "masks": [None, None]})
    latents = read_latents(store, earlier, planned)
    assert latents.slots == [1, 2]
    other = replace(latents, pair=replace(latents.pair, batch_size=2))
    assert other.slots == [1, 0], "with another batch size no row is exact, and its slots are taken modulo that size"


def editor_of(latents: Store, output: Path, **more: Any) -> tuple[EditWorker, Store, list[Unit]]:
    """Return a worker of an edit with two images per row, and with all rows on the contact sheet."""
    edits = [{"name": "snow", "suffix": ", in snow", "strength": 0.5}, {"name": "night", "prompt": "a night"}]
    fields = {"kind": "edit", "latents": latents.location, "output": str(output), "edits": edits}
    spec = EditSpec.model_validate(fields | more)
    store, resolved = Store(spec.output, create=True), resolve(spec.edits)
    task = edit_task(spec, latents, resolved, read_selection(spec))
    open_job(store, task.record)
    write_units(store, part_units(latents, task.record.edit.batch_size, 1))
    units = read_units(store)
    shown = {unit.unit: unit.count for unit in units}
    return EditWorker(replace(task, key=store.key(), shown=shown)), store, units


def edited(store: Store) -> dict[str, tuple[float, str]]:
    """Return the result of every edit: its drift, which depends on all its integers, and the digest of its image."""
    files = [file.path for commit in store.commits() for file in commit.files if file.path.startswith("parts/")]
    rows = [row for path in files for row in store.get_table(path).to_pylist()]
    return {row["key"]: (row["drift"], row["image_sha256"]) for row in rows}


def test_reconstructions_in_a_batch_with_edits_are_exact(
    made: tuple[Store, Unit, InvertWorker], tmp_path: Path
) -> None:
    editor, store, units = editor_of(made[0], tmp_path / "edits")
    for unit in units:
        assert editor.process(unit, 1, None, {}).rejected == 0
    files = [file.path for commit in store.commits() for file in commit.files if file.path.startswith("pictures/")]
    shown = [row for path in files for row in store.get_table(path).to_pylist()]
    assert [row["exact"] for row in shown] == [True] * 5


def test_an_edit_does_not_depend_on_excluded_samples(made: tuple[Store, Unit, InvertWorker], tmp_path: Path) -> None:
    """An excluded sample, a retry and the contact sheet do not change it."""
    whole, partial = (editor_of(made[0], tmp_path / name) for name in ("whole", "partial"))
    for unit in whole[2]:
        whole[0].process(unit, 1, None, {})
    editor, store, units = partial
    editor.task = replace(editor.task, shown={})
    for unit in units:
        editor.process(unit, 1, None, {0: Fault("WorkerDied", "")})
    expected = edited(whole[1])
    assert len(expected) == 10
    first = edited(store)
    assert first == {key: made for key, made in expected.items() if key in first} and len(first) < len(expected)
    for commit, unit in zip(store.commits(), units, strict=True):
        only = frozenset((reject.index, reject.key) for reject in commit.rejects)
        editor.process(replace(unit, retry=1, errors=("WorkerDied",), only=only), 1, None, {})
    assert edited(store) == expected


def test_an_image_that_cannot_be_decoded_is_one_reject(made: tuple[Store, Unit, InvertWorker], tmp_path: Path) -> None:
    editor, store, units = editor_of(made[0], tmp_path / "edits", contact_sheet=0)
    editor.task = replace(editor.task, shown={})
    with autoencoder_failing(editor.model.backend.vae.decoder, float("nan"), 1):
        for unit in units:
            editor.process(unit, 1, None, {})
    rejects = [reject for commit in store.commits() for reject in commit.rejects]
    assert [(reject.stage, reject.error) for reject in rejects] == [("edit", "NonFinite")]
    assert len(edited(store)) == 9


def test_edits_in_batches_of_another_size(made: tuple[Store, Unit, InvertWorker], tmp_path: Path) -> None:
    editor, store, units = editor_of(made[0], tmp_path / "edits", workers={"batch_size": 2})
    for unit in units:
        assert editor.process(unit, 1, None, {}).rejected == 0
    assert len(edited(store)) == 10


def test_an_edit_with_control_records_whether_its_row_was_exact(tmp_path: Path) -> None:
    checkpoint = save("sd1", tmp_path / "model")
    latents, unit, task = open_store(checkpoint, tmp_path / "latents", "float32", 3.0, BATCH)
    InvertWorker(task).process(unit, 1, None, {})
    edits: list[dict[str, Any]] = [
        {"name": "snow", "suffix": ", in snow", "strength": 0.5, "control": {}},
        {"name": "night", "suffix": ", at night", "strength": 0.5, "control": {}},
        {"name": "plain", "prompt": "a night"},
    ]
    editor, store, units = editor_of(latents, tmp_path / "edits", edits=edits)
    for each in units:
        editor.process(each, 1, None, {})
    files = [file.path for commit in store.commits() for file in commit.files if file.path.startswith("parts/")]
    rows = [row for path in files for row in store.get_table(path).to_pylist()]
    assert len(rows) == 3 * 8
    assert {row["reconstruction_exact"] for row in rows if row["edit"] != "plain"} == {True}
    assert {row["reconstruction_exact"] for row in rows if row["edit"] == "plain"} == {None}

    # The row of another machine does not regenerate. Its edits record this, and those of its neighbours do not.
    loaded = editor.loader.load(units[0])
    table = loaded.latents.table
    digests = ["another start", *table["digest"].to_pylist()[1:]]
    at = table.column_names.index("digest")
    changed = replace(loaded.latents, table=table.set_column(at, table.schema.field(at), pa.array(digests)))
    results = editor.editor.make(changed, loaded.edits, {})
    exact = [(edit.row, result.reconstruction_exact) for edit, result in zip(loaded.edits, results, strict=True)]
    assert {row for row, regenerated in exact if regenerated is False} == {0}
    assert [regenerated for row, regenerated in exact if row == 0] == [False, False, None]

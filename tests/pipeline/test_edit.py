"""Edits of small, real latent stores by a worker in this process: plans, masks, keys and repairs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.prompts import resolve
from pipeline.export.edits import export_edits
from pipeline.export.latents import ExportError, export
from pipeline.inspect.status import status
from pipeline.io.errors import StorageError
from pipeline.io.masks import MaskChanged, MaskError, read_mask
from pipeline.io.samples import Sample
from pipeline.messages import Fault, UnitResult
from pipeline.plan.edit_task import EditError
from pipeline.plan.invert_task import invert_task
from pipeline.plan.job_changes import JobChanged
from pipeline.plan.latent_changes import compare_latents
from pipeline.plan.opened_job import open_edit, open_store
from pipeline.plan.pending_units import pending_units
from pipeline.plan.units import plan_shards
from pipeline.store.errors import StoreError
from pipeline.store.latents import read_edit_rows
from pipeline.store.parts import to_parquet
from pipeline.store.plan import Unit, read_units, write_units
from pipeline.store.store import Store
from pipeline.workers import edit as editing
from pipeline.workers import invert as inverting
from pipeline.workers.edit import EditWorker
from pipeline.workers.invert import InvertWorker
from pipeline.workers.model import load_model
from schemas.plan import EARLIER_ROWS
from schemas.specs import EditSpec, InvertSpec

KEYS = [f"k{i}" for i in range(8)]
SNOW: list[dict[str, Any]] = [{"name": "snow", "suffix": ", in snow"}]
DIED = {1: Fault("WorkerDied", "by a test")}


@pytest.fixture(scope="module", autouse=True)
def one_model() -> Any:
    """Let all workers of this process share one model, because loading takes a second."""
    loaded: dict[Any, Any] = {}

    def load(*task: Any) -> Any:
        if (key := repr(task)) not in loaded:
            loaded[key] = load_model(*task)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (editing, inverting):
            patch.setattr(module, "load_model", load)
        yield


def invert(shard: Path, latents: Path, excluded: dict[int, Fault]) -> tuple[Store, Sequence[Unit], InvertWorker]:
    """Invert a shard of 8 samples, and reject the `excluded` samples of the first unit."""
    fields: dict[str, Any] = {"kind": "invert", "input": str(shard), "output": str(latents)}
    fields |= {"sampler": {"steps": 1, "guidance_scale": 1.0}, "workers": {"batch_size": 2}}
    spec, store = InvertSpec.model_validate(fields), Store(str(latents), create=True)
    job, plan = invert_task(spec), partial(plan_shards, store, spec.input, 2, 1)
    record, units = open_store(store, job.record, [str(shard)], plan)
    worker = InvertWorker(replace(job, record=record, key=store.key()))
    for unit in units:
        worker.process(unit, 1, None, excluded if unit is units[0] else {})
    return store, units, worker


@pytest.fixture(scope="module")
def inverted(
    tmp_path_factory: pytest.TempPathFactory, samples: list[Sample], shard_of: Callable[..., Path]
) -> tuple[Path, Path]:
    """Return a shard of 8 samples and its latent store, with two parts of 4 rows each."""
    folder = tmp_path_factory.mktemp("edit")
    members = [
        member
        for key, sample in zip(KEYS, samples, strict=False)
        for member in ((f"{key}.{sample.extension}", sample.image), (f"{key}.txt", sample.caption.encode()))
    ]
    shard = shard_of(folder / "a.tar", members)
    invert(shard, folder / "latents", {})
    return shard, folder / "latents"


@pytest.fixture
def latents(inverted: tuple[Path, Path]) -> Path:
    return inverted[1]


def spec_of(latents: Path, output: Path, edits: list[dict[str, Any]] = SNOW, **more: Any) -> EditSpec:
    fields: dict[str, Any] = {"kind": "edit", "latents": str(latents), "output": str(output), "edits": edits}
    return EditSpec.model_validate(fields | {"contact_sheet": 0} | more)


def edit(
    spec: EditSpec, *, only: int | None = None, retry: Sequence[str] = (), excluded: dict[int, Fault] | None = None
) -> list[UnitResult]:
    """Process the missing units of an edit in this process, or only the first `only` of them."""
    opened = open_edit(spec, resolve(spec.edits), retry)
    worker = EditWorker(opened.task)
    return [worker.process(unit, 1, None, excluded or {}) for unit in opened.pending[:only]]


def made(output: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of an edit's index, by key."""
    parts = [file.path for commit in Store(str(output)).commits() for file in commit.files]
    rows = [row for path in parts if path.startswith("parts/") for row in pq.read_table(output / path).to_pylist()]
    found = {row["key"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def rejects(output: Path) -> dict[str, str]:
    return {reject.key: reject.message for commit in Store(str(output)).commits() for reject in commit.rejects}


TABLE = {"name": "mine", "table": "prompts.csv"}


@pytest.mark.parametrize(
    ("more", "keys"),
    [
        ({"keys": ["k0", "k2", "k5", "k7"]}, ["k0", "k2", "k5", "k7"]),
        ({"where": "index >= 2"}, KEYS[2:]),
        ({"sample": {"count": 3, "seed": 4}}, None),
        ({"limit": 5}, KEYS[:5]),
        ({"edits": [TABLE]}, ["k3", "k6"]),
        ({"edits": [TABLE], "keys": ["k1", "k6", "k7"]}, ["k6"]),
    ],
)
def test_an_export_has_the_selected_rows(
    more: dict[str, Any], keys: list[str] | None, latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.csv").write_text("key,prompt\nk3,a cat\nk6,a dog\n")
    edit(spec_of(latents, tmp_path / "edits", **more))
    rows = made(tmp_path / "edits")
    assert status(Store("edits")).complete
    about = export_edits("edits", "out", format="instructpix2pix")
    assert about["written"] == about["rows"] == len(rows)
    exported = [row for file in sorted(Path("out").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert {row["key"] for row in exported} == {row["source_key"] for row in rows.values()}
    assert sorted(row["key"] for row in exported) == (keys or sorted(row["source_key"] for row in rows.values()))
    for row in exported:
        assert row["original_prompt"] == rows[f"{row['edit']}/{row['key']}"]["caption"]


# --- masks in files


def write_mask(folder: Path, key: str, inside: int = 255) -> None:
    (folder / "masks").mkdir(exist_ok=True)
    Image.new("L", (64, 64), inside).save(folder / "masks" / f"{key}.png")


def masked(latents: Path, folder: Path, **more: Any) -> EditSpec:
    control = {"mask": {"file": f"{folder}/masks/{{key}}.png"}}
    return spec_of(latents, folder / "edits", [SNOW[0] | {"control": control}], **more)


@pytest.mark.parametrize("choice", [{}, {"where": "index != 3"}])
def test_masks_that_change_before_a_run_is_resumed_are_an_error(
    choice: dict[str, Any], latents: Path, tmp_path: Path
) -> None:
    spec = masked(latents, tmp_path, **choice)
    for key in KEYS:
        write_mask(tmp_path, key)
    edit(spec, only=1)
    done = {row["source_key"] for row in made(tmp_path / "edits").values()}
    first = next(key for key in KEYS if key not in done)
    write_mask(tmp_path, first, 0)
    with pytest.raises(MaskChanged, match=rf"masks/{first}.png: has the sha256 \w+, but had the sha256 \w+ when"):
        edit(spec)
    (tmp_path / "masks" / f"{first}.png").unlink()
    with pytest.raises(MaskChanged, match=rf"masks/{first}.png: does not exist, but had .* put the planned mask"):
        edit(spec)
    assert {row["source_key"] for row in made(tmp_path / "edits").values()} == done
    write_mask(tmp_path, first)
    edit(spec)
    assert status(Store(spec.output)).complete
    assert len(made(tmp_path / "edits")) == 8 - len(choice)


def test_a_missing_mask_is_a_reject_until_it_is_retried(latents: Path, tmp_path: Path) -> None:
    spec = masked(latents, tmp_path)
    for key in KEYS:
        if key not in ("k2", "k6"):
            write_mask(tmp_path, key)
    (tmp_path / "masks" / "k7.png").write_bytes(b"not an image")
    edit(spec, only=1)
    for key in ("k2", "k6"):
        write_mask(tmp_path, key)
    edit(spec)
    found = rejects(tmp_path / "edits")
    assert sorted(found) == ["snow/k2", "snow/k6", "snow/k7"]
    late = [message for message in found.values() if "to use it, run edict retry STORE --errors MaskError" in message]
    assert len(late) == 1  # The unit that was done before the file existed has this message.
    write_mask(tmp_path, "k7")
    assert [done.ok for done in edit(spec, retry=["MaskError"])] == [1, 2]
    assert sorted(made(tmp_path / "edits")) == [f"snow/{key}" for key in KEYS]
    assert status(Store(spec.output)).complete


def test_a_retry_reads_the_present_mask_only_if_the_mask_was_the_fault(latents: Path, tmp_path: Path) -> None:
    spec = masked(latents, tmp_path)
    for key in KEYS[1:]:
        write_mask(tmp_path, key)
    edit(spec, excluded=DIED)
    assert {"snow/k0", "snow/k1"} <= rejects(tmp_path / "edits").keys()
    for key in KEYS[:2]:
        write_mask(tmp_path, key, 0)
    with pytest.raises(MaskChanged, match=rf"masks/{KEYS[1]}.png"):
        edit(spec, retry=["WorkerDied", "MaskError"])
    assert f"snow/{KEYS[1]}" not in made(tmp_path / "edits")


def test_only_masks_of_edited_rows_are_planned(latents: Path, tmp_path: Path) -> None:
    captions = pq.read_table(next((latents / "parts").iterdir()))["caption"].to_pylist()
    word = captions[0].split(",")[0]
    control = {"mask": {"file": f"{tmp_path}/masks/{{key}}.png"}}
    edits = [
        {"name": "fox", "replace": {word: ["fox", "wolf"]}, "control": control},
        {"name": "plain", "suffix": ", at night"},
    ]
    (tmp_path / "masks").mkdir()
    spec = spec_of(latents, tmp_path / "edits", edits)
    opened = open_edit(spec, resolve(spec.edits))
    store, task = opened.store, opened.task
    planned = [
        row for path in store.names(f"plan/rows/{task.record.rows}") for row in store.get_table(path).to_pylist()
    ]
    assert len(planned) == 8
    files = [dict(row["mask_files"]) for row in planned if row["mask_files"]]
    assert files == [{"fox-fox": None, "fox-wolf": None}] * len(files)
    assert 0 < len(files) < 8


@pytest.mark.parametrize("choice", [{}, {"where": "index >= 0"}])
def test_an_edit_of_an_earlier_version_continues(choice: dict[str, Any], latents: Path, tmp_path: Path) -> None:
    """Its plan has no digests of masks, and no planned rows at all if the spec selects no rows."""
    spec = masked(latents, tmp_path, **choice)
    for key in KEYS:
        write_mask(tmp_path, key)
    opened = open_edit(spec, resolve(spec.edits))
    store, task = opened.store, opened.task
    job = store.get_json("job.json") | {"format": 2}
    del job["rows"]
    store.put("job.json", json.dumps(job).encode())
    for path in list(store.names("plan/rows")):
        if choice:
            store.put_table(path, store.get_table(path).select(EARLIER_ROWS.names))
        else:
            store.delete(path)
    assert open_edit(spec, resolve(spec.edits)).task.record.rows == (task.record.rows if choice else None)
    edit(spec, only=1)
    (tmp_path / "masks" / "k7.png").unlink()
    edit(spec)
    assert list(rejects(tmp_path / "edits")) == ["snow/k7"]
    assert export_edits(spec.output, str(tmp_path / "out"), format="instructpix2pix")["written"] == 7


# --- keys that cannot be in the location of a mask, in a shard, or in the name of a file


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("none", "does not exist"),
        ("no/folder", "the folder .*/masks/no does not exist"),
        ("k" * 300, "File name too long"),
        ("k" * 300 + "/k", "does not exist"),
        ("a\nb", "illegal character sequence"),
        ("a\0b", "illegal character sequence"),
        ("folder", "does not exist"),
        ("file.png/b", "does not exist"),
        ("../secret", "the key contains .., which masks do not allow"),
        ("http://ann:hunter2@host/x", "makes a URL with credentials"),
    ],
)
def test_a_key_without_a_mask_file_is_a_reject(key: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "masks" / "folder.png").mkdir(parents=True)
    (tmp_path / "masks" / "file.png").touch()
    with pytest.raises(MaskError, match=reason) as caught:
        read_mask(f"{tmp_path}/masks/{{key}}.png", key)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["none", "a//b", "./a", "a\nb", "k" * 1100, "a?x=1"])
def test_a_key_without_a_mask_object_is_a_reject(key: str, s3: str) -> None:
    with pytest.raises(MaskError):
        read_mask(f"{s3}/{{key}}.png", key)


def test_an_unreachable_folder_of_masks_is_no_reject(s3: str, tmp_path: Path) -> None:
    bucket = s3.removesuffix("/a prefix")
    for folder in (f"{tmp_path}/unmounted/", f"{tmp_path}/unmounted/a-", f"{bucket}-no/"):
        with pytest.raises(StorageError, match=r"does not exist.*; create"):
            read_mask(f"{folder}{{key}}.png", "k0")


def renamed(latents: Path, folder: Path, keys: dict[str, str]) -> Path:
    """Copy a latent store, with keys that no reader of shards would give to samples."""
    shutil.copytree(latents, folder)
    store = Store(str(folder))
    for commit in list(store.commits()):
        (file,) = commit.files
        table = pq.read_table(folder / file.path)
        at = table.column_names.index("key")
        given = [keys.get(key, key) for key in table["key"].to_pylist()]
        table = table.set_column(at, table.schema.field(at), [given])
        stored = store.put(file.path, to_parquet(table)).model_copy(update={"rows": file.rows})
        commit = commit.model_copy(update={"files": (stored,)})
        store.put(f"commits/{commit.unit}.json", commit.model_dump_json().encode())
    return folder


def test_an_impossible_key_only_affects_its_own_row(latents: Path, tmp_path: Path) -> None:
    long = "k" * 300
    odd = {"k1": "v1.2", "k2": "a\0b", "k3": ".hidden", "k5": long, "k6": "a\nb"}
    renamed_to = renamed(latents, tmp_path / "latents", odd)
    spec = spec_of(renamed_to, tmp_path / "edits")
    edit(spec)
    found = rejects(tmp_path / "edits")
    assert sorted(found) == ["snow/.hidden", "snow/a\0b", "snow/v1.2"]
    assert all("a WebDataset reader cannot return this name" in message for message in found.values())
    assert {row["source_key"] for row in made(tmp_path / "edits").values()} == {"k0", "k4", long, "a\nb", "k7"}
    assert status(Store(spec.output)).complete
    about = export_edits(spec.output, str(tmp_path / "pairs"), format="instructpix2pix")
    assert about["written"] == 5
    with pytest.raises(
        ExportError, match=r"the key '(kkk.*|a.nb)' makes a name that no file can have here .* export as"
    ):
        export_edits(spec.output, str(tmp_path / "files"), format="pie_bench")
    with pytest.raises(ExportError, match=r"parts/.*: member '(v1\.2|a.x00b|\.hidden)\.npy': .*, or export to another"):
        export(str(renamed_to), str(tmp_path / "floats"), format="webdataset", dtype="float32")


# --- rows that retries add to a latent store after it was edited


@pytest.fixture
def growing(inverted: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Callable[[], Any]]:
    """Return a latent store of 7 rows, and a function that retries the missing sample, k1."""
    store, units, worker = invert(inverted[0], tmp_path / "latents", DIED)

    def retry() -> None:
        for unit in pending_units(store, units, ["WorkerDied"]):
            worker.process(unit, 1, None, {})

    return tmp_path / "latents", retry


@pytest.mark.parametrize(
    ("more", "added"),
    [
        ({}, True),
        ({"where": "index < 2"}, True),
        ({"where": "index > 2"}, False),
        ({"keys": ["k0", "k7"]}, False),
        ({"sample": {"count": 100}}, False),
        ({"limit": 100}, False),
        ({"edits": [SNOW[0] | {"control": {"mask": {"file": "masks/{key}.png"}}}]}, True),
    ],
)
def test_rows_that_are_added_to_a_latent_store_are_edited_by_the_next_run(
    more: dict[str, Any],
    added: bool,
    growing: tuple[Path, Callable[[], Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for key in KEYS:
        write_mask(tmp_path, key)
    latents, retry = growing
    spec = spec_of(latents, tmp_path / "edits", **more)
    store = Store(spec.output, create=True)
    edit(spec)
    before, plan = made(tmp_path / "edits"), store.get("plan/units.parquet")
    assert status(store).complete
    retry()
    found = status(store)
    fixed = "sample" in more or "limit" in more
    assert found.complete == fixed
    assert found.problems == (
        []
        if fixed
        else [
            f"1 rows that edict retry or a repair added to {latents} are not planned; run the edit again to edit them"
        ]
    )
    edit(spec)
    after, found = made(tmp_path / "edits"), status(store)
    assert (found.complete, found.problems) == (True, [])
    assert set(after) - set(before) == ({"snow/k1"} if added else set())
    assert (found.planned, found.ok) == (len(after), len(after))
    assert store.get("plan/units.parquet") == plan
    assert store.has("plan/units+0001.parquet") == added
    units = read_units(store)
    assert [unit.unit for unit in units] == [f"{i:08d}" for i in range(len(units))]
    assert edit(spec) == []
    assert not store.has("plan/units+0002.parquet")
    about = export_edits(spec.output, str(tmp_path / "out"), format="instructpix2pix")
    assert about["written"] == len(after)


def test_rows_that_existed_when_an_edit_was_planned_are_not_new(
    growing: tuple[Path, Callable[[], Any]], tmp_path: Path
) -> None:
    latents, retry = growing
    retry()
    for name, where, ok in (("all", "true", 8), ("others", "index > 2", 5)):
        spec = spec_of(latents, tmp_path / name, where=where)
        edit(spec)
        found = status(Store(spec.output))
        assert (found.complete, found.ok) == (True, ok)


def test_an_unfinished_extension_is_made_again_and_the_first_of_two_counts(
    growing: tuple[Path, Callable[[], Any]], tmp_path: Path
) -> None:
    latents, retry = growing
    spec = spec_of(latents, tmp_path / "edits", where="index < 4")
    edit(spec)
    retry()
    store = open_edit(spec, resolve(spec.edits)).store
    first = store.get("plan/units+0001.parquet")
    # This is the state after a driver died between writing the planned rows and the units.
    store.delete("plan/units+0001.parquet")
    assert compare_latents(store, store.job(), Store(str(latents)))[0] != []
    open_edit(spec, resolve(spec.edits))
    assert store.get("plan/units+0001.parquet") == first
    write_units(store, read_units(store)[:1], 1)  # Another driver writes it.
    assert store.get("plan/units+0001.parquet") == first


def test_a_missing_latent_store_is_a_note(growing: tuple[Path, Callable[[], Any]], tmp_path: Path) -> None:
    latents, retry = growing
    spec = spec_of(latents, tmp_path / "edits")
    edit(spec)
    retry()
    latents.rename(tmp_path / "aside")
    found = status(Store(spec.output))
    assert found.complete
    assert [re.sub(r": .*", "", note) for note in found.notes] == [
        "rows that were added to the latent store since it was edited are not counted"
    ]


# --- latent units that are made again after `edict verify --repair`


@pytest.fixture
def repairable(inverted: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Callable[..., None]]:
    """Return a latent store of 7 rows, and a function that makes its first unit again and can retry sample k1."""
    store, units, worker = invert(inverted[0], tmp_path / "latents", DIED)

    def retry() -> None:
        for unit in pending_units(store, units, ["WorkerDied"]):
            worker.process(unit, 1, None, {})

    def repair(excluded: dict[int, Fault], *, retried: bool = False, dropped: bool = True) -> None:
        if dropped:
            store.delete_commits(units[0].unit)
            store.remove_orphan_files()
            worker.process(units[0], 1, None, excluded)
        if retried:
            retry()

    return tmp_path / "latents", repair


@pytest.mark.parametrize("more", [{}, {"where": "index < 4"}, {"where": "index != 1"}, {"limit": 6}])
def test_rows_that_a_repair_made_again_are_not_edited_again(
    more: dict[str, Any], repairable: tuple[Path, Callable[..., None]], tmp_path: Path
) -> None:
    latents, repair = repairable
    repair({}, retried=True, dropped=False)
    spec = spec_of(latents, tmp_path / "edits", **more)
    edit(spec)
    before = made(tmp_path / "edits")
    repair(DIED, retried=True)
    found = status(Store(spec.output))
    assert (found.complete, found.problems) == (True, [])
    assert edit(spec) == []
    assert made(tmp_path / "edits") == before
    about = export_edits(spec.output, str(tmp_path / "out"), format="instructpix2pix")
    assert about["written"] == len(before)


@pytest.mark.parametrize(
    ("more", "rows"),
    [({}, 8), ({"where": "index < 2"}, 2), ({"where": "index in (1, 7)"}, 2), ({"keys": ["k0", "k7"]}, 2)],
)
def test_rows_that_a_repair_added_are_edited_by_the_next_run(
    more: dict[str, Any],
    rows: int,
    repairable: tuple[Path, Callable[..., None]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    latents, repair = repairable
    spec = spec_of(latents, tmp_path / "edits", **more)
    edit(spec)
    before = made(tmp_path / "edits")
    repair({})
    found = status(Store(spec.output))
    assert "that edict retry or a repair added" in found.problems[0]
    export_edits(spec.output, str(tmp_path / "early"), format="instructpix2pix")
    assert f"note: {found.problems[0]}\n" in capsys.readouterr().err
    edit(spec)
    after, found = made(tmp_path / "edits"), status(Store(spec.output))
    assert (found.complete, found.problems, found.ok) == (True, [], rows)
    assert after.items() >= before.items()
    assert set(after) - set(before) == (set() if "keys" in more else {"snow/k1"})
    repair({})
    assert edit(spec) == []
    assert status(Store(spec.output)).complete
    about = export_edits(spec.output, str(tmp_path / "out"), format="instructpix2pix")
    assert about["written"] == rows


def test_rows_that_a_repair_added_are_known_without_a_list_of_parts(
    repairable: tuple[Path, Callable[..., None]], tmp_path: Path
) -> None:
    """Plans of earlier versions have no such list. Here the first latent unit had no selected row."""
    latents, repair = repairable
    spec = spec_of(latents, tmp_path / "edits", where="index in (1, 7)")
    edit(spec)
    store = Store(spec.output)
    for path in list(store.names("plan/parts")):
        store.delete(path)
    store.put("job.json", json.dumps(store.get_json("job.json") | {"created": datetime.now(UTC).isoformat()}).encode())
    assert status(store).problems == []
    repair({})
    assert "that edict retry or a repair added" in status(store).problems[0]
    edit(spec)
    assert sorted(made(tmp_path / "edits")) == ["snow/k1", "snow/k7"]
    assert status(store).complete


@pytest.mark.parametrize("more", [{}, {"where": "index < 6"}, {"limit": 4}])
def test_an_edit_is_finished_after_a_repair_that_made_the_same_rows(
    more: dict[str, Any], repairable: tuple[Path, Callable[..., None]], tmp_path: Path
) -> None:
    latents, repair = repairable
    spec = spec_of(latents, tmp_path / "edits", **more)
    open_edit(spec, resolve(spec.edits))
    repair(DIED)
    assert status(Store(spec.output)).problems == []
    edit(spec)
    assert status(Store(spec.output)).complete
    assert len(made(tmp_path / "edits")) == {"where": 5, "limit": 4}.get(next(iter(more), ""), 7)


@pytest.mark.parametrize("more", [{}, {"where": "index < 6"}, {"limit": 4}])
def test_planned_rows_that_a_repair_changed_are_an_error(
    more: dict[str, Any], repairable: tuple[Path, Callable[..., None]], tmp_path: Path
) -> None:
    latents, repair = repairable
    spec = spec_of(latents, tmp_path / "edits", **more)
    opened = open_edit(spec, resolve(spec.edits))
    store, units, task = opened.store, opened.pending, opened.task
    repair({})
    message = "was repaired after this edit was planned.* changed.*; give the edit another output"
    (problem,) = status(store).problems
    assert re.search(message, problem)
    with pytest.raises(StoreError, match=message):
        edit(spec)
    with pytest.raises(StoreError, match=message):
        read_edit_rows(store, task.record.rows, Store(str(latents)), units[0])


def test_a_row_that_a_repair_removed_is_still_exported(
    repairable: tuple[Path, Callable[..., None]], tmp_path: Path
) -> None:
    """The edit's row in the index has the sha256 of its source image."""
    latents, repair = repairable
    spec = spec_of(latents, tmp_path / "edits")
    edit(spec)
    repair({0: DIED[1], 1: DIED[1]})
    assert status(Store(spec.output)).complete
    assert edit(spec) == []
    about = export_edits(spec.output, str(tmp_path / "out"), format="instructpix2pix")
    assert (about["rows"], about["written"]) == (7, 7)


def test_a_store_without_rows_is_edited_when_it_has_some(
    samples: list[Sample], shard_of: Callable[..., Path], tmp_path: Path
) -> None:
    sample = samples[0]
    shard = shard_of(tmp_path / "a.tar", [("k.png", sample.image), ("k.txt", sample.caption.encode())])
    store, units, worker = invert(shard, tmp_path / "latents", {0: DIED[1]})
    spec = spec_of(tmp_path / "latents", tmp_path / "edits")
    edit(spec)
    assert status(Store(spec.output)).complete
    for unit in pending_units(store, units, ["WorkerDied"]):
        worker.process(unit, 1, None, {})
    edit(spec)
    assert sorted(made(tmp_path / "edits")) == ["snow/k"]
    assert status(Store(spec.output)).complete


# --- the content of tables and files of keys is part of the job


@pytest.mark.parametrize("name", ["prompts.csv", "keys.txt", "mapping_file.json"])
def test_a_file_that_changed_since_the_edit_was_planned_is_an_error(
    name: str, latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entry = {"image_path": "k0.jpg", "editing_prompt": "a fox", "mask": [0, 9]}
    files = {
        "prompts.csv": "key,prompt\nk0,a fox\n",
        "keys.txt": "k0\n",
        "mapping_file.json": json.dumps({"k0": entry}),
    }
    for file, content in files.items():
        (tmp_path / file).write_text(content)
    by_mapping = {"name": "pie", "pie_bench": "mapping_file.json", "control": {"mask": {"pie_bench": True}}}
    more: dict[str, Any] = {
        "prompts.csv": {"edits": [TABLE]},
        "keys.txt": {"keys": "keys.txt"},
        "mapping_file.json": {"edits": [by_mapping]},
    }[name]
    spec = spec_of(latents, tmp_path / "edits", **more)
    open_edit(spec, resolve(spec.edits))
    changed = {"keys.txt": "k0\nk1\n", "mapping_file.json": json.dumps({"k0": entry | {"mask": [0, 8]}})}
    (tmp_path / name).write_text(changed.get(name, files[name] + "k1,a cat\n"))
    with pytest.raises(JobChanged, match="keys: " if name == "keys.txt" else r"edits\[0\]\.\w+: 'sha256:"):
        open_edit(spec, resolve(spec.edits))


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        ({}, "give 0 of 1 steps, and there is no mask"),
        ({"cross_attention": 0, "weights": {"snow": 2.0}, "self_attention": 1}, "weights have no effect"),
        (
            {"cross_attention": 1, "mask": {"words": "changed", "start": 1.0}},
            "the mask of words starts after all 1 steps",
        ),
    ],
)
def test_control_without_effect_is_refused(latents: Path, tmp_path: Path, control: dict[str, Any], reason: str) -> None:
    spec = spec_of(latents, tmp_path / "edits", [SNOW[0] | {"control": control}])
    with pytest.raises(EditError, match=f"edit 'snow', control: .*{reason}"):
        open_edit(spec, resolve(spec.edits))
    assert not (tmp_path / "edits").exists()


def test_edits_with_the_control_of_earlier_versions_do_not_mix_with_others(latents: Path, tmp_path: Path) -> None:
    """A window of 0.5 was 0 of 1 steps, and is 1 now. A window of 1 did not change."""
    for name, share in (("other", 0.5), ("same", 1)):
        spec = spec_of(latents, tmp_path / name, [SNOW[0] | {"control": {"cross_attention": share}}])
        open_edit(spec, resolve(spec.edits))
        job = json.loads((tmp_path / name / "job.json").read_text())
        assert job["fingerprint"]["control"] == ("prompt-to-prompt" if name == "other" else None)
        job["fingerprint"].pop("control", None)
        (tmp_path / name / "job.json").write_text(json.dumps(job))
        if name == "same":
            open_edit(spec, resolve(spec.edits))
        else:
            with pytest.raises(JobChanged, match="control"):
                open_edit(spec, resolve(spec.edits))

"""The rules of a store: stage, commit, publish, valid commits, and orphan files. Without a model and without Ray."""

import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.launch import run_spec
from jobs.preview.build import preview
from pipeline.export.latents import claim
from pipeline.inspect.report.page import write_report
from pipeline.inspect.status import Status, status
from pipeline.messages import Machine, UnitResult
from pipeline.plan.job import OutputRefused, check_output, new_record, open_job
from pipeline.plan.opened_job import open_store
from pipeline.plan.pending_units import RetryError, pending_units, units_with_rejects
from pipeline.read import NoColumn, read_rows
from pipeline.run import shortfall
from pipeline.store import paths
from pipeline.store.checkpoint import CheckpointWriter
from pipeline.store.errors import REPAIR, InvalidCommit, JobReplaced, StoreError
from pipeline.store.files import table_bytes
from pipeline.store.job_record import JobKey
from pipeline.store.latents import read_columns
from pipeline.store.plan import Unit, write_units
from pipeline.store.run_log import RunLog, last_state
from pipeline.store.store import Store, check_outside_stores
from pipeline.workers.attempt import Attempt
from schemas.latents import FINGERPRINT
from schemas.rejects import Reject
from schemas.specs import InvertSpec

CPU = Machine("cpu", 1, 0)
COUNT = 3  # samples per unit

Members = list[tuple[str, bytes]]


def planned(location: str, units: int = 2, *, steps: int = 1, kind: str = "invert") -> Store:
    """Return a store with only a plan."""
    store = Store(location, create=True)
    open_job(store, new_record(kind, {}, {"steps": steps}, CPU))
    write_units(store, [Unit(f"{i:08d}", "a.tar", 0, i * COUNT, COUNT, 1, None) for i in range(units)])
    return store


def part(store: Store, keys: Sequence[str]) -> bytes:
    table = pa.table({"key": pa.array(keys, pa.string()), **{name: [1.0] * len(keys) for name in ("drift", "std")}})
    return table_bytes(table.replace_schema_metadata({FINGERPRINT: json.dumps(store.fingerprint)}))


def attempt(store: Store, number: int, rejected: Sequence[str] = (), *, of: Unit | None = None) -> Attempt:
    """Return an attempt that has staged its part and not committed it. `rejected` has the errors of samples."""
    unit = of or Unit(f"{number:08d}", "a.tar", 0, number * COUNT, COUNT, 1, None)
    current = Attempt(store, unit, 1, store.key())
    keys = [f"{unit.unit}-{i}" for i in range((len(unit.only) or COUNT) - len(rejected))]
    if keys:
        current.write(f"parts/{current.name}.parquet", part(store, keys), len(keys))
    return current


def commit(current: Attempt, rejected: Sequence[str] = ()) -> UnitResult:
    count = len(current.unit.only) or COUNT
    rejects = [Reject("a.tar", i, f"key{i}", "invert", error, "why") for i, error in enumerate(rejected)]
    return current.commit(count=count, ok=count - len(rejects), filtered=0, rejects=rejects, device="cpu")


def finish(store: Store, units: int = 2) -> None:
    for number in range(units):
        commit(attempt(store, number))


@pytest.fixture(params=["disk", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "disk" else request.getfixturevalue("s3")


def test_a_file_is_in_its_folder_only_after_its_commit(location: str) -> None:
    store = planned(location)
    current = attempt(store, 0)
    assert list(store.names("parts")) == []
    assert [path.split("/")[0] for path in store.names("staging")] == ["staging"]
    commit(current)
    assert list(store.names("parts")) == [f"parts/{current.name}.parquet"]
    assert list(store.names("staging")) == []


def test_a_late_attempt_leaves_no_files(location: str) -> None:
    store = planned(location)
    late = attempt(store, 0)
    finish(store)
    before = set(store.names(""))
    assert commit(late).ok == COUNT  # the result of the commit that exists
    assert set(store.names("")) == before - {f"staging/parts/{late.name}.parquet"}


def test_the_next_run_publishes_files_of_a_run_that_died(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = planned(location)
    with monkeypatch.context() as dying:
        dying.setattr(Store, "publish", lambda *_: None)
        finish(store)
    found = status(store)
    assert not found.complete
    assert found.problems == []
    assert found.notes == ["2 committed files are still in staging/: run the job again, or edict gc"]
    assert [row["key"] for batch in read_rows(location) for row in batch.to_pylist()][:2] == [
        "00000000-0",
        "00000000-1",
    ]
    assert store.remove_orphan_files() == 0
    assert status(store).complete
    assert len(list(store.names("parts"))) == 2


def test_files_of_a_retry_that_died_before_its_commit_are_removed(location: str) -> None:
    store = planned(location)
    for number in range(2):
        commit(attempt(store, number, ["WorkerDied"]), ["WorkerDied"])
    (unit,) = (unit for unit in units_with_rejects(store, [attempt(store, 0).unit], ["WorkerDied"])[0])
    dead = attempt(store, 0, of=unit)
    assert f"staging/parts/{dead.name}.parquet" in store.names("staging")
    store.remove_orphan_files()
    assert list(store.names("staging")) == [f"staging/parts/{dead.name}.parquet"]  # because it may still commit
    commit(attempt(store, 0, of=unit))
    store.remove_orphan_files()
    assert list(store.names("staging")) == []
    assert status(store).complete


def test_two_concurrent_cleanups_remove_every_orphan_file(tmp_path: Path) -> None:
    """Two drivers of a job that end at the same time find files that the other one has removed."""
    store = planned(str(tmp_path / "store"))
    finish(store)
    job = store.job().id[:8]
    for number in range(300):
        store.put(f"parts/00000000-{number}-{job}{number:08d}.parquet", b"x")
    ready = threading.Barrier(2)

    def clean_up(_: int) -> int:
        ready.wait()
        return Store(store.location).remove_orphan_files()

    with ThreadPoolExecutor(2) as pool:
        removed = list(pool.map(clean_up, range(2)))
    assert max(removed) <= 300 <= sum(removed)
    assert len(list(store.names("parts"))) == 2


def test_files_of_a_user_are_not_removed(location: str) -> None:
    store = planned(location)
    finish(store)
    job = store.job().id[:8]
    foreign = ["shards/00000000-train.tar", "pictures/00000000-my-cat.jpg", "parts/00000001-7-0000cafe.parquet"]
    foreign += [f"parts/00000001-7-{job}00000000.parquet.bak", f"other/00000001-7-{job}00000000.parquet"]
    orphans = [f"parts/00000001-7-{job}00000000.parquet", f"staging/shards/00000001-7-{job}00000000.tar"]
    for path in foreign + orphans:
        store.put(path, b"data")
    assert store.remove_orphan_files() == len(orphans)
    assert set(foreign) <= set(store.names(""))
    found = status(store)
    assert found.complete
    assert found.notes[0].startswith("4 files are not this job's, such as ")


@pytest.mark.parametrize("inside", ["shards/{0,1}.tar", "0.tar"])
def test_an_input_inside_the_output_is_an_error(
    inside: str, tmp_path: Path, samples: list[Any], shard_of: Callable[[Path, Members], Path]
) -> None:
    (tmp_path / "ds" / "shards").mkdir(parents=True)
    for name in ("0.tar", "shards/0.tar", "shards/1.tar"):
        shard_of(tmp_path / "ds" / name, [("a.png", samples[0].image), ("a.txt", b"a")])
    (tmp_path / "link").symlink_to(tmp_path / "ds")
    for folder in ("ds", "link"):
        spec = {"kind": "invert", "input": f"{tmp_path}/ds/{inside}", "output": str(tmp_path / folder)}
        for refuse in (preview, run_spec):
            with pytest.raises(
                OutputRefused, match=r"the input .*0\.tar is inside it; give an output that contains no input"
            ):
                refuse(InvertSpec.model_validate(spec))
    assert sorted(path.name for path in (tmp_path / "ds").rglob("*")) == ["0.tar", "0.tar", "1.tar", "shards"]


def test_a_folder_with_other_files_is_not_an_output(location: str) -> None:
    store = Store(location, create=True)
    check_output(store, ["elsewhere/a.tar"])
    store.put("plan/shards/" + "0" * 32 + ".parquet", b"of a run that ended while it planned")
    check_output(store, [])
    store.put("pictures/00000000-my-cat.jpg", b"my only picture of the cat")
    with pytest.raises(
        OutputRefused, match=r"is not empty \(it has pictures/00000000-my-cat\.jpg\) and is not a store"
    ):
        check_output(store, [])
    planned(location)
    check_output(store, [])  # a store can be continued, even with other files in it
    with pytest.raises(OutputRefused, match="is inside it"):
        check_output(store, [f"{location}/latents"])


def test_an_output_inside_a_store_is_an_error(location: str) -> None:
    planned(location)
    for folder in ("retries", "parts/mine", "staging"):
        inside = Store(f"{location}/{folder}", create=True)
        for check in (lambda inside=inside: check_output(inside, []), lambda inside=inside: claim(inside, {})):
            with pytest.raises(StoreError, match=f"is inside the store .*, in its folder {folder.partition('/')[0]}/"):
                check()
    check_output(Store(f"{location}/mine", create=True), [])
    check_output(Store(f"{location}-2/parts", create=True), [])


def test_a_worker_of_a_job_whose_store_was_replaced_commits_nothing(location: str) -> None:
    store = planned(location)
    old = attempt(store, 1)
    for path in list(store.names("")):
        store.delete(path)
    new = planned(location, steps=2)
    late = attempt(new, 1)
    with pytest.raises(JobReplaced, match="another job began here"):
        commit(old)
    assert set(new.names("staging")) == {f"staging/parts/{late.name}.parquet"}
    commit(attempt(new, 0))
    commit(late)
    assert status(new).complete


def test_a_commit_of_another_job_is_invalid(location: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The other job committed between the check and the commit of this job's worker."""
    store = planned(location)
    commit(attempt(store, 1))
    stray = {path: store.get(path) for path in ("commits/00000001.json", next(iter(store.names("parts"))))}
    for path in list(store.names("")):
        store.delete(path)
    new = planned(location, steps=2)
    for path, data in stray.items():
        new.put(path, data)
    commit(attempt(new, 0))
    with pytest.raises(
        InvalidCommit, match=r"commits/00000001\.json belongs to another job: edict run does the unit again"
    ):
        list(new.commits())
    found = status(new)
    assert (found.complete, found.committed) == (False, 1)
    assert found.problems == ["commits/00000001.json belongs to another job: edict run does the unit again"]
    units = [attempt(new, number).unit for number in range(2)]
    assert [unit.unit for unit in pending_units(new, units, [])] == ["00000001"]
    assert (
        "note: commits/00000001.json belongs to another job: edict run does the unit again" in capsys.readouterr().err
    )
    commit(attempt(new, 1))
    new.remove_orphan_files(max_age=0)
    assert status(new).complete
    assert not stray.keys() & set(new.names("parts"))


def test_a_worker_replaces_a_commit_of_another_job(location: str) -> None:
    store = planned(location)
    commit(attempt(store, 0))
    stray = store.get("commits/00000000.json")
    for path in list(store.names("")):
        store.delete(path)
    new = planned(location, steps=2)
    new.put("commits/00000000.json", stray)
    current = attempt(new, 0)
    commit(current)
    assert new.read_commit("00000000").attempt == current.name


def test_commits_of_another_plan_are_an_error_and_are_kept(tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"))
    finish(store)
    units = tmp_path / "store" / "plan" / "units.parquet"
    whole = units.read_bytes()
    units.unlink()
    with pytest.raises(
        StoreError, match=r"has commits but no plan/units\.parquet; put it back, or give another output"
    ):
        open_store(store, store.job(), [], lambda: [])
    write_units(store, [Unit(f"{i:08d}", "b.tar", 0, i * COUNT, COUNT, 1, None) for i in range(2)])
    for use in (lambda: list(store.commits([])), lambda: pending_units(store, [], []), store.remove_orphan_files):
        with pytest.raises(StoreError, match="belongs to another plan of this job; restore plan/ as it was"):
            use()
    units.write_bytes(whole)
    (units.parent / "units.parquet.bak").write_bytes(whole)  # not a file of the plan
    assert status(store).complete
    assert len(list(store.names("parts"))) == 2
    write_units(store, [], extension=2)
    with pytest.raises(StoreError, match="plan/ lacks some of its units"):
        store.key()


def test_commits_of_a_plan_that_is_extended_meanwhile_are_valid(tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"))
    before = store._plans()
    write_units(store, [Unit(f"{2:08d}", "a.tar", 0, 6, COUNT, 1, None)], extension=1)
    commit(attempt(store, 2))
    data = store.get("commits/00000002.json")
    assert store._parse_commit("commits/00000002.json", data, "00000002", store.key(), before).unit == "00000002"
    assert len(before) == 2


@pytest.mark.parametrize("data", [b"", b"\0" * 512, b'{"unit": "00000'])
def test_a_unit_whose_commit_is_damaged_is_done_again(data: bytes, tmp_path: Path) -> None:
    """Without syncs, a power loss could leave such a commit."""
    store = planned(str(tmp_path / "store"))
    finish(store)
    store.put("commits/00000000.json", data)
    found = status(store)
    assert (found.complete, found.committed) == (False, 1)
    assert f"commits/00000000.json is damaged ({len(data)} bytes; " in found.problems[0]
    units = [attempt(store, number).unit for number in range(2)]
    assert [unit.unit for unit in pending_units(store, units, [])] == ["00000000"]
    commit(attempt(store, 0))
    store.remove_orphan_files(max_age=0)
    assert status(store).complete
    assert len(list(store.names("parts"))) == 2


def test_a_damaged_retry_is_done_again(tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"))
    for number in range(2):
        commit(attempt(store, number, ["WorkerDied"]), ["WorkerDied"])
    units = [attempt(store, number).unit for number in range(2)]
    (again,) = units_with_rejects(store, units[:1], ["WorkerDied"])[0]
    commit(attempt(store, 0, of=again))
    assert status(store).rejected == 1
    store.put("retries/00000000+0001.json", b"")
    assert "retries/00000000+0001.json is damaged" in status(store).problems[0]
    assert pending_units(store, units, []) == []
    store.remove_orphan_files(max_age=0)
    assert (status(store).complete, status(store).rejected, len(list(store.names("parts")))) == (True, 2, 2)


def test_fields_of_a_newer_version_are_an_error_and_not_damage(tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"))
    finish(store)
    path = tmp_path / "store" / "commits" / "00000000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))
    with pytest.raises(StoreError, match="has fields that this version does not know; upgrade"):
        pending_units(store, [], [])
    job = tmp_path / "store" / "job.json"
    job.write_text(json.dumps(json.loads(job.read_text()) | {"format": 4}))
    with pytest.raises(StoreError, match=r"job\.json has format 4, and this version reads formats up to 3; upgrade"):
        store.job()


def test_the_second_of_two_concurrent_retries_is_repeated(tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"), units=1)
    errors = ["WorkerDied", "WorkerHung"]
    commit(attempt(store, 0, errors), errors)
    units = [attempt(store, 0).unit]
    (died,), (hung,) = (units_with_rejects(store, units, [error])[0] for error in errors)
    first, second = attempt(store, 0, of=died), attempt(store, 0, of=hung)
    assert not commit(first).superseded
    assert commit(second).superseded
    (again,) = units_with_rejects(store, units, ["WorkerHung"])[0]
    assert again.retry == 2
    assert not commit(attempt(store, 0, of=again)).superseded
    found = status(store)
    assert (found.complete, found.ok, found.rejects) == (True, COUNT, {})
    assert len(list(store.names("parts"))) == 3
    with pytest.raises(RetryError, match="nothing was rejected for WorkerHung"):
        pending_units(store, units, ["WorkerHung"])


def test_a_retry_is_valid_only_after_the_commit_that_it_followed(tmp_path: Path) -> None:
    """Meanwhile the commits of its unit were deleted and the unit was done again, with as many other rejects."""
    store = planned(str(tmp_path / "store"), units=1)
    commit(attempt(store, 0, ["WorkerDied"]), ["WorkerDied"])
    (unit,) = units_with_rejects(store, [attempt(store, 0).unit], ["WorkerDied"])[0]
    late, stray = attempt(store, 0, of=unit), attempt(store, 0, of=unit)
    commit(stray)
    retry = store.get("retries/00000000+0001.json")
    store.delete_commits("00000000")
    commit(attempt(store, 0, ["WorkerDied"]), ["WorkerDied"])
    with pytest.raises(StoreError, match=r"was done again by attempt .* while its rejects were retried"):
        commit(late)
    store.put("retries/00000000+0001.json", retry)  # written between that check and the deletion
    assert "retries/00000000+0001.json does not fit the commits before it" in status(store).problems[0]
    assert pending_units(store, [], []) == []
    assert list(store.names("retries")) == []
    assert (status(store).ok, status(store).rejected) == (COUNT - 1, 1)


def test_retries_after_an_invalid_retry_are_invalid(tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"), units=1)
    errors = ["WorkerDied", "WorkerHung"]
    commit(attempt(store, 0, errors), errors)
    for error in errors:
        (unit,) = units_with_rejects(store, [attempt(store, 0).unit], [error])[0]
        commit(attempt(store, 0, of=unit))
    store.put("retries/00000000+0001.json", b"")
    invalid = list[InvalidCommit]()
    store.committed_units(invalid)
    assert [commit.path for commit in invalid] == ["retries/00000000+0001.json", "retries/00000000+0002.json"]
    assert "edict retry tries these rejects again" in str(invalid[0])
    write_report(store)  # does not fail
    pending_units(store, [], [])
    assert (status(store).rejected, list(store.names("retries"))) == (2, [])
    assert pickle.loads(pickle.dumps(invalid[0])).path == invalid[0].path


def test_files_of_a_user_in_retries_are_an_error_and_are_kept(tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"))
    finish(store)
    store.put("retries/my notes.txt", b"mine")
    for use in (
        lambda: pending_units(store, [], []),
        lambda: store.delete_commits("00000000"),
        lambda: list(store.commits([])),
    ):
        with pytest.raises(StoreError, match=r"retries/my notes\.txt does not belong to a store; move it elsewhere"):
            use()
    assert store.get("retries/my notes.txt") == b"mine"
    assert store.has("commits/00000000.json")


def test_a_late_worker_of_an_old_store_removes_nothing_of_the_next_job(tmp_path: Path) -> None:
    """Jobs of format 1 have no id."""
    new = planned(str(tmp_path / "store"))
    unit = Unit("00000000", "a.tar", 0, 0, COUNT, 1, None)
    old = Attempt(new, unit, 1, JobKey())
    finish(new)
    before = set(new.names(""))
    with pytest.raises(JobReplaced):
        commit(old)
    stray = new.read_commit("00000000").model_copy(update={"job": None, "attempt": "another"})
    with pytest.raises(JobReplaced):
        new.commit(stray)
    assert set(new.names("")) == before


def test_empty_objects_that_mark_folders_are_ignored(s3: str) -> None:
    import boto3

    bucket, prefix = s3.removeprefix("s3://").split("/", 1)
    client = boto3.client("s3")
    for marker in (f"{prefix}/", f"{prefix}/parts/", f"{prefix}/ledger/", f"{prefix}/retries/"):
        client.put_object(Bucket=bucket, Key=marker, Body=b"")
    check_output(Store(s3), [])
    store = planned(s3)
    finish(store)
    assert status(store).complete


def test_committed_units_that_are_not_published_yet_are_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = planned(str(tmp_path / "store"))
    with monkeypatch.context() as dying:
        dying.setattr(Store, "publish", lambda *_: None)
        finish(store)
    present = {(path, size) for path, size, staged in store.data_files() if staged}
    assert present == {(file.path, file.bytes) for commit in store.commits() for file in commit.files}
    write_report(store)
    assert status(store).problems == []


@pytest.mark.parametrize(
    ("ok", "rejected", "max_share", "fails"),
    [(21, 29, 0.58, False), (49, 1, 0.02, False), (48, 2, 0.02, True), (5, 0, 0.0, False)],
)
def test_the_share_of_rejects_is_compared_as_it_is_printed(
    ok: int, rejected: int, max_share: float, fails: bool
) -> None:
    count = ok + rejected
    found = Status("invert", count, count, ok, rejected, 0, 1, 1, True)
    assert (shortfall(found, max_share) is not None) == fails
    assert (
        shortfall(Status("edit", 0, 0, 0, 0, 0, 0, 0, True), None)
        == "there is no row, because the input has no samples or rows"
    )


def test_a_retry_of_an_incomplete_store_writes_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "BLOCK_SIZE", 2)
    store = planned(str(tmp_path / "store"))
    commit(attempt(store, 0, ["WorkerDied"]), ["WorkerDied"])
    with CheckpointWriter(store, 0, [], store.key()):
        pass
    assert store.checkpoint_blocks() == []


def test_missing_and_shortened_files_are_found_without_reading_them(location: str) -> None:
    store = planned(location, units=3)
    finish(store, 3)
    gone, short, _ = sorted(store.names("parts"))
    store.delete(gone)
    store.put(short, b"")
    found = status(store)
    assert not found.complete
    repair = REPAIR
    assert sorted(found.problems) == sorted(
        [
            f"{gone} is missing: {repair}",
            f"{short} has 0 bytes, and {store.commit_of_file(short).files[0].bytes} were committed: {repair}",
        ]
    )


def test_reading_a_part_of_another_job_is_an_error(tmp_path: Path) -> None:
    store, other = planned(str(tmp_path / "store")), planned(str(tmp_path / "other"), steps=2)
    finish(store)
    path = next(iter(store.names("parts")))
    store.put(path, part(other, ["a", "b", "c"]))
    with pytest.raises(StoreError, match=r"was made by another job \(its fingerprint differs from job\.json\)"):
        read_columns(Store(store.location), (path, COUNT, 0, None), ["key"])


def test_a_run_log_that_cannot_be_written_does_not_stop_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = planned(str(tmp_path / "store"))
    (tmp_path / "store" / "runs").write_text("a file where a folder should be")
    with RunLog(store) as run_log:
        run_log("sample named")
        run_log._write()
    assert capsys.readouterr().err.count("note: the log of this run is not written: ") == 1


@pytest.mark.parametrize("data", [b"", b"[]", b'{"run": "z"}', b"\xff"])
def test_a_damaged_run_file_is_ignored(data: bytes, tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"))
    with RunLog(store) as run_log:
        pass
    store.put("runs/zzz.json", data)
    state = last_state(store)
    assert state is not None
    assert state["run"] == run_log.run
    assert status(store).run == state


def test_a_part_is_synced_before_its_commit_and_the_commit_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is synced before it gets its name, and its folder afterwards (see tests.campaigns.power_cuts)."""
    store = planned(str(tmp_path / "store"))
    events, synced, link, replace = list[str](), os.fsync, os.link, os.replace
    root = str(tmp_path / "store") + "/"

    def fsync(descriptor: int) -> None:
        synced(descriptor)
        events.append("sync " + os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(root).partition("#")[0])

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", lambda *args, **more: (link(*args, **more), events.append("link"))[0])
    monkeypatch.setattr(os, "replace", lambda *args, **more: (replace(*args, **more), events.append("replace"))[0])
    current = attempt(store, 0)
    commit(current)
    staged = f"staging/parts/{current.name}.parquet"
    of_files = [event for event in events if event not in ("sync staging", f"sync {root.rstrip('/')}")]
    assert of_files == [
        f"sync {staged}",
        "replace",
        "sync staging/parts",
        "sync commits/00000000.json",
        "link",
        "sync commits",
    ]


@pytest.mark.parametrize("path", ["plan/units.parquet", "commits/00000000.json", "commits/00000001.json"])
def test_a_damaged_record_does_not_cause_the_removal_of_data(path: str, tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"))
    finish(store)
    parts, data = set(store.names("parts")), store.get(path)
    store.put(path, data[: len(data) // 2])
    if path.startswith("plan"):
        with pytest.raises(StoreError, match=r"plan/units\.parquet is damaged"):
            store.remove_orphan_files(max_age=0)
    else:
        assert store.remove_orphan_files(max_age=0) == 0
    assert set(store.names("parts")) == parts
    store.put(path, data)
    assert status(store).complete


def test_files_of_interrupted_writes_are_removed(tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"))
    current = attempt(store, 0)
    finish(store)
    folder = tmp_path / "store" / "staging" / "parts"
    (folder / f"{current.name}.parquet#123").touch()
    (folder / "mine#1").touch()
    store.remove_orphan_files()
    assert len(list(folder.iterdir())) == 2  # another process may be writing it
    store.remove_orphan_files(max_age=0)
    assert [path.name for path in folder.iterdir()] == ["mine#1"]


def test_only_rows_with_a_commit_are_read(location: str) -> None:
    store = planned(location)
    finish(store)
    store.put("parts/stranger.parquet", b"not of this job")
    keys = [f"{i:08d}-{j}" for i in range(2) for j in range(COUNT)]
    assert [row for batch in read_rows(location, ["key"]) for row in batch.to_pylist()] == [
        {"key": key} for key in keys
    ]
    with pytest.raises(NoColumn, match="has no column 'colour'; its columns are key, drift, std"):
        list(read_rows(location, ["colour"]))


def test_files_of_two_jobs_are_never_combined(tmp_path: Path) -> None:
    """A store was copied over another one. Files of the first are never read as files of the second."""
    first, second = planned(str(tmp_path / "a")), planned(str(tmp_path / "b"), units=3, steps=2)
    finish(first)
    commit(attempt(second, 2))
    for folder in ("commits", "parts"):
        shutil.copytree(tmp_path / "a" / folder, tmp_path / "b" / folder, dirs_exist_ok=True)
    found = status(second)
    assert (found.committed, len(found.problems)) == (1, 2)
    invalid = list[InvalidCommit]()
    assert second.committed_units(invalid) == {"00000002"}
    assert len(invalid) == 2


def as_format_1(store: Store, *paths: str) -> Store:
    """Rewrite job.json and these commits in format 1, without ids."""
    for path, fields in [("job.json", ["id", "format"]), *((path, ["job", "plan", "after"]) for path in paths)]:
        record = store.get_json(path)
        store.put(path, json.dumps({name: value for name, value in record.items() if name not in fields}).encode())
    return Store(store.location)


@pytest.mark.parametrize("format", [1, 2])
def test_the_retries_of_a_damaged_commit_are_deleted_with_it(format: int, tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"), units=1)
    if format == 1:
        store = as_format_1(store)
    commit(attempt(store, 0, ["WorkerDied"]), ["WorkerDied"])
    units = [attempt(store, 0).unit]
    (retry,), _ = units_with_rejects(store, units, ["WorkerDied"])
    commit(attempt(store, 0, of=retry))
    if format == 1:
        store = as_format_1(store, "commits/00000000.json", "retries/00000000+0001.json")
    store.put("commits/00000000.json", b"")
    assert pending_units(store, units, []) == units
    commit(attempt(store, 0, ["NonFinite", "NonFinite"]), ["NonFinite", "NonFinite"])
    store.remove_orphan_files()
    found = status(store)
    assert (found.complete, found.ok, found.rejects) == (True, 1, {"NonFinite": 2})
    assert sum(len(batch) for batch in read_rows(store.location)) == 1
    assert len(list(store.names("parts"))) == 1


def test_deleting_the_commits_of_a_unit_deletes_the_files_of_its_retries(tmp_path: Path) -> None:
    store = as_format_1(planned(str(tmp_path / "store"), units=1))
    commit(attempt(store, 0, ["WorkerDied"]), ["WorkerDied"])
    (retry,), _ = units_with_rejects(store, [attempt(store, 0).unit], ["WorkerDied"])
    commit(attempt(store, 0, of=retry))
    store = as_format_1(store, "commits/00000000.json", "retries/00000000+0001.json")
    store.delete_commits("00000000")
    assert not any("+0001" in path for path in store.names(""))
    finish(store, 1)
    store.remove_orphan_files()
    assert status(store).notes == []
    assert len(list(store.names("parts"))) == 1


@pytest.mark.parametrize("data", [None, b"{"], ids=["gone", "damaged"])
def test_a_missing_commit_is_read_from_the_checkpoint(
    data: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "BLOCK_SIZE", 2)
    store = planned(str(tmp_path / "store"))
    units = [attempt(store, number).unit for number in range(2)]
    commit(attempt(store, 0, ["WorkerDied"]), ["WorkerDied"])
    commit(attempt(store, 1))
    (retry,), _ = units_with_rejects(store, units, ["WorkerDied"])
    commit(attempt(store, 0, of=retry))
    store.write_checkpoint(0, store.key())
    store.delete("commits/00000000.json") if data is None else store.put("commits/00000000.json", data)
    assert pending_units(store, units, []) == []
    assert store.read_commit("00000000").rejected == 1
    assert status(store).ok == 6


def test_deleting_a_copied_commit_keeps_the_files_of_the_original(tmp_path: Path) -> None:
    store = as_format_1(planned(str(tmp_path / "store"), units=1))
    commit(attempt(store, 0, ["WorkerDied"]), ["WorkerDied"])
    units = [attempt(store, 0).unit]
    (retry,), _ = units_with_rejects(store, units, ["WorkerDied"])
    commit(attempt(store, 0, of=retry))
    store.put("retries/00000000+0002.json", store.get("retries/00000000+0001.json"))
    assert pending_units(store, units, []) == []
    assert not store.has("retries/00000000+0002.json")
    assert status(store).complete
    assert sum(len(batch) for batch in read_rows(store.location)) == 3


def test_rows_of_two_devices_never_mix(tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"))
    before = attempt(store, 0)
    open_job(
        store, new_record("invert", {}, {"steps": 1}, Machine("cuda", 1, 1))
    )  # allowed, because there is no row yet
    with pytest.raises(JobReplaced, match="works on cuda, and rows of cpu and cuda do not mix"):
        commit(before)
    assert list(store.names("staging")) == []
    assert status(store).committed == 0


def test_an_attempt_whose_files_were_removed_commits_nothing(tmp_path: Path) -> None:
    store = planned(str(tmp_path / "store"))
    late = attempt(store, 0)
    finish(store)
    store.remove_orphan_files()
    store.delete_commits("00000000")
    with pytest.raises(StoreError, match=r"commits/00000000\.json does not exist"):
        commit(late)
    assert status(store).committed == 1


def test_too_many_retries_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.plan.pending_units.MAX_RETRIES", 1)
    store = planned(str(tmp_path / "store"), units=1)
    commit(attempt(store, 0, ["WorkerDied"]), ["WorkerDied"])
    units = [attempt(store, 0).unit]
    (retry,), _ = units_with_rejects(store, units, ["WorkerDied"])
    commit(attempt(store, 0, ["WorkerDied"], of=retry), ["WorkerDied"])
    with pytest.raises(RetryError, match="unit 00000000 was retried 1 times, which is the limit"):
        units_with_rejects(store, units, ["WorkerDied"])


def test_a_relative_location_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    assert Store("store").location == str(tmp_path / "store")


def test_a_spec_named_job_json_does_not_make_a_store(location: str) -> None:
    outer = Store(location, create=True)
    outer.put("job.json", b'{"kind": "invert", "input": "a.tar", "output": "runs/latents"}')
    check_outside_stores(f"{location}/runs/latents")
    outer.put("job.json", b"kind: invert")
    check_outside_stores(f"{location}/runs/latents")

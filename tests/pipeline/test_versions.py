"""Stores of other versions and damaged stores: one error that names the store and says what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.launch import run_retry
from pipeline.inspect.status import status
from pipeline.plan.invert_task import invert_task, stored_inversion
from pipeline.plan.job import check_job, open_job, stored_machine
from pipeline.store.errors import StoreError
from pipeline.store.plan import Unit, read_units, write_units
from pipeline.store.run_log import last_state
from pipeline.store.store import Store
from pipeline.verify import run_verify
from schemas.commit import Commit
from schemas.specs import InvertSpec

Job = dict[str, Any]


@pytest.fixture
def latents(tmp_path: Path) -> Store:
    """Make a store of the shipped model without rows, as the start of a run leaves it."""
    store = Store(str(tmp_path / "latents"), create=True)
    spec = InvertSpec(kind="invert", input="a.tar", output=store.location)
    open_job(store, invert_task(spec).record)
    write_units(store, [Unit("00000000", "a.tar", 0, 0, 4, 1, None)])
    return store


def retried(store: Store) -> None:
    run_retry(store.location, ["X"])


def verified(store: Store) -> None:
    run_verify(store.location, rows=1, count=1)


def machine(store: Store) -> None:
    stored_machine(store, store.job())


def checked_machine(store: Store) -> None:
    check_job(store, store.job())


@pytest.mark.parametrize(
    ("change", "use", "said"),
    [
        (
            lambda job: job["spec"]["sampler"].update(new=1),
            retried,
            r"not valid \(sampler.new: Extra inputs",
        ),
        (lambda job: job["spec"]["model"].update(new=1), stored_inversion, r"not valid \(model.new: Extra inputs"),
        (lambda job: job.update(spec={}), stored_inversion, "spec of job.json is not valid"),
        (lambda job: job.update(spec=[]), retried, r"job.json is damaged \(it has an invalid `spec`"),
        (lambda job: job["machine"].update(new=1), machine, "`machine` of job.json has other fields"),
        (lambda job: job["machine"].update(new=1), checked_machine, "`machine` of job.json has other fields"),
        (
            lambda job: job.update(fingerprint={}),
            stored_inversion,
            "fingerprint of job.json lacks weights, dtype, sampler",
        ),
        (
            lambda job: job["fingerprint"]["sampling"].update(name="new"),
            stored_inversion,
            "fingerprint of job.json has an invalid `sampling.name`",
        ),
        (
            lambda job: job["fingerprint"].update(weights="0" * 64),
            stored_inversion,
            "is not the one .* was inverted with",
        ),
        (lambda job: job.update(kind="new"), status, "has the kind 'new', which this version does not know"),
        (lambda job: job.update(format=99), status, "job.json has format 99"),
        (lambda job: job.pop("machine"), status, "job.json is damaged"),
    ],
)
def test_a_job_of_another_version(
    latents: Store, change: Callable[[Job], Any], use: Callable[[Store], Any], said: str
) -> None:
    job = latents.get_json("job.json")
    change(job)
    latents.put("job.json", json.dumps(job).encode())
    with pytest.raises(StoreError, match=f"(?s){said}") as error:
        use(Store(latents.location))
    assert latents.location in str(error.value)
    assert "\n" not in str(error.value)


def test_a_commit_counts_even_if_its_attempt_has_another_kind_of_name(latents: Store) -> None:
    seconds = {"read": 1.0, "compute": 1.0, "write": 1.0}
    counts = {"input": 4, "ok": 4, "rejected": 0, "filtered": 0}
    fields = {"unit": "00000000", "attempt": "x", "source": "a.tar", "files": (), "rejects": (), "seconds": seconds}
    latents.commit(Commit(**fields, **counts, started=1.0, finished=4.0, worker={}, versions={}, job=latents.key().id))
    assert status(latents).attempts == 1


def test_damaged_files(latents: Store) -> None:
    plan = latents.get("plan/units.parquet")
    for data in (b"", b"no parquet", plan[:-20]):
        latents.put("plan/units.parquet", data)
        with pytest.raises(StoreError, match=r"plan/units.parquet is damaged"):
            read_units(latents)
    latents.put("plan/units.parquet", plan)
    for data in (b"", b"{}", b"[]", b'{"run": 1', json.dumps(dict.fromkeys(("run", "host", "time"), "x")).encode()):
        latents.put("runs/9.json", data)
        assert last_state(latents) is None
        assert not status(latents).complete
    latents.put("job.json", b"{")
    with pytest.raises(StoreError, match=r"job.json is damaged"):
        status(latents)

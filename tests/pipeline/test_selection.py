"""The selection of rows for an edit, from real stores with known rows in any number of parts."""

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edict.pair import Pair
from edict.schedule import Schedule
from pipeline.plan.edit_plan import PlanInput, plan_rows
from pipeline.plan.selection import Selection, SelectionError, read_selection, select
from pipeline.plan.units import part_units
from pipeline.store.errors import StoreError
from pipeline.store.latents import read_latents
from pipeline.store.parts import Row, to_parquet, to_table
from pipeline.store.plan import Unit, parts_of, read_planned_rows, write_units
from pipeline.store.store import Store
from schemas.commit import Commit, Seconds
from schemas.sampling import Sampling
from schemas.specs import EditSpec, SampleSpec

SCHEDULE = Schedule((999, 500), (0.0047, 0.3, 1.0))
SIZES = (5, 0, 7, 1, 12)
ROWS = sum(SIZES)


def write_store(folder: Path, sizes: tuple[int, ...] = SIZES, *, name: str = "cafe") -> Store:
    """Write a finished latent store with `sizes` rows per part, keys k00, k01, ... and a drift of 0.00, 0.01, ..."""
    store = Store(str(folder), create=True)
    store.put("job.json", json.dumps({"kind": "invert", "spec": {}, "fingerprint": {}, "machine": {}}).encode())
    write_units(store, [Unit(f"{i:08d}", f"in/{i}.tar", i, 0, max(1, n), 1, None) for i, n in enumerate(sizes)])
    number = 0
    for i, size in enumerate(sizes):
        rows, x = [], torch.zeros(size, 1, 2, 2, dtype=torch.int64)
        for j in range(size):
            said = json.dumps({"n": number, "even": number % 2 == 0}) if number % 3 else None
            rows.append(
                Row(f"k{number:02d}", f"s3://bucket/in/{i}.tar", j, f"a dog {number}", False, "d", "s", 64, 32, said, 0)
            )
            x[j] = number
            number += 1
        files = []
        if rows:
            pair = Pair(x, x + 1, SCHEDULE, 0, Sampling(bits=12, p=0.93), 4)
            table = to_table(rows, pair, {})
            at = table.column_names.index("drift")
            drift = [[(number - size + j) / 100 for j in range(size)]]
            part = to_parquet(table.set_column(at, "drift", drift).cast(table.schema))
            path = f"parts/{i:08d}-1-{name}.parquet"
            files.append(store.put(path, part).model_copy(update={"rows": size}))
        fields: dict[str, Any] = {"unit": f"{i:08d}", "attempt": f"{i:08d}-1", "source": f"in/{i}.tar"}
        counts = {"input": size, "ok": size, "rejected": 0, "filtered": 0, "rejects": ()}
        timing = {"seconds": Seconds(read=1, compute=1, write=1), "started": 0.0, "finished": 1.0}
        assert store.commit(Commit(**fields, **counts, **timing, files=tuple(files), worker={}, versions={}))
    return store


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("selection") / "latents")


def numbers(latents: Store, **wanted: Any) -> list[int]:
    """Return the numbers in the store of the selected rows, in order."""
    fields = {"where": None, "keys": None, "sample": None, "limit": None} | wanted
    if fields["keys"] is not None:
        fields["keys"] = frozenset(fields["keys"])
    parts = sorted(parts_of(latents))
    before = {part: sum(count for _, count, _, _ in parts[:i]) for i, part in enumerate(parts)}
    return [before[part] + row for part, rows in select(latents, parts, Selection(**fields)) for row in rows]


def test_without_a_selection_all_rows_are_selected_and_no_part_is_read(latents: Store, tmp_path: Path) -> None:
    assert numbers(latents) == list(range(ROWS))
    without_parts = write_store(tmp_path / "gone")
    for path in list(without_parts.names("parts")):
        without_parts.delete(path)
    assert numbers(without_parts, limit=6) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("drift < 0.095", range(10)),
        ("key >= 'k20'", range(20, ROWS)),
        ("shard like '%/2.tar' and index < 2", [5, 6]),
        ("(json->>'n')::int between 4 and 8", [4, 5, 7, 8]),
        ("(json->>'even')::bool", [n for n in range(ROWS) if n % 2 == 0 and n % 3]),
        ("caption = 'a dog 3' and width = 64 and height = 32", [3]),
        ("true", range(ROWS)),
        ("false", []),
    ],
)
def test_where(latents: Store, where: str, expected: Any) -> None:
    assert numbers(latents, where=where) == list(expected)


def test_a_where_that_fails_on_a_row_names_the_part(latents: Store) -> None:
    with pytest.raises(SelectionError, match=r"where: .* fails on a row of .*parts/00000000-1.*: Conversion Error"):
        numbers(latents, where="(json->>'even')::int > 0")


def test_keys_are_a_list_or_a_file_and_must_exist(
    latents: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys.txt").write_text("\ufeffk03\n\n k12 \r\nk03\n", encoding="utf-8")
    spec = {"kind": "edit", "latents": "x", "output": "y", "edits": [{"name": "a", "prompt": "b"}]}
    from_file = read_selection(EditSpec.model_validate({**spec, "keys": str(tmp_path / "keys.txt")}))
    from_list = read_selection(EditSpec.model_validate({**spec, "keys": ["k12", "k03"]}))
    assert from_file == from_list
    assert from_file.fingerprint() == from_list.fingerprint()
    assert numbers(latents, keys=from_file.keys) == [3, 12]
    for limit in (None, 1):
        with pytest.raises(SelectionError, match=r"keys: .*latents does not have 2 of the keys: 'k99', 'nope'"):
            numbers(latents, keys=["k01", "k99", "nope"], limit=limit)
    (tmp_path / "keys.txt").write_bytes(b"k01\nroot:$6$the-secret\n\nk99\n")
    secret = read_selection(EditSpec.model_validate({**spec, "keys": str(tmp_path / "keys.txt")}))
    with pytest.raises(
        SelectionError,
        match=r"does not have 2 of the 3 keys of the file, on lines 2, 4; correct the list of keys$",
    ):
        list(select(latents, parts_of(latents), secret))
    (tmp_path / "keys.txt").write_bytes(b"caf\xe9")
    with pytest.raises(SelectionError, match=r"keys: .*keys.txt is not UTF-8"):
        read_selection(EditSpec.model_validate({**spec, "keys": str(tmp_path / "keys.txt")}))
    for bound, many in (("MAX_KEYS", "more than 2 keys"), ("MAX_KEY_FILE_BYTES", "6 bytes; the limit is 2")):
        with monkeypatch.context() as patched:
            patched.setattr(f"pipeline.plan.selection.{bound}", 2)
            (tmp_path / "keys.txt").write_bytes(b"a\nb\nc\n")
            with pytest.raises(SelectionError, match=f"keys: .*keys.txt.*has {many}"):
                read_selection(EditSpec.model_validate({**spec, "keys": str(tmp_path / "keys.txt")}))
    (tmp_path / "keys.txt").write_bytes(b"\n")
    with pytest.raises(SelectionError, match=r"keys: .*keys.txt is empty"):
        read_selection(EditSpec.model_validate({**spec, "keys": str(tmp_path / "keys.txt")}))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bound=st.none() | st.integers(0, ROWS),
    keys=st.none() | st.sets(st.integers(0, ROWS - 1), min_size=1),
    sample=st.none() | st.tuples(st.integers(1, ROWS + 3), st.integers(0, 5)),
    limit=st.none() | st.integers(1, ROWS + 3),
)
def test_where_keys_sample_and_limit_apply_in_this_order(
    latents: Store, bound: int | None, keys: set[int] | None, sample: tuple[int, int] | None, limit: int | None
) -> None:
    """Each selects from the rows of the one before. A sample has its size, is repeatable, and is in order."""
    wanted: dict[str, Any] = {}
    left = list(range(ROWS))
    if bound is not None:
        wanted["where"], left = f"drift < {bound / 100 - 0.005}", left[:bound]
    if keys is not None:
        wanted["keys"], left = [f"k{key:02d}" for key in keys], [n for n in left if n in keys]
    assert numbers(latents, **wanted) == left
    if sample is not None:
        wanted["sample"] = SampleSpec(count=sample[0], seed=sample[1])
        sampled = numbers(latents, **wanted)
        assert sampled == numbers(latents, **wanted) == sorted(set(sampled))
        assert set(sampled) <= set(left)
        assert len(sampled) == min(sample[0], len(left))
        left = sampled
    if limit is not None:
        wanted["limit"], left = limit, left[:limit]
    assert numbers(latents, **wanted) == left


def test_a_larger_sample_contains_the_smaller_and_another_seed_differs(latents: Store) -> None:
    draws = [numbers(latents, sample=SampleSpec(count=10, seed=seed)) for seed in range(4)]
    assert len({tuple(draw) for draw in draws}) == 4
    assert set(draws[0]) < set(numbers(latents, sample=SampleSpec(count=11, seed=0)))
    often = np.bincount([n for seed in range(50) for n in numbers(latents, sample=SampleSpec(count=8, seed=seed))])
    assert (
        len(often) == ROWS and often.min() > 3 and often.max() < 30
    )  # 16 are expected, with a standard deviation of 3.3.


def test_a_sample_does_not_depend_on_the_names_of_parts(latents: Store, tmp_path: Path) -> None:
    again = write_store(tmp_path / "again", name="babe")
    sample = SampleSpec(count=9, seed=3)
    assert numbers(again, sample=sample) == numbers(latents, sample=sample)


def test_units_are_slices_of_the_planned_rows(latents: Store, tmp_path: Path) -> None:
    wanted = Selection("(json->>'n')::int % 2 = 1", None, None, 7)
    expected = numbers(latents, where=wanted.where, limit=7)
    store = Store(str(tmp_path / "edits"), create=True)

    def listed(key: str) -> dict[str, str]:
        return {"e-1": f"one {key}", "e-2": "two"} if key.endswith("1") else {}

    def masks(key: str) -> dict[str, list[int]]:
        return {"e-2": [0, int(key[1:])]} if key.endswith("1") else {}

    units = plan_rows(store, "job", PlanInput(latents, wanted, 2, 1, listed, masks))
    assert sum(unit.count for unit in units) == 7
    found = [read_latents(latents, unit, read_planned_rows(store, "job", unit)) for unit in units]
    keys = [key for some in found for key in some.column("key")]
    assert keys == [f"k{n:02d}" for n in expected]
    assert [int(x) for some in found for x in some.pair.x[:, 0, 0, 0]] == expected
    assert [said for some in found for said in some.prompts] == [listed(key) for key in keys]
    assert [runs for some in found for runs in some.masks] == [masks(key) for key in keys]
    (unit, some) = next((unit, some) for unit, some in zip(units, found, strict=True) if unit.count > 1)
    half = unit.slice(1, 1)
    assert read_latents(latents, half, read_planned_rows(store, "job", half)).column("key") == some.column("key")[1:2]
    written = {path: store.get(path) for path in store.names("plan")}
    assert plan_rows(store, "job", PlanInput(latents, wanted, 2, 1, listed, masks)) == units
    assert {path: store.get(path) for path in store.names("plan")} == written
    # the named part, and not more than its rows
    written = {path: data for path, data in written.items() if not path.startswith("plan/parts/")}
    assert len(written) == len({unit.source for unit in units})
    assert sum(pq.read_table(io.BytesIO(data)).num_rows for data in written.values()) == 7


def test_jobs_that_are_planned_at_the_same_time_have_their_own_rows(latents: Store, tmp_path: Path) -> None:
    store, chosen = Store(str(tmp_path / "edits"), create=True), {"one": "index < 2", "other": "index >= 2"}
    planned = {
        job: plan_rows(store, job, PlanInput(latents, Selection(where, None, None, None), 4, 1))
        for job, where in chosen.items()
    }
    for job, where in chosen.items():
        found = [read_latents(latents, unit, read_planned_rows(store, job, unit)) for unit in planned[job]]
        assert [int(x) for some in found for x in some.pair.x[:, 0, 0, 0]] == numbers(latents, where=where)


def test_nothing_selected_is_an_error(latents: Store, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "edits"), create=True)
    with pytest.raises(SelectionError, match=rf"where, keys: no rows match \({ROWS} rows in .*latents\)"):
        plan_rows(store, "job", PlanInput(latents, Selection("drift > 9", None, None, None), 4, 1))


def test_a_plan_that_does_not_fit_its_parts_is_an_error(latents: Store, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "edits"), create=True)
    (unit, *_) = plan_rows(store, "job", PlanInput(latents, Selection(None, None, None, 3), 4, 1))
    planned = read_planned_rows(store, "job", unit)
    (plain, *_) = part_units(latents, 4, 1)
    with pytest.raises(StoreError, match="is damaged"):
        read_planned_rows(store, "job", unit.slice(1, 3))
    beyond = planned.set_column(0, planned.schema.field(0), [[0, 1, 99]])
    with pytest.raises(StoreError, match="lacks row 99 of the plan"):
        read_latents(latents, plain, beyond)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    store = write_store(tmp_path / "latents")
    path = sorted(store.names("parts"))[1]
    store.put(path, store.get(path)[:-40] + random.Random(0).randbytes(40))
    with pytest.raises(StoreError, match=path):
        numbers(store, where="drift > 0")

"""Changes of a latent store since an edit was planned: rows that were added, and planned rows that are missing.

Retries add parts. A unit that is made again after `edict verify --repair` has parts with other names, and may have
other rows. So a part is identified by its latent unit and its sha256, and a row within the unit by its index.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime

from pipeline.store.files import read_table
from pipeline.store.latents import read_columns
from pipeline.store.paths import commit_path, unit_of
from pipeline.store.plan import Source, Unit, is_added, is_left_out, parts_of, parts_of_unit, read_parts, read_units
from pipeline.store.store import Store
from schemas.job import JobRecord

Unplanned = list[tuple[Source, Sequence[int]]]
"""Parts with rows that are not planned, each with the positions of these rows in the part."""


def compare_latents(store: Store, job: JobRecord, latents: Store) -> tuple[Unplanned, list[str]]:
    """Return the latent rows that the edit in `store` has not planned, and its unfinished units whose rows are missing.

    `job` is its job.json. An edit with a sample or a limit keeps the rows that it selected, so it has no unplanned
    rows.

    Raises:
        StoreError: The latent store is not finished or is damaged.
    """
    parts, rows = parts_of(latents), job.rows
    present = {_content(path, version) for path, _, _, version in parts}
    planned_from = None if rows is None else read_parts(store, rows)
    known = {_content(path, version) for path, version in planned_from or ()}
    missing = defaultdict[str, list[Unit]](list)  # by latent unit
    for unit in read_units(store):
        known.add(content := _content(unit.source, unit.version))
        if content not in present:
            missing[content[0]].append(unit)
    unfinished = [unit.unit for units in missing.values() for unit in units if not store.has(commit_path(unit.unit))]
    if unfinished or any(job.spec.get(name) is not None for name in ("sample", "limit")):
        return [], unfinished
    edited = {
        latent: {index for unit in units for index in _edited(store, unit.unit)} for latent, units in missing.items()
    }
    # Earlier versions did not write the list of parts. For their stores, a part is new if a retry or a later commit
    # wrote it.
    without_list = rows is not None and planned_from is None
    earlier_units = _committed_before(latents, job.created) if without_list and job.created else set()
    unplanned: Unplanned = []
    for part in parts:
        latent, _ = content = _content(part[0], part[3])
        is_earlier = latent in earlier_units and not is_added(part)
        if content in known or is_earlier or (rows is not None and is_left_out(store, rows, part)):
            continue
        positions: Sequence[int] = range(part[1])
        if latent in missing:
            indexes = read_columns(latents, part, ["index"])["index"].to_pylist()
            positions = [position for position in positions if indexes[position] not in edited[latent]]
        if positions:
            unplanned.append((part, positions))
    return unplanned, []


def missing_rows_message(location: str, units: Sequence[str]) -> str:
    """Return the error message for unfinished units of an edit whose rows the latent store no longer has."""
    return (
        f"{location}: the latent store was repaired after this edit was planned, and the rows of {len(units)} units "
        f"that are not done changed (the first is {units[0]}); give the edit another output"
    )


def contiguous_ranges(positions: Sequence[int]) -> Iterator[range]:
    """Cut ascending positions into ranges without gaps."""
    first = 0
    for i in range(1, len(positions) + 1):
        if i == len(positions) or positions[i] != positions[i - 1] + 1:
            yield range(positions[first], positions[i - 1] + 1)
            first = i


def _committed_before(latents: Store, created: str) -> set[str]:
    """Return the latent units whose present first commit was begun before an edit was planned."""
    planned = datetime.fromisoformat(created).timestamp()
    return {commit.unit for commit in latents.commits([]) if commit.started < planned}


def _content(path: str, version: str | None) -> tuple[str, str | None]:
    """Return the latent unit of a part and its sha256. They do not change if the same rows are made again."""
    return unit_of(path), version


def _edited(store: Store, unit: str) -> Iterator[int]:
    """Yield the indexes of the rows that a unit of an edit edited or rejected.

    A row for which all edits were filtered is not recorded; it is planned and filtered again.
    """
    for path, *_ in parts_of_unit(store, unit):
        yield from read_table(store.get(path), path)["source_index"].to_pylist()
    yield from (reject.index for reject in store.read_commit(unit).rejects)

"""What a store says of its job, from storage alone."""

from collections import Counter
from dataclasses import dataclass, field

from pipeline.plan import is_planned, read_units
from pipeline.store import Store
from schemas.commit import Commit


@dataclass(frozen=True)
class Status:
    """Counts over a store. `planned` is what the plan holds; input = ok + rejected + filtered counts what is committed.

    For an edit everything is counted in pictures: rows times edits.
    """

    kind: str
    planned: int
    input: int
    ok: int
    rejected: int
    filtered: int
    units: int
    committed: int
    complete: bool
    problems: list[str] = field(default_factory=list)
    rejects: dict[str, int] = field(default_factory=dict)
    images_per_second: float = 0.0


def status(store: Store) -> Status:
    """Read the plan and the commits, and check that the sums hold. Raises StoreError where there is no store."""
    job = store.job()
    units = {unit.unit: unit for unit in read_units(store)} if is_planned(store) else {}
    commits = store.commits()
    per_row = job.get("variants_per_row", 1)
    problems = [f"unit {name} is committed but not planned" for name in commits.keys() - units.keys()]
    for name, commit in commits.items():
        if name in units and commit.input != units[name].count * per_row:
            problems.append(f"unit {name} committed {commit.input} of {units[name].count * per_row} planned")
    inputs, ok, rejected, filtered = (
        sum(getattr(c, n) for c in commits.values()) for n in ("input", "ok", "rejected", "filtered")
    )
    if inputs != ok + rejected + filtered:
        problems.append(f"{inputs} went in, {ok} + {rejected} + {filtered} came out")
    return Status(
        kind=job["kind"],
        planned=sum(unit.count for unit in units.values()) * per_row,
        input=inputs,
        ok=ok,
        rejected=rejected,
        filtered=filtered,
        units=len(units),
        committed=len(commits),
        complete=is_planned(store) and len(commits) == len(units) and not problems,
        problems=problems,
        rejects=dict(Counter(reject.error for commit in commits.values() for reject in commit.rejects).most_common()),
        images_per_second=rate(commits),
    )


def rate(commits: dict[str, Commit]) -> float:
    """Pictures a second over the time in which any worker was at work on a unit; 0.0 where there is none."""
    spans = sorted((commit.started, commit.finished) for commit in commits.values())
    busy, end = 0.0, float("-inf")
    for started, finished in spans:
        busy += max(0.0, finished - max(started, end))
        end = max(end, finished)
    return sum(commit.ok for commit in commits.values()) / busy if busy else 0.0

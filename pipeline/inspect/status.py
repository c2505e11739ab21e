"""The status of a job: counts, problems, speed and the present run, read from its store only."""

import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from pipeline.errors import JobError
from pipeline.plan.latent_changes import compare_latents, missing_rows_message
from pipeline.store.errors import REPAIR, InvalidCommit
from pipeline.store.paths import STAGING
from pipeline.store.plan import is_planned, read_units
from pipeline.store.run_log import last_state
from pipeline.store.store import Store
from pipeline.workers.provenance import Environment, differences, environment_of
from schemas.commit import Commit
from schemas.job import JobRecord

STRAGGLER_FACTOR = 3.0  # a unit is a straggler if it takes this many times the usual time of its samples
SILENT_SECONDS = 120.0  # since the last write of the run log, after which a driver counts as dead
MAX_CLOCK_SKEW = 60.0  # seconds; times of clocks that differ or jump by more are not used


@dataclass(frozen=True)
class Status:
    """Counts over a store, in images: for an edit rows times edits.

    `planned` counts the plan, and input = ok + rejected + filtered counts the commits. `attempts` counts the attempts
    at the committed units; more than `committed` means wasted work. `images_per_second` is None if nothing is committed
    yet, or if the workers' clocks contradict each other. `eta_seconds` is also None if nothing is left to do.
    `notes` are facts that are no problems by themselves, such as units made with several processors or versions.
    `run` is the last state of the last driver: its time, its workers, and the units in progress.
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
    notes: list[str] = field(default_factory=list)
    rejects: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    images_per_second: float | None = None
    eta_seconds: float | None = None
    run: dict[str, Any] | None = None
    stragglers: list[str] = field(default_factory=list)


@dataclass
class CommitCounts:
    """Counts over the commits of a store, compared with the plan: `expected` has the images of each planned unit."""

    expected: dict[str, int]
    images_per_row: int
    counts: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)
    environments: Counter[Environment] = field(default_factory=Counter)
    files: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)
    seconds_per_row: list[float] = field(default_factory=list)
    clocks_agree: bool = True

    def add(self, commit: Commit, now: float) -> None:
        """Add a commit, and check that its counts add up. `now` is the time of this machine's clock."""
        if commit.unit not in self.expected:
            self.problems.append(f"unit {commit.unit} is committed but not planned: restore plan/ as it was")
        elif commit.input != self.expected[commit.unit]:
            planned = self.expected[commit.unit]
            self.problems.append(f"unit {commit.unit} committed {commit.input} of {planned} planned")
        if commit.input != commit.ok + commit.rejected + commit.filtered or commit.rejected != len(commit.rejects):
            self.problems.append(
                f"the counts of unit {commit.unit} do not add up to its input, {commit.input}; its commit is damaged"
            )
        self.counts["committed"] += 1
        self.counts["attempts"] += commit.number
        for name in ("input", "ok", "rejected", "filtered"):
            self.counts[name] += getattr(commit, name)
        self.files.update((file.path, file.bytes) for file in commit.files)
        self.rejects.update(reject.error for reject in commit.rejects)
        self.environments[environment_of(commit)] += 1
        seconds = commit.seconds.read + commit.seconds.compute + commit.seconds.write  # by a monotonic clock
        self.seconds_per_row.append(seconds * self.images_per_row / max(1, commit.input))
        self.spans.append((commit.started, commit.finished))
        clock_jumped = abs(commit.finished - commit.started - seconds) >= MAX_CLOCK_SKEW
        self.clocks_agree &= not clock_jumped and 0 < commit.started < now + MAX_CLOCK_SKEW

    @property
    def busy_seconds(self) -> float:
        """Return the seconds in which any unit was processed; 0 if the clocks do not agree."""
        return covered_seconds(self.spans) if self.clocks_agree else 0.0


def status(store: Store) -> Status:
    """Read the plan and the commits. Check that the counts add up, and that every committed file exists.

    Files are compared by name and size, without reading them.

    Raises:
        StoreError: There is no store.
    """
    job = store.job()
    planned, images_per_row = is_planned(store), job.variants_per_row
    expected = {unit.unit: unit.count * images_per_row for unit in read_units(store)} if planned else {}
    found, refused, now = CommitCounts(expected, images_per_row), list[InvalidCommit](), time.time()
    for commit in store.commits(refused):
        found.add(commit, now)
    counts, busy = found.counts, found.busy_seconds
    damaged, unpublished, unknown_files = _compare_files(store, found.files)
    added, unknown_rows = _added_rows(store, job) if planned else ([], [])
    refusals = [f"{commit.path} {commit.reason}: {commit.remedy}" for commit in refused]
    problems = [*found.problems, *refusals, *damaged, *added]
    left = sum(expected.values()) - counts["input"]
    complete = planned and counts["committed"] == len(expected) and not problems and not unpublished
    run = last_state(store)
    return Status(
        kind=job.kind,
        planned=sum(expected.values()),
        input=counts["input"],
        ok=counts["ok"],
        rejected=counts["rejected"],
        filtered=counts["filtered"],
        units=len(expected),
        committed=counts["committed"],
        complete=complete,
        problems=problems,
        notes=[
            *unknown_rows,
            *_environment_notes(found.environments),
            *_file_notes(unpublished, unknown_files if complete else []),
        ],
        rejects=dict(sorted(found.rejects.items(), key=lambda item: (-item[1], item[0]))),
        attempts=counts["attempts"],
        images_per_second=counts["ok"] / busy if busy else None,
        eta_seconds=left * busy / counts["input"] if left > 0 and counts["input"] and busy else None,
        run=run,
        stragglers=_stragglers(run, median(found.seconds_per_row))
        if run and found.seconds_per_row and not complete
        else [],
    )


def describe_run(run: dict[str, Any]) -> str:
    """Describe the last state of a run."""
    ago = time.time() - run["time"]
    # If the driver's clock is ahead of this one, the time since its last write is unknown.
    when = (
        f"{max(0.0, ago):.0f} s ago"
        if ago > -MAX_CLOCK_SKEW
        else "at an unknown time (its host's clock is ahead of this one)"
    )
    if run["ended"]:
        return f"{run['run']} ended {when}: {run['ended']}"
    state = f"{run['workers']} workers, {run['starting']} starting, {run['queued']} units wait"
    if run.get("waits_for"):
        state += f", {run['waits_for']}"
    silent = "; its driver is silent: run the job again to continue" if ago > SILENT_SECONDS else ""
    return f"{run['run']} on {run['host']}: {state}, {when}{silent}"


def covered_seconds(spans: list[tuple[float, float]]) -> float:
    """Return the seconds that at least one of these spans of time covers."""
    if not spans:
        return 0.0
    began, ended = np.array(sorted(spans)).T
    reached = np.maximum.accumulate(ended)
    return float(np.maximum(0.0, reached - np.maximum(began, np.append(-np.inf, reached[:-1]))).sum())


def _compare_files(store: Store, files: dict[str, int]) -> tuple[list[str], list[str], list[str]]:
    """Return the problems of committed files, the committed files in staging/, and the files that no commit names.

    `files` has the number of bytes of each committed file.
    """
    missing, problems, unknown, staged = dict(files), list[str](), list[str](), set[str]()
    for path, size, is_staged in store.data_files():
        if is_staged:
            staged.add(path)
        elif (committed := missing.pop(path, None)) is None:
            unknown.append(path)
        elif committed != size:
            problems.append(f"{path} has {size} bytes, and {committed} were committed: {REPAIR}")
    problems += [f"{path} is missing: {REPAIR}" for path in missing if path not in staged]
    return problems, [path for path in missing if path in staged], unknown


def _file_notes(unpublished: list[str], unknown: list[str]) -> list[str]:
    notes = []
    if unpublished:
        notes.append(f"{len(unpublished)} committed files are still in {STAGING}/: run the job again, or edict gc")
    if unknown:
        notes.append(
            f"{len(unknown)} files are not this job's, such as {unknown[0]}: a reader of the whole folder reads "
            "them too; move them elsewhere"
        )
    return notes


def _added_rows(store: Store, job: JobRecord) -> tuple[list[str], list[str]]:
    """Return problems for latent rows that are not planned or missing, and a note if this cannot be found out."""
    if job.kind != "edit":
        return [], []
    location = job.spec["latents"]
    try:
        unplanned, unfinished = compare_latents(store, job, Store(location))
    except JobError as error:
        return [], [f"rows that were added to the latent store since it was edited are not counted: {error}"]
    problems = [missing_rows_message(location, unfinished)] if unfinished else []
    if rows := sum(len(positions) for _, positions in unplanned):
        problems.append(
            f"{rows} rows that edict retry or a repair added to {location} are not planned; run the edit again to edit "
            "them"
        )
    return problems, []


def _environment_notes(environments: Counter[Environment]) -> list[str]:
    """Return a note if units were made in several environments."""
    if len(environments) < 2:
        return []
    ordered = environments.most_common()
    descriptions = differences([environment for environment, _ in ordered])
    each = "; ".join(f"{units} {description}" for (_, units), description in zip(ordered, descriptions, strict=True))
    return [f"units were made with {len(ordered)} kinds of processor or versions, whose last bits may differ: {each}"]


def _stragglers(run: dict[str, Any], seconds_per_row: float) -> list[str]:
    """Describe the units that take much longer than usual."""
    if run["ended"]:
        return []
    # The driver's clock measured both times. This machine's clock measures the time since the driver wrote them.
    since_write = min(max(0.0, time.time() - run["time"]), SILENT_SECONDS)
    lasts = {work["unit"]: (run["time"] - work["since"] + since_write, work) for work in run["at_work"]}
    return [
        f"unit {unit} on node {work['node'][:12]} for {seconds:.0f} s; the usual time is "
        f"{seconds_per_row * work['samples']:.0f} s"
        for unit, (seconds, work) in lasts.items()
        if seconds > STRAGGLER_FACTOR * seconds_per_row * work["samples"]
    ]

"""What a store says of its job, from storage alone."""

import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from pipeline.errors import JobError
from pipeline.store.errors import REPAIR, InvalidCommit
from pipeline.store.paths import STAGING
from pipeline.store.plan import is_planned, read_units
from pipeline.store.run_log import last_state
from pipeline.store.store import Store
from pipeline.workers.provenance import Environment, differences, environment_of
from schemas.job import JobRecord

STRAGGLES = 3.0  # times what a sample usually takes
SILENT = 120.0  # seconds without a word of a driver, which speaks every 30
SKEW = 60.0  # seconds; times of clocks that differ by more, or of a clock that jumped by more, are not used


@dataclass(frozen=True)
class Status:
    """Counts over a store. `planned` is what the plan holds; input = ok + rejected + filtered counts what is committed.

    For an edit everything is counted in images: rows times edits. `attempts` counts the attempts at the committed
    units; those beyond `committed` were wasted work. `images_per_second` is None if nothing is committed yet, or if the
    clocks of the workers contradict each other. `eta_seconds` is also None if nothing is left to do.
    `notes` tell what is no problem by itself: units made with several processors or versions.
    `run` is what the last driver told of itself: when, how many workers, and what is at work where since when.
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


def status(store: Store) -> Status:
    """Read the plan and the commits, and check that the sums hold and that every committed file is there.

    Files are compared by name and size, without reading them. Raises StoreError if there is no store.
    """
    job = store.job()
    planned = is_planned(store)
    per_row = job.variants_per_row
    expected = {unit.unit: unit.count * per_row for unit in read_units(store)} if planned else {}
    problems = list[str]()
    counts, rejects, places = Counter[str](), Counter[str](), Counter[Environment]()
    spans, paces, sound, now = list[tuple[float, float]](), list[float](), True, time.time()
    refused, files = list[InvalidCommit](), dict[str, int]()
    for commit in store.commits(refused):
        files.update((file.path, file.bytes) for file in commit.files)
        if commit.unit not in expected:
            problems.append(f"unit {commit.unit} is committed but not planned")
        elif commit.input != expected[commit.unit]:
            problems.append(f"unit {commit.unit} committed {commit.input} of {expected[commit.unit]} planned")
        if commit.input != commit.ok + commit.rejected + commit.filtered or commit.rejected != len(commit.rejects):
            problems.append(f"unit {commit.unit} does not add up: {commit.input} went in; its commit is damaged")
        counts["committed"] += 1
        counts["attempts"] += commit.number
        for name in ("input", "ok", "rejected", "filtered"):
            counts[name] += getattr(commit, name)
        rejects.update(reject.error for reject in commit.rejects)
        places[environment_of(commit)] += 1
        took = commit.seconds.read + commit.seconds.compute + commit.seconds.write  # measured by a monotonic clock
        paces.append(took * per_row / max(1, commit.input))
        spans.append((commit.started, commit.finished))
        sound &= abs(commit.finished - commit.started - took) < SKEW and 0 < commit.started < now + SKEW
    problems += [f"{commit.path} {commit.reason}: {commit.remedy}" for commit in refused]
    damaged, unpublished, strangers = _compare_files(store, files)
    added, unknown = _added(store, job) if planned else ([], [])
    problems += damaged + added
    busy = union(spans) if sound else 0.0
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
        notes=[*unknown, *_mixed(places), *_unnamed(unpublished, strangers if complete else [])],
        rejects=dict(sorted(rejects.items(), key=lambda item: (-item[1], item[0]))),
        attempts=counts["attempts"],
        images_per_second=counts["ok"] / busy if busy else None,
        eta_seconds=left * busy / counts["input"] if left > 0 and counts["input"] and busy else None,
        run=run,
        stragglers=_stragglers(run, median(paces)) if run and paces and not complete else [],
    )


def _compare_files(store: Store, files: dict[str, int]) -> tuple[list[str], list[str], list[str]]:
    """Return the problems of committed files, the committed files in staging/, and the files that no commit names.

    `files` has the number of bytes of each committed file.
    """
    missing, problems, strangers, staged = dict(files), list[str](), list[str](), set[str]()
    for path, size, is_staged in store.data_files():
        if is_staged:
            staged.add(path)
        elif (committed := missing.pop(path, None)) is None:
            strangers.append(path)
        elif committed != size:
            problems.append(f"{path} has {size} bytes, and {committed} were committed: {REPAIR}")
    problems += [f"{path} is missing: {REPAIR}" for path in missing if path not in staged]
    return problems, [path for path in missing if path in staged], strangers


def _unnamed(unpublished: list[str], strangers: list[str]) -> list[str]:
    notes = []
    if unpublished:
        notes.append(f"{len(unpublished)} committed files are still in {STAGING}/: run the job again, or edict gc")
    if strangers:
        notes.append(
            f"{len(strangers)} files are not this job's, such as {strangers[0]}: a reader of the whole folder reads "
            "them too; move them elsewhere"
        )
    return notes


def _added(store: Store, job: JobRecord) -> tuple[list[str], list[str]]:
    """Return problems for latent rows that an edit has not planned, or that are gone; and a note if this is unknown."""
    if job.kind != "edit":
        return [], []
    location = job.spec["latents"]
    from pipeline.plan.comparison import (  # here, because it imports torch, which takes seconds
        compare_latents,
        missing_rows,
    )

    try:
        unplanned, lost = compare_latents(store, job, Store(location))
    except JobError as error:
        return [], [f"rows that were added to the latent store since it was edited are not counted: {error}"]
    problems = [missing_rows(location, lost)] if lost else []
    if rows := sum(len(places) for _, places in unplanned):
        problems.append(
            f"{rows} rows that edict retry or a repair added to {location} are not planned; run the edit again to edit "
            "them"
        )
    return problems, []


def _mixed(places: Counter[Environment]) -> list[str]:
    """That units were made in several places, where they were."""
    if len(places) < 2:
        return []
    ordered = places.most_common()
    words = differences([place for place, _ in ordered])
    each = "; ".join(f"{units} {where}" for (_, units), where in zip(ordered, words, strict=True))
    return [f"units were made with {len(places)} kinds of processor or versions, whose last bits may differ: {each}"]


def union(spans: list[tuple[float, float]]) -> float:
    """The seconds in which any of these spans of time ran."""
    if not spans:
        return 0.0
    began, ended = np.array(sorted(spans)).T
    reached = np.maximum.accumulate(ended)
    return float(np.maximum(0.0, reached - np.maximum(began, np.append(-np.inf, reached[:-1]))).sum())


def described_run(run: dict[str, Any]) -> str:
    """The last state of a run, in words."""
    ago = time.time() - run["time"]
    # if the driver's clock is ahead of this one, the time since its last word is unknown
    when = f"{max(0.0, ago):.0f} s ago" if ago > -SKEW else "at an unknown time (its host's clock is ahead of this one)"
    if run["ended"]:
        return f"{run['run']} ended {when}: {run['ended']}"
    doing = f"{run['workers']} workers, {run['starting']} starting, {run['queued']} units wait"
    if run.get("waits_for"):
        doing += f", {run['waits_for']}"
    silent = "; its driver is silent: run the job again to go on" if ago > SILENT else ""
    return f"{run['run']} on {run['host']}: {doing}, {when}{silent}"


def _stragglers(run: dict[str, Any], pace: float) -> list[str]:
    """The units that are at work for longer than they should be at the usual seconds a sample."""
    if run["ended"]:
        return []
    # the driver's clock measured both times; this machine's clock measures the time since the driver wrote them
    since_then = min(max(0.0, time.time() - run["time"]), SILENT)
    lasts = {work["unit"]: (run["time"] - work["since"] + since_then, work) for work in run["at_work"]}
    return [
        f"unit {unit} on node {work['node'][:12]} for {seconds:.0f} s; usual are {pace * work['samples']:.0f} s"
        for unit, (seconds, work) in lasts.items()
        if seconds > STRAGGLES * pace * work["samples"]
    ]

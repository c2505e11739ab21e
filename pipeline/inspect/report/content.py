"""The content of a report, collected from a store: totals over its commits, histograms, and the shown edits."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.store.files import READ_THREADS
from pipeline.store.store import Store
from schemas.contact_sheet import MAX_SHOWN
from schemas.rejects import Reject

EXAMPLES = 20  # rejects shown per class of error
SAMPLED = 100  # parts read for the histograms, at most
BINS = 32
EMBEDDED_BYTES = 48 * 2**20  # size limit of all images in the page

Worker = tuple[str, str, str]
"""The host, the process and the device of a worker."""


@dataclass
class CommitTotals:
    """Totals over the commits: units and images per worker, the versions of each package, and EXAMPLES of each reject.

    A package has several versions if a run was finished after an upgrade.
    """

    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "compute": 0.0, "write": 0.0})
    units: Counter[Worker] = field(default_factory=Counter)
    images: Counter[Worker] = field(default_factory=Counter)
    versions: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    rejects: defaultdict[str, list[Reject]] = field(default_factory=lambda: defaultdict(list))
    parts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Histogram:
    """Counts of BINS equal bins between the least and the greatest value, as heights from 0 to 1."""

    name: str
    description: str
    bars: list[float]
    least: float
    median: float
    greatest: float


@dataclass(frozen=True)
class Distributions:
    """Histograms over the `rows` of `read` parts out of `parts`."""

    histograms: list[Histogram]
    rows: int
    read: int
    parts: int


@dataclass
class ShownEdits:
    """The rows whose images the page shows, and the counts of all rows, of exact rows, and of edits left out."""

    embedded: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    exact: int = 0
    left_out: int = 0


def commit_totals(store: Store) -> CommitTotals:
    """Return the totals over the commits of a store. They are read once, because they may be too many to keep."""
    totals = CommitTotals()
    for commit in store.commits([]):
        for name in totals.seconds:
            totals.seconds[name] += getattr(commit.seconds, name)
        worker = (commit.worker["host"], commit.worker["pid"], commit.worker["device"])
        totals.units[worker] += 1
        totals.images[worker] += commit.ok
        for name, version in commit.versions.items():
            totals.versions[name].add(version)
        for reject in commit.rejects:
            if len(totals.rejects[reject.error]) < EXAMPLES:
                totals.rejects[reject.error].append(reject)
        totals.parts += [file.path for file in commit.files if file.path.startswith("parts/")]
    return totals


def distributions(store: Store, parts: Sequence[str]) -> Distributions | None:
    """Return the distributions of drift and std over the rows of a latent store; None if it has no parts yet."""
    if not parts:
        return None
    count = min(SAMPLED, len(parts))
    sampled = [parts[i * len(parts) // count] for i in range(count)]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        table = pa.concat_tables(pool.map(lambda part: _read_numbers(store, part), sampled))
    histograms = [
        _histogram("drift", "difference of the two states: root mean square of x − y", table["drift"].to_numpy()),
        _histogram(
            "std", "standard deviation of the noise: about 1 if the model fits the images", table["std"].to_numpy()
        ),
    ]
    return Distributions(histograms, table.num_rows, count, len(parts))


def shown_edits(rows: Iterable[dict[str, Any]]) -> ShownEdits:
    """Keep the first rows, with at most MAX_SHOWN edited images and about EMBEDDED_BYTES of images in all.

    The last row may keep only some of its edits.
    """
    shown = ShownEdits()
    count, size, full = 0, 0, False
    for row in rows:
        shown.rows += 1
        shown.exact += row["exact"]
        shown.left_out += len(row["edits"]) + row["edits_left_out"]
        if full:
            continue
        size += len(row["source"] or b"") + len(row["reconstruction"])
        edits = []
        for edit in row["edits"]:
            size += len(edit["image"])
            if full := count == MAX_SHOWN or size > EMBEDDED_BYTES:
                break
            edits.append(edit)
            count += 1
        if edits or not full:
            shown.embedded.append({**row, "edits": edits})
            shown.left_out -= len(edits)
    return shown


def _read_numbers(store: Store, part: str) -> pa.Table:
    """Read the drift and std of a part's rows by range requests, without the states, which are most of its bytes."""
    with store.parquet(part) as file:
        return file.read(["drift", "std"], use_threads=False)


def _histogram(name: str, description: str, values: np.ndarray[Any, np.dtype[np.float64]]) -> Histogram:
    counts, _ = np.histogram(values, BINS)
    bars = (counts / counts.max()).tolist()
    return Histogram(name, description, bars, float(values.min()), float(np.median(values)), float(values.max()))

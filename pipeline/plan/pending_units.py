"""The units that a run processes: those that are not committed, or those with rejects to retry."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pipeline.errors import JobError
from pipeline.io.masks import MaskError
from pipeline.store.errors import InvalidCommit
from pipeline.store.plan import Unit
from pipeline.store.store import Store
from schemas.rejects import Reject

MAX_RETRIES = 9999  # per unit, because the names of their commits have four digits


class RetryError(JobError):
    """A retry of rejects that the store does not have, or too many retries of a unit."""


def pending_units(store: Store, units: Sequence[Unit], retry: Sequence[str]) -> list[Unit]:
    """Return the units without a commit. With `retry`, return the units with rejects of these errors instead.

    Units to retry are cut down to these rejects. Without `retry`, commits that do not count are deleted.

    Raises:
        RetryError: The store has no reject of one of these errors, or a unit was retried too often.
    """
    if retry:
        return _units_to_retry(store, units, retry)
    refused = list[InvalidCommit]()
    committed = store.committed_units(refused)
    for commit in refused:
        print(f"note: {commit.path} {commit.reason}: {commit.remedy}", file=sys.stderr)
    store.delete_invalid(refused)
    pending = [unit for unit in units if unit.unit not in committed]
    if len(pending) < len(units):
        print(f"{len(units) - len(pending)} of {len(units)} units are done already", file=sys.stderr)
    return pending


def units_with_rejects(store: Store, units: Sequence[Unit], errors: Sequence[str]) -> tuple[list[Unit], Counter[str]]:
    """Return the units with rejects of these errors, cut down to them, and the count of each error in the store.

    Raises:
        RetryError: A unit was retried too often.
    """
    counts, retries = Counter[str](), dict[str, tuple[int, list[Reject], str]]()
    for commit in store.commits([]):
        counts.update(reject.error for reject in commit.rejects)
        if rejects := [reject for reject in commit.rejects if reject.error in errors]:
            retries[commit.unit] = commit.retry + 1, rejects, commit.last
    if too_many := [unit for unit, (number, *_) in retries.items() if number > MAX_RETRIES]:
        raise RetryError(
            f"{store.location}: unit {too_many[0]} was retried {MAX_RETRIES:,} times, which is the limit. Run the job "
            "with another output"
        )
    return [
        replace(
            unit,
            retry=number,
            errors=tuple(errors),
            only=frozenset((reject.index, reject.key) for reject in rejects),
            masks=frozenset((reject.index, reject.key) for reject in rejects if reject.error == MaskError.__name__),
            after=after,
        )
        for unit in units
        if unit.unit in retries
        for number, rejects, after in [retries[unit.unit]]
    ], counts


def _units_to_retry(store: Store, units: Sequence[Unit], errors: Sequence[str]) -> list[Unit]:
    pending, counts = units_with_rejects(store, units, errors)
    if unknown := [error for error in errors if error not in counts]:
        present = ", ".join(f"{error} ({count})" for error, count in counts.most_common()) or "none"
        raise RetryError(f"{store.location}: nothing was rejected for {', '.join(unknown)}; its rejects are: {present}")
    return pending

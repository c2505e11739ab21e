"""Differences between the job in a store and the job of a run, field by field."""

import itertools
from collections.abc import Iterator
from typing import Any

from pipeline.store.errors import StoreError

MAX_LINES = 20  # differences in one error message
MAX_CHARACTERS = 200  # per value in one error message


class JobChanged(StoreError):
    """The store has another job than the one of this run."""


def refuse_changes(location: str, stored: Any, given: Any) -> None:
    """Compare the settings of the store at `location` with those of a run.

    Raises:
        JobChanged: They differ. The message has one line per difference.
    """
    if not (found := list(_differences(stored, given))):
        return
    lines = "".join(f"\n  {line}" for line in found[:MAX_LINES])
    if len(found) > MAX_LINES:
        lines += f"\n  and {len(found) - MAX_LINES} more differences"
    raise JobChanged(
        f"{location} holds another job, and rows of two jobs do not mix; "
        f"give another output, or the same parameters again:{lines}"
    )


def _differences(stored: Any, given: Any, path: str = "") -> Iterator[str]:
    """Yield one line for each field that differs. A list of numbers gives one line."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for name in sorted(stored.keys() | given.keys()):
            yield from _differences(stored.get(name), given.get(name), f"{path}.{name}" if path else name)
    elif isinstance(stored, list) and isinstance(given, list) and len(stored) != len(given):
        yield f"{path}: {len(stored)} entries in the store, {len(given)} in the spec"
    elif isinstance(stored, list) and isinstance(given, list):
        found = [_differences(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(stored, given, strict=True))]
        lines = list(itertools.chain.from_iterable(found))
        are_numbers = not any(isinstance(value, dict) for value in stored)
        yield from [f"{lines[0]}; and {len(lines) - 1} more"] if are_numbers and len(lines) > 1 else lines
    elif stored != given:
        before, after = repr(stored), repr(given)
        first = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
        yield f"{path}: {_excerpt(before, first)} in the store, {_excerpt(after, first)} in the spec"


def _excerpt(text: str, position: int) -> str:
    """Return a text, or MAX_CHARACTERS of a longer text around the character at `position`."""
    if len(text) <= MAX_CHARACTERS:
        return text
    start = max(0, min(position - MAX_CHARACTERS // 4, len(text) - MAX_CHARACTERS))
    end = start + MAX_CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")

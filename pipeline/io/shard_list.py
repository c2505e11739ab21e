"""Expand and check the shards that a job spec names by patterns with braces."""

import re

from braceexpand import braceexpand

from pipeline.io.errors import StorageError
from pipeline.io.locations import local_path
from pipeline.io.shard_index import ShardError

MAX_SHARDS = 1_000_000  # per job; more are probably a typing error, and may not fit into memory
_BRACES = re.compile(r"\\.|\{(-?\d+|[a-zA-Z])\.\.(-?\d+|[a-zA-Z])(?:\.\.-?(\d+))?\}|[{},]", re.DOTALL)


def expand_shards(inputs: str | list[str]) -> list[str]:
    """Return the shards that paths or URLs with braces name, such as "{00000..00031}.tar" or "{a,b}.tar".

    A backslash escapes a brace.

    Raises:
        ShardError: There is no shard or more than MAX_SHARDS, the braces do not match, a name is a pipe:, or a shard
            is named twice.
    """
    shards: dict[str, str] = {}
    patterns, total = [inputs] if isinstance(inputs, str) else inputs, 0
    for pattern in patterns:
        try:
            local_path(pattern)  # raises for a secret, which the messages below must not repeat
            if (total := total + _count_names(pattern)) > MAX_SHARDS:
                raise ShardError(
                    f"{pattern}: the input names {total:,} shards; the limit is {MAX_SHARDS:,}: use several jobs"
                )
            names = list(braceexpand(pattern))
        except StorageError as error:
            raise ShardError(f"input: {error}") from error
        except (ValueError, RecursionError) as error:  # UnbalancedBracesError, numbers of 5,000 digits
            raise ShardError(f"{pattern}: the braces do not match; write \\{{ for a brace in a name") from error
        for name in names:
            if name.startswith("pipe:"):
                raise ShardError(f"{name}: pipes are not supported, because they run a shell; give a path or a URL")
            try:
                same = str(local_path(name) or name)
            except StorageError as error:
                raise ShardError(f"input {pattern!r}: {error}") from error
            if same in shards:
                raise ShardError(f"{name}: is named twice in the input (first as {shards[same]}); name each shard once")
            shards[same] = name
    if not shards:
        raise ShardError("the input names no shard; give a path or a URL of a .tar, or a list of them")
    return list(shards.values())


def _count_names(pattern: str) -> int:
    """Return the number of names that a pattern with braces makes, or a few more, without making them."""
    # For each open brace: the number of names of its alternatives before the last comma, and of the one after it.
    counts = [[0, 1]]
    for token in _BRACES.finditer(pattern):
        first, last, step = token.groups()
        if first is not None:
            start, end = (ord(bound) if bound.isalpha() else int(bound) for bound in (first, last))
            counts[-1][1] *= abs(end - start) // max(1, int(step or 1)) + 1
        elif token[0] == "{":
            counts.append([0, 1])
        elif token[0] == "," and len(counts) > 1:
            counts[-1] = [sum(counts[-1]), 1]
        elif token[0] == "}" and len(counts) > 1:
            inside = sum(counts.pop())
            counts[-1][1] *= inside
    return counts[0][1]

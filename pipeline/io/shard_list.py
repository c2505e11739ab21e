"""The shards that a job spec names: patterns with braces, expanded and checked."""

import re

from braceexpand import braceexpand

from pipeline.io.errors import StorageError
from pipeline.io.locations import local_path
from pipeline.io.shard_index import ShardError

MAX_SHARDS = 1_000_000  # of one job; braces that name more are a slip, and could name more than memory holds
_BRACES = re.compile(r"\\.|\{(-?\d+|[a-zA-Z])\.\.(-?\d+|[a-zA-Z])(?:\.\.-?(\d+))?\}|[{},]", re.DOTALL)


def expand(inputs: str | list[str]) -> list[str]:
    """The shards that paths or URLs with braces name: "{00000..00031}.tar", "{a,b}.tar"; a backslash escapes.

    Raises:
        ShardError: nothing is named, more than MAX_SHARDS are, braces do not match, a pipe: is named, or a shard is
            named twice.
    """
    shards: dict[str, str] = {}
    patterns, total = [inputs] if isinstance(inputs, str) else inputs, 0
    for pattern in patterns:
        try:
            local_path(pattern)  # refuses a secret, which no message below may repeat
            if (total := total + _named(pattern)) > MAX_SHARDS:
                raise ShardError(f"{pattern}: the input names {total:,} shards, and a job has at most {MAX_SHARDS:,}")
            names = list(braceexpand(pattern))
        except StorageError as error:
            raise ShardError(f"input: {error}") from error
        except (ValueError, RecursionError) as error:  # UnbalancedBracesError, numbers of 5,000 digits
            raise ShardError(f"{pattern}: the braces do not match; write \\{{ for a brace in a name") from error
        for name in names:
            if name.startswith("pipe:"):
                raise ShardError(f"{name}: pipes run a shell and are not supported; give a path or a URL")
            try:
                same = str(local_path(name) or name)
            except StorageError as error:
                raise ShardError(f"input {pattern!r}: {error}") from error
            if same in shards:
                raise ShardError(f"{name}: named twice in the input (as {shards[same]} before); name each shard once")
            shards[same] = name
    if not shards:
        raise ShardError("the input names no shard; give a path or a URL of a .tar, or a list of them")
    return list(shards.values())


def _named(pattern: str) -> int:
    """How many names a pattern with braces has, or a few more: counted before any is made."""
    # of each open brace, how many names the alternatives before its last comma have, and the one since
    counts = [[0, 1]]
    for token in _BRACES.finditer(pattern):
        first, last, step = token.groups()
        if first is not None:
            start, end = (ord(place) if place.isalpha() else int(place) for place in (first, last))
            counts[-1][1] *= abs(end - start) // max(1, int(step or 1)) + 1
        elif token[0] == "{":
            counts.append([0, 1])
        elif token[0] == "," and len(counts) > 1:
            counts[-1] = [sum(counts[-1]), 1]
        elif token[0] == "}" and len(counts) > 1:
            inside = sum(counts.pop())
            counts[-1][1] *= inside
    return counts[0][1]

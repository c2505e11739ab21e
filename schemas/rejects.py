"""What is said of a sample that is not processed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reject:
    """Why one input sample was left out: one row of the rejects, in words that may be printed.

    `shard` is its location as the job spec names it, `index` its ordinal in the shard, `key` its name there ("" where
    none can be known). `stage` is "index" (seen in the tar headers), "read" (seen in the bytes), "decode" (seen in the
    image), "invert" or "edit" (seen in the model, or what ended the worker). `error` is a class name to count by, and
    `message` what was wrong and what to do.
    """

    shard: str
    index: int
    key: str
    stage: str
    error: str
    message: str
